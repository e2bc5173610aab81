"""A workdir in a bucket on localhost: its lock, its metrics, its checkpoints, and what a kill leaves half done."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles, pack_failures
from cvmae.evaluation.extract import FORMATS
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.files import StorageError, storage_errors
from cvmae.storage.remote_path import RemotePath
from cvmae.training import metric_writer, trackers, wandb_tracker, workdir_lock
from cvmae.training.lock_owner import describe_process
from cvmae.training.metric_writer import MetricsWriter, read_metrics
from cvmae.training.workdir_lock import LOCK, locked
from cvmae.workdir import CURVES, Workdir, metric_lines
from cvmae.workdir.saved_steps import COMMITTED, saved_steps
from tests.commands import ROOT
from tests.servers import faulty, serving
from tests.tiny_configs import config
from tests.training import counting_task
from tests.training.test_checkpoint import restore, save, state


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with serving(request.param) as path:
        yield path


def test_a_bucket_that_is_not_there_is_one_line(bucket):
    with pytest.raises(ConfigError, match="of-nobody/run cannot be a folder .no such object or bucket.: give another"):
        Workdir.create(f"{bucket}-of-nobody/run")
    workdir = Workdir.create(f"{bucket}/runs/a")
    assert str(workdir / "config.json") == f"{bucket}/runs/a/config.json" and workdir.read_config() is None


HOLD = """
import sys
from cvmae.training.workdir_lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_run_at_a_time_and_a_killed_one_is_followed(bucket, capsys):
    folder = f"{bucket}/locked"
    command = [sys.executable, "-c", HOLD, folder]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=f"--workdir={folder} is in use by process {other.pid} on"), locked(folder):
            pass
        other.kill()
    with locked(folder):
        assert json.loads(RemotePath(f"{folder}/{LOCK}").read_text())["pid"] == os.getpid()
    assert f"took over {folder}/{LOCK}" in "".join(capsys.readouterr())
    assert not RemotePath(f"{folder}/{LOCK}").exists()


def test_a_beat_does_not_write_over_the_lock_of_another(bucket, monkeypatch):
    path = RemotePath(f"{bucket}/beats/{LOCK}")
    monkeypatch.setattr(workdir_lock, "BEAT_S", 0.1)
    monkeypatch.setattr(workdir_lock, "SETTLE_S", 0.1)
    mine = workdir_lock._Lock.acquire(path)
    while json.loads(path.read_text())["beat"] < 2:
        pass
    other = describe_process() | {"token": "another"}
    path.write_text(json.dumps(other))
    mine._thread.join(20)
    mine.release()
    assert json.loads(path.read_text()) == other


@pytest.mark.parametrize("content", [None, json.dumps(describe_process()), "x"])
def test_a_run_whose_lock_in_a_bucket_is_lost_writes_nothing_more(bucket, monkeypatch, content):
    monkeypatch.setattr(workdir_lock, "SETTLE_S", 0.01)
    monkeypatch.setattr(metric_writer, "UPLOAD_S", 0.0)
    workdir = Workdir.create(f"{bucket}/lost")
    workdir.path.remove_tree()
    reason = {None: "--workdir={0} is gone", "x": "{0}/run.lock was changed"}.get(
        content, "{0}/run.lock was taken over by process"
    )

    def step(self, state, batch):
        if int(state.step) == 3:
            workdir.path.remove_tree()
            if content is not None:
                (workdir / LOCK).write_text(content)
        return usual(self, state, batch)

    usual = counting_task.Counting.step
    monkeypatch.setattr(counting_task.Counting, "step", step)
    with pytest.raises(StorageError) as raised, locked(workdir):
        counting_task.train(workdir, total="8_steps", checkpoint_every="4_steps", log_every="20_steps")
    assert str(raised.value).startswith(reason.format(workdir)) and "\n" not in str(raised.value)
    assert [path.name for path in workdir.path.files()] == [LOCK] * (content is not None)


def test_of_two_that_take_over_one_has_it(bucket, monkeypatch):
    """Both have looked before either writes; the emulator of gs looks and writes in two steps, so they write one after the other."""
    path = RemotePath(f"{bucket}/taken/{LOCK}")
    path.write_text(json.dumps(describe_process() | {"pid": 2**22 + 1}))
    there, stamp = json.loads(path.read_text()), path.status()
    monkeypatch.setattr(workdir_lock, "_read", lambda path: there)
    monkeypatch.setattr(RemotePath, "status", lambda self: stamp)
    assert [workdir_lock._take_over(path, there, there | {"token": str(number)}) for number in range(3)] == [True, False, False]
    assert json.loads(path.read_text())["token"] == "0"


def steps_of(lines):
    return [line["step"] for line in lines]


def test_metrics_in_parts_read_as_one_file(bucket, monkeypatch):
    monkeypatch.setattr(metric_lines, "PART_LINES", 3)
    monkeypatch.setattr(metric_writer, "UPLOAD_S", 0.0)
    folder = RemotePath(f"{bucket}/metrics")
    first = MetricsWriter(folder, 0)  # and is killed after step 7
    for step in range(1, 8):
        first.write(step, {"loss": 1 / step})
    assert len(list((folder / metric_lines.PARTS).iterdir())) == 3 and steps_of(read_metrics(folder)) == list(range(1, 8))
    second = MetricsWriter(folder, 5)
    assert steps_of(read_metrics(folder)) == [1, 2, 3, 4, 5] and not (folder / metric_lines.PARTS).is_dir()
    second.write(6, {"loss": 6.0})
    # Killed while the parts were joined: the lines are in both places.
    text = (folder / "metrics.jsonl").read_text()
    (folder / "metrics.jsonl").write_text(text + json.dumps({"step": 6, "loss": 6.0}) + "\n")
    assert steps_of(read_metrics(folder)) == [1, 2, 3, 4, 5, 6]
    third = MetricsWriter(folder, 6)
    third.write(7, {"loss": 7.0})
    third.close()
    assert [line.get("loss") for line in read_metrics(folder)][-2:] == [6.0, 7.0] and not (folder / metric_lines.PARTS).is_dir()
    assert [file.name for file in (folder / "tensorboard").iterdir()]


def test_a_checkpoint_comes_back_to_the_bit_and_the_newest_are_kept(bucket):
    folder = RemotePath(f"{bucket}/checkpoints-of-one")
    save(folder, 2, 4, 6)
    assert saved_steps(folder / "checkpoints") == [4, 6]
    restored, position = restore(folder, state())
    assert position == {"step": 6, "seconds": 6.1, "checksums": True}
    for a, b in zip(jax.tree.leaves(restored), jax.tree.leaves(state(seed=6)), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_half_an_upload_is_no_checkpoint_and_a_damaged_one_is_set_aside(bucket):
    folder = RemotePath(f"{bucket}/halves")
    save(folder, 2, 4)
    checkpoints = folder / "checkpoints"
    (checkpoints / "4" / COMMITTED).unlink()
    assert saved_steps(checkpoints) == [2] and restore(folder, state())[1]["step"] == 2
    save(folder, 6)
    assert saved_steps(checkpoints) == [2, 6] and not (checkpoints / "4").is_dir()
    [array] = [
        path for path in (checkpoints / "6/state").files() if path.name == "manifest.ocdbt" and path.parent.name == "state"
    ]
    array.write_bytes(b"")
    restored, position = restore(folder, state())
    assert position["step"] == 2 and "6.damaged" in checkpoints.listing() and restored is not None
    assert saved_steps(checkpoints) == [2]


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_a_checkpoint_does_not_count_while_it_is_uploaded(bucket, monkeypatch):
    """One of its files does not arrive, as after a kill; those beside it may have."""
    folder, upload = RemotePath(f"{bucket}/uploads"), RemotePath.upload
    save(folder, 2)

    def upload_all_but_one(path, source):
        if path.name == "manifest.ocdbt":
            raise OSError(5, "lost", str(path))
        upload(path, source)

    with monkeypatch.context() as patch:
        patch.setattr(RemotePath, "upload", upload_all_but_one)
        with pytest.raises(StorageError, match="a checkpoint cannot be written: .* the checkpoint of step 2 stays"):
            save(folder, 4)
    assert (folder / "checkpoints/4/position").is_dir() and saved_steps(folder / "checkpoints") == [2]
    save(folder, 6)
    assert saved_steps(folder / "checkpoints") == [2, 6] and not (folder / "checkpoints/4").is_dir()


def test_a_store_that_is_gone_is_one_line(bucket):
    folder = RemotePath(f"{bucket}/gone")
    with faulty(bucket[:2]) as proxy:
        proxy.faults = [503] * 999
        message = r"a file of the run cannot be written: .*gone/x .*after 5 attempts.*same command resumes"
        with pytest.raises(StorageError, match=message), storage_errors("a file of the run", folder):
            (folder / "x").write_text("x")


def test_bad_files_and_features_are_kept_in_a_bucket(bucket):
    folder = RemotePath(f"{bucket}/lists")
    for name in ("a.mp4", "b, c.mp4"):
        BadFiles(folder, 10, 1.0).update(pack_failures([(name, "broken")])[None])
    assert BadFiles(folder, 10, 1.0).pairs == [("a.mp4", "broken"), ("b, c.mp4", "broken")]
    for format in ("npz", "array_record"):
        files = FORMATS[format](folder / format)
        for number, name in enumerate(("x/a.mp4", "y.mp4", "z" * 300)):
            file = files.begin(name, (2, 3), np.dtype("float32"))
            file.append(np.full((2, 3), number))
            file.finish(start_s=np.zeros(2), end_s=np.ones(2), label=np.array(1, np.int32), path=name)
            files.add(name, file)
        files.finish()
        again = FORMATS[format](folder / format)
        assert "x/a.mp4" in again and "z" * 300 in again and "other" not in again
    features = FeatureFolder(folder / "npz")
    assert sorted(features) == ["x/a.mp4", "y.mp4", "z" * 300] and features["y.mp4"]["features"].tolist() == [[1] * 3] * 2
    with pytest.raises(ValueError, match="copy the folder"):
        FeatureFolder(folder / "array_record")


def test_trackers_of_a_run_in_a_bucket_get_files_of_this_machine(bucket, tmp_path, monkeypatch):
    """Their own files, and pictures that they read by path, lie on a disk; what tells their run lies in the workdir."""
    seen = {}

    class Recorded:
        may_lose, whole_steps, newest = 0, False, -1

        def __init__(self, value):
            self.value = value

        def open(self, run, kept, keep):
            keep({"id": "7"})
            seen["folder"] = run.workdir
            return "here"

        def write(self, step, values):
            seen["step"] = step

        def report(self, step, numbers, pictures, files):
            seen["pictures"] = {path.name: path.read_bytes() for path in pictures}

        def close(self, end):
            seen["end"] = end

    monkeypatch.setenv("CVMAE_CACHE", str(tmp_path))
    monkeypatch.setattr(wandb_tracker, "Wandb", Recorded)
    workdir = Workdir.create(f"{bucket}/runs/tracked")
    (workdir / CURVES).write_bytes(b"picture")
    with trackers.opened(config(log__wandb="videos"), workdir) as opened:
        opened.write(3, {"loss": 1.0})
        opened.report(3, None)
        opened.end = "finished"
    assert seen["folder"].is_dir() and seen["folder"].is_relative_to(tmp_path)
    assert seen["step"] == 3 and seen["pictures"] == {CURVES: b"picture"} and seen["end"] == "finished"
    assert workdir.read_trackers() == {"wandb": {"id": "7", "step": 3, "lines": 1}}


def test_damaged_metrics_in_a_bucket_are_kept_under_another_name(bucket):
    workdir = RemotePath(f"{bucket}/runs/damaged")
    text = '{"step": 1, "loss": 2.0}\nnonsense\n{"step": 2, "loss": 1.0}\n'
    (workdir / "metrics.jsonl").write_text(text)
    MetricsWriter(workdir, 2).close()
    assert [line["step"] for line in read_metrics(workdir)] == [1, 2]
    assert (workdir / "metrics.jsonl.damaged").read_text() == text


def test_metrics_in_parts_are_set_aside_whole(bucket):
    workdir = RemotePath(f"{bucket}/runs/again")
    writer = MetricsWriter(workdir, 0)
    writer.write(1, {"loss": 2.0})
    assert metric_lines.last_step(workdir) == 1
    assert metric_lines.set_lines_aside(workdir).name == "metrics.jsonl.earlier"
    assert read_metrics(workdir) == [] and '"step": 1' in (workdir / "metrics.jsonl.earlier").read_text()


def test_a_lock_without_a_process_is_set_aside(bucket, monkeypatch):
    monkeypatch.setattr(workdir_lock, "SETTLE_S", 0.2)
    workdir = Workdir.create(f"{bucket}/runs/locked")
    (workdir / LOCK).write_text("no lock")
    with locked(workdir):
        assert json.loads((workdir / LOCK).read_text())["pid"] == os.getpid()
    assert (workdir / f"{LOCK}.damaged").read_text() == "no lock"
