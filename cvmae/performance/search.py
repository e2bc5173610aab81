"""Looks for the largest batch per chip, and the cheapest way to compute activations again, that fit."""

import dataclasses

from cvmae.config import ConfigError
from cvmae.parallel.mesh import make_mesh
from cvmae.performance.chips import Topology
from cvmae.performance.compile import Compiled, compile_step
from cvmae.performance.plan_report import gib
from cvmae.performance.traced_step import Step
from cvmae.tasks.validate import batch_unit, is_contrastive

CLOSE = 10  # the search ends when the largest batch that fits and the smallest that does not differ by less than a tenth


@dataclasses.dataclass(frozen=True)
class Trial:
    """One compilation.

    Attributes:
      batch: global. remat: the policy.
      fits: whether it does.
      fixed: bytes of a chip that do not depend on the batch; 0 where it does not fit.
      grows: bytes of a chip that do.
      flops_per_clip: as compiled.
    """

    batch: int
    remat: str
    fits: bool
    fixed: int = 0
    grows: int = 0
    flops_per_clip: float = 0.0


# config.remat, from what computes nothing again and needs most memory to what computes most and needs least.
POLICIES = ("none", "all_dots", "dots", "full")


def with_batch(config, batch: int, remat: str = ""):
    """A copy of a config with another batch and, where it is named, another policy."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.batch_size = batch
        if remat:
            changed.remat = remat
    return changed


class Search:
    """Compiles a config with other batches and policies.

    Args:
      config: left as it is.
      topology: the chips.
      devices: of the topology.
      say: takes a line for each compilation.

    Raises:
      ConfigError: nothing is known of the chips' memory.
    """

    def __init__(self, config, topology: Topology, devices, say):
        if not topology.chip.hbm:
            raise ConfigError(f"--search on --topology={topology.name}: give the memory of a device, --hbm_gib=N")
        self.config, self.topology, self.devices, self.say = config, topology, devices, say
        self.trials: list[Trial] = []
        self.unit = batch_unit(config, make_mesh(config.mesh, devices))
        alone = self.unit == config.get("accumulate", 1)  # a part of the smallest batch is one clip
        self.least = 2 if is_contrastive(config) and alone else 1  # it needs a negative

    def compile(self, units: int, remat: str) -> Trial:
        """One trial, with so many times the smallest batch that divides."""
        batch = units * self.unit
        found = compile_step(Step(with_batch(self.config, batch, remat), self.devices), self.topology)
        trial, size = Trial(batch, remat, False), "too large"
        if isinstance(found, Compiled):
            memory = found.memory
            grows = memory.temporary + memory.batch
            fits = within(found, self.topology)
            trial = Trial(batch, remat, fits, memory.total - grows, grows, found.flops * len(self.devices) / batch)
            size = f"{gib(memory.total)}, {'fits' if fits else 'too large'}"
        self.trials.append(trial)
        self.say(f"batch {batch}, {batch / len(self.devices):g} a chip, remat {remat}: {size}")
        return trial

    def largest(self, remat: str, start: int) -> Trial | None:
        """The largest batch of a policy within a tenth; None where not even the smallest fits. start: the batch to begin with."""
        units = max(self.least, start // self.unit)
        fitting, too_large = None, None
        while True:
            trial = self.compile(units, remat)
            if trial.fits:
                fitting = trial
            else:
                too_large = units
            low = fitting.batch // self.unit if fitting else 0
            if too_large is not None and too_large - low <= max(1, low // CLOSE):
                return fitting
            if fitting is None:
                if too_large == self.least:
                    return None
                units = max(self.least, too_large // 2)
                continue
            units = self._next(fitting, too_large)

    def _next(self, fitting: Trial, too_large: int | None) -> int:
        """What should just fit, as memory grows with the batch; between what fits and what does not."""
        low = fitting.batch // self.unit
        room = self.topology.chip.hbm * 0.98 - fitting.fixed
        guess = max(low + max(1, low // CLOSE), int(low * room / max(1, fitting.grows)))
        return guess if too_large is None else min(guess, (low + too_large) // 2 if guess >= too_large else guess)

    def run(self) -> list[Trial]:
        """The largest batch of every policy, cheapest policy first; a policy under which nothing fits is left out."""
        found, start = [], self.config.batch_size
        for remat in POLICIES:
            best = self.largest(remat, start)
            if best is not None:
                found.append(best)
                start = best.batch  # who computes more again needs no more memory
        return found


def cheapest(trials: list[Trial], batch: int) -> Trial | None:
    """Of the largest batches of every policy, the first policy under which `batch` fits."""
    return next((trial for trial in trials if trial.batch >= batch), None)


def within(found: Compiled, topology: Topology) -> bool:
    """Whether a program that compiled fits; what does not, TPUs' compiler has mostly refused already."""
    return not topology.chip.hbm or found.memory.total <= topology.chip.hbm
