"""The end of a command by a signal: one line and the code of the signal, whether what runs is Python, waits, or never returns."""

import os
import signal
import subprocess
import sys

import pytest

from tests.commands import ROOT

# A suite that runs in the background inherits a process that ignores Ctrl-C.
BEGIN = """
import contextlib, hashlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from cvmae.parallel import signals

@contextlib.contextmanager
def closing(seconds):
    try:
        yield
    finally:
        time.sleep(seconds)
        print("closed", flush=True)

def compile():  # a stand-in that returns to Python only after minutes, as a compiler does
    hashlib.pbkdf2_hmac("sha1", b"", b"", 10**9)

def run(grace_s, closes_s, work):
    with signals.ending("a test keeps nothing", grace_s), closing(closes_s):
        print("works", flush=True)
        work()
"""
SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}


def end(call, *numbers):
    """Starts a command, sends signals to it, and returns its exit code, its last line on stdout, and stderr."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", f"{BEGIN}\n{call}"], env=environment, stdout=-1, stderr=-1, text=True
    ) as process:
        assert process.stdout.readline() == "works\n"
        for number in numbers:
            process.send_signal(number)
        out, err = process.communicate()
    return process.returncode, out, err


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "call, outs",
    [
        ("run(0, 0, compile)", [""]),
        ("run(60, 0, lambda: time.sleep(600))", ["closed\n"]),
        ("run(0.5, 0, compile)", ["", "closed\n"]),  # the signal may come before the compiler begins
        ("run(0.5, 600, lambda: time.sleep(600))", [""]),
    ],
    ids=["no grace", "closes in time", "grace in a compiler", "closes too late"],
)
def test_a_signal_is_one_line(call, outs, number):
    code, out, err = end(call, number)
    assert code == 128 + number and out in outs and err == f"error: {SIGNALS[number]}; a test keeps nothing\n"


def test_a_second_signal_ends_it_at_once():
    code, out, err = end("run(600, 600, lambda: time.sleep(600))", signal.SIGINT, signal.SIGTERM)
    assert (code, out) in ((130, ""), (143, "")) and err.endswith("; a test keeps nothing\n") and err.count("\n") == 1


@pytest.mark.parametrize("program", ["plan", "bench"])
def test_commands_end_so(program):
    call = f"from cvmae import {program}; {program}.app.run = lambda *_, **__: (print('works', flush=True), time.sleep(600)); {program}.cli()"
    code, _, err = end(call, signal.SIGTERM)
    assert code == 143 and err.startswith("error: ended by SIGTERM; a ") and err.count("\n") == 1


def test_a_command_that_a_shell_started_deaf_to_ctrl_c_stays_deaf():
    call = "signal.signal(signal.SIGINT, signal.SIG_IGN); run(60, 0, lambda: time.sleep(1))"
    assert end(call, signal.SIGINT) == (0, "closed\n", "")
