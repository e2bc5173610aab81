"""Signals to every process of a run, as Ctrl-C, `timeout` and scancel send them: the loader's workers go on until it is closed."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from cvmae.data.pipeline import make_loader
from cvmae.data.sources import make_source
from tests.commands import ROOT
from tests.data.configs import small_config

READS = """
import multiprocessing, signal
from cvmae.data import pipeline, sources
from tests.data.configs import small_config

def read():
    received = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: received.append(number))
    config = small_config(data__workers=1)
    print("starting", flush=True)
    with pipeline.make_loader(config, sources.make_source(config.data, config.data.split)) as loader:
        next(loader)
        print("reading", flush=True)
        while len(received) < 2:
            next(loader)
        for _ in range(6):  # more than the workers have read ahead
            next(loader)
    print(len(multiprocessing.active_children()), sorted(map(int, received)), flush=True)

if __name__ == "__main__":
    read()
"""


@pytest.mark.parametrize("moment", [pytest.param("starting", marks=pytest.mark.slow), "reading"])
def test_a_signal_to_all_processes_ends_no_worker(moment, tmp_path):
    script = tmp_path / "reads.py"
    script.write_text(READS)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            next(line for line in process.stdout if line == f"{moment}\n")
            for number in (signal.SIGINT, signal.SIGTERM):
                os.killpg(process.pid, number)
            stdout, stderr = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, stderr
    assert stdout.splitlines()[-1] == f"0 [{int(signal.SIGINT)}, {int(signal.SIGTERM)}]"
    assert "Traceback" not in stderr and "resource_tracker" not in stderr


WAITS = """
import multiprocessing, os, signal, sys, threading, time
import grain
from cvmae.data.loader import Loader
from tests.data.configs import small_config

def wait(index):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    time.sleep(600)

def read():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    data = small_config(data__workers=2).data
    try:
        with Loader(grain.MapDataset.range(8).map(wait), data) as loader:
            threading.Thread(target=interrupt, daemon=True).start()
            next(loader)
    except KeyboardInterrupt:
        print("interrupted", len(multiprocessing.active_children()), flush=True)

def interrupt():
    while not os.listdir(sys.argv[1]):
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    read()
"""


def test_a_wait_for_the_first_batch_can_be_interrupted(tmp_path):
    """A disk that does not answer would be waited for as long."""
    script, started = tmp_path / "waits.py", tmp_path / "started"
    script.write_text(WAITS)
    started.mkdir()
    done = subprocess.run(
        [sys.executable, script, started], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and done.stdout == "interrupted 0\n" and "resource_tracker" not in done.stderr, done.stderr


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="shared memory has no files here")
def test_memory_that_a_program_still_held_is_freed_with_the_loader():
    config = small_config(data__workers=1)

    @jax.jit
    def sums(batch):  # long enough that the batch is dropped here while the program reads it
        square = jax.lax.fori_loop(0, 200, lambda _, x: jnp.tanh(x @ x), jnp.ones((300, 300)) * batch["index"].mean())
        return square.sum() + sum(value.astype(jnp.float32).sum() for value in batch.values())

    with make_loader(config, make_source(config.data, "train")) as loader:
        batch = next(loader)
        files = [pathlib.Path("/dev/shm") / value.shm.name.lstrip("/") for value in batch.values()]
        result = sums(jax.device_put(batch))
        del batch
        result.block_until_ready()
        assert any(file.exists() for file in files)
    deadline = time.monotonic() + 60  # a thread of Grain deletes the files
    while any(file.exists() for file in files) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(file.exists() for file in files)
