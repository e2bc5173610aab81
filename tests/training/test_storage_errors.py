"""A disk that is full, closed or gone: one line with what, where, why and the remedy; the last good checkpoint stays."""

import errno
import os
import pathlib
import time

import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.files import REMEDIES, StorageError, storage_error_number, storage_errors, write_json
from cvmae.report import page
from cvmae.tasks.results import write_page
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.metric_writer import MetricsWriter, read_metrics
from cvmae.workdir import Workdir
from cvmae.workdir.metric_lines import open_lines
from tests.commands import arguments, checkpoint_steps, metric_lines, run
from tests.servers import faulty, serving
from tests.tiny_configs import PLAIN


@pytest.mark.parametrize("number", REMEDIES)
def test_every_cause_is_one_line(number, tmp_path):
    with pytest.raises(StorageError) as raised, storage_errors("the report", tmp_path, "nothing was lost"):
        raise OSError(number, os.strerror(number), str(tmp_path / "report.json"))
    message = str(raised.value)
    assert message.startswith(f"the report cannot be written: {tmp_path / 'report.json'} ({os.strerror(number)}): ")
    assert message.endswith("; nothing was lost, and the same command resumes") and "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("RESOURCE_EXHAUSTED: Failed to write 9 bytes to file 8: No space left on device [os_error_code='28']"),
        ValueError("Error writing local file: [OS error 28: No space left on device]"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        OSError("4096 requested and 100 written"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_every_library_is_understood(error, tmp_path):
    assert storage_error_number(error) == errno.ENOSPC
    with pytest.raises(StorageError, match=r"No space left on device\): free some room there"), storage_errors("x", tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a wrong value"),
        ValueError("os error 9999"),
        OSError(errno.EINTR, "Interrupted"),
        FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere/weights.npz"),
        PermissionError(errno.EACCES, "Permission denied", "/elsewhere/weights.npz"),
        KeyError("x"),
    ],
)
def test_other_errors_come_out_as_they_are(error, tmp_path):
    with pytest.raises(type(error)) as raised, storage_errors("x", tmp_path):
        raise error
    assert raised.value is error


def test_a_full_disk_elsewhere_is_named(tmp_path):
    with pytest.raises(StorageError, match="/elsewhere/cache"), storage_errors("x", tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", "/elsewhere/cache")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_metrics_on_a_full_disk_raise_where_they_are_written(tmp_path):
    """Not in a thread, whose end nobody notices."""
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss": 1.0})
    [events] = (tmp_path / "tensorboard").iterdir()
    writer.close()
    assert len(read_metrics(tmp_path)) == 1 and events.stat().st_size
    (tmp_path / "other").mkdir()
    writer = MetricsWriter.__new__(MetricsWriter)
    writer._lines = lines = open_lines(tmp_path / "other", 0)
    lines._file = open("/dev/full", "w")  # noqa: SIM115
    with pytest.raises(StorageError, match="No space left"), storage_errors("metrics", tmp_path):
        writer.write(2, {"loss": 1.0})
    with pytest.raises(OSError, match="No space left"):
        lines._file.close()


LIMITED = """
import resource, sys
from cvmae import main
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv[0] = "main"
main.cli()
"""


def limited(limit: int, *args: str):
    """Runs the command where no file may become larger than `limit` bytes."""
    return run(*args, program=("-c", LIMITED.format(limit=limit)))


@pytest.mark.slow
def test_a_run_ends_with_one_line_and_goes_on_with_room(tmp_path):
    short = {"total": "4_steps", "checkpoint_every": "2_steps", "log_every": "1_steps", "eval_every": "0_steps", **PLAIN}
    words = [*arguments(tmp_path / "w", **short), "--noreport"]
    done = limited(100_000, *words)  # the arrays are larger
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    message = done.stderr.strip().splitlines()[-1]
    assert message.startswith("error: a checkpoint cannot be written: ") and "File too large" in message
    assert "no checkpoint was written yet, and the same command resumes" in message
    assert run(*words).returncode == 0
    assert checkpoint_steps(tmp_path / "w") == [2, 4] and [line["step"] for line in metric_lines(tmp_path / "w")] == [1, 2, 3, 4]
    more = [word.replace("total=4", "total=8") for word in words]
    done = limited(100_000, *more)
    assert done.returncode == 1 and "the checkpoint of step 4 stays" in done.stderr.splitlines()[-1]
    assert checkpoint_steps(tmp_path / "w") == [2, 4]


def test_a_bucket_that_loses_a_checkpoint_is_one_line(monkeypatch):
    with serving("gs") as bucket, faulty("gs") as proxy:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", proxy.url)
        checkpoints = Checkpoints(f"{bucket}/run", keep=2)
        checkpoints.save(1, {"a": np.ones(10, np.float32)}, {})
        checkpoints.wait()
        proxy.match, proxy.faults = "uploadType=media", [404] * 10_000  # TensorStore's requests
        with pytest.raises(StorageError, match=r"^a checkpoint cannot be written: gs://bucket-of-tests/.*NOT_FOUND") as lost:
            checkpoints.save(2, {"a": np.ones(10, np.float32)}, {})
            checkpoints.wait()
        assert "the checkpoint of step 1 stays, and the same command resumes" in str(lost.value) and "\n" not in str(lost.value)
        proxy.faults.clear()
        checkpoints.close()


@pytest.mark.parametrize(
    "error",
    [RuntimeError("INTERNAL: see https://host/issues"), OSError("image file is truncated"), ConnectionError("of a tracker")],
)
def test_an_error_of_something_else_is_not_of_the_bucket(error):
    with pytest.raises(type(error), match=str(error)), storage_errors("a file of the run", "gs://bucket/run"):
        raise error


@pytest.mark.slow
def test_a_bucket_that_refuses_a_checkpoint_ends_the_command_at_once_and_it_resumes(monkeypatch):
    with serving("gs") as bucket, faulty("gs") as proxy:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", proxy.url)
        workdir = f"{bucket}/run"
        words = [*arguments(workdir, **PLAIN | {"total": "6_steps", "checkpoint_every": "2_steps"}), "--noreport"]
        proxy.match, proxy.faults = "checkpoints/4/", [403] * 10_000  # those of gcsfs, which Orbax uses
        begun = time.monotonic()
        done = run(*words)
        assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.splitlines()[-1].startswith(f"error: a checkpoint cannot be written: {workdir}/checkpoints (")
        assert time.monotonic() - begun < 200  # Orbax waits for 300 s for a checkpoint that is not to be
        proxy.faults.clear()
        done = run(*words)
        assert done.returncode == 0 and "resumed from the checkpoint of step 2" in done.stderr, done.stderr


@pytest.mark.parametrize("path", ["hf://datasets/u/s", "hdfs://n/x", "file:///tmp/x", "gs:/bucket/run", "az+https://x/y"])
def test_a_workdir_with_a_scheme_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=f"^--workdir={path.replace('+', '.')} is no folder of this machine, and .*give a folder"
    ):
        Workdir.create(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["a", "a:b", "./gs:/x", "C:/x", "ssv2-variant=L_16", "dir/with space:/x"])
def test_other_paths_are_folders(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_json(Workdir.create(path) / "x.json", 1)
    assert pathlib.Path(path, "x.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_page_that_cannot_be_written_at_the_end_of_a_run_is_one_line_of_the_run(number, tmp_path, monkeypatch):
    """Of a run `cvmae.report` has another remedy, its own flag."""

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "report.html.part"))

    monkeypatch.setattr(page, "gather", lambda _: [])
    monkeypatch.setattr(page, "render", lambda _: "")
    monkeypatch.setattr(page, "replacing", refuse)
    workdir = Workdir.create(str(tmp_path / "run"))
    with pytest.raises(StorageError) as raised, storage_errors("a file of the run", workdir):
        write_page(True, workdir)
    message = str(raised.value)
    assert message.startswith(
        f"a file of the run cannot be written: {tmp_path / 'run' / 'report.html'} ({os.strerror(number)}): "
    )
    assert "--out" not in message and "same command resumes" in message
