"""The command, ended by a signal at a chosen moment: `python interrupted_run.py MOMENT STEP ARGUMENTS...`. See `MOMENTS`.

A process that sends the signal to itself is at the moment exactly; SIGKILL cannot be caught, whoever sends it.
"""

import os
import pathlib
import signal
import sys
from unittest import mock

from absl import app

from cvmae import main
from cvmae.training.metric_writer import MetricsWriter

write = MetricsWriter.write


def end(number: int) -> None:
    os.kill(os.getpid(), number)


def after_step(number: int):
    """After the metrics of the step are on disk."""

    def written(self, step, values):
        write(self, step, values)
        if step == STEP:
            end(number)

    mock.patch.object(MetricsWriter, "write", written).start()


def in_metrics_line():
    """With half of the step's line in metrics.jsonl."""

    def written(self, step, values):
        if step == STEP:
            with open(self.path, "a", encoding="utf-8") as lines:
                lines.write(f'{{"step": {step}, "loss": 1.')
            end(signal.SIGKILL)
        write(self, step, values)

    mock.patch.object(MetricsWriter, "write", written).start()


def in_checkpoint():
    """With the arrays of the step's checkpoint written, and the folder about to get its name."""

    def look(event, args):
        if event == "os.rename" and pathlib.Path(os.fsdecode(args[1])).name == str(STEP):
            end(signal.SIGKILL)

    sys.addaudithook(look)


MOMENTS = {
    "kill_after_step": lambda: after_step(signal.SIGKILL),
    "kill_in_metrics_line": in_metrics_line,
    "kill_in_checkpoint": in_checkpoint,
    "terminate_after_step": lambda: after_step(signal.SIGTERM),
}

if __name__ == "__main__":
    moment, STEP = sys.argv[1], int(sys.argv[2])
    del sys.argv[1:3]
    MOMENTS[moment]()
    app.run(main.main, flags_parser=main.parse)
