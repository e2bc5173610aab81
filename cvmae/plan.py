"""Command that compiles a training step for chips that are not here, and prints whether it fits in their memory and what it costs:

    python -m cvmae.plan --config=configs/ssv2.py:variant=B/16 --topology=v5e:4x4 [--mesh=data:-1,fsdp:4] [--batch=N] [--search]

TPU topologies (v4, v5e, v5p, v6e) need the TPU compiler, libtpu, which comes with the extra `plan`, and no TPU. GPUs (a100-80, h100,
h200, b200, l4, as in h100:8) need NVIDIA's compiler and libraries, which come with the extra `plan-gpu`, and no driver; the extra
`gpu-compiler` has the compiler alone, for --config.attention=xla. cpu:N needs nothing.
The program is the one that `cvmae.main` runs on these chips. Times are estimates from published peaks, not measurements.

Exit codes: 0 the program fits; 1 writing the file of --json failed; 2 the command or config is wrong, or --json names no file that can be
written; 3 the program does not fit; 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import dataclasses
import sys

import jax
from absl import app, flags, logging

import cvmae.cli
from cvmae.cli import FLAGS, check_json, config_path, define_json, fail, print_help, refuse_arguments, write_numbers
from cvmae.cli import parse as parse_config
from cvmae.config import ConfigError, check_key
from cvmae.data.pipeline import clip_spec
from cvmae.parallel import signals
from cvmae.performance import plan_report
from cvmae.performance.chips import EXAMPLES, GIB, Topology, devices_of, parse_topology
from cvmae.performance.compile import ProgramCost, compile_step
from cvmae.performance.oom import TooLarge
from cvmae.performance.search import Search, cheapest, fits_in_memory, with_batch
from cvmae.performance.traced_step import TracedStep, check_task, decoders, model_flops, training_clips
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.validate import batch_unit

EXAMPLE = "python -m cvmae.plan --config=configs/ssv2.py:variant=B/16 --topology=v5e:4x4"
KEEPS = "a plan keeps nothing"  # where it is interrupted
flags.adopt_module_key_flags(cvmae.cli)
define_json()
flags.DEFINE_string("topology", None, f"Chips to compile for: {EXAMPLES}.")
flags.DEFINE_integer(
    "slices",
    1,
    "Number of slices of that topology, or of hosts with its GPUs, connected by the data center network.",
    lower_bound=1,
)
flags.DEFINE_string("mesh", "", "Sizes of config.mesh, such as data:-1,fsdp:4; -1 takes all devices that the other axes leave.")
flags.DEFINE_integer("batch", 0, "Global batch size; 0 takes config.batch_size.", lower_bound=0)
flags.DEFINE_integer(
    "clips", 0, "Training clips; 0 counts those of the data, or takes the number published for config.data.name.", lower_bound=0
)
flags.DEFINE_float("hbm_gib", 0.0, "Memory of a chip in GiB; 0 takes the published number.", lower_bound=0.0)
flags.DEFINE_bool(
    "search", False, "Also search for the largest batch, and the config.remat with the least recomputation, that fit."
)


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; --help explains the command."""
    print_help(argv, __doc__, __name__)
    rest = parse_config(argv, EXAMPLE)
    if not FLAGS.topology:
        fail(ConfigError(f"--topology is missing: {EXAMPLE}"), 2)
    return rest


def topology_from_flags() -> Topology:
    """Returns the topology of --topology, --slices and --hbm_gib. Raises: ConfigError."""
    topology = parse_topology(FLAGS.topology, FLAGS.slices)
    if not FLAGS.hbm_gib:
        return topology
    return dataclasses.replace(
        topology, chip=dataclasses.replace(topology.chip, hbm=round(FLAGS.hbm_gib * GIB)), memory_given=True
    )


def config_from_flags():
    """Returns the config with --batch, --mesh and --slices. Raises: ConfigError."""
    check_task(FLAGS.config)
    config = with_batch(fill_fields(FLAGS.config)[0], FLAGS.batch or FLAGS.config.batch_size)
    config.mesh.dcn = FLAGS.slices
    for part in filter(None, FLAGS.mesh.split(",")):
        axis, _, size = part.partition(":")
        check_key(config, f"mesh.{axis}")
        try:
            config.mesh[axis] = int(size)
        except ValueError as error:
            raise ConfigError(f"--mesh={FLAGS.mesh}: {part!r} is not AXIS:SIZE, such as data:-1,fsdp:4") from error
    return config


def planned_run(step: TracedStep, clips: int, source: str) -> plan_report.PlannedRun:
    """Describes the run over `clips` training clips that a step is part of; source: where their number comes from."""
    task = step.task
    return plan_report.PlannedRun(
        config=config_path(),
        mesh=dict(task.mesh.shape),
        batch=step.config.batch_size,
        steps=task.schedule.total,
        clips=clips,
        clips_source=source,
        traced_flops=step.flops.total,
        model_flops=model_flops(step),
        hosts=len({device.process_index for device in step.devices}),
        decoders=decoders(FLAGS.config),
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


def make_plan() -> int:
    """Compiles, prints the plan, and returns the exit code. Raises: ConfigError."""
    check_json()
    topology = topology_from_flags()
    jax.config.update("jax_platforms", "cpu")  # nothing runs here, so an accelerator stays free for others
    config, devices = config_from_flags(), devices_of(topology)
    search = Search(config, topology, devices, log_progress) if FLAGS.search else None
    clips, source = training_clips(config, FLAGS.clips)
    step = TracedStep.of_run(config, devices, clips)
    run = planned_run(step, clips, source)
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
    write_numbers(data)
    return 0 if fits else 3


def main(argv: list[str]) -> None:
    """Runs the command and exits."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    try:
        code = make_plan()
    except ConfigError as error:
        fail(error, 2)
    except KeyboardInterrupt:
        fail(f"interrupted; {KEEPS}", 130, leave=signals.leave_now)
    sys.exit(code)


def cli() -> None:
    """Runs the command, `cvmae-plan`."""
    signals.leave_at_signals(KEEPS)
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
