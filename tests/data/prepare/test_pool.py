"""Processes that die, hang and fail, and what becomes of the other jobs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cvmae.data.prepare import pool

OBEY = "tests.data.prepare.crashing_jobs:obey"

ORPHANED = """
import sys
from cvmae.data.prepare import pool
answers = pool.run("tests.data.prepare.crashing_jobs:obey", [{"what": "answer"}, {"what": "hang"}], 1)
print(next(answers)[1]["pid"], flush=True)
next(answers)
"""


def run(whats, workers=1):
    return [(job["what"], answer) for job, answer in pool.run(OBEY, [{"what": what} for what in whats], workers)]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:  # a zombie is as good as gone
        return file.read().rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(pid):
    while is_alive(pid):
        time.sleep(0.01)


def test_a_death_costs_its_own_job_only():
    answers = run(["answer", "die", "exit", "fail", "chatter", "answer"])
    assert [what for what, _ in answers] == ["answer", "die", "exit", "fail", "chatter", "answer"]
    failures = [str(answer) for _, answer in answers if isinstance(answer, pool.Failure)]
    assert failures == ["its process was ended by SIGSEGV", "its process ended with exit code 3", "KeyError: 'odd'"]
    pids = [answer["pid"] for _, answer in answers if isinstance(answer, dict)]
    assert pids[0] != pids[1] == pids[2]  # one process for as long as it lives


def test_a_job_that_hangs_is_given_up():
    worker = pool.Worker(OBEY)
    first = worker.call({"what": "answer"})
    worker.limit_s = 0.2
    assert worker.call({"what": "hang"}) == "no answer within 0.2 s"
    worker.limit_s = 0
    assert worker.call({"what": "answer"})["pid"] != first["pid"]
    worker.close()


def test_ctrl_c_is_for_the_one_who_started_them():
    worker = pool.Worker(OBEY)
    pid = worker.call({"what": "answer"})["pid"]
    os.kill(pid, signal.SIGINT)
    assert worker.call({"what": "answer"}) == {"pid": pid, "what": "answer"}
    worker.close()


def test_jobs_are_shared_out():
    answers = run(["answer"] * 20, workers=2)
    assert len(answers) == 20 and len({answer["pid"] for _, answer in answers}) == 2


def test_a_fault_of_the_machine_stops_everything():
    with pytest.raises(pool.StopRun, match="the disk is full"):
        run(["answer", "stop", "answer"])


def test_who_leaves_early_leaves_nobody_behind():
    jobs = ({"what": what} for what in ("answer", "hang", "hang"))
    answers = pool.run(OBEY, jobs, 1)
    pid = next(answers)[1]["pid"]
    answers.close()
    wait_until_gone(pid)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
def test_processes_end_with_the_one_they_work_for():
    process = subprocess.Popen([sys.executable, "-c", ORPHANED], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert is_alive(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    wait_until_gone(pid)
