"""XProf traces of some steps of a run: `config.profile`."""

import contextlib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

import jax

from cvmae.config import require
from cvmae.parallel import processes
from cvmae.storage.path import as_path, is_remote
from cvmae.storage.remote_path import RemotePath

STEP_NAME = "train"  # by which XProf groups what happens into steps


def parse_steps(text: str, total: int | None = None) -> range:
    """Returns the steps of `FIRST:LAST`, both included and counted from 1, as metrics are; none of an empty text.

    Args:
      text: the value of config.profile.
      total: steps of the run, if they are known.

    Raises:
      ConfigError: the text has another form, or the run has no such steps.
    """
    if not text:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    steps = range(int(match[1]), int(match[2]) + 1) if match else range(0)
    require(
        bool(steps) and steps[0] > 0,
        f"config.profile={text!r} is no range of steps: write FIRST:LAST such as 100:105, from step 1 on",
    )
    require(
        total is None or steps[-1] <= total,
        f"config.profile={text!r} goes beyond the run, which has {total} steps: take steps of it",
    )
    return steps


class StepTrace:
    """Writes a trace of a range of steps into a folder, which XProf shows, and does nothing at other steps.

    A run that resumes within the range traces the rest of it, into a file of its own. Of several processes the main one traces:
    files of several on one machine would have one name.
    """

    def __init__(self, steps: range, folder: str | os.PathLike | RemotePath):
        self._steps = steps if processes.is_main_process() else range(0)
        self._target, self._open = as_path(folder), False
        # The profiler writes to disks only.
        self._temporary = tempfile.TemporaryDirectory(prefix="cvmae-trace-") if is_remote(self._target) and self._steps else None
        self._folder = self._temporary.name if self._temporary else str(self._target)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Traces the step `number` if it is one of the range: everything in the block, on the host and on its devices."""
        if number not in self._steps:
            yield
            return
        if not self._open:
            jax.profiler.start_trace(self._folder)
            self._open = True
        with jax.profiler.StepTraceAnnotation(STEP_NAME, step_num=number):
            yield

    def finish(self, number: int, results) -> bool:
        """Writes the trace after the last step of the range; True if it did. results: of that step, which are waited for."""
        if not self._open or number < self._steps[-1]:
            return False
        jax.block_until_ready(results)
        self.close()
        return True

    def close(self) -> None:
        """Writes a trace that is still open, as that of a run that was stopped."""
        if self._open:
            self._open = False
            jax.profiler.stop_trace()
            if self._temporary is not None:
                for file in pathlib.Path(self._folder).rglob("*"):
                    if file.is_file():
                        (self._target / file.relative_to(self._folder)).upload(file)  # type: ignore[union-attr]
                self._temporary.cleanup()
            processes.log_once(f"trace for XProf in {self._target}: see launch/README.md")
