"""Ctrl-C: answered at once even in C code, orderly at the second one, and final where Python cannot run."""

import signal
import subprocess
import sys
import time

import pytest

from tests.commands import ROOT

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


def test_the_second_interrupt_unwinds_python(started):
    process = started(IN_PYTHON)
    process.send_signal(signal.SIGINT)
    line_with(process.stderr, "stopping")
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == "cleaned up True\n" and "KeyboardInterrupt" in stderr and "newest checkpoint" not in stderr


def test_termination_is_answered_too_and_ends_nothing(started):
    process = started(IN_PYTHON)
    process.send_signal(signal.SIGTERM)
    line_with(process.stderr, "saving after this step")
    time.sleep(0.1)
    assert process.poll() is None
