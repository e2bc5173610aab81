"""What is not as a run wrote it: named in one line, set aside where the run can go on without it, else refused; nothing is deleted.

Files of a workdir are replaced by bytes, links and folders at random. CVMAE_FUZZ_SECONDS says for how long after the first seeds.
"""

import json
import os
import pathlib
import random
import shutil

import pytest

from cvmae.config import ConfigError
from cvmae.data.bad_files import BadFiles
from cvmae.files import StorageError, storage_errors
from cvmae.report.gather import gather
from cvmae.training.metric_writer import MetricsWriter, read_metrics
from cvmae.training.provenance import record
from cvmae.training.workdir_lock import LOCK, locked
from cvmae.workdir import BAD_FILES, CONFIG, METRICS, PROVENANCE, REPORT, Report, Workdir, check_path, strangers
from cvmae.workdir.metric_lines import last_step
from cvmae.workdir.strangers import set_strangers_aside
from tests.fuzz import seeds

STRANGE = [
    b"",
    b"\0" * 40,
    b"\xff\xfe{}",
    b"{",
    b"[]",
    b"null",
    b'{"step": 1',
    b"[" * 100_000,
    b'"\\ud800"',
    b"\x89PNG\r\n",
    b"1e999",
]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_lines(folder, *lines):
    (folder / METRICS).write_bytes(b"\n".join(lines) + b"\n")


def test_lines_of_metrics_that_are_none_are_kept_beside(tmp_path, capsys):
    good = [json.dumps({"step": step, "loss": 0.5}).encode() for step in (1, 2, 3)]
    write_lines(tmp_path, good[0], b"\xff\0", b"7", b'{"loss": 1}', good[1], good[2])
    before = (tmp_path / METRICS).read_bytes()
    MetricsWriter(tmp_path, 2).close()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]
    assert (tmp_path / f"{METRICS}.damaged").read_bytes() == before
    said = capsys.readouterr().err.strip()
    assert (
        said
        == f"{tmp_path / METRICS}: 3 lines are no metrics, the first is line 2: they are left out, and the file as it was is {METRICS}.damaged"
    )


def test_a_last_line_that_a_kill_cut_short_is_left_out_and_said(tmp_path, capsys):
    (tmp_path / METRICS).write_bytes(b'{"step": 1}\n{"st')
    MetricsWriter(tmp_path, 2).close()
    assert read_metrics(tmp_path) == [{"step": 1}]
    assert (
        capsys.readouterr().err.strip() == f"{tmp_path / METRICS}: the last line was cut short, as a kill does, and is left out"
    )
    assert METRICS + ".damaged" not in names(tmp_path) and last_step(tmp_path / "none") == 0


def test_the_good_lines_of_a_damaged_list_are_taken(tmp_path, capsys):
    before = b'path,reason\na.mp4,x\n\xff.mp4,y\nb.mp4\nc.mp4,"z, w"\nd.mp4,\0'
    (tmp_path / BAD_FILES).write_bytes(before)
    assert BadFiles(tmp_path, 10, 1.0, writes=False).pairs == [("a.mp4", "x"), ("c.mp4", "z, w")]
    assert names(tmp_path) == [BAD_FILES]
    bad = BadFiles(tmp_path, 10, 1.0)
    bad.add([("e.mp4", "v")])
    assert (tmp_path / f"{BAD_FILES}.damaged").read_bytes() == before
    assert BadFiles(tmp_path, 10, 1.0).pairs == [("a.mp4", "x"), ("c.mp4", "z, w"), ("e.mp4", "v")]
    assert (
        capsys.readouterr().err
        == f"{tmp_path / BAD_FILES} is damaged: it is kept as {BAD_FILES}.damaged, and 2 of its lines are taken\n"
    )


@pytest.mark.parametrize("content", [c for c in STRANGE if c])
def test_no_list_of_bad_files_and_no_starts(tmp_path, content):
    for name in (BAD_FILES, PROVENANCE):
        (tmp_path / name).write_bytes(content)
    assert len(BadFiles(tmp_path, 10, 1.0)) == 0
    record(tmp_path, 4)
    assert [start["step"] for start in Workdir(tmp_path).read_starts()] == [4]
    assert (tmp_path / f"{BAD_FILES}.damaged").read_bytes() == (tmp_path / f"{PROVENANCE}.damaged").read_bytes() == content


@pytest.mark.parametrize("content", STRANGE)
def test_a_config_that_is_none_is_refused_and_a_report_named(tmp_path, content):
    (tmp_path / CONFIG).write_bytes(content)
    (tmp_path / REPORT).write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"config\.json is not .*: bring back the one that the run wrote, or move it away"
    ) as refused:
        Workdir(tmp_path).read_config()
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=r"report\.json cannot be read"):
        Workdir(tmp_path).read_report()


def test_folders_in_place_of_files_and_the_other_way(tmp_path, capsys):
    for name in (METRICS, REPORT, BAD_FILES, "predictions.npz", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text("x")
    (tmp_path / "tensorboard").write_text("mine")
    set_strangers_aside(Workdir(tmp_path))
    aside = {f"{name}.damaged" for name in (METRICS, REPORT, BAD_FILES, "predictions.npz", "tensorboard")}
    assert set(names(tmp_path)) == aside | {"mine"}
    lines = capsys.readouterr().err.splitlines()
    assert (
        len(lines) == 5
        and lines[-1] == f"{tmp_path}/tensorboard is a file, the run writes a folder there: set aside as tensorboard.damaged"
    )
    set_strangers_aside(Workdir(tmp_path))
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "name, make, kind",
    [("checkpoints", "write_bytes", "a file"), ("config.json", "mkdir", "a folder"), ("features", "write_bytes", "a file")],
)
def test_what_a_run_continues_from_is_not_moved(tmp_path, name, make, kind):
    getattr(tmp_path / name, make)(*([b"x"] if make == "write_bytes" else []))
    with pytest.raises(ConfigError, match=f"{name} is {kind}, the run has .* there: move it away"):
        set_strangers_aside(Workdir(tmp_path))
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "tensorboard", "config.json", "mine", LOCK])
def test_a_link_that_leads_nowhere_is_named(tmp_path, name):
    (tmp_path / name).symlink_to("/mnt/lost/run")
    with (
        pytest.raises(ConfigError, match=f"{name} is a link to /mnt/lost/run, which is not there: bring that back"),
        locked(tmp_path),
    ):
        set_strangers_aside(Workdir(tmp_path))
    assert (tmp_path / name).is_symlink()


def test_a_workdir_behind_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "runs").symlink_to(tmp_path / "lost")
    for path in (tmp_path / "runs", tmp_path / "runs" / "a" / "b"):
        with pytest.raises(
            ConfigError, match=f"--workdir={path} cannot be a folder: {tmp_path}/runs is a link to {tmp_path}/lost"
        ):
            check_path(path)


@pytest.mark.parametrize(
    "path, message",
    [
        ("x" * 256, "give a shorter name"),
        ("a/" * 3000, "give a shorter name"),
        ("loop/a", "remove the link"),
        ("file/a", "give another"),
    ],
)
def test_a_path_that_can_be_no_folder(tmp_path, path, message):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=f"^--workdir=.* cannot be a folder.*{message}"):
        check_path(tmp_path / path)
        Workdir.create(tmp_path / path)


def test_any_error_after_the_folder_is_gone_says_so(tmp_path):
    """Libraries raise errors of their own kinds, without a number."""
    (tmp_path / "w").mkdir()
    with (
        pytest.raises(StorageError, match="the report cannot be written: the folder .*/w is gone, deleted or unmounted"),
        storage_errors("the report", tmp_path / "w"),
    ):
        shutil.rmtree(tmp_path / "w")
        raise ValueError("No ArrayMetadata found")
    with pytest.raises(ValueError, match="of something else"), storage_errors("the report", tmp_path / "w"):
        raise ValueError("of something else")


@pytest.mark.parametrize("content", [{"pid": 10**30}, {"pid": 2**31 - 1}, {"machine": None}, {"token": 3}, {"host": ["x"]}])
def test_a_lock_of_no_process_is_taken_over(tmp_path, content, monkeypatch):
    monkeypatch.setattr("cvmae.training.workdir_lock.SETTLE_S", 0.05)
    from cvmae.training.lock_owner import describe_process

    (tmp_path / LOCK).write_text(json.dumps(describe_process() | {"birth": "1"} | content))
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", [*STRANGE, None])
def test_a_lock_without_a_process_waits_a_moment_and_says_for_what(tmp_path, content, monkeypatch, capsys):
    monkeypatch.setattr("cvmae.training.workdir_lock.SETTLE_S", 0.05)
    (tmp_path / LOCK).mkdir() if content is None else (tmp_path / LOCK).write_bytes(content)
    with locked(tmp_path):
        pass
    assert names(tmp_path) == ([] if content == b"" else [f"{LOCK}.damaged"])
    first, last = capsys.readouterr().err.splitlines()
    assert first == f"{tmp_path / LOCK} names no process: waiting 0.05 s for a run that may be writing it at this moment"
    assert last.startswith(f"took over {tmp_path / LOCK}, which names no process")


def test_a_lock_is_not_left_empty_by_a_full_disk(tmp_path, monkeypatch):
    def full(value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cvmae.training.workdir_lock.json.dumps", full)
    with pytest.raises(OSError, match="No space"), locked(tmp_path):
        pass
    assert not names(tmp_path)


def test_a_link_below_the_workdir_is_named_where_it_is_met(tmp_path):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "split").symlink_to("/mnt/lost")
    with (
        pytest.raises(StorageError, match="split is a link to /mnt/lost, which is not there: bring that back"),
        storage_errors("features", tmp_path),
    ):
        (tmp_path / "features" / "split").mkdir(exist_ok=True)


def replace_at_random(path: pathlib.Path, draw: random.Random) -> None:
    """Replaces a file or a folder by something else, or damages its bytes."""
    old = path.read_bytes() if path.is_file() else b""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    way = draw.randrange(6)
    if way == 0:
        path.mkdir()
        (path / "x").write_text("x")
    elif way == 1:
        path.symlink_to(draw.choice(["lost", path.name, "config.json"]))
    elif way == 2:
        path.write_bytes(draw.choice(STRANGE))
    else:
        data = bytearray(old or draw.randbytes(30))
        for _ in range(3):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.randrange(len(data) + 1)] if way == 3 else data)


def start(folder: pathlib.Path) -> None:
    """Reads and writes what the start and the end of a run do."""
    check_path(folder)
    workdir = Workdir.create(folder)
    workdir.read_config()
    with storage_errors("a file of the run", workdir), locked(workdir):
        set_strangers_aside(workdir)
        BadFiles(folder, 10, 1.0).add([("a", "b")])
        writer = MetricsWriter(folder, 2)
        writer.write(3, {"loss": 0.5})
        writer.close()
        record(folder, 2)
        workdir.write_report(Report("pretrain", {"a": 0.5}))
        assert read_metrics(folder)[-1]["step"] == 3 and Workdir(folder).read_starts()
        gather([folder])


def test_workdirs_at_random(tmp_path, monkeypatch, capsys):
    """A start goes on or is refused in one line, and what was there is there."""
    monkeypatch.setattr("cvmae.training.workdir_lock.SETTLE_S", 0.01)
    monkeypatch.setattr("cvmae.training.workdir_lock.WAIT_S", 0.01)
    whole = tmp_path / "whole"
    (whole / "tensorboard").mkdir(parents=True)
    (whole / CONFIG).write_text('{"task": "pretrain"}')
    start(whole)
    known = [*names(whole), LOCK, "checkpoints", *strangers._FILES]
    outcomes = []
    for seed in seeds(60):
        draw, folder = random.Random(seed), tmp_path / "w"
        shutil.copytree(whole, folder)
        done = [draw.choice(known) for _ in range(draw.choice([1, 1, 3]))]
        for name in done:
            replace_at_random(folder / name, draw)
        count = len(names(folder))
        try:
            start(folder)
            outcomes.append(True)
        except (ConfigError, StorageError) as error:
            assert "\n" not in str(error), seed
            outcomes.append(False)
        except Exception as error:
            error.add_note(f"seed {seed}: {', '.join(done)}")
            raise
        assert len(names(folder)) >= count - 1, seed  # the lock is given back
        shutil.rmtree(folder)
    print(f"{len(outcomes)} workdirs, {sum(outcomes)} went on")
    assert any(outcomes) and not all(outcomes)
