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
