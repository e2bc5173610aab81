"""Signals to every process of a run, as Ctrl-C, `timeout` and scancel send them: the loader's workers go on until it is closed."""

import os
import signal
import subprocess
import sys

import pytest

from tests.commands import ROOT

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
