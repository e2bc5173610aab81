"""Data in buckets on localhost: manifests, videos, shards and Parquet files give the clips of the local files, also where answers fail."""

import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from cvmae.data.decode import DecodeError, read_chosen, read_frames, read_table
from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.pipeline import make_eval_loader, make_loader
from cvmae.data.prepare import __main__ as command
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.data.sources import digest_keys, make_source
from cvmae.data.tar_shards import load_index
from cvmae.storage import cache as caches
from cvmae.storage import client, counters
from cvmae.storage.cache import FileCache, RemoteFile
from cvmae.storage.remote_path import RemotePath
from tests.commands import ROOT, run_own
from tests.data import videos
from tests.data.batches import assert_same_batches
from tests.data.configs import small_config
from tests.requirements import missing
from tests.servers import faulty, serving, upload

COUNT = 6


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with serving(request.param) as path:
        yield path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a manifest of six training and two validation videos, in folders and containers of several kinds."""
    folder = tmp_path_factory.mktemp("files") / "set"
    (folder / "a b").mkdir(parents=True)
    rows = ["path,label,split,start,end"]
    for number in range(COUNT + 2):
        path = f"{'a b/' if number % 2 else ''}clip{number}.{('mp4', 'mkv', 'avi')[number % 3]}"
        videos.write_video(folder / path, 12, first=10 * number)
        part = "0.25,0.75" if number == 1 else ","
        rows.append(f"{path},{('run', 'jump', '')[number % 3]},{'train' if number < COUNT else 'val'},{part}")
    (folder / "list.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def remote(files, bucket):
    return upload(files, f"{bucket}/sets/one")


def config(folder, **changes):
    return small_config(data__source="files", data__manifest=f"{folder}/list.csv", **changes)


def batches_and_counts(c, count=3):
    """Returns the first batches, and what reading them has cost by the names of counters.FIELDS."""
    with make_loader(c, make_source(c.data, "train")) as loader:
        return [next(loader) for _ in range(count)], dict(zip(counters.FIELDS, loader.counts.tolist(), strict=True))


def batches(c, count=3):
    return batches_and_counts(c, count)[0]


def test_clips_of_a_manifest_in_a_bucket_are_those_of_local_files(files, remote):
    local, there = (make_source(config(folder).data, "train") for folder in (files, remote))
    assert (there.identity, digest_keys(there), there.class_names) == (local.identity, digest_keys(local), local.class_names)
    assert [there.key(n) for n in range(COUNT)] == [local.key(n) for n in range(COUNT)]
    assert there.parts()[1] == (f"{remote}/a b/clip1.mkv", 0.25, 0.75)
    assert_same_batches(batches(config(files)), batches(config(remote)))


@pytest.mark.slow
def test_worker_processes_read_the_same_clips(files, remote):
    assert_same_batches(batches(config(files), 2), batches(config(remote, data__workers=1, data__threads=2), 2))


def test_paths_in_a_manifest_may_be_absolute_and_its_root_a_bucket(files, remote, tmp_path):
    lines = (files / "list.csv").read_text().splitlines()
    (tmp_path / "list.csv").write_text("\n".join([lines[0], *(f"{remote}/{line}" for line in lines[1:])]))
    assert_same_batches(batches(config(files)), batches(config(tmp_path)))
    (tmp_path / "list.csv").write_text("\n".join(lines))
    assert_same_batches(batches(config(files)), batches(config(tmp_path, data__root=remote)))
    RemotePath(f"{remote}-lists/list.csv").write_text("\n".join([lines[0], *(f"../one/{line}" for line in lines[1:])]))
    assert_same_batches(batches(config(files)), batches(config(f"{remote}-lists")))
    source = make_source(config(f"{remote}-lists").data, "train")
    assert source.key(0) == f"elsewhere/{remote.partition('://')[2]}/clip0.mp4"


def test_class_names_beside_a_manifest_count(files, bucket):
    upload(files, f"{bucket}/sets/named")
    RemotePath(f"{bucket}/sets/named/classes.csv").write_text("number,name\n0,sit\n1,run\n2,jump\n")
    source = make_source(config(f"{bucket}/sets/named").data, "train")
    assert source.class_names == ("sit", "run", "jump") and source.labels.tolist() == [1, 2, -1, 1, 2, -1]


def test_a_folder_of_a_bucket_stands_for_a_manifest(files, remote, bucket):
    RemotePath(f"{bucket}/sets/mixed/x").write_bytes((files / "clip0.mp4").read_bytes())
    RemotePath(f"{bucket}/sets/mixed/note").write_text("no video")
    RemotePath(f"{bucket}/sets/mixed/a.jpg").write_bytes(b"no video")
    RemotePath(f"{bucket}/sets/mixed/.hidden/a.mp4").write_bytes(b"no video")
    manifest = read_manifest(remote, "any")
    assert [entry.path for entry in manifest.entries] == [
        f"{remote}/{e.key(n)}" for e in [_paths(files)] for n in range(COUNT + 2)
    ]
    mixed = read_manifest(f"{bucket}/sets/mixed", "any")
    assert [entry.path for entry in mixed.entries] == [f"{bucket}/sets/mixed/x"]
    assert "3 left out: .hidden/a.mp4 (hidden" in mixed.notes[0] and "note (no video" in mixed.notes[0]
    with pytest.raises(ManifestError, match="no such object or bucket; give a manifest, a file"):
        read_manifest(f"{bucket}/sets/none", "any")


class _paths:
    """The sorted paths of a folder's videos, by `key` as a source has them."""

    def __init__(self, folder):
        found = (path.relative_to(folder).as_posix() for path in folder.rglob("clip*"))
        self._paths = sorted(found)

    def key(self, number):
        return self._paths[number]


def test_a_long_video_is_read_by_ranges_and_its_end_exactly(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("cvmae.storage.blocks.BLOCK_BYTES", 8192)
    monkeypatch.setattr("cvmae.storage.blocks.BlockFile.__init__.__defaults__", (-1, 8192, 0))
    for name in ("long.mp4", "long.webm"):
        codec = "libvpx" if name.endswith("webm") else "libx264"
        local = videos.write_video(tmp_path / name, 120, codec=codec, size=(64, 96))
        url = f"{bucket}/long/{name}"
        RemotePath(url).upload(local)
        assert pathlib.Path(local).stat().st_size > 3 * 8192
        table, there = read_table(local), read_table(url)
        np.testing.assert_array_equal(table.pts, there.pts)
        for indices in ([0], [119, 3, 60], range(100, 120)):
            np.testing.assert_array_equal(read_frames(local, indices), read_frames(url, indices))


FAULTS = {"503": [503, 503], "lost in the middle": ["drop"], "both": [500, "drop", 429]}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_an_answer_that_fails_is_asked_for_again(files, remote, faults):
    with faulty(remote[:2]) as proxy:
        proxy.faults, proxy.match, own = list(faults), "clip0.mp4", counters.Counters()
        with counters.counting(own):
            frames = read_chosen(f"{remote}/clip0.mp4", lambda table: np.arange(len(table)))
        assert not proxy.faults
    counts = dict(zip(counters.FIELDS, own.values().tolist(), strict=True))
    assert counts["retries"] == len(faults) and counts["bytes_read"] >= (files / "clip0.mp4").stat().st_size
    np.testing.assert_array_equal(frames, read_chosen(f"{files}/clip0.mp4", lambda table: np.arange(len(table))))


def test_what_keeps_failing_is_a_bad_file_like_any_other(remote):
    with faulty(remote[:2]) as proxy:
        proxy.faults, proxy.match = [503] * 999, "clip3.mp4"
        with pytest.raises(DecodeError, match="after 5 attempts") as failed:
            read_table(f"{remote}/clip3.mp4")
        assert "\n" not in str(failed.value) and failed.value.name == f"{remote}/clip3.mp4"
        c = config(remote)
        with make_eval_loader(c, make_source(c.data, "train"), 6) as loader:
            assert next(loader)["valid"].tolist() == [True] * 3 + [False] + [True] * 2
        first = batches(c, 2)
    again = [batch["failures"].any(1).sum() for batch in first]
    assert sum(again) >= 1 and 3 not in [index for batch in first for index in batch["index"].tolist()]


def test_a_video_that_is_slower_than_the_limit_is_a_bad_file(remote):
    with faulty(remote[:2]) as proxy:
        proxy.faults, proxy.match = ["hang"] * 999, "clip3.mp4"
        c = config(remote, data__timeout_s=1.0)
        with make_eval_loader(c, make_source(c.data, "train"), 6) as loader:
            assert next(loader)["valid"].tolist() == [True] * 3 + [False] + [True] * 2


def with_cache(folder, directory, gigabytes=1.0):
    c = config(folder).unlock()
    c.data.cache_dir, c.data.cache_gb = str(directory), gigabytes
    return c.lock()


@pytest.fixture
def fresh(monkeypatch):
    """Makes this process forget the stamps that it knows, as a new one."""
    monkeypatch.setattr(caches, "_stamps", {})
    return lambda: caches._stamps.clear()


def test_a_second_epoch_comes_from_the_cache(files, remote, tmp_path, fresh):
    c = with_cache(remote, tmp_path / "cache")
    with faulty(remote[:2]) as proxy:
        source = make_source(c.data, "train")
        own = counters.Counters()
        with counters.counting(own):
            for index in [*range(COUNT), 0]:
                source[index].payload.open().close()
        counts = dict(zip(counters.FIELDS, own.values().tolist(), strict=True))
        assert (counts["cache_misses"], counts["cache_hits"], counts["retries"]) == (COUNT, 1, 0)
        # Costs and not requests: threads of a loader that was closed in another test may still be reading.
        first, costs = batches_and_counts(c, 3)
        assert costs["cache_hits"] >= costs["clips"] > 0 and costs["cache_misses"] == 0
        fresh()
        proxy.requests.clear()
        _, costs = batches_and_counts(c, 1)  # asks whether files changed, no more
        assert (
            costs["cache_hits"] >= costs["clips"] > 0
            and costs["cache_misses"] == 0
            and [line for line in proxy.requests if "clip" in line]
        )
    assert_same_batches(first, batches(config(files), 3))
    assert int((tmp_path / "cache/total").read_text()) == sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.copy"))


def test_the_cache_keeps_its_limit_and_what_was_read_last(bucket, tmp_path, fresh):
    for number in range(6):
        RemotePath(f"{bucket}/blobs/{number}").write_bytes(bytes([number]) * 1000)
    cache = FileCache(str(tmp_path / "cache"), 3500)

    def read(number):
        time.sleep(0.01)  # times of files are those of the clock
        return RemoteFile(f"{bucket}/blobs/{number}", cache).read() == bytes([number]) * 1000

    def kept():
        return sorted(path.read_bytes()[0] for path in (tmp_path / "cache").rglob("*.copy"))

    assert all(read(number) for number in (0, 1, 2, 0, 3)) and kept() == [0, 2, 3]
    RemotePath(f"{bucket}/blobs/big").write_bytes(b"x" * 4000)
    assert RemoteFile(f"{bucket}/blobs/big", cache).read() == b"x" * 4000 and kept() == [0, 2, 3]
    RemotePath(f"{bucket}/blobs/3").write_bytes(b"new" * 100)
    fresh()
    assert RemoteFile(f"{bucket}/blobs/3", cache).read() == b"new" * 100


READS = """
import sys
from cvmae.storage.cache import FileCache, RemoteFile
cache = FileCache(sys.argv[2], 20_000)
for turn in range(2):
    for number in range(10):
        assert RemoteFile(f"{sys.argv[1]}/shared/{(number * 7 + turn) % 10}", cache).read() == bytes([(number * 7 + turn) % 10]) * 4000
"""


@pytest.mark.slow
def test_processes_share_a_cache(bucket, tmp_path):
    for number in range(10):
        RemotePath(f"{bucket}/shared/{number}").write_bytes(bytes([number]) * 4000)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", READS, bucket, str(tmp_path / "cache")]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(3)]
    for process in running:
        assert process.communicate()[1] == b"" and process.returncode == 0
    sizes = [path.stat().st_size for path in (tmp_path / "cache").rglob("*.copy")]
    assert sum(sizes) <= 20_000 and set(sizes) == {4000} and not list((tmp_path / "cache").rglob("*.part"))


def test_a_cache_that_cannot_be_written_is_done_without(remote, tmp_path, fresh, capsys):
    (tmp_path / "cache").write_text("a file")
    assert_same_batches(batches(config(remote), 1), batches(with_cache(remote, tmp_path / "cache"), 1))
    assert capsys.readouterr().err.count("no copy is kept") == 1


@pytest.fixture(scope="module")
def shards(files, tmp_path_factory):
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(str(files / "list.csv"), str(out), shard_bytes=os.path.getsize(files / "clip0.mp4") * 5 // 2)
    return out


def open_shards(pattern, split="train", cache_dir=""):
    c = small_config(data__source="webdataset").unlock()
    c.data.webdataset = {"shards": str(pattern)}
    c.data.cache_dir, c.data.cache_gb = str(cache_dir), 1.0
    return c.lock(), make_source(c.data, split)


def test_clips_of_shards_in_a_bucket_are_those_of_local_shards(shards, bucket, tmp_path, fresh):
    there = upload(shards, f"{bucket}/shards")
    c, local = open_shards(f"{shards}/{{split}}-*.tar")
    last = len(list(shards.glob("train-*.tar"))) - 1
    for pattern in (f"{there}/{{split}}-*.tar", f"{there}/{{split}}-{{000000..{last:06d}}}.tar"):
        _, source = open_shards(pattern)
        assert (source.identity, source.class_names, len(source)) == (local.identity, local.class_names, COUNT)
        for index in range(COUNT):
            assert source[index].payload == local[index].payload
    _, source = open_shards(f"{there}/{{split}}-*.tar", cache_dir=tmp_path / "cache")
    with make_loader(c, source) as loader, make_loader(c, local) as other:
        assert_same_batches([next(loader) for _ in range(4)], [next(other) for _ in range(4)])
    assert len(list((tmp_path / "cache").rglob("*.copy"))) == COUNT
    with pytest.raises(ManifestError, match=r"train-000099.tar: no such shard"):
        open_shards(f"{there}/train-{{000000,000099}}.tar")


def test_an_index_is_taken_where_it_fits_and_made_where_it_does_not(shards, bucket):
    there = upload(shards, f"{bucket}/indexed")
    tar = f"{there}/train-000000.tar"
    index = RemotePath(f"{tar}.index.json")
    local = load_index(str(shards / "train-000000.tar"))[0]
    with faulty(bucket[:2]) as proxy:
        assert load_index(tar)[0] == local and "mtime_ns" in json.loads(index.read_text())  # the copied one
        assert not [line for line in proxy.requests if line.startswith(("PUT", "POST"))]
    index.unlink()
    assert load_index(tar)[0] == local and json.loads(index.read_text())["stamp"]
    content = RemotePath(tar).read_bytes()
    RemotePath(tar).write_bytes(content[:-1024])  # another object with the same members
    before = index.read_text()
    load_index(tar)
    assert index.read_text() != before


def test_prepare_writes_shards_into_a_bucket_and_indices_beside_them(files, remote, shards, bucket, capsys):
    out = f"{bucket}/written"
    assert run_own(command, "--shards=webdataset", f"--manifest={remote}/list.csv", f"--out={out}") == 0
    assert f"--config.data.webdataset.shards='{out}/{{split}}-*.tar'" in capsys.readouterr().out
    names = list(RemotePath(out).listing())
    assert names[0] == "classes.csv" and "train-000000.tar.index.json" in names
    (content,) = [RemotePath(f"{out}/train-000000.tar").read_bytes()]
    write_shards(str(files / "list.csv"), str(files.parent / "again"))
    assert content == (files.parent / "again/train-000000.tar").read_bytes()
    RemotePath(f"{out}/train-000000.tar.index.json").unlink()
    assert run_own(command, f"--index={out}/train-{{000000..000000}}.tar") == 0
    assert "1 shards with 6 videos have an index" in capsys.readouterr().out


def test_prepare_reads_videos_and_labels_from_a_bucket(files, bucket, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CVMAE_CACHE", str(tmp_path / "home"))
    videos_, labels = f"{bucket}/ucf/videos", f"{bucket}/ucf/labels"
    names = [f"{name}/v_{name}_g0{n}.mp4" for name in ("Run", "Jump") for n in range(3)]
    for number, name in enumerate(names):
        RemotePath(f"{videos_}/{name}").write_bytes(b"" if number == 5 else (files / "clip0.mp4").read_bytes())
    RemotePath(f"{labels}/classInd.txt").write_text("1 Run\n2 Jump\n")
    for n in (1, 2, 3):
        RemotePath(f"{labels}/trainlist0{n}.txt").write_text(
            "".join(f"{x.replace('.mp4', '.avi')} {1 + (i > 2)}\n" for i, x in enumerate(names) if i % 3)
        )
        RemotePath(f"{labels}/testlist0{n}.txt").write_text(
            "".join(f"{x.replace('.mp4', '.avi')}\n" for i, x in enumerate(names) if not i % 3)
        )
    arguments = ["--dataset=ucf101", f"--videos={videos_}", f"--labels={labels}", "--workers=1"]
    for out in (f"{bucket}/ucf/out", str(tmp_path / "out")):
        assert run_own(command, *arguments, f"--out={out}") == 0
        assert "5 of 6 videos are usable; 1 empty" in capsys.readouterr().out
        manifest = read_manifest(f"{out}/split1.csv", "train")
        assert [entry.path for entry in manifest.entries] == [
            f"{videos_}/{name}" for i, name in enumerate(names) if i in (1, 2, 4)
        ]
        assert manifest.class_names == ("Run", "Jump")
    assert run_own(command, *arguments, f"--out={bucket}/x", "--transcode=32") == 2
    assert "--transcode=32 writes to a local folder" in capsys.readouterr().err


def test_parquet_files_in_a_bucket(files, bucket, tmp_path, monkeypatch):
    try:
        import datasets
    except ImportError as error:
        missing("hf", str(error))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, numbers in (("train", (0, 3)), ("val", (6,))):
        paths = [next(files.rglob(f"clip{number}.*")) for number in numbers]
        rows = {"video": [path.read_bytes() for path in paths], "label": ["run" for _ in paths]}
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}-0.parquet")
        RemotePath(f"{bucket}/parquet/{split}-0.parquet").upload(tmp_path / f"{split}-0.parquet")
    c = small_config(data__source="hf").unlock()
    c.data.hf = {"path": f"{bucket}/parquet/{{split}}-*.parquet", "config": "", "video": "video", "label": "label"}
    there = make_source(c.data, "train")
    c.data.hf.path = f"{tmp_path}/{{split}}-*.parquet"
    local = make_source(c.data, "train")
    assert len(there) == 2 and there.class_names == ("run",)
    for index in range(2):
        assert there[index].payload == local[index].payload
    c.data.hf.path = f"{bucket}/parquet/paths-*.parquet"
    upload(files, f"{bucket}/parquet/videos")
    datasets.Dataset.from_dict({"video": ["videos/clip0.mp4"]}).to_parquet(tmp_path / "paths.parquet")
    RemotePath(f"{bucket}/parquet/paths-0.parquet").upload(tmp_path / "paths.parquet")
    c.data.hf.label = ""
    payload = make_source(c.data, "train")[0].payload
    assert payload == RemoteFile(f"{bucket}/parquet/videos/clip0.mp4")


def test_what_is_missing_ends_a_run_and_is_no_bad_file(remote, monkeypatch):
    c = config(remote)
    source = make_source(c.data, "train")

    def refuse(path):
        raise client.SetupError(f"{path}: no credentials")

    monkeypatch.setattr(client, "check_scheme", refuse)
    with pytest.raises(client.SetupError, match="no credentials"), make_loader(c, source) as loader:
        next(loader)


def test_white_space_around_a_path_in_a_bucket_is_part_of_it_where_a_file_has_this_name(bucket, tmp_path):
    for name in ("a.mp4", "a.mp4 ", "b.mp4 ", "c.mp4"):
        RemotePath(f"{bucket}/spaces/{name}").write_bytes(b"x")
    (tmp_path / "list.csv").write_text('path,label,split\n"a.mp4 ",x,train\nb.mp4 ,x,train\n c.mp4 ,x,train\n')
    manifest = read_manifest(str(tmp_path / "list.csv"), "train", root=f"{bucket}/spaces")
    assert [entry.path for entry in manifest.entries] == [f"{bucket}/spaces/{name}" for name in ("a.mp4 ", "b.mp4 ", "c.mp4")]
    (tmp_path / "list.csv").write_text(f"path,label,split\n {bucket}/spaces/b.mp4 ,x,train\n {bucket}/spaces/a.mp4 ,x,train\n")
    with pytest.raises(ManifestError, match="list.csv:3: path .* has white space around it, .*; write the path in quotes"):
        read_manifest(str(tmp_path / "list.csv"), "train")
