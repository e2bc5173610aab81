"""Search for the largest batch per chip, and the cheapest recomputation (config.remat), that fit in the memory of the chips."""

import dataclasses
import sys
import time
from collections.abc import Callable

from cvmae.config import ConfigError
from cvmae.parallel.mesh import make_mesh
from cvmae.performance.chips import Topology
from cvmae.performance.compile import ProgramCost, compile_step
from cvmae.performance.plan_report import gib
from cvmae.performance.traced_step import TracedStep
from cvmae.tasks.validate import batch_unit, is_contrastive

PRECISION = 10  # the largest batch that fits and the smallest that does not differ by less than a tenth in the end
HEADROOM = 0.98  # of the memory that the next batch is to fill, as memory does not grow exactly with the batch
# config.remat, from no recomputation and most memory to most recomputation and least memory.
POLICIES = ("none", "all_dots", "dots", "kernels", "full")


@dataclasses.dataclass(frozen=True)
class Trial:
    """A compilation and its outcome.

    Attributes:
      batch: global.
      remat: one of POLICIES.
      fits: True where it fits.
      fixed: bytes per chip that do not depend on the batch; 0 where the compiler refused the program.
      grows: bytes per chip that do.
      flops_per_clip: as compiled.
    """

    batch: int
    remat: str
    fits: bool
    fixed: int = 0
    grows: int = 0
    flops_per_clip: float = 0.0


def with_batch(config, batch: int, remat: str = ""):
    """Returns a copy of a config with another global batch and, unless it is empty, another config.remat."""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.batch_size = batch
        if remat:
            changed.remat = remat
    return changed


class Search:
    """Compiles a config with other batches and policies.

    Args:
      config: stays as it is.
      topology: the chips.
      devices: of the topology.
      log: takes a line before and one after each compilation, of which a policy needs several: how many depends on what fits.
      clips: of the training data, of which a contrastive batch holds each at most once; 0 for no limit.

    Raises:
      ConfigError: the memory of the chips is not known.
    """

    def __init__(self, config, topology: Topology, devices, log: Callable[[str], None], clips: int = 0):
        if not topology.chip.hbm:
            raise ConfigError(f"--search on --topology={topology.name}: give the memory of a device, --hbm_gib=N")
        self.config, self.topology, self.devices, self.log = config, topology, devices, log
        self.trials: list[Trial] = []
        self.unit = batch_unit(config, make_mesh(config.mesh, devices))
        one_clip = self.unit == config.get("accumulate", 1)  # the micro-batches of the smallest batch are single clips
        self.min_units = 2 if is_contrastive(config) and one_clip else 1  # a contrastive term needs a negative
        self.max_units = max(self.min_units, clips // self.unit) if clips and is_contrastive(config) else sys.maxsize

    def run(self) -> list[Trial]:
        """Returns the largest batch of every policy, cheapest policy first, without the policies under which nothing fits."""
        best, start = [], self.config.batch_size
        for remat in POLICIES:
            trial = self.largest_batch(remat, start)
            if trial is not None:
                best.append(trial)
                start = trial.batch  # more recomputation needs no more memory
        return best

    def largest_batch(self, remat: str, start: int) -> Trial | None:
        """Returns the largest batch of a policy, to within a tenth, trying `start` first; None where the smallest does not fit."""
        units = min(self.max_units, max(self.min_units, start // self.unit))
        fitting, too_large = None, None
        while True:
            trial = self.compile(units, remat)
            if trial.fits:
                fitting = trial
            else:
                too_large = units
            low = fitting.batch // self.unit if fitting else 0
            if low == self.max_units or (too_large is not None and too_large - low <= max(1, low // PRECISION)):
                return fitting
            if fitting is not None:
                units = self._next(fitting, too_large)
            elif units == self.min_units:
                return None
            else:
                units = max(self.min_units, units // 2)

    def compile(self, units: int, remat: str) -> Trial:
        """Compiles the step with `units` times the smallest batch that divides over the mesh."""
        batch = units * self.unit
        about = f"batch {batch}, {batch / len(self.devices):g} per chip, remat {remat}"
        policy = f"policy {POLICIES.index(remat) + 1} of {len(POLICIES)}"
        self.log(f"search, {policy}, compilation {len(self.trials) + 1}: {about} ...")
        begin = time.perf_counter()
        cost = compile_step(TracedStep(with_batch(self.config, batch, remat), self.devices), self.topology)
        trial, size = Trial(batch, remat, False), "too large"
        if isinstance(cost, ProgramCost):
            memory = cost.memory
            grows = memory.temporary + memory.batch
            fits = fits_in_memory(cost, self.topology)
            trial = Trial(batch, remat, fits, memory.total - grows, grows, cost.flops * len(self.devices) / batch)
            size = f"{gib(memory.total)}, {'fits' if fits else 'too large'}"
        self.trials.append(trial)
        self.log(f"{about}: {size}, after {time.perf_counter() - begin:.0f} s")
        return trial

    def _next(self, fitting: Trial, too_large: int | None) -> int:
        """Returns the units that should just fit, as memory grows with the batch, between what fits and what does not."""
        low = fitting.batch // self.unit
        room = self.topology.chip.hbm * HEADROOM - fitting.fixed
        guess = min(self.max_units, max(low + max(1, low // PRECISION), int(low * room / max(1, fitting.grows))))
        return guess if too_large is None else min(guess, (low + too_large) // 2 if guess >= too_large else guess)


def cheapest(trials: list[Trial], batch: int) -> Trial | None:
    """Returns the first of the trials of `Search.run` under whose policy `batch` fits; None if it fits under no policy."""
    return next((trial for trial in trials if trial.batch >= batch), None)


def fits_in_memory(cost: ProgramCost, topology: Topology) -> bool:
    """Returns True if a compiled program fits, or the memory is not known; the TPU compiler refuses most that do not."""
    return not topology.chip.hbm or cost.memory.total <= topology.chip.hbm
