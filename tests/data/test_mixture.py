"""Mixtures of sources: exact proportions, an order that is a function of (seed, step), and what cannot be mixed."""

import collections
from fractions import Fraction

import grain
import ml_collections
import numpy as np
import pytest

from cvmae.data import sources
from cvmae.data.mixture import Mixture, MixtureError, parse_mixture, sections
from cvmae.data.pipeline import make_eval_loader, make_loader
from cvmae.data.proportions import Passes, Proportions, clip_indices_of, integer_weights, most_of_a_batch
from cvmae.data.records import UnreadableError
from tests.data import videos
from tests.data.configs import small_config


def mixed_config(mixture="a:1,b:2", own=None, **changes):
    """Returns `small_config` with two synthetic sources: a with 10 clips, b with 14 of other textures."""
    c = small_config(**changes).unlock()
    own = {"a": {}, "b": {"synthetic": {"clips": 14}, "split": "other"}} if own is None else own
    c.data.mixture, c.data.sources = mixture, ml_collections.ConfigDict(own)
    c.data.eval_split = "val"
    return c.lock()


def opened(c, field="split"):
    return sources.make_source(c.data, c.data[field])


def batches(c, count, source=None, **shard):
    with make_loader(c, source or opened(c), **shard) as loader:
        return [{key: np.array(value) for key, value in next(loader).items()} for _ in range(count)]


@pytest.mark.parametrize("weights", [(1, 2), (1, 1, 1), (7, 1, 3), (2, 2, 5, 1)])
def test_the_order_of_sources_is_that_of_grain(weights):
    parents = [grain.MapDataset.range(2000).map(lambda key, number=number: (number, key)) for number in range(len(weights))]
    mixed = grain.MapDataset.mix(parents, weights)
    ours = Proportions(weights)
    assert [ours[position] for position in range(1000)] == [mixed[position] for position in range(1000)]


@pytest.mark.parametrize("text", ["a:1,b:2", "a:0.3,b:0.7", "a:1/3,b:1e-3,c:5", "a:1"])
def test_proportions_are_exact_over_a_long_run(text):
    weights = parse_mixture(text)
    whole = integer_weights(weights)
    assert [Fraction(number, sum(whole)) for number in whole] == [w / sum(weights.values()) for w in weights.values()]
    proportions = Proportions(whole)
    for clips in (1, 17, 10**6, 10**12 + 7):
        counts = proportions.counts(clips)
        assert sum(counts) == clips
        assert all(
            abs(count - clips * Fraction(n, sum(whole))) < max(1, len(whole) - 1) for count, n in zip(counts, whole, strict=True)
        )
    assert proportions.counts(sum(whole) * 10**9) == [number * 10**9 for number in whole]


def test_the_stream_has_the_counts_of_the_closed_form_and_every_clip_once_a_pass():
    c = mixed_config()
    mixture = opened(c)
    stream = clip_indices_of(mixture, 3, 4)
    drawn = [stream[position] for position in range(4 * 75)]
    by_source = collections.defaultdict(list)
    for index in drawn:
        by_source[mixture.part_of(index)].append(index)
    assert [len(by_source[part]) for part in (0, 1)] == [100, 200]
    for part, size in ((0, 10), (1, 14)):
        low, high = mixture.range_of(part)
        assert high - low == size and set(by_source[part]) == set(range(low, high))
        # Passes follow each other; the one that is not complete makes a difference of 1.
        counts = collections.Counter(by_source[part]).values()
        assert max(counts) - min(counts) <= 1
    other = clip_indices_of(mixture, 4, 4)
    assert drawn != [other[position] for position in range(len(drawn))]


def test_every_batch_has_its_share_in_a_random_order():
    mixture = opened(mixed_config("a:1,b:1"))
    stream = clip_indices_of(mixture, 0, 8)
    rows = [[mixture.part_of(stream[8 * step + row]) for row in range(8)] for step in range(50)]
    assert all(sum(row) == 4 for row in rows)
    # Every second clip, which is a micro-batch where gradients accumulate, has clips of both sources.
    assert len({tuple(row) for row in rows}) > 10 and all(0 < sum(row[::2]) < 4 for row in rows)


def test_a_batch_is_a_function_of_seed_and_step_for_any_workers_processes_and_restart():
    c = mixed_config()
    whole = batches(c, 6)
    for changed, options in ((c, {"start_step": 2}), (mixed_config(data__workers=2), {"start_step": 2})):
        for one, other in zip(whole[2:], batches(changed, 4, **options), strict=True):
            assert one.keys() == other.keys() and all((one[key] == other[key]).all() for key in one)
    halves = [batches(c, 3, start_step=1, process_index=index, process_count=2) for index in (0, 1)]
    for step, (one, other) in enumerate(zip(*halves, strict=True)):
        for key in one:
            np.testing.assert_array_equal(np.concatenate([one[key], other[key]]), whole[1 + step][key])
    assert np.bincount(np.concatenate([batch["source"] for batch in whole])).tolist() == [8, 16]
    other = mixed_config(seed=1)
    assert any((one["index"] != two["index"]).any() for one, two in zip(whole, batches(other, 6), strict=True))


def test_clips_are_those_of_their_source_and_unlabeled():
    c = mixed_config(data__clip_sampling="middle")
    mixture = opened(c)
    parts = [sources.make_source(section, section.split) for section in sections(c.data).values()]
    for batch in batches(c, 4):
        assert (batch["label"] == -1).all()
        for index, part, video in zip(batch["index"], batch["source"], batch["video"], strict=True):
            record = parts[part][int(index) - mixture.range_of(int(part))[0]]
            np.testing.assert_array_equal(video, record.payload[2:6])  # the middle 4 of 8 frames


def test_a_section_may_sample_in_its_own_way(tmp_path):
    (tmp_path / "l.csv").write_text("path,label,split\nv.mp4,0,train\n")
    videos.write_video(tmp_path / "v.mp4", 40)
    files = {"source": "files", "manifest": str(tmp_path / "l.csv")}
    own = {"dense": files | {"stride": 1}, "sparse": files | {"stride": 3, "clip_sampling": "middle"}}
    c = mixed_config("dense:1,sparse:1", own, data__frame_size=(32, 64))
    for batch in batches(c, 3):
        for part, video in zip(batch["source"], batch["video"], strict=True):
            numbers = videos.numbers_of(video)
            assert set(np.diff(numbers)) == {(1, 3)[part]} and (part == 0 or numbers[0] == 15)
    with make_eval_loader(c, opened(c), 2) as loader:  # without random choices, in order
        [batch] = list(loader)
    assert [videos.numbers_of(video)[0] for video in batch["video"]] == [18, 15]


def test_a_broken_clip_is_replaced_by_one_of_its_source():
    class Holed:
        def __init__(self, source):
            self.source, self.identity, self.labels = source, source.identity, source.labels

        def __len__(self):
            return len(self.source)

        def key(self, index):
            return self.source.key(index)

        def __getitem__(self, index):
            if index % 3 == 0:
                raise UnreadableError(self.key(index), "broken")
            return self.source[index]

    c = mixed_config()
    mixture = opened(c)
    parts = [sources.make_source(section, section.split) for section in sections(c.data).values()]
    holed = Mixture({"a": parts[0], "b": Holed(parts[1])}, mixture.weights, mixture.sampling)
    rows = batches(c, 12, holed)
    assert sum((batch["failures"][:, 0] != 0).sum() for batch in rows) > 5
    assert np.bincount(np.concatenate([batch["source"] for batch in rows])).tolist() == [16, 32]


def test_an_evaluation_reads_the_evaluation_splits_one_after_another():
    c = mixed_config(own={"a": {"eval_split": "early"}, "b": {"synthetic": {"clips": 5}}})
    source = opened(c, "eval_split")
    assert source.key(0) == "a/synthetic/early/0" and source.key(10) == "b/synthetic/val/0" and len(source) == 15


def test_identity_has_proportions_and_sources():
    def identity(*args, **changes):
        return opened(mixed_config(*args, **changes)).identity

    assert identity("a:1,b:2") == identity("a:0.5,b:1.0")
    other = {"a": {}, "b": {"synthetic": {"clips": 13}, "split": "other"}}
    assert len({identity("a:1,b:2"), identity("a:1,b:3"), identity("b:2,a:1"), identity("a:1,b:2", other)}) == 4


ERRORS = [
    ("a:1,c:2", None, "'c' has no section data.sources.c; known: a, b"),
    ("a:1", None, "data.sources.b is not in data.mixture='a:1': add b:WEIGHT there, or remove the section"),
    ("", None, "data.sources.a is not in data.mixture=''"),
    ("a:0,b:1", None, "the weight of a is 0, not above 0"),
    ("a:-1,b:1", None, "the weight of a is -1, not above 0"),
    ("a,b:1", None, "'' is no weight of a; give names and weights such as"),
    ("a:x,b:1", None, "'x' is no weight of a"),
    ("a:nan,b:1", None, "'nan' is no weight of a"),
    ("a:1/0,b:1", None, "'1/0' is no weight of a"),
    ("a:1,a:2,b:1", None, "has a twice; add its weights"),
    ("../a:1,b:1", None, "'../a:1' is no name with a weight"),
    (
        "a:1",
        {"a": {"num_frames": 8}},
        "data.sources.a.num_frames=8 differs from data.num_frames=4: a batch holds clips of one shape",
    ),
    ("a:1", {"a": {"workers": 8}}, "data.sources.a.workers is a field of all sources together: set data.workers"),
    ("a:1", {"a": {"manifst": "x"}}, "data.sources.a.manifst is no field of a source: did you mean 'manifest'"),
    ("a:1", {"a": {"source": "files"}}, "data.sources.a: data.sources.a.source=files needs data.sources.a.manifest, a CSV"),
]


@pytest.mark.parametrize("mixture, own, message", ERRORS)
def test_what_cannot_be_mixed_is_named_in_one_line(mixture, own, message):
    c = mixed_config(mixture, own)
    with pytest.raises(MixtureError) as refused:
        sections(c.data)
        opened(c)
    assert message in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"manifest": "k400/gone.csv"}, "and set data.sources.{}.manifest to it"),
        ({"manifest": ""}, "data.sources.{0}.source=files needs data.sources.{0}.manifest, a CSV"),
        ({"source": "hf"}, "data.sources.{0}.source=hf needs data.sources.{0}.hf.path, a hub id"),
        ({"manifest": "."}, "; --config.data.sources.{}.pictures=True takes pictures"),
    ],
)
def test_a_section_that_cannot_be_opened_is_named_with_its_own_field_and_set(own, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "0.png").touch()
    for name, remedy in (("k400", "; `python -m cvmae.data.prepare --dataset=k400 --out=DIR` writes it"), ("mine", "")):
        c = mixed_config(f"{name}:1", {name: own}, data__source="files")
        c.data.unlock().name = "ssv2"
        c.data.hf = {"path": "", "config": "", "video": "video", "label": "label"}
        c.data.pictures = False
        with pytest.raises(MixtureError) as refused:
            opened(c)
        text = str(refused.value)
        assert message.format(name) in text and "ssv2" not in text
        assert ("--dataset=" in text) == (bool(remedy) and ("gone.csv" in text or "a CSV" in text))
        assert remedy in text or "--dataset=" not in text


def test_fields_that_are_none_or_equal_change_nothing():
    own = {"a": {"manifest": None, "num_frames": 4, "synthetic": {"clips": None}}}
    assert len(opened(mixed_config("a:2", own))) == 10


@pytest.mark.parametrize(("length", "span"), [(12, 4), (30, 7), (31, 10), (64, 9)])
def test_no_clip_is_twice_within_a_batch_at_the_end_of_a_pass(length, span):
    passes = Passes(5, 5 + length, 3, span)
    drawn = [passes[position] for position in range(40 * length)]
    plain = [int(record) for record in grain.MapDataset.range(5, 5 + length).seed(3).shuffle().repeat(40)]
    assert any(len(set(plain[at : at + span])) < span for at in range(len(plain) - span)), "nothing to mend"
    assert all(len(set(drawn[at : at + span])) == span for at in range(len(drawn) - span))
    for begin in range(0, len(drawn), length):
        assert sorted(drawn[begin : begin + length]) == list(range(5, 5 + length))
        assert drawn[begin + length - span : begin + length] == plain[begin + length - span : begin + length]


def test_a_source_smaller_than_that_still_has_every_clip_in_each_pass():
    passes = Passes(0, 6, 1, 4)
    assert all(sorted(passes[position] for position in range(begin, begin + 6)) == list(range(6)) for begin in range(0, 60, 6))


@pytest.mark.parametrize("weights", [(1, 2), (1, 1, 1), (7, 1, 3), (2, 2, 5, 1)])
@pytest.mark.parametrize("batch", [1, 8, 30])
def test_a_batch_has_no_more_of_a_source_than_is_kept_apart(weights, batch):
    counts = np.array([Proportions(weights).counts(step * batch) for step in range(500)])
    assert (np.diff(counts, axis=0).max(0) <= most_of_a_batch(weights, batch)).all()


def test_batches_of_a_mixture_hold_every_clip_once():
    c = mixed_config("a:1,b:2", batch_size=6, data__synthetic__clips=14, own={"a": {}, "b": {"synthetic": {"clips": 20}}})
    assert all(len(set(batch["index"].tolist())) == 6 for batch in batches(c, 60))
