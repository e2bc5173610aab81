"""What lies among the checkpoints and is none: set aside or named, never deleted; a start at step 0 says why, or is refused."""

import os
import shutil

import jax
import pytest

from cvmae.config import ConfigError
from cvmae.files import StorageError
from cvmae.workdir import METRICS
from cvmae.workdir.metric_lines import last_step, step_of
from cvmae.workdir.saved_steps import find_leftovers
from tests.training import counting_task
from tests.training.counting_task import train
from tests.training.test_checkpoint import names

TIMES = {"total": "8_steps", "checkpoint_every": "4_steps", "log_every": "1_steps"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert train(folder, **TIMES).finished
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "w")


def said(capsys):
    """The lines on stderr without the progress bar."""
    return [line for line in capsys.readouterr().err.splitlines() if line.strip() and "step/s" not in line]


def test_files_named_like_steps_are_set_aside(folder, capsys):
    for name in ("6", "12"):
        (folder / "checkpoints" / name).write_text("mine")
    (folder / "checkpoints" / "012").mkdir()
    train(folder, **TIMES | {"total": "12_steps"})
    assert names(folder) == ["012", "12", "12.damaged", "6.damaged", "8"] or names(folder) == [
        "012",
        "12",
        "12.damaged",
        "6.damaged",
    ]
    assert {(folder / "checkpoints" / f"{name}.damaged").read_text() for name in ("6", "12")} == {"mine"}
    lines = said(capsys)
    assert lines[0] == f"{folder}/checkpoints/12 is a file, no checkpoint: set aside as 12.damaged"
    assert (
        f"{folder}/checkpoints/012 is not read: a step is named 12" in lines and "resumed from the checkpoint of step 8" in lines
    )


def test_a_file_alone_does_not_keep_a_run_from_its_start(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "4").write_text("mine")
    assert train(tmp_path, **TIMES).finished and (tmp_path / "checkpoints" / "4.damaged").read_text() == "mine"


def test_a_step_that_is_a_link_to_nowhere_is_named(folder):
    (folder / "checkpoints" / "12").symlink_to("/mnt/lost/12")
    with pytest.raises(ConfigError, match="checkpoints/12 is a link to /mnt/lost/12, which is not there: bring that back"):
        train(folder, **TIMES)


def test_leftovers_by_name(tmp_path):
    for name in ("4.orbax-checkpoint-tmp", "8.orbax-checkpoint-tmp-17", "08", "٣", "6.damaged", "10", "x"):
        (tmp_path / name).mkdir()
    for name in ("2", "3.damaged", "09"):
        (tmp_path / name).write_text("")
    left = find_leftovers(tmp_path)
    assert left.files == ("2",) and left.damaged == ("6.damaged",) and left.misnamed == {"08": 8, "٣": 3}
    assert left.unfinished == {"4.orbax-checkpoint-tmp": 4, "8.orbax-checkpoint-tmp-17": 8}
    assert find_leftovers(tmp_path / "absent").files == ()


def only(folder, *wanted):
    """Leaves nothing but empty folders of these names among the checkpoints."""
    shutil.rmtree(folder / "checkpoints")
    for name in wanted:
        (folder / "checkpoints" / name).mkdir(parents=True)


def cut_metrics(folder, last):
    lines = (folder / METRICS).read_text().splitlines(keepends=True)
    (folder / METRICS).write_text("".join(lines[:last]))


@pytest.mark.parametrize("wanted", [["08"], ["4.damaged"], ["08", "4.orbax-checkpoint-tmp"]])
def test_checkpoints_under_other_names_are_not_passed_over(folder, wanted):
    only(folder, *wanted)
    with pytest.raises(
        ConfigError, match=f"holds no checkpoint to resume from, only {wanted[0]} .*; or move that folder away to begin again"
    ):
        train(folder, **TIMES)
    assert names(folder) == sorted(wanted) and last_step(folder) == 8


def test_a_run_that_was_stopped_in_its_first_checkpoint_says_so_and_starts(folder, capsys):
    only(folder, "4.orbax-checkpoint-tmp")
    cut_metrics(folder, 6)
    train(folder, **TIMES)
    assert (
        f"{folder}/checkpoints holds no complete checkpoint, only 4.orbax-checkpoint-tmp, which a run left unfinished: starting at step 0"
        in said(capsys)
    )


@pytest.mark.parametrize("name, last", [("8.orbax-checkpoint-tmp", 7), ("2.orbax-checkpoint-tmp", 8)])
def test_a_run_that_had_got_further_is_refused(folder, name, last):
    only(folder, name)
    cut_metrics(folder, last)
    with pytest.raises(
        ConfigError,
        match=rf"only checkpoints that are not complete \({name}\), but this run had come to step {last} \(metrics.jsonl\)",
    ):
        train(folder, **TIMES)
    assert names(folder) == [name] and last_step(folder) == last


def test_an_empty_folder_is_a_lost_mount_and_none_is_a_new_beginning(folder, capsys):
    train(folder, **TIMES | {"total": "12_steps"})  # a start at step 8
    only(folder)
    (folder / "checkpoints").mkdir()
    with pytest.raises(
        ConfigError,
        match=r"checkpoints is empty, but this run had come to step 12 .*is the folder mounted.*remove that folder to begin again",
    ):
        train(folder, **TIMES)
    only(folder)
    capsys.readouterr()
    train(folder, **TIMES)
    assert (
        f"{folder}/checkpoints is not there any more: starting at step 0; the metrics of before, up to step 12, are in {METRICS}.earlier"
        in said(capsys)
    )
    assert last_step(folder) == 8 and max(map(step_of, (folder / f"{METRICS}.earlier").read_text().splitlines())) == 12
    # It is a beginning, for the next start too.
    only(folder, "4.orbax-checkpoint-tmp")
    cut_metrics(folder, 4)
    assert train(folder, **TIMES).finished


def test_a_run_that_was_stopped_before_its_first_checkpoint_says_so(folder, capsys):
    only(folder)
    (folder / "checkpoints").mkdir()
    cut_metrics(folder, 3)
    train(folder, **TIMES)
    assert f"{folder}/checkpoints holds no checkpoint yet: starting at step 0 again, after step 3" in said(capsys)


@pytest.mark.parametrize("step", [2, 6])
@pytest.mark.parametrize("part", ["", "checkpoints"])
def test_a_folder_that_is_deleted_during_the_run(tmp_path, monkeypatch, capsys, step, part):
    usual, workdir = counting_task.Counting.step, tmp_path / "w"

    def take_away(self, state, batch):
        if int(state.step) == step:
            os.rename(workdir / part, tmp_path / "away")  # at once, where a deletion could meet a file that is being written
        return usual(self, state, batch)

    monkeypatch.setattr(counting_task.Counting, "step", take_away)
    if part and step == 2:  # between checkpoints, only these are lost
        assert train(workdir, **TIMES).finished and names(workdir) == ["4", "8"]
        assert (
            "checkpoints is gone, deleted during the run: created again for the checkpoint of step 4\n" in capsys.readouterr().err
        )
        return
    try:
        outcome = train(workdir, **TIMES)
    except StorageError as error:
        assert str(error).startswith("a checkpoint cannot be written: ") and "\n" not in str(error)
        assert f"the folder {workdir}/checkpoints is gone, deleted or unmounted during the run: bring it back" in str(error)
    else:
        assert part and outcome.finished  # the checkpoint of step 4 was complete by then
    assert "Traceback" not in capsys.readouterr().err
    jax.effects_barrier()
