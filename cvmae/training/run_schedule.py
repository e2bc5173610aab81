"""The length of a run and when something happens in it."""

import dataclasses

from cvmae.config import steps
from cvmae.training.trace import parse_steps


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The length of a run and its intervals, in steps; an interval of 0 is never."""

    total: int
    log: int = 0
    evaluate: int = 0
    checkpoint: int = 0
    keep: int = 0
    steps_per_epoch: float = 1.0
    profile: range = range(0)

    @classmethod
    def of(cls, config, clips: int) -> "Schedule":
        """Resolves the durations of a config over `clips` training clips. Raises: ConfigError."""
        epoch = clips / config.batch_size
        total = steps(config.total, "total", steps_per_epoch=epoch)
        log, evaluate, checkpoint, keep = (
            # Configs of earlier versions lack checkpoint_keep_every.
            steps(config.get(f"{name}_every", "0_steps"), f"{name}_every", steps_per_epoch=epoch, total=total)
            for name in ("log", "eval", "checkpoint", "checkpoint_keep")
        )
        return cls(total, log, evaluate, checkpoint, keep, epoch, parse_steps(config.get("profile", ""), total))

    @property
    def first_checkpoint(self) -> int:
        """The step of the first checkpoint."""
        return min((interval for interval in (self.checkpoint, self.keep) if interval), default=self.total)

    def due(self, interval: int, step: int) -> bool:
        """Returns True where something of that interval happens at a step; at the last step everything that happens at all."""
        return bool(interval) and (step % interval == 0 or step == self.total)
