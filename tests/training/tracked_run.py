"""A run of the counting task with trackers that kills itself, to be started as a program: WORKDIR STEP WAIT FIELD=VALUE ...

It dies before step STEP (0: never); with WAIT=1 not before every tracker was given what was logged until then.
"""

import os
import signal
import sys
import time

from cvmae.training import loop, mlflow_tracker, wandb_tracker
from tests.training.counting_task import train


def main(workdir, step, wait, *fields):
    advance, newest = loop.TrainLoop.advance, {}

    def noting(tracker):
        write = tracker.write

        def write_and_note(self, step, values):
            write(self, step, values)
            newest[tracker] = step

        tracker.write = write_and_note

    def advance_and_die(self):
        if self.step + 1 == int(step):
            self.read_metrics()
            while int(wait) and (len(newest) < 2 or min(newest.values()) < self.step):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        advance(self)

    noting(wandb_tracker.Wandb)
    noting(mlflow_tracker.Mlflow)
    loop.TrainLoop.advance = advance_and_die
    overrides = dict(field.split("=", 1) for field in fields)
    train(workdir, total="8_steps", checkpoint_every="3_steps", **{f"log__{name}": value for name, value in overrides.items()})


main(*sys.argv[1:])
