"""A run of the counting task with trackers that kills itself, to be started as a program: WORKDIR STEP WAIT FIELD=VALUE ...

It dies before step STEP (0: never); with WAIT=1 not before every tracker was given what was logged until then.
"""

import os
import signal
import sys
import time

from cvmae.training import loop, mlflow_tracker, wandb_tracker
from tests.training.counting_task import train

KINDS = (wandb_tracker.Wandb, mlflow_tracker.Mlflow)


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
            # A row of W&B waits for the next step.
            while int(wait) and any(newest.get(kind, 0) < self.step - kind.whole_steps for kind in KINDS):
                time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        advance(self)

    for kind in KINDS:
        noting(kind)
    loop.TrainLoop.advance = advance_and_die
    overrides = dict(field.split("=", 1) for field in fields)
    train(workdir, total="8_steps", checkpoint_every="3_steps", **{f"log__{name}": value for name, value in overrides.items()})


main(*sys.argv[1:])
