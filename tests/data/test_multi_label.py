"""Several labels a video: what a manifest may write, the table of label sets, slices of it, and rows that are looked at together."""

import json
import re

import numpy as np
import pytest

from cvmae.data.manifest import UNLABELED, ManifestError, read_manifest
from cvmae.data.row_checks import check_rows
from cvmae.data.sources import FileSource, make_source
from cvmae.data.subset import Subset, strata
from cvmae.evaluation.multi_label import labels_of
from cvmae.training.identity import describe
from tests.data.configs import small_config
from tests.tiny_configs import config


def write(folder, *rows, name="list.csv"):
    """Writes lines of a manifest and returns its path; rows are (label, split), or labels of `train`."""
    pairs = [row if isinstance(row, tuple) else (row, "train") for row in rows]
    lines = "".join(f'{number}.mp4,"{label}",{split}\n' for number, (label, split) in enumerate(pairs))
    (folder / name).write_text("path,label,split\n" + lines, encoding="utf-8")
    return str(folder / name)


def opened(folder, *rows, split="train"):
    return FileSource(read_manifest(write(folder, *rows), split, multi_label=True))


def sets_of(source):
    """The class numbers of every record."""
    return [np.flatnonzero(source.label_sets[row]).tolist() if row >= 0 else None for row in source.labels]


def test_labels_are_separated_by_semicolons(tmp_path):
    source = opened(tmp_path, "run; jump", "jump", "", ("fly;run", "val"), "run;jump;run", "nan; None ;")
    assert source.class_names == ("fly", "jump", "run") and source.label_sets.dtype == bool
    assert sets_of(source) == [[1, 2], [1], None, [1, 2], None]
    assert source.labels.dtype == np.int32 and source.labels[2] == UNLABELED


def test_none_of_the_classes_is_a_label_and_an_empty_cell_is_none(tmp_path):
    source = opened(tmp_path, "run;jump", "<none of the classes>", "", "nan", " <None  of the Classes> ;", "jump")
    assert sets_of(source) == [[0, 1], [], None, None, [], [0]] and source.class_names == ("jump", "run")
    assert source.label_sets.tolist() == [[False, False], [True, False], [True, True]]
    assert labels_of(source.labels, source.label_sets).tolist() == [[1, 1], [0, 0], [-1, -1], [-1, -1], [0, 0], [1, 0]]
    assert strata(source).tolist() == [1, 2, -1, -1, 2, 0]  # a stratum of its own in slices
    (tmp_path / "list.jsonl").write_text('{"path": "a", "label": ["<none of the classes>"], "split": "train"}')
    assert read_manifest(str(tmp_path / "list.jsonl"), "train", multi_label=True).label_sets == ((),)
    assert checked(tmp_path, "a;b", ("<none of the classes>", "val"), ("a", "val")) == []


@pytest.mark.parametrize(
    "label, several, message",
    [
        ("run;<none of the classes>", True, "list.csv:2: label .* has <none of the classes> beside a class; give one of the two"),
        (
            "<none of the classes>",
            False,
            "list.csv:2: label '<none of the classes>' means something where .*--config.data.multi_label=True",
        ),
        ("[0;2]", True, r"list.csv:2: label '\[0' is several labels; separate them by ;, or list it"),
        ("a,b", True, "list.csv:2: label 'a,b' is several labels; separate them by ;, or list it"),
        ("b | a", True, "list.csv:2: label 'b | a' is several labels".replace("|", r"\|")),
        ("(run;jump)", True, r"list.csv:2: label '\(run' is several labels"),
        ("{a; b}", True, r"list.csv:2: label '\{a' is several labels"),
    ],
)
def test_lists_and_none_of_the_classes_in_the_wrong_place(tmp_path, label, several, message):
    with pytest.raises(ManifestError, match=message) as caught:
        read_manifest(write(tmp_path, label, "a;b" if several else "a"), "train", multi_label=several)
    assert "\n" not in str(caught.value)


def test_a_missing_part_is_dropped_and_a_number_has_one_spelling(tmp_path):
    assert sets_of(opened(tmp_path, "0;nan;2", "2.0;2;-1", "1")) == [[0, 2], [2], [1]]
    assert opened(tmp_path, "0;nan;2", "1").class_names == ()


def test_json_may_give_a_list(tmp_path):
    labels = [["run", "jump"], "fly;run", [None, "fly"], [], None, ["run"]]
    (tmp_path / "list.jsonl").write_text(
        "\n".join(json.dumps({"path": "a", "label": label, "split": "train"}) for label in labels)
    )
    source = FileSource(read_manifest(str(tmp_path / "list.jsonl"), "train", multi_label=True))
    assert source.class_names == ("fly", "jump", "run") and sets_of(source) == [[1, 2], [0, 2], [0], None, None, [2]]


def test_classes_beside_the_manifest_number_the_parts(tmp_path):
    (tmp_path / "classes.csv").write_text("number,name\n0,run\n1,none\n2,fly\n")
    source = opened(tmp_path, "fly;run", "none", "null")
    assert sets_of(source) == [[0, 2], [1], None] and source.label_sets.shape == (2, 3)


def test_the_table_does_not_depend_on_the_order_of_rows_or_the_split(tmp_path):
    rows = [("b;a", "train"), ("c", "val"), ("a", "train"), ("c;a", "val"), ("a;b", "val")]
    one, two = opened(tmp_path, *rows), opened(tmp_path, *rows[::-1])
    np.testing.assert_array_equal(one.label_sets, two.label_sets)
    np.testing.assert_array_equal(one.label_sets, opened(tmp_path, *rows, split="val").label_sets)
    assert [np.flatnonzero(row).tolist() for row in one.label_sets] == [[0], [0, 1], [0, 2], [2]]
    assert sets_of(one) == sets_of(two)[::-1]


@pytest.mark.parametrize(
    "labels, message",
    [
        (("0;1", "1;1.5"), "list.csv:3: label '1.5' is no class number; give 0, 1, ... or a name"),
        (("0;1", "2;run", "1"), "list.csv:3: label 'run' is a name, most others are numbers"),
        (("0", "0,2"), "list.csv:3: label '0,2' is several labels; separate them by ;, or list it in classes.csv$"),
        (("1;2", "3;2"), "list.csv:2: labels run from 1 to 3, none is 0; subtract 1"),
    ],
)
def test_parts_that_are_no_classes_are_refused_with_the_line(tmp_path, labels, message):
    with pytest.raises(ManifestError, match=message) as caught:
        opened(tmp_path, *labels)
    assert "\n" not in str(caught.value)


TIMED = [
    (("c092 11.90 21.20;c147 0.00 12.60", ""), "c092 11.90 21.20", "c092"),
    (("c147", "c092,11.90,21.20"), "c092,11.90,21.20", "c092"),
    (("c147", "c092 (11.9-21.2); c147"), "c092 (11.9-21.2)", "c092"),
    (("c147;c092:0:21.5", "c011"), "c092:0:21.5", "c092"),
    (("('c092', 11.9, 21.2)",), "('c092', 11.9, 21.2)", "c092"),
    (("0;92 11.90 21.20", "3"), "92 11.90 21.20", "92"),
    (("open a door 3 12", "sit 0 9; run 10 11", "fly"), "open a door 3 12", "open a door"),
    (("c147", "c092 11.90s 21.20s"), "c092 11.90s 21.20s", "c092"),
    (("c092 (1.5 sec - 2 seconds);c147",), "c092 (1.5 sec - 2 seconds)", "c092"),
]


@pytest.mark.parametrize("labels, label, name", TIMED)
def test_classes_with_times_are_refused(tmp_path, labels, label, name):
    line = 2 + next(number for number, text in enumerate(labels) if label in text)
    refused = f"{tmp_path}/list.csv:{line}: label {label!r} is a class with times; write {name}, and for parts of a video a row for each"
    with pytest.raises(ManifestError) as caught:
        opened(tmp_path, *labels)
    assert str(caught.value).startswith(refused) and "\n" not in str(caught.value)
    with pytest.raises(ManifestError, match="is (a class with times; write|several labels; give one)"):
        read_manifest(write(tmp_path, *labels), "train")


@pytest.mark.parametrize(
    "labels, label",
    [
        (("c092 11.90;c147 3.2", ""), "c092 11.90"),
        (("c011", "c147@10.0;c092"), "c147@10.0"),
        (("c011 (1.5s);c147 (2.25 sec)", "c092"), "c011 (1.5s)"),
    ],
)
def test_classes_with_one_time_are_refused_among_several(tmp_path, labels, label):
    refused = f"list.csv:{2 + ('c011' in labels)}: label {label!r} is a class with times; write {label[:4]}, and for parts of"
    with pytest.raises(ManifestError, match=re.escape(refused)) as caught:
        opened(tmp_path, *labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "labels", [("c1@10.0", "player 10.5"), ("level 2.5", "v1.5", "speed 2.0s"), ("hold 3s 5s", "run", "sit")]
)
def test_names_with_one_time_are_names_where_a_video_has_one_label(tmp_path, labels):
    assert read_manifest(write(tmp_path, *labels), "train").class_names == tuple(sorted(labels))


NAMES_WITH_NUMBERS = [
    ("lift 3 4", "run", "sit"),
    ("turn 90 45", "turn 45 10"),
    ("move 1.5",),
    ("3 to 4;v 2.0",),
    ("v 1.5;v 2.0", "v 2.5"),
    ("player 10;level 2", "v1.5;camera 3"),
    ("mail@home;run", "level 2.5;sit"),
]


@pytest.mark.parametrize("labels", NAMES_WITH_NUMBERS)
def test_names_with_numbers_are_names(tmp_path, labels):
    names = tuple(sorted({part for label in labels for part in label.split(";")}))
    assert opened(tmp_path, *labels).class_names == names


def test_a_listed_class_may_look_like_times(tmp_path):
    (tmp_path / "classes.csv").write_text('number,name\n0,"zoom 1.0 2.0"\n1,run\n')
    assert sets_of(opened(tmp_path, "zoom 1.0 2.0;run", "run")) == [[0, 1], [1]]


@pytest.mark.parametrize("classes", [("a; b", "c"), ("a; b", "c", "a", "b")])
def test_a_listed_class_may_have_a_semicolon(tmp_path, classes):
    (tmp_path / "classes.csv").write_text("number,name\n" + "".join(f"{n},{name}\n" for n, name in enumerate(classes)))
    assert sets_of(opened(tmp_path, " a; b", "c")) == [[0], [1]]
    for label in ("a; b;c", "c;a;b", "a;b"):
        with pytest.raises(
            ManifestError, match="list.csv:3: label '.*' may have the class 'a; b' of classes.csv in it,"
        ) as caught:
            opened(tmp_path, "c", label)
        assert "\n" not in str(caught.value)
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": "v", "label": ["a; b", "c"], "split": "train"}))
    assert sets_of(FileSource(read_manifest(str(tmp_path / "list.jsonl"), "train", multi_label=True))) == [[0, 1]]


VECTORS = [
    (("1;0;1;0", "0;0;0;1", ""), "1;0;1;0", "0;2"),
    (("", "0;0;0", "1;0;0"), "0;0;0", "<none of the classes>"),
    (("0;1", "1;0", "1;1"), "0;1", "1"),
    (("1.0;0.0;1.0", "0.0;0.0;1.0"), "1.0;0.0;1.0", "0;2"),
    (("True;False", "False;False"), "true;false", "0"),
    (("1;-1;0", "0;1;-1"), "1;-1;0", "0"),
    (("0;1;", "1;0;"), "0;1;", "1"),
    (("0", "1;0;1", "0;1;1"), "1;0;1", "0;2"),  # a row that was cut
    (("[1, 0, 1]", "[0, 0, 1]"), "[1, 0, 1]", "0;2"),
    (("1 0 1", "0 0 1"), "1 0 1", "0;2"),
    (("0,1,1", "0,0,1"), "0,1,1", "1;2"),
]


@pytest.mark.parametrize("labels, label, here", VECTORS)
def test_vectors_of_zeros_and_ones_are_refused(tmp_path, labels, label, here):
    line = 2 + next(number for number, text in enumerate(labels) if text.lower() == label)
    refused = (
        f"list.csv:{line}: label {label!r} is a vector of zeros and ones; write the numbers of the classes whose value is 1, "
    )
    with pytest.raises(ManifestError, match=re.escape(f"{refused}here {here}")) as caught:
        opened(tmp_path, *labels)
    assert "\n" not in str(caught.value)
    with pytest.raises(
        ManifestError, match="list.csv:.: label .* is (a vector of zeros and ones; write the num|several labels; give)"
    ):
        read_manifest(write(tmp_path, *labels), "train")


@pytest.mark.parametrize(
    ("labels", "label", "several", "one"),
    [
        (("000", "011", "100"), "000", "here <none of the classes>, and", "to learn several, separate them by ;"),
        (("100", "nan", "001"), "001", "here 2, and none", "here 2, and none"),
        (("10", "01", "11"), "01", "here 1, and none", "here 1, and none"),
        (("0011", ""), "0011", "here 2;3, and none", "to learn several, separate them by ;"),
    ],
)
def test_vectors_without_separators_are_refused(tmp_path, labels, label, several, one):
    line = 2 + labels.index(label)
    for multi_label, here in ((True, several), (False, one)):
        with pytest.raises(ManifestError) as caught:
            read_manifest(write(tmp_path, *labels), "train", multi_label=multi_label)
        message = str(caught.value)
        assert f"list.csv:{line}: label {label!r} is a vector of zeros and ones; write the number" in message and here in message
        assert message.endswith("; if it is a number, write it without the zero in front") and "\n" not in message


@pytest.mark.parametrize(
    "labels",
    [
        ("00", "01", "02", "10", "11", "12"),
        ("0", "1", "10", "11"),
        ("00", "01", "0"),
        ("10", "11", "0"),
        ("00", "01", "x1", "y2", "z3"),
        ("010", "0", "1"),
    ],
)
def test_padded_numbers_and_names_are_no_vectors(tmp_path, labels):
    assert len(opened(tmp_path, *labels)) == len(read_manifest(write(tmp_path, *labels), "train").entries) == len(labels)


def test_listed_classes_may_be_zeros_and_ones(tmp_path):
    (tmp_path / "classes.csv").write_text("number,name\n0,00\n1,01\n")
    assert sets_of(opened(tmp_path, "01", "00")) == [[1], [0]]


@pytest.mark.parametrize("rows", [[[1, 0, 1], [0, 0, 1]], [[True, False], [False, False]], [[0.0, 1.0], [1.0, 1.0]]])
def test_vectors_in_json_are_refused(tmp_path, rows):
    lines = [json.dumps({"path": "a", "label": label, "split": "train"}) for label in rows]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    with pytest.raises(
        ManifestError, match="list.jsonl:1: label .* is a vector of zeros and ones; write the numbers of the classes"
    ):
        read_manifest(str(tmp_path / "list.jsonl"), "train", multi_label=True)
    with pytest.raises(ManifestError, match=r"list.jsonl:1: label \[.* is several labels; give one class per video"):
        read_manifest(str(tmp_path / "list.jsonl"), "train")


@pytest.mark.parametrize(
    "labels, sets",
    [
        (("0;1", "1", "0", ""), [[0, 1], [1], [0], None]),
        (("0;1", "1;0", "<none of the classes>"), [[0, 1], [0, 1], []]),
        (("0;1", "1;2"), [[0, 1], [1, 2]]),
    ],
)
def test_numbers_of_two_classes_are_no_vectors(tmp_path, labels, sets):
    source = opened(tmp_path, *labels)
    assert sets_of(source) == sets and source.notes == ()


@pytest.mark.parametrize(
    "labels, classes, example",
    [
        (("1", "0"), ("0", "1"), ""),
        (("a|b", "c"), ("a|b", "c"), ": 'a|b' is one class"),
        (("a,b", "b", "c"), ("a,b", "b", "c"), ": 'a,b' is one class"),
    ],
)
def test_several_labels_of_which_no_row_has_more_than_one_are_said(tmp_path, labels, classes, example):
    source = opened(tmp_path, *labels)
    assert source.class_names in (classes, ()) and len(source.label_sets) == len(labels)
    [note] = source.notes
    assert note.endswith(f"data.multi_label=True, but no row has several labels, which are separated by ;{example}")


@pytest.mark.parametrize("labels", [("a|b", "b"), ("c", "a | c | d")])
def test_labels_with_bars_between_them_are_refused(tmp_path, labels):
    with pytest.raises(ManifestError, match="label 'a.*' is several labels; separate them by ;, or list it in classes.csv"):
        opened(tmp_path, *labels)
    assert len(opened(tmp_path, "a|b", "c;d").class_names) == 3


@pytest.mark.parametrize("labels", [("c1", "c2;c1;c2", "c1;c1"), ("0;2", "1;2;1", "2.0;2")])
def test_a_class_twice_in_a_row_is_said(tmp_path, labels):
    [note] = opened(tmp_path, *labels).notes
    assert (
        note
        == f"{tmp_path}/list.csv: 2 rows have a class more than once, which counts once, first {tmp_path}/list.csv:3, {labels[1]!r}"
    )


@pytest.mark.parametrize("label", [[["a"]], [{"a": 1}], {"a": 1}])
def test_a_list_of_what_is_no_label_is_refused(tmp_path, label):
    (tmp_path / "list.jsonl").write_text(json.dumps({"path": "a", "label": label, "split": "train"}))
    with pytest.raises(ManifestError, match=r"list.jsonl:1: label .* is no class; give a class number or a name"):
        read_manifest(str(tmp_path / "list.jsonl"), "train", multi_label=True)


def test_without_the_field_the_message_names_it(tmp_path):
    with pytest.raises(ManifestError, match="list.csv:2: .*give one class per video.*--config.data.multi_label=True"):
        read_manifest(write(tmp_path, "a;b"), "train")
    (tmp_path / "list.jsonl").write_text('{"path": "a", "label": ["a"], "split": "train"}')
    with pytest.raises(ManifestError, match="list.jsonl:1: .*give one class per video; .*--config.data.multi_label=True"):
        read_manifest(str(tmp_path / "list.jsonl"), "train")


def test_one_label_a_video_has_no_table(tmp_path):
    source = FileSource(read_manifest(write(tmp_path, "a", "b"), "train"))
    assert source.label_sets is None and source.labels.tolist() == [0, 1]
    c = small_config()
    assert make_source(c.data, "train").label_sets is None and make_source(c.data, "train[:4]").label_sets is None


@pytest.mark.parametrize("name", ["tfds", "motion", "synthetic"])
def test_other_sources_have_one_label_a_video(name):
    c = small_config(data__source=name).copy_and_resolve_references()
    with c.unlocked():
        c.data.multi_label = True
    with pytest.raises(ValueError, match=f"data.multi_label=True needs data.source=files.*not {name}"):
        make_source(c.data, "train")


def test_a_slice_counts_a_clip_for_its_rarest_label(tmp_path):
    rows = ["a;b"] + ["a"] * 10 + ["a;c"] * 4 + ["c"] * 6 + [""]
    source = opened(tmp_path, *rows)
    assert strata(source).tolist() == [1] + [0] * 10 + [2] * 10 + [-1]
    c = small_config(data__source="files", data__manifest=write(tmp_path, *rows)).copy_and_resolve_references()
    with c.unlocked():
        c.data.multi_label = True
    half, rest = (make_source(c.data, part) for part in ("train[:50%]", "train[50%:]"))
    assert isinstance(half, Subset) and len(half) == 1 + 5 + 5 + 1 and len(half) + len(rest) == len(source)
    np.testing.assert_array_equal(half.label_sets, source.label_sets)


def test_a_slice_of_many_different_sets_is_no_larger_than_asked(tmp_path):
    rows = [f"{number % 7};{number % 11}" for number in range(200)]
    c = small_config(data__source="files", data__manifest=write(tmp_path, *rows)).copy_and_resolve_references()
    with c.unlocked():
        c.data.multi_label = True
    assert len(make_source(c.data, "train[:10%]")) < 32


def test_another_set_is_other_data(tmp_path):
    def identity(*rows):
        return describe(config(), opened(tmp_path, *rows))

    usual = identity("a;b", "b", "a;c")
    assert identity("b ; a", "b;b", "c;a") == usual
    for other in (("a;b", "b", "a;b;c"), ("a;b", "c", "a;c")):
        changed = identity(*other)
        assert {name for name in changed if changed[name] != usual[name]} == {"source", "source_labels"}


def test_one_label_a_video_keeps_its_identity(tmp_path):
    """The hash of a single-label source, as earlier versions wrote it into checkpoints."""
    import hashlib

    source = FileSource(read_manifest(write(tmp_path, "a", "b"), "train"))
    expected = hashlib.blake2b(b"0.mp4\n1.mp4" + np.array([0, 1], "<i4").tobytes(), digest_size=16).hexdigest()
    assert source.identity == expected
    labels = hashlib.blake2b(np.array([0, 1], "<i4").tobytes(), digest_size=16).hexdigest()
    assert describe(config(), source)["source_labels"] == labels


FIELDS = {"split": "train", "eval_split": "val"}


def checked(folder, *rows):
    sources = {field: opened(folder, *rows, split=split) for field, split in FIELDS.items()}
    return check_rows(sources, FIELDS, labeled=True)


def test_classes_without_training_clips_are_counted_by_label(tmp_path):
    rows = ["a;b", "a"]
    assert checked(tmp_path, *rows, ("b", "val"), ("a", "val")) == []
    [note] = checked(tmp_path, *rows, ("b;c", "val"), ("a;c", "val"), ("a", "val"))
    assert note == "data.split='train' has no video of 1 of 3 classes (c), data.eval_split='val' has 2 of them"
    with pytest.raises(ManifestError, match="has no video of 1 of 3 classes .c.*has 2 of them; no number"):
        checked(tmp_path, *rows, ("c", "val"), ("c", "val"), ("a", "val"))


def test_a_video_with_another_set_is_named(tmp_path):
    text = "path,label,split\na.mp4,a;b,train\na.mp4,b;a,train\nb.mp4,a,train\nb.mp4,a;b,train\nc.mp4,a,train\nd.mp4,a,val\n"
    (tmp_path / "list.csv").write_text(text)
    sources = {
        field: FileSource(read_manifest(str(tmp_path / "list.csv"), split, multi_label=True)) for field, split in FIELDS.items()
    }
    other, again = check_rows(sources, FIELDS, labeled=True)
    assert other.startswith("data.split='train': 1 video is listed again with another label, such as b.mp4")
    assert again == "data.split='train': 1 video is listed more than once, such as a.mp4"
