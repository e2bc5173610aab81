"""Weights & Biases as a tracker, `config.log.wandb=PROJECT`; its own environment variables (WANDB_MODE, WANDB_ENTITY, ...) say the rest."""

import os
import pathlib
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cvmae.training.trackers import CLOSE_S, TrackedRun
from cvmae.training.wandb_offline import newest_step

OPEN_S = 60.0  # to wait for the server


class Wandb:
    """A run of a project of W&B; its files lie in `wandb` of the workdir, also those of WANDB_MODE=offline. See `Tracker`."""

    # Lines of 64 bytes, less than any takes, in the blocks of 32 KiB of a run that is offline; and what waits for more.
    may_lose = 514
    # A row of W&B is of a step, which must rise, and `wandb sync` moves the steps of a file that begins too low.
    whole_steps = True

    def __init__(self, project: str):
        self._project, self.newest = project, -1
        self._run: Any = None  # a wandb.Run, once it is open

    def open(self, run: TrackedRun, kept: dict, keep: Callable[[dict], None]) -> str:
        """Opens the run, see `Tracker.open`. Raises: RuntimeError, there is no key."""
        import wandb

        if kept.get("project") != self._project:
            kept = {"project": self._project, "id": secrets.token_hex(4)}
        keep(kept)  # before the run: a kill must not leave one that is not known
        os.environ.pop("WANDB_SERVICE", None)  # of a parent that uses W&B: its service holds the run of a killed process for ever
        mode = wandb.setup().settings.mode
        if mode == "online" and not wandb.login(prompt=False):
            raise RuntimeError("there is no key: run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        self._run = wandb.init(
            project=self._project,
            id=kept["id"],
            resume="allow",
            name=run.name,
            dir=str(run.workdir),
            config=dict(run.config),
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off", init_timeout=OPEN_S, finish_timeout=CLOSE_S),
        )
        # Online W&B begins after the newest step that the server has, offline at 0.
        self.newest = newest_step(run.workdir, kept["id"]) if self._run.offline else self._run.starting_step - 1
        # Also where `wandb sync` had to move the steps of W&B.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return (
            f"offline, sent by wandb sync {run.workdir}/wandb/offline-run-*, all at once" if self._run.offline else self._run.url
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the metrics of a step; they wait in W&B for the pictures of the last one, or for the next step."""
        self._run.log({"step": step, **values}, step=step)

    def report(
        self, step: int, numbers: Mapping[str, float], pictures: Sequence[pathlib.Path], files: Sequence[pathlib.Path]
    ) -> None:
        """Adds numbers to the summary, and pictures and pages to the row of the step if that is of this start, see `Tracker.report`."""
        if step > self.newest:
            self._log_media(step, pictures, files)
        self._run.summary.update(dict(numbers))
        for path in files:
            if path.suffix != ".html":
                copy = shutil.copy(path, self._run.dir)  # what lies elsewhere is linked, with a warning
                self._run.save(copy, base_path=self._run.dir, policy="now")

    def _log_media(self, step: int, pictures: Sequence[pathlib.Path], files: Sequence[pathlib.Path]) -> None:
        import wandb

        media = {f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures}
        pages = {f"pages/{path.stem}": wandb.Html(path.read_text(encoding="utf-8")) for path in files if path.suffix == ".html"}
        self._run.log({"step": step, **media, **pages}, step=step)

    def close(self, end: str) -> None:
        """Closes the run, see `Tracker.close`."""
        self._run.finish(exit_code=0 if end == "finished" else 1)
