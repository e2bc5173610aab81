"""A run that was killed, however often and whenever, gives the bits of a run that was not."""

import pathlib
import signal

import pytest

from cvmae.config import ConfigError, load
from cvmae.tasks import run as train
from tests import commands
from tests.commands import RUNLOCAL, arguments, assert_same_state, checkpoint_steps, metric_lines, saved_state

TOTAL = 8
# Fewer terms and no pictures: quicker to compile.
FEWER = {
    "eval_every": "3_steps",
    "report__pictures": 0,
    "loss__mse_image": 0.0,
    "loss__intra_frame": 0.0,
    "loss__intra_video": 0.0,
    "loss__cross_frame": 0.0,
}
INTERRUPTED = str(pathlib.Path(__file__).parent / "interrupted_run.py")


def run(*args, **kwargs):
    return commands.run(*args, **kwargs)


def interrupt(workdir, moment: str, step: int, **overrides):
    """Runs the command until it ends itself at that moment; which step it went on from is in its stderr."""
    return run(moment, str(step), *arguments(workdir, **FEWER, **overrides), program=(INTERRUPTED,))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The workdir of a run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    train(load(RUNLOCAL, {name.replace("__", "."): value for name, value in FEWER.items()}), str(workdir))
    return workdir


ENDS = {
    # name: the moments at which its processes end, (moment, step, other fields); then it is left alone
    "once": [("kill_in_checkpoint", 4, {}), ("terminate_after_step", 6, {})],
    "often": [
        ("kill_in_checkpoint", 4, {}),
        ("kill_after_step", 5, {"data__workers": 1}),
        ("kill_in_metrics_line", 6, {}),
        ("terminate_after_step", 6, {}),
    ],
}


@pytest.fixture(scope="module", params=["once", pytest.param("often", marks=pytest.mark.slow)])
def pieces(request, tmp_path_factory):
    """The workdir of a run that was killed, with and without worker processes, ended by SIGTERM, and left alone; its processes; its ENDS."""
    workdir = tmp_path_factory.mktemp("pieces")
    moments = ENDS[request.param]
    ends = [interrupt(workdir, moment, step, **fields) for moment, step, fields in moments]
    return workdir, [*ends, run(*arguments(workdir, **FEWER, data__workers=2))], moments


def test_the_interruptions_happened(pieces):
    _, ends, moments = pieces
    codes = [-signal.SIGKILL if moment.startswith("kill") else 0 for moment, *_ in moments]
    assert [end.returncode for end in ends] == [*codes, 0], [end.stderr[-500:] for end in ends]
    resumed = [end.stderr.partition("resumed from the checkpoint of step ")[2][:1] for end in ends]
    # A killed process may or may not have completed the checkpoint of step 4 that it was writing in the background.
    assert resumed[:2] == ["", "2"] and set(resumed[2:-1]) <= {"2", "4"} and resumed[-1] == "7", resumed


def test_sigterm_saves_the_step_that_runs_and_says_so(pieces):
    assert "stopped at step 7 of 8, saved; the same command resumes from there" in pieces[1][-2].stderr


def test_no_end_leaves_warnings(pieces):
    """Of Python's resource_tracker about the shared memory of the workers, or of anything that was still open."""
    for end in pieces[1][-2:]:
        assert not any(word in end.stderr for word in ("resource_tracker", "leaked", "Traceback", "Exception ignored")), (
            end.stderr
        )


def test_killed_runs_end_in_the_same_bits(whole, pieces):
    assert_same_state(saved_state(whole, TOTAL), saved_state(pieces[0], TOTAL))


def test_metrics_read_as_one_uninterrupted_run(whole, pieces):
    assert metric_lines(whole) == metric_lines(pieces[0])
    assert [line["step"] for line in metric_lines(whole) if "loss" in line] == list(range(1, TOTAL + 1))
    assert [line["step"] for line in metric_lines(whole) if "eval/loss" in line] == [3, 6, TOTAL]


def test_nothing_half_written_is_left(pieces):
    assert checkpoint_steps(pieces[0]) == [7, 8]
    assert not list((pieces[0] / "checkpoints").glob("*tmp*")) and not (pieces[0] / "metrics.tmp").exists()


@pytest.mark.slow
def test_a_rerun_of_a_finished_run_changes_nothing(pieces):
    workdir, *_ = pieces
    lines, state = (workdir / "metrics.jsonl").read_text(), saved_state(workdir, TOTAL)
    done = run(*arguments(workdir, **FEWER))
    assert done.returncode == 0, done.stderr
    assert (
        "this run was finished already" in done.stderr
        and f"left in {workdir}: " in done.stderr
        and "next, for example" in done.stderr
    )
    assert (workdir / "metrics.jsonl").read_text() == lines
    assert_same_state(state, saved_state(workdir, TOTAL))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"batch_size": 4}, "the checkpoint was made with batch_size=8, this run has 4"),
        ({"seed": 1}, "the checkpoint was made with seed=0, this run has 1"),
        ({"data.synthetic.clips": 63}, "the checkpoint was made with clips=64, this run has 63"),
        ({"total": "4_steps"}, r"the checkpoint is of step 8, past config.total=4_steps \(4 steps\)"),
        ({"contrast.width": 16}, r"does not fit this config \(/image_head/out/bias is \(256,\) there and \(16,\) here\)"),
        ({"loss.mse_video": 0.0}, "/video/decoder/.* there and absent here"),
    ],
)
def test_a_run_does_not_go_on_from_another_one(whole, overrides, message):
    before = [(whole / name).read_bytes() for name in ("metrics.jsonl", "config.json")]
    config = load(RUNLOCAL, {name.replace("__", "."): value for name, value in FEWER.items()} | overrides)
    with pytest.raises(ConfigError, match=message):
        train(config, str(whole))
    assert [(whole / name).read_bytes() for name in ("metrics.jsonl", "config.json")] == before


@pytest.mark.slow
def test_the_command_refuses_another_run_with_one_line(whole):
    done = run(*arguments(whole, **FEWER, seed=1))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: the checkpoint was made with seed=0, this run has 1")
