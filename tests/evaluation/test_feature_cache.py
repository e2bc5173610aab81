"""Features on disk: resumed bit-equal, repaired where damaged, and never those of something else."""

import dataclasses
import itertools
import json
import os

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles
from cvmae.data.clip_views import TestViews
from cvmae.data.custom import CheckedSource
from cvmae.data.records import Record
from cvmae.data.sources import make_source
from cvmae.data.subset import Subset
from cvmae.evaluation.feature_cache import cached_features, cached_rows
from cvmae.evaluation.features import COLUMNS, FeatureSpec, extract, make_encode
from cvmae.models.build import build_encoder, video_grid
from cvmae.parallel.mesh import Placement, local_mesh
from tests.data.videos import write_video
from tests.tiny_configs import config

ROWS = 23


class Reader:
    """Rows whose value is their number, every fifth not valid, in batches of `size`; fails after `limit` batches."""

    def __init__(self, size, limit=None):
        self.size, self.limit, self.starts, self.batches = size, limit, [], 0

    def __call__(self, start):
        self.starts.append(start)
        for first in itertools.count(start, self.size):
            if self.batches == self.limit:
                raise KeyboardInterrupt
            self.batches += 1
            row = np.arange(first, first + self.size)
            values = np.stack([row, -row], 1).astype(np.float32)
            yield {"values": values, "labels": row % 3, "index": row // 2, "clip": row % 2, "valid": (row % 5 > 0) & (row < ROWS)}


def rows_of(features):
    return features.values[:, 0].astype(int).tolist()


EXPECTED = [row for row in range(ROWS) if row % 5]


@pytest.mark.parametrize("size, shard", [(1, 1), (4, 8), (4, 6), (7, 3), (50, 5), (5, 100)])
def test_rows_come_back_whole_and_in_order(tmp_path, size, shard):
    found = cached_rows(tmp_path, {}, ROWS, Reader(size), shard)
    assert rows_of(found) == EXPECTED and (found.values[:, 1] == -found.values[:, 0]).all()
    assert found.index.tolist() == [row // 2 for row in EXPECTED] and found.clip.tolist() == [row % 2 for row in EXPECTED]
    assert found.labels.tolist() == [row % 3 for row in EXPECTED]
    again = cached_rows(tmp_path, {}, ROWS, None, shard)  # nothing is read
    for name in COLUMNS:
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))


def test_an_interrupted_run_goes_on_at_the_first_missing_shard(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cached_rows(tmp_path, {}, ROWS, Reader(4, limit=5), 8)
    reader = Reader(3)  # the size of a batch may change, that of a shard then does not
    assert rows_of(cached_rows(tmp_path, {}, ROWS, reader, 6)) == EXPECTED
    assert reader.starts == [16] and len(list(tmp_path.glob("*.npz"))) == 3


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


def rename(path):
    path.rename(path.with_name(f"{path.stem[:-4]}0000.npz"))


def remove(path):
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, empty, rename, remove])
def test_damaged_shards_alone_are_made_again(tmp_path, damage):
    cached_rows(tmp_path, {}, ROWS, Reader(4), 4)
    shards = sorted(tmp_path.glob("*.npz"))
    assert len(shards) == 6
    for number in (1, 2, 5):
        damage(shards[number])
    reader = Reader(4)
    assert rows_of(cached_rows(tmp_path, {}, ROWS, reader, 4)) == EXPECTED
    assert reader.starts == [4, 20] and reader.batches == 3
    assert sorted(tmp_path.glob("*.npz")) == shards


def test_nothing_half_written_is_left(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        cached_rows(tmp_path, {}, ROWS, Reader(4, limit=3), 8)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}
    (tmp_path / "00001-0123456789abcdef.npz.77.tmp").write_bytes(b"left by a kill")
    assert rows_of(cached_rows(tmp_path, {}, ROWS, Reader(4), 8)) == EXPECTED


def test_features_of_something_else_are_an_error(tmp_path):
    identity = {"encoder": {"variant": "B/16", "eps": 1e-6}, "size": (224, 224)}
    cached_rows(tmp_path, identity, ROWS, Reader(4), 8)
    cached_rows(tmp_path, json.loads(json.dumps(identity)), ROWS, None, 8)
    other = identity | {"encoder": {"variant": "L/16", "eps": 1e-6}}
    with pytest.raises(
        ConfigError, match=r"something else: encoder.variant B/16 and not L/16. Give another --workdir, or delete"
    ):
        cached_rows(tmp_path, other, ROWS, None, 8)
    with pytest.raises(ConfigError, match="rows 23 and not 24"):
        cached_rows(tmp_path, identity, 24, None, 8)


@pytest.fixture(scope="module")
def world():
    c = config(data__synthetic__clips=10, batch_size=6)
    encoder = build_encoder(c, c.video_branch, video_grid(c))
    params = jax.jit(encoder.init)(jax.random.key(0), np.zeros((1, 4, 32, 32, 3), np.float32))["params"]
    return c, params, make_source(c.data, "val"), make_encode(c)


PLAN, SPEC = TestViews(2, 1), FeatureSpec()


class StopAfter:
    """Stands in for the list of bad files; is interrupted after `count` batches."""

    def __init__(self, count):
        self.left = count

    def update(self, reports):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def test_cached_features_resume_bit_equal(tmp_path, world, monkeypatch):
    c, params, source, encode = world
    monkeypatch.setattr("cvmae.evaluation.feature_cache.SHARD_ROWS", 5)  # shards of one batch of 6
    whole = cached_features(tmp_path / "whole", c, params, source, PLAN, SPEC, placement=Placement(local_mesh()), encode=encode)
    assert json.loads((tmp_path / "whole" / "identity.json").read_text())["layout"] == {"shard_rows": 6}
    assert list(zip(whole.index, whole.clip)) == [divmod(row, 2) for row in range(20)]
    with pytest.raises(KeyboardInterrupt):
        cached_features(tmp_path / "cut", c, params, source, PLAN, SPEC, encode=encode, bad_files=StopAfter(2))
    assert len(list((tmp_path / "cut").glob("*.npz"))) == 2
    resumed = cached_features(tmp_path / "cut", c, params, source, PLAN, SPEC, encode=encode)
    cached = cached_features(tmp_path / "cut", c, params, source, PLAN, SPEC, encode=lambda *_: pytest.fail("encoded again"))
    for name in COLUMNS:
        for other in (resumed, cached):
            np.testing.assert_array_equal(getattr(other, name), getattr(whole, name))


def test_cached_features_are_those_of_extract(tmp_path, world):
    c, params, source, encode = world
    found, expected = cached_features(tmp_path, c, params, source, TestViews(), SPEC, encode=encode), extract(c, params, source)
    np.testing.assert_allclose(found.values, expected.values, atol=1e-6)
    assert found.index.tolist() == expected.index.tolist() and found.labels.tolist() == expected.labels.tolist()


def test_cached_features_know_what_they_are_of(tmp_path, world):
    c, params, source, encode = world

    def cache(c=c, params=params, split="val", plan=PLAN, spec=SPEC):
        def never(*_):
            return pytest.fail("encoded")

        return cached_features(tmp_path, c, params, make_source(c.data, split), plan, spec, encode=never)

    cached_features(tmp_path, c, params, source, PLAN, SPEC, encode=encode)
    other_batch = config(data__synthetic__clips=10, batch_size=2, data__workers=1)
    assert len(cache(c=other_batch).values) == 20
    changed = jax.tree.map(np.array, params)
    changed["embed"]["bias"][3] += 1e-3
    for name, other in {
        "the weights": {"params": changed},
        "the videos or their labels": {"split": "train"},
        "views.clips 2 and not 3": {"plan": TestViews(3)},
        "features.layer -1 and not 0": {"spec": FeatureSpec(0)},
        "clips.stride 1 and not 2": {"c": config(data__synthetic__clips=10, data__stride=2)},
        "augment.mean": {"c": config(data__synthetic__clips=10, augment__mean=(0.5, 0.5, 0.5))},
        "encoder.eps": {"c": config(data__synthetic__clips=10, video_branch__eps=1e-5)},
    }.items():
        with pytest.raises(ConfigError, match=f"something else: .*{name}"):
            cache(**other)


def test_records_that_cannot_be_read_are_left_out(tmp_path, world):
    c, params, source, encode = world

    class Broken:
        """Record 3 is no video."""

        class_names, labels, identity = source.class_names, source.labels, "broken"

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            record = source[index]
            return record if index != 3 else type(record)(record.name, record.label, None, None, b"no video")

    bad_files = BadFiles(tmp_path, 10, 1.0)
    found = cached_features(tmp_path, c, params, Broken(), PLAN, SPEC, encode=encode, bad_files=bad_files)
    assert sorted(set(found.index)) == [0, 1, 2, 4, 5, 6, 7, 8, 9] and len(found.values) == 18
    assert [name for name, _ in bad_files.pairs] == [source[3].name] and len(bad_files) == 1


@pytest.fixture
def files(world, tmp_path):
    """A config of ten videos in files, and a function that returns their features from a cache and the numbers of the encoded batches."""
    _, params, _, encode = world
    rows = [f"{number}.mp4,{number % 2},val" for number in range(10)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    for number in range(10):
        write_video(tmp_path / f"{number}.mp4", 8, first=10 * number)
    c = config(data__source="files", data__manifest=str(tmp_path / "list.csv"), batch_size=4, data__max_bad_fraction=0.5)

    def cached(folder=tmp_path / "cache", source=None):
        batches = []

        def counted(params, video):
            batches.append(len(video))
            return encode(params, video)

        source = source or make_source(c.data, "val")
        return cached_features(folder, c, params, source, PLAN, SPEC, encode=counted), len(batches)

    return cached


@pytest.fixture
def short_shards(monkeypatch):
    monkeypatch.setattr("cvmae.evaluation.feature_cache.SHARD_ROWS", 4)  # two videos of two clips


class OwnFrames:
    """A source of four videos in memory, whose identity does not cover them."""

    class_names, identity = (), "own"

    def __init__(self):
        self.labels, self.videos = np.arange(4, dtype=np.int32) % 2, [np.full((8, 32, 32, 3), 50 * n, np.uint8) for n in range(4)]

    def __len__(self):
        return 4

    def key(self, index):
        return f"r{index}"

    def __getitem__(self, index):
        return Record(f"r{index}", int(self.labels[index]), None, None, self.videos[index])


def replace(path, first):
    before = path.stat().st_mtime_ns
    write_video(path, 8, first=first)
    os.utime(path, ns=(before + 1, before + 1))


def test_shards_of_videos_that_were_replaced_are_made_again(files, short_shards, tmp_path, capsys):
    before, batches = files()
    assert batches == 5 and files()[1] == 0
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*.npz") if not path.name.startswith("00001")}
    replace(tmp_path / "3.mp4", 95)
    after, _ = files()
    assert len(times) == 4 and all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert "2 of its clips are of videos that were replaced" in capsys.readouterr().err
    fresh, _ = files(tmp_path / "fresh")
    np.testing.assert_allclose(after.values, fresh.values, atol=1e-6)
    changed = np.abs(after.values - before.values).max(1) > 1e-3
    assert set(after.index[changed]) == {3}
    assert len(list((tmp_path / "cache").glob("00001-*.npz"))) == 1 and files()[1] == 0


def test_a_video_that_could_not_be_read_is_tried_again_once_it_is_another(files, short_shards, tmp_path):
    content = (tmp_path / "3.mp4").read_bytes()
    for cache in ("not a video", "not there"):
        (tmp_path / "3.mp4").write_bytes(b"no video")
        if cache == "not there":
            (tmp_path / "3.mp4").unlink()
        assert 3 not in files(tmp_path / cache)[0].index
        (tmp_path / "3.mp4").write_bytes(content)
        assert 3 in files(tmp_path / cache)[0].index
    (tmp_path / "3.mp4").unlink()  # what is gone cannot be compared
    assert files(tmp_path / "not there")[1] == 0


def test_a_cache_of_an_earlier_version_is_used_and_said(files, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("cvmae.evaluation.feature_cache.video_stamps", lambda _: None)
        before, _ = files()
    replace(tmp_path / "3.mp4", 95)
    capsys.readouterr()
    after, batches = files()
    said = capsys.readouterr().err
    assert batches == 0 and said.count("earlier version") == said.count("\n") == 1 and "move the folder away" in said
    np.testing.assert_array_equal(after.values, before.values)


def test_labels_are_those_of_now(files, world, tmp_path):
    source = world[2]

    @dataclasses.dataclass
    class Relabeled:
        """The same records and identity with other labels, as of a prepared set that was built again."""

        labels: np.ndarray
        class_names, identity = (), "same"

        def __len__(self):
            return len(source)

        def __getitem__(self, index):
            return dataclasses.replace(source[index], label=int(self.labels[index]))

        def key(self, index):
            return source.key(index)

    labels = np.arange(10, dtype=np.int32) % 3
    assert files(source=Relabeled(labels))[0].labels.tolist() == labels.repeat(2).tolist()
    features, batches = files(source=Relabeled(labels[::-1].copy()))
    assert features.labels.tolist() == labels[::-1].repeat(2).tolist() and batches == 0


def test_features_of_a_source_given_to_run_are_those_of_its_contents(files, tmp_path, capsys):
    own = OwnFrames()
    source = CheckedSource(own, "source")
    before, batches = files(source=source)
    assert batches and files(source=source)[1] == 0
    own.videos[2] = 255 - own.videos[2]
    after, _ = files(source=source)
    assert "2 of its clips are of" in capsys.readouterr().err and files(source=source)[1] == 0
    assert set(after.index[np.abs(after.values - before.values).max(1) > 1e-3]) == {2}


def test_features_of_a_slice_are_those_of_its_contents_too(files, capsys):
    own = OwnFrames()
    part = Subset(CheckedSource(own, "source"), np.array([1, 2]))
    files(source=part)
    own.videos[3] = own.videos[0]
    assert files(source=part)[1] == 0
    own.videos[2] = own.videos[0]
    assert files(source=part)[1] and "of its clips are of" in capsys.readouterr().err


def test_other_labels_of_a_source_given_to_run_are_refused(files, world, tmp_path):
    own = OwnFrames()
    assert files(source=CheckedSource(own, "source"))[1]
    own.labels = 1 - own.labels
    with pytest.raises(ConfigError, match="features of something else: the videos or their labels"):
        files(source=CheckedSource(own, "source"))


def test_changed_labels_of_a_manifest_are_refused_by_name(files, tmp_path):
    files()
    text = (tmp_path / "list.csv").read_text()
    (tmp_path / "list.csv").write_text(text.replace("3.mp4,1", "3.mp4,0"))
    with pytest.raises(
        ConfigError,
        match="something else: the videos or their labels, which are others now in config.data.manifest '.*list.csv'",
    ):
        files()
