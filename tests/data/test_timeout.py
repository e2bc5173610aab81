import gc
import signal
import subprocess
import sys
import threading
import time

import pytest

from cvmae.data.timeout import TimeLimitError, call_with_limit

HANGING = """
import os, sys
import av
from cvmae.data.decode import read_table
from cvmae.data.timeout import TimeLimitError, call_with_limit

reading, writing = os.pipe()
av.open = lambda *args, **options: os.read(reading, 1)  # it waits, in C, for a writer that never comes
for _ in range(2):
    try:
        call_with_limit(lambda: read_table(sys.argv[1]), 0.2)
    except TimeLimitError as error:
        print("cut off:", error)
print(call_with_limit(lambda: "alive", 5))
"""


def limited_threads():
    return [t for t in threading.enumerate() if t.name == "cvmae-limited-call"]


def test_values_and_errors_pass_through():
    assert call_with_limit(lambda: 7, 5) == 7
    with pytest.raises(KeyError, match="why"):
        call_with_limit(lambda: {}["why"], 5)


def test_the_thread_is_reused():
    first = call_with_limit(threading.get_ident, 5)
    assert first == call_with_limit(threading.get_ident, 5) != threading.get_ident()


def test_no_limit_means_a_direct_call():
    assert call_with_limit(threading.get_ident, 0) == threading.get_ident()


def test_a_late_call_is_abandoned_and_the_next_one_works():
    release = threading.Event()
    with pytest.raises(TimeLimitError, match="no answer within 0.05 s"):
        call_with_limit(release.wait, 0.05)
    assert call_with_limit(lambda: "next", 5) == "next"
    release.set()


def test_threads_end_with_the_thread_that_used_them():
    before = len(limited_threads())
    callers = [threading.Thread(target=call_with_limit, args=(int, 5)) for _ in range(5)]
    for caller in callers:
        caller.start()
        caller.join()
    deadline = time.monotonic() + 5
    while len(limited_threads()) > before and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert len(limited_threads()) <= before


def test_a_hanging_decoder_is_cut_off_and_the_program_can_end(tmp_path):
    (tmp_path / "video.mp4").write_bytes(b"any")
    command = [sys.executable, "-c", HANGING, str(tmp_path / "video.mp4")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["cut off: no answer within 0.2 s"] * 2 + ["alive"]


STOPPED = """
import time
from cvmae.data.timeout import call_with_limit

def work():
    print("begun", flush=True)
    while time.thread_time() < 0.3:
        pass
    return "done"

print(call_with_limit(work, 3))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="stopping a process is a POSIX thing")
def test_the_time_that_a_process_is_stopped_does_not_count():
    with subprocess.Popen([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.5)
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == "done\n"
    assert process.returncode == 0
