"""A source of your own: what breaks the protocol is named, and its labels are compared at a resume."""

import dataclasses
import json
import pathlib
import pickle

import numpy as np
import pytest

import cvmae
from cvmae.config import ConfigError
from cvmae.data.custom import CheckedSource, SourceError, by_split, check_source
from cvmae.data.pipeline import make_loader
from cvmae.training.identity import check, describe
from tests import tiny_configs
from tests.data.configs import small_config
from tests.data.own_source import Own

BROKEN = {
    "lacks identity": {"identity": property(lambda self: self.nothing)},
    "holds no records": {"__len__": lambda self: 0},
    r"labels is int64\[3\]: give a numpy array int32 \[3\]": {"labels": np.zeros(3, np.int64)},
    r"labels is of type list: give a numpy array": {"labels": [0, 0, 0]},
    "class_names is 'abc' of type str: give a tuple": {"class_names": "abc"},
    r"class_names is \['a'\] of type list: give a tuple": {"class_names": ["a"]},
    r"labels\[1\] is 3, of 'r1', and class_names has 1 name, for 0 to 0: give a tuple with a name for every label": {
        "class_names": ("run",),
        "labels": np.array([0, 3, 1], np.int32),
    },
    "labels is of type MaskedArray: give a numpy array": {
        "labels": np.ma.masked_array(np.zeros(3, np.int32), [False, True, False])
    },
    r"class_names\[1\] is ' ': give a text of one line that is not empty": {"class_names": ("a", " ")},
    r"labels\[1\] is 5000, of 'r1', and there are only 2 different labels: number the classes 0 to 1, or give class_names": {
        "labels": np.array([0, 5000, -1], np.int32),
    },
    r"labels\[2\] is -2, of 'r2': number classes from 0, and give -1 for an unlabeled record": {
        "labels": np.array([0, -1, -2], np.int32),
    },
    r"class_names\[0\] and \[2\] are both 'a': give each class a name of its own": {"class_names": ("a", "b", "a")},
    r"class_names\[0\] is 0 of type int: give a text": {"class_names": (0, 1)},
    "identity is 5 of type int: give a text": {"identity": 5},
    "identity is '': give a text that is not empty": {"identity": ""},
    r"key\(0\) is x/0 of type PurePosixPath: give a text": {"key": lambda self, index: pathlib.PurePosixPath(f"x/{index}")},
    r"key\(0\) is ''": {"key": lambda self, index: ""},
    "is of type tuple: give a cvmae.Record": {"__getitem__": lambda self, index: ("a.mp4", 0)},
    r"source\[0\], which is r0: its payload is float32\[8, 16, 24, 3\]": {
        "__getitem__": lambda self, index: cvmae.Record("r0", 0, None, None, np.zeros((8, 16, 24, 3), np.float32))
    },
    "label is 1, the one in labels is 0": {"__getitem__": lambda self, index: cvmae.Record("r", 1, None, None, "r.mp4")},
    r"label_sets is bool\[2, 2\]: give bool \[S, 3\], a column for each class and a row for each number in labels, 0 to 0": {
        "class_names": ("a", "b", "c"),
        "label_sets": np.zeros((2, 2), bool),
    },
    r"label_sets is of type list: give bool \[S, C\]": {"label_sets": [[True]]},
    r"label_sets is float64\[2, 2\]: give bool": {"label_sets": np.zeros((2, 2))},
    r"label_sets is bool\[1, 2\]: .* a row for each number in labels, 0 to 2": {
        "label_sets": np.zeros((1, 2), bool),
        "labels": np.array([0, 1, 2], np.int32),
    },
    r"__len__ does not return the number of its records \('float' object": {"__len__": lambda self: 3.0},
    r"class_names\[0\] is '\\udc80': give a text of one line": {"class_names": ("\udc80", "b")},
    r"class_names\[1\] is 'a\\nb': give a text": {"class_names": ("c", "a\nb")},
    "notes is 'abc' of type str: give a tuple of texts": {"notes": "abc"},
    "notes is None of type NoneType: give": {"notes": None},
    r"stamp\(0\) is 5 of type int: give a text, or None": {"stamp": lambda self, index: 5},
    "cannot be pickled": {"__getstate__": lambda self: {"file": open(__file__)}},  # noqa: SIM115
}


@pytest.mark.parametrize("message", BROKEN)
def test_what_breaks_the_protocol_is_named(message):
    check_source(Own(), "source")
    with pytest.raises(ValueError, match=message) as refused:
        by_split(type("Broken", (Own,), BROKEN[message])(), "train")
    assert "\n" not in str(refused.value)


FRAMES = np.zeros((8, 16, 24, 3), np.uint8)
ODD = {  # a later record: how it differs from a good one, and the error
    r"payload is float32\[8, 16, 24, 3\]: give a path, the bytes of a video file, or frames uint8": {
        "payload": np.float32(FRAMES)
    },
    r"payload is int16\[8, 16, 24, 3\]": {"payload": FRAMES.astype(np.int16)},
    r"payload is uint8\[8, 16, 24, 4\]": {"payload": np.zeros((8, 16, 24, 4), np.uint8)},
    r"payload is uint8\[16, 24, 3\]": {"payload": FRAMES[0]},
    "payload is of type int": {"payload": 5},
    "payload is of type MaskedArray": {"payload": np.ma.masked_array(FRAMES, FRAMES == 0)},
    "payload is of type list": {"payload": [FRAMES]},
    "label is 1, the one in labels is 0": {"label": 1},
    "label is 0.0, the one": {"label": 0.0},
    "label is 'a', the one": {"label": "a"},
    "label is None, the one": {"label": None},
    "start is '1.5' of type str: give seconds, or None": {"start": "1.5"},
    "start is False of type bool: give seconds": {"start": False},
    "end is True of type bool": {"end": True},
    "start -1.0 and end None are not 0 <= start < end: give seconds, or None": {"start": -1},
    "start 1.5 and end 0.5 are not": {"start": 1.5, "end": 0.5},
    "start None and end 0.0 are not": {"end": 0.0},
    "end inf are not": {"end": float("inf")},
    "start inf and": {"start": np.float32("inf")},
    "name is 7 of type int: give a text": {"name": 7},
    "is empty": {"payload": b""},
    "it is empty": {"payload": FRAMES[:0]},
}


@pytest.mark.parametrize("message", ODD)
def test_every_record_is_checked(message):
    """Frames of floats in [0, 1] would be read as a black video, and the label of a record is what is trained on."""

    class Odd(Own):
        def __getitem__(self, index):
            good = super().__getitem__(index)
            return dataclasses.replace(good, **ODD[message]) if index == 2 else good

    source = CheckedSource(Odd(), "source")
    assert source[1].name == "r1" and len(source) == 3 and source.key(2) == "r2"
    with pytest.raises(cvmae.UnreadableError if "empty" in message else SourceError, match=message) as refused:
        source[2]
    assert "\n" not in str(refused.value) and ("empty" in message or "source[2]" in str(refused.value))
    with make_loader(small_config(), source) as loader:
        if "empty" in message:
            assert any(b"it is empty" in bytes(row) for _ in range(3) for row in next(loader)["failures"])
        else:
            with pytest.raises(SourceError, match=message):
                [next(loader) for _ in range(3)]


def record_named(name, start=None, end=None, key="v/1.mp4"):
    """Record 1 of a checked source, with this name and key."""

    class Named(Own):
        def key(self, index):
            return key

        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), name=name, start=start, end=end)

    return CheckedSource(Named(), "source")[1]


@pytest.mark.parametrize("name", ["v/0.mp4", "other/1.mp4", "1.mp4", "xv/1.mp4", "v/1.mp4@1.0-", ""])
def test_a_record_of_another_key_is_refused(name):
    """A source that is off by one would store the features of a video under the name of the next one."""
    with pytest.raises(
        SourceError, match=rf"source\[1\] is '{name}', and source.key\(1\) is 'v/1.mp4': give the record of this key"
    ):
        record_named(name)


def test_a_record_may_be_named_by_its_path():
    for name in ("v/1.mp4", "/data/v/1.mp4", "gs://bucket/v/1.mp4"):
        assert record_named(name, 1.0, 2.0).name == record_named(name, 1.0, 2.0, key="v/1.mp4@1.0-2.0").name == name


def test_a_checked_source_has_the_members_of_the_other_one():
    checked = pickle.loads(pickle.dumps(by_split(Own(), "train")["train"]))
    assert checked.identity.startswith("own, labels ") and not hasattr(checked, "label_sets")
    keys = CheckedSource(type("Numbered", (Own,), {"key": lambda self, index: index})(), "source")
    with pytest.raises(SourceError, match=r"source.key\(1\) is 1 of type int: give a text"):
        keys.key(1)


@pytest.mark.parametrize("member", ["class_names", "label_sets"])
def test_a_number_is_the_same_class_in_all_splits(member):
    """A split that lacks a class and numbers those that it has would be scored by the wrong ones."""
    source, other, unnamed = Own(), Own(), Own()
    unnamed.labels = np.full(3, -1, np.int32)
    if member == "class_names":
        source.class_names, other.class_names = ("a", "b", "c"), ("b", "c")
        message = (
            r"source\['train'\].class_names is \('a', 'b', 'c'\), source\['val'\].class_names is \('b', 'c'\): a number has to"
        )
    else:
        source.label_sets, other.label_sets = np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]
        message = r"source\['train'\].label_sets is bool\[3, 3\], source\['val'\].label_sets is bool\[3, 3\]: a number has to"
    with pytest.raises(SourceError, match=message):
        by_split({"train": source, "test": unnamed, "val": other}, "train")
    if member == "class_names":
        with pytest.raises(
            SourceError, match=r"source\['train'\].class_names is \('a', 'b', 'c'\), source\['val'\].class_names is \(\), and it"
        ):
            by_split({"train": source, "val": Own()}, "train")
    assert set(by_split({"train": source, "val": source, "test": unnamed}, "train")) == {"train", "val", "test"}


def described(**changed):
    """The identity of a run on three sources of one identity, of which some have other labels."""
    sources = {split: Own() for split in ("train", "val", "test")}
    for split, labels in changed.items():
        sources[split].labels = np.array(labels, np.int32)
    return describe(tiny_configs.config(), *by_split(sources, "train").values())


@pytest.mark.parametrize(("split", "field"), [("val", "eval_split"), ("test", "test_split")])
def test_changed_labels_of_held_out_clips_are_told_whatever_the_identity(split, field, capsys):
    check({"step": 3} | described(), described())
    assert not capsys.readouterr().err
    check({"step": 3} | described(), described(**{split: [0, 1, 0]}))
    assert f"the data of config.data.{field} changed since step 3 (files, labels or classes)" in capsys.readouterr().err


def test_changed_labels_of_training_clips_are_refused():
    with pytest.raises(ConfigError, match="the training data changed since step 3: the labels, so it cannot resume"):
        check({"step": 3} | described(), described(train=[0, 1, 0]))


def test_a_long_identity_is_cut_in_messages():
    source, other = Own(), Own()
    source.identity, other.identity = "a" * 1000, "b" * 1000
    before, now = (describe(tiny_configs.config(), CheckedSource(one, "source")) for one in (source, other))
    with pytest.raises(ConfigError, match=r"step 3: the source \(it was 'a{50,60}\.\.\., now 'b{50,60}\.\.\.\)"):
        check({"step": 3} | before, now)


def test_label_sets_belong_to_the_identity_of_a_source():
    one, other = Own(), Own()
    one.label_sets, other.label_sets = np.eye(3, dtype=bool), np.eye(3, dtype=bool)[::-1]
    assert len({CheckedSource(source, "source").identity for source in (one, other, Own())}) == 3


def test_other_errors_of_a_source_say_which_record_raised_them():
    class Failing(Own):
        def __getitem__(self, index):
            raise (KeyError("db"), StopIteration(), SystemExit(1))[index]

    source = CheckedSource(Failing(), "source")
    with pytest.raises(KeyError) as error:
        source[0]
    assert error.value.__notes__ == ["raised by source[0]"]
    for index, name in ((1, "StopIteration"), (2, "SystemExit")):
        with pytest.raises(SourceError, match=rf"source\[{index}\] raises {name}: give a record, or raise cvmae.UnreadableError"):
            source[index]


def test_times_are_numbers_that_json_has():
    class Timed(Own):
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), start=np.float32(0.5), end=np.int64(2))

    record = CheckedSource(Timed(), "source")[1]
    assert json.dumps([record.start, record.end]) == "[0.5, 2.0]"
    open_ended = record_named("v/1.mp4", 1, float("nan"))  # as pandas has it, and as a manifest reads it
    assert (open_ended.start, open_ended.end) == (1.0, None)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [("a.mp4", None, None)],
            r"parts\(\) is 1 part: give a list of \(file, start, end\), one for each of the 3 records, or \[\]",
        ),
        (["a.mp4"] * 3, r"parts\(\)\[0\] is 'a.mp4': give a list"),
        ([("a.mp4", 0.0, 1.0)] * 2 + [("a.mp4", "0:01", None)], r"parts\(\)\[2\] is \('a.mp4', '0:01', None\)"),
        ({"a.mp4": 1}, r"parts\(\) is .* of type dict"),
    ],
)
def test_parts_are_checked_when_splits_are_compared(parts, message):
    source = CheckedSource(type("Parted", (Own,), {"parts": lambda self: parts})(), "source")
    with pytest.raises(SourceError, match=message):
        source.parts()


def test_without_parts_each_record_has_a_name_of_its_own():
    names = [name for name, _, _ in CheckedSource(Own(), "source").parts()]
    assert len(set(names)) == 3 == len({*names, *(name for name, _, _ in CheckedSource(Own(), "other").parts())})


@pytest.mark.parametrize("args", [(), ("a reason",), (3, "a reason", None), ("", ""), ("r1", " ")])
def test_an_unreadable_record_without_its_name_has_its_key(args):
    class Holed(Own):
        def __getitem__(self, index):
            raise cvmae.UnreadableError(*args)

    with pytest.raises(cvmae.UnreadableError) as unreadable:
        CheckedSource(Holed(), "source")[1]
    name, reason = unreadable.value.args
    assert name == "r1" and reason == {0: "its source does not say why", 1: "a reason", 3: "3 a reason None"}.get(
        len(args), reason
    )
    assert reason.strip()


def test_a_record_that_is_not_to_be_had_is_replaced():
    class Holed(Own):
        def __getitem__(self, index):
            if index == 1:
                raise cvmae.UnreadableError("r1", "on a tape that is away")
            return super().__getitem__(index)

    with make_loader(small_config(), Holed()) as loader:
        batches = [next(loader) for _ in range(3)]
    assert not any((batch["index"] == 1).any() for batch in batches)
    assert any(b"on a tape" in bytes(row) for batch in batches for row in batch["failures"])
