"""The plan of a training step for chips that are not here: compiled, printed, and as data."""

import dataclasses
import sys

import jax
from ml_collections import ConfigDict

from cvmae.config import ConfigError, check_key
from cvmae.data.pipeline import clip_spec
from cvmae.performance import plan_report
from cvmae.performance.chips import Topology, devices_of
from cvmae.performance.compile import ProgramCost, compile_step
from cvmae.performance.oom import TooLarge
from cvmae.performance.search import Search, cheapest, fits_in_memory, with_batch
from cvmae.performance.traced_step import TracedStep, check_task, decoders, model_flops, training_clips
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.notes import check_clips
from cvmae.tasks.validate import batch_unit


@dataclasses.dataclass(frozen=True)
class Request:
    """The flags of `cvmae.plan`.

    Attributes:
      name: the config as it was typed.
      config: the config.
      topology: chips to compile for.
      mesh: sizes of axes, such as data:-1,fsdp:4; empty: those of the config.
      batch: global batch size; 0: that of the config.
      clips: training clips; 0: counted, or the published number.
      search: True also searches for the largest batch that fits.
    """

    name: str
    config: ConfigDict
    topology: Topology
    mesh: str
    batch: int
    clips: int
    search: bool


def print_plan(request: Request) -> dict:
    """Compiles the step, prints the plan, and returns it as data; "fits": whether it fits in memory. Raises: ConfigError."""
    topology = request.topology
    jax.config.update("jax_platforms", "cpu")  # nothing runs here, so an accelerator stays free for others
    config, devices = planned_config(request), devices_of(topology)
    clips, source = training_clips(config, request.clips)
    check_clips(config, clips)
    search = Search(config, topology, devices, log_progress, clips) if request.search else None
    step = TracedStep.of_run(config, devices, clips)
    run = planned_run(request, step, clips, source)
    print(*plan_report.header(run, topology), sep="\n", flush=True)
    cost = compile_step(step, topology)
    if isinstance(cost, ProgramCost) and fits_in_memory(cost, topology):
        fits, lines = True, plan_report.fits_lines(cost, run, topology)
    else:
        fits, lines = False, too_large_lines(cost, step, topology)
    data = plan_report.as_data(cost, run, topology) | {"fits": fits}
    print(*lines, sep="\n", flush=True)
    if search:
        lines, data["trials"] = run_search(search)
        print(*lines, sep="\n")
    return data


def planned_config(request: Request):
    """Returns the config with --batch, --mesh and --slices. Raises: ConfigError."""
    check_task(request.config)
    config = with_batch(fill_fields(request.config)[0], request.batch or request.config.batch_size)
    config.mesh.dcn = request.topology.slices
    for part in filter(None, request.mesh.split(",")):
        axis, _, size = part.partition(":")
        check_key(config, f"mesh.{axis}")
        try:
            config.mesh[axis] = int(size)
        except ValueError as error:
            raise ConfigError(f"--mesh={request.mesh}: {part!r} is not AXIS:SIZE, such as data:-1,fsdp:4") from error
    return config


def planned_run(request: Request, step: TracedStep, clips: int, source: str) -> plan_report.PlannedRun:
    """Describes the run over `clips` training clips that a step is part of; source: where their number comes from."""
    task = step.task
    return plan_report.PlannedRun(
        config=request.name,
        mesh=dict(task.mesh.shape),
        batch=step.config.batch_size,
        steps=task.schedule.total,
        clips=clips,
        clips_source=source,
        traced_flops=step.flops.total,
        model_flops=model_flops(step),
        hosts=len({device.process_index for device in step.devices}),
        decoders=decoders(request.config),
        read_together=clip_spec(step.config).clips,
    )


def too_large_lines(cost: ProgramCost | TooLarge, step: TracedStep, topology: Topology) -> list[str]:
    """Returns the lines of a step that does not fit, with its largest arrays.

    Where the compiler gave up before it allocated, they are those of the largest batch that it can allocate: half the batch, or less,
    is compiled until it does.
    """
    if isinstance(cost, ProgramCost):
        refusal = TooLarge(cost.memory.total, topology.chip.hbm, ())
        return plan_report.too_large_lines(refusal, cost.allocations, [], step.config)
    if cost.allocations:
        return plan_report.too_large_lines(cost, cost.allocations, ["largest allocations:"], step.config)
    unit = batch_unit(step.config, step.task.mesh)
    batch = step.config.batch_size
    fraction = min(0.5, cost.available / cost.used) if cost.used else 0.5  # the first guess; a refusal takes minutes
    while batch > unit:
        batch, fraction = max(unit, int(batch * fraction) // unit * unit), 0.5
        log_progress(f"too large; compiling a smaller batch of {batch} to see what fills the memory")
        smaller = compile_step(TracedStep(with_batch(step.config, batch), step.devices), topology)
        if isinstance(smaller, ProgramCost):
            size = plan_report.gib(smaller.memory.total)
            note = f"largest arrays at the peak of batch {batch}, which takes {size} per chip; they grow with the batch:"
            return plan_report.too_large_lines(cost, smaller.allocations, [note], step.config)
    note = "the smallest batch does not fit either, so the batch is not what makes it too large"
    return plan_report.too_large_lines(cost, (), [note], step.config)


def run_search(search: Search) -> tuple[list[str], list[dict]]:
    """Runs --search: (lines to print, its trials as data)."""
    best, config = search.run(), search.config
    lines = ["  search: the largest batch that fits, to within a tenth"]
    for trial in best:
        lines.append(
            f"    remat {trial.remat}: {trial.batch / len(search.devices):g} per chip, batch {trial.batch}, "
            f"{plan_report.gib(trial.fixed + trial.grows)}, {plan_report.si(trial.flops_per_clip, 'FLOP')} per clip as compiled"
        )
    least = cheapest(best, config.batch_size)
    if not best:
        lines.append("    the smallest batch does not fit either")
    elif least is not None:
        lines.append(f"    the cheapest policy under which batch {config.batch_size} fits: {least.remat}")
    return lines, [dataclasses.asdict(trial) for trial in search.trials]


def log_progress(line: str) -> None:
    """Prints a line on stderr, so that stdout is the plan alone."""
    print(line, file=sys.stderr)
