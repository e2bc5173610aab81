"""Functions for worker processes that do to a job what its name says."""

import os
import signal
import time

from cvmae.data.prepare import transcode, work
from cvmae.data.worker_pool import StopRun


def obey(job):
    """Dies, exits, hangs, computes, fails, stops everything, chatters, or answers."""
    what = job["what"]
    if what == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "exit":
        os._exit(3)
    if what == "leave":
        os._exit(0)
    if what == "compute":
        print("computing", flush=True)
        end = time.thread_time() + 0.3
        while time.thread_time() < end:
            pass
    if what == "hang":
        time.sleep(1000)
    if what == "fail":
        raise KeyError("odd")
    if what == "stop":
        raise StopRun("the disk is full")
    if what == "chatter":
        os.write(1, b"a library says something\n")
        print("and so does Python")
    return {"pid": os.getpid(), "what": what}


def process(job):
    """As work.process, but that a file whose name says so takes the process with it, or has no end."""
    if "crash" in job["path"]:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "endless" in job["path"]:
        time.sleep(1000)
    return work.process(job)


def kill_the_run(job):
    """As work.process, but that at a moment with one file, both in $DOOM, whoever we work for is killed."""
    file, _, moment = os.environ["DOOM"].partition(",")
    if os.path.basename(job["path"]) != file:
        return work.process(job)
    if moment == "amidst the frames":
        frames = transcode._timed_frames
        transcode._timed_frames = lambda *args: (frame if k < 7 else kill() for k, frame in enumerate(frames(*args)))
    if moment == "before it is in place":
        os.replace = kill
    work.process(job)
    kill()


def kill(*_):
    """Kills the process that we work for, and waits to be ended for that."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1000)
