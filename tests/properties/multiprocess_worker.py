"""The command as one of several processes, which notes the clips that it reads and may end itself at a chosen moment.

    python multiprocess_worker.py NOTES SIGNAL PROCESS STEP ARGUMENTS...

NOTES: a file of JSON lines [step, devices, process, clips]. After step STEP, process PROCESS sends SIGNAL (0: none) to itself, and the steps of all
take a while from there on, since JAX looks for signals once a second.
"""

import json
import os
import sys
import time
from unittest import mock

import jax
from absl import app

from cvmae import main
from cvmae.data.pipeline import Loader
from cvmae.training import loop
from tests.multiprocess import share_programs

make_loader, advance = loop.make_loader, loop.TrainLoop.advance


class Noted(Loader):
    """A loader that notes what it gives."""

    def __init__(self, loader, step):
        self.loader, self.step = loader, step

    def __next__(self):
        batch = next(self.loader)
        self.step += 1
        with open(NOTES, "a") as lines:
            lines.write(json.dumps([self.step, jax.device_count(), jax.process_index(), batch["index"].tolist()]) + "\n")
        return batch

    def close(self):
        self.loader.close()


def advance_and_end(self):
    advance(self)
    if SIGNAL and self.step >= STEP:
        if self.step == STEP and jax.process_index() == PROCESS:
            os.kill(os.getpid(), SIGNAL)
        time.sleep(0.6)


if __name__ == "__main__":
    NOTES, (SIGNAL, PROCESS, STEP) = sys.argv[1], map(int, sys.argv[2:5])
    del sys.argv[1:5]
    share_programs()
    loop.make_loader = lambda *args, start_step, **kwargs: Noted(make_loader(*args, start_step=start_step, **kwargs), start_step)
    with mock.patch.object(loop.TrainLoop, "advance", advance_and_end):
        app.run(main.main, flags_parser=main.parse)
