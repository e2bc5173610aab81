"""Processes that die, hang and fail, and what becomes of the other jobs."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cvmae.data import worker_pool

OBEY = "tests.data.prepare.crashing_jobs:obey"

ORPHANED = """
import sys
from cvmae.data import worker_pool
answers = worker_pool.run("tests.data.prepare.crashing_jobs:obey", [{"what": "answer"}, {"what": "hang"}], 1)
print(next(answers)[1]["pid"], flush=True)
next(answers)
"""


def run(whats, workers=1):
    return [(job["what"], answer) for job, answer in worker_pool.run(OBEY, [{"what": what} for what in whats], workers)]


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
    failures = [str(answer) for _, answer in answers if isinstance(answer, worker_pool.Failure)]
    assert failures == ["its process was ended by SIGSEGV", "its process ended with exit code 3", "KeyError: 'odd'"]
    pids = [answer["pid"] for _, answer in answers if isinstance(answer, dict)]
    assert pids[0] != pids[1] == pids[2]  # one process for as long as it lives


def test_a_job_that_hangs_is_given_up():
    worker = worker_pool.Worker(OBEY)
    first = worker.call({"what": "answer"})
    worker.limit_s = 0.2
    assert worker.call({"what": "hang"}) == "no answer within 0.2 s"
    worker.limit_s = 0
    assert worker.call({"what": "answer"})["pid"] != first["pid"]
    worker.close()


def test_ctrl_c_is_for_the_one_who_started_them():
    worker = worker_pool.Worker(OBEY)
    pid = worker.call({"what": "answer"})["pid"]
    os.kill(pid, signal.SIGINT)
    assert worker.call({"what": "answer"}) == {"pid": pid, "what": "answer"}
    worker.close()


def test_jobs_are_shared_out():
    answers = run(["answer"] * 20, workers=2)
    assert len(answers) == 20 and len({answer["pid"] for _, answer in answers}) == 2


def test_a_fault_of_the_machine_stops_everything():
    with pytest.raises(worker_pool.StopRun, match="the disk is full"):
        run(["answer", "stop", "answer"])


def test_who_leaves_early_leaves_nobody_behind():
    jobs = ({"what": what} for what in ("answer", "hang", "hang"))
    answers = worker_pool.run(OBEY, jobs, 1)
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


UNGUARDED = """
from cvmae.data import worker_pool
print("the script runs", flush=True)
print([answer["what"] for _, answer in worker_pool.run("tests.data.prepare.crashing_jobs:obey", [{"what": "answer"}], 1)])
"""


@pytest.mark.parametrize("by", ["file", "stdin"])
def test_the_caller_needs_no_main_guard(tmp_path, by):
    (tmp_path / "script.py").write_text(UNGUARDED)
    command = [sys.executable, str(tmp_path / "script.py")] if by == "file" else [sys.executable, "-"]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, input=UNGUARDED, capture_output=True, text=True, env=environment)
    assert done.stdout.splitlines() == ["the script runs", "['answer']"] and not done.stderr


def test_a_job_whose_process_exits_with_0_has_no_answer():
    assert run(["leave", "answer"])[0] == ("leave", "its process ended with exit code 0")


STOPPED = """
from cvmae.data import worker_pool
worker = worker_pool.Worker("tests.data.prepare.crashing_jobs:obey")
worker.call({"what": "answer"})
worker.limit_s = 3
print(worker.call({"what": "compute"}))
worker.close()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stopping a process is a POSIX thing")
def test_the_time_that_the_run_is_stopped_does_not_count():
    command = [sys.executable, "-c", STOPPED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr.readline() == "computing\n"
        os.killpg(process.pid, signal.SIGSTOP)  # as Ctrl-Z does
        time.sleep(3.5)
        os.killpg(process.pid, signal.SIGCONT)
        assert "'what': 'compute'" in process.communicate()[0]


INTERRUPTED = """
import signal
from cvmae.data import worker_pool
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background inherits none
try:
    print("started", flush=True)
    list(worker_pool.run("tests.data.prepare.crashing_jobs:obey", [{"what": "hang"}] * 2, 2))
except KeyboardInterrupt:
    pass
"""


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after_s", [0.0, 0.1, 0.3, 1.0])  # workers that just start have not set up their own handling of signals
def test_a_signal_ends_all_processes_without_a_traceback(way, after_s):
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "started\n"
        time.sleep(after_s)
        os.killpg(process.pid, way)
        _, errors = process.communicate(timeout=60)  # workers inherit stderr: this waits for all of them
    assert process.returncode == (0 if way == signal.SIGINT else -way) and errors == ""
