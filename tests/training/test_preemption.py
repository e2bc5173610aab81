"""Ctrl-C: answered at once even in C code, orderly at the second one, and final where Python cannot run."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cvmae.tasks import pretrain, run
from cvmae.training import preemption
from cvmae.training.checkpoint import Checkpoints
from tests import tiny_configs
from tests.commands import ROOT, checkpoint_steps

IN_C = """
import hashlib, sys
from cvmae.training import preemption
preemption.GRACE_S = 0.2
with preemption.stop_requested():
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000_000)  # runs no Python for minutes, as a compilation does
"""
IN_PYTHON = """
import time
from cvmae.training import preemption
preemption.GRACE_S = 50  # a busy machine may not run this for some seconds
with preemption.stop_requested() as stop:
    print("ready", flush=True)
    try:
        while True:
            time.sleep(0.01)
    finally:
        print("cleaned up", stop(0), flush=True)
"""
IN_EVALUATION = """
import time
from cvmae.training import preemption
try:
    with preemption.ending_on_sigterm():
        print("ready", flush=True)
        while True:
            time.sleep(0.01)
finally:
    print("cleaned up", flush=True)
"""

# Python's handler runs once for both interrupts that arrive meanwhile.
FIRST_IN_C = IN_PYTHON.replace("import time", "import hashlib, time").replace(
    "    try:", "    try:\n        hashlib.pbkdf2_hmac('sha256', b'', b'', 8_000_000)"
)


@pytest.fixture
def started():
    processes = []

    def start(code):
        process = subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def line_with(stream, words: str) -> str:
    return next(line for line in stream if words in line)


def test_the_first_interrupt_is_answered_at_once_and_the_second_ends_a_process_that_is_in_c(started):
    process = started(IN_C)
    process.send_signal(signal.SIGINT)
    assert "saving after this step; Ctrl-C again to stop now" in line_with(process.stderr, "stopping")
    time.sleep(0.1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130 and "resumes from the newest checkpoint" in stderr and "Traceback" not in stderr


@pytest.mark.parametrize("code", [IN_PYTHON, FIRST_IN_C], ids=["apart", "merged"])
def test_the_second_interrupt_unwinds_python(started, code):
    process = started(code)
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "stopping")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == "cleaned up True\n" and "KeyboardInterrupt" in stderr and "newest checkpoint" not in stderr


def test_an_interrupt_after_a_termination_leaves_time_to_clean_up(started):
    process = started(IN_PYTHON.replace("    finally:\n", "    finally:\n        time.sleep(5 * preemption.MERGED_S)\n"))
    process.send_signal(signal.SIGTERM)
    line_with(process.stderr, "stopping")
    time.sleep(1.2 * preemption.SAME_S)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == "cleaned up True\n" and stderr.count("Traceback") == 1 and "newest checkpoint" not in stderr


@pytest.mark.parametrize("code", [IN_PYTHON, FIRST_IN_C], ids=["apart", "merged"])
def test_a_ctrl_c_that_a_script_passes_on_as_a_termination_is_one_request(started, code):
    process = started(code)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "saving after this step")
    time.sleep(2 * preemption.SAME_S)
    assert process.poll() is None


def test_termination_is_answered_too_and_ends_nothing(started):
    process = started(IN_PYTHON)
    process.send_signal(signal.SIGTERM)
    assert "Ctrl-C" not in line_with(process.stderr, "saving after this step")
    time.sleep(0.1)
    assert process.poll() is None


def test_termination_where_nothing_trains_unwinds_python(started):
    process = started(IN_EVALUATION)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == preemption.TERMINATED and stdout == "cleaned up\n" and not stderr


@pytest.fixture
def short(monkeypatch):
    """A run of two steps that ends in an evaluation, whose numbers are given: its programs would take most of the time."""
    monkeypatch.setattr(pretrain, "evaluate_pretraining", lambda *_: {"probe/accuracy": 0.5})
    return tiny_configs.config(("mse_video",), total="2_steps", eval_every="0_steps", report__pictures=0, report__labelled=8)


def test_termination_in_the_final_evaluation_leaves_a_run_that_goes_on(short, tmp_path, monkeypatch):
    config, handler = short, signal.getsignal(signal.SIGTERM)

    def terminate(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)  # ended by the signal
        pytest.fail("the evaluation went on")

    with monkeypatch.context() as patched:
        patched.setattr(pretrain, "evaluate_pretraining", terminate)
        with pytest.raises(SystemExit) as ended:
            run(config, str(tmp_path))
    assert ended.value.code == preemption.TERMINATED and signal.getsignal(signal.SIGTERM) == handler
    assert checkpoint_steps(tmp_path) == [2] and not (tmp_path / "report.json").exists()
    assert "report/probe/accuracy" in run(config, str(tmp_path))


def test_a_run_that_is_stopped_in_its_last_step_is_evaluated_by_the_next_one(short, tmp_path, monkeypatch, capsys):
    config, save = short, Checkpoints.save

    def save_and_terminate(self, step, *values, **how):
        save(self, step, *values, **how)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", save_and_terminate)
        assert run(config, str(tmp_path)) == {}
    assert "stopped at step 2 of 2, saved; the same command resumes from there" in capsys.readouterr().err
    assert checkpoint_steps(tmp_path) == [2] and not (tmp_path / "report.json").exists()
    assert "report/probe/accuracy" in run(config, str(tmp_path)) and (tmp_path / "report.json").exists()
