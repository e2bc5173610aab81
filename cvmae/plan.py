"""The command that compiles a training step for chips that one does not have, and says whether it fits and what it costs:

    python -m cvmae.plan --config=configs/ssv2.py:variant=B/16 --topology=v5e:4x4 [--mesh=data:-1,fsdp:4] [--batch=N] [--search]

TPU topologies (v4, v5e, v5p, v6e) need libtpu, the extra `plan`, and no TPU; cpu:N needs nothing. It is the program that
`cvmae.main` would run there, made by the same compiler; times are estimates from published peaks.

Exit codes: 0 it fits; 2 the command or config is wrong; 3 it does not fit.
"""

import dataclasses
import pathlib
import sys

import jax
from absl import app, flags, logging

from cvmae import cli
from cvmae.cli import FLAGS, config_path, define_json, fail, refuse_arguments
from cvmae.cli import parse as parse_config
from cvmae.config import ConfigError, check_key
from cvmae.files import write_json
from cvmae.performance import plan_report
from cvmae.performance.chips import EXAMPLES, GIB, Topology, devices_of, parse_topology
from cvmae.performance.compile import Compiled, compile_step
from cvmae.performance.oom import TooLarge
from cvmae.performance.search import Search, cheapest, with_batch, within
from cvmae.performance.traced_step import Step, check_task, model_flops, training_clips
from cvmae.tasks.validate import batch_unit

EXAMPLE = "python -m cvmae.plan --config=configs/ssv2.py:variant=B/16 --topology=v5e:4x4"
flags.adopt_module_key_flags(cli)
define_json()
flags.DEFINE_string("topology", None, f"Chips to compile for, such as {EXAMPLES}.")
flags.DEFINE_integer("slices", 1, "Slices of that topology, joined by the data center's network.", lower_bound=1)
flags.DEFINE_string("mesh", "", "Sizes of config.mesh, such as data:-1,fsdp:4; -1 fills up.")
flags.DEFINE_integer("batch", 0, "Global batch; 0: the config's.", lower_bound=0)
flags.DEFINE_integer("clips", 0, "Training clips; 0: those of the data, or the number that its authors publish.", lower_bound=0)
flags.DEFINE_float("hbm_gib", 0.0, "Memory of a chip in GiB, where it is not the published one.", lower_bound=0.0)
flags.DEFINE_bool("search", False, "Look for the largest batch, and the cheapest config.remat, that fit.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line."""
    rest = parse_config(argv, EXAMPLE)
    if not FLAGS.topology:
        fail(ConfigError(f"--topology is missing: {EXAMPLE}"), 2)
    return rest


def chosen_topology() -> Topology:
    """The topology that the flags name. Raises: ConfigError."""
    topology = parse_topology(FLAGS.topology, FLAGS.slices)
    if not FLAGS.hbm_gib:
        return topology
    return dataclasses.replace(topology, chip=dataclasses.replace(topology.chip, hbm=round(FLAGS.hbm_gib * GIB)))


def chosen_config():
    """The config with --batch and --mesh. Raises: ConfigError."""
    check_task(FLAGS.config)
    config = with_batch(FLAGS.config, FLAGS.batch or FLAGS.config.batch_size)
    config.mesh.dcn = FLAGS.slices
    for part in filter(None, FLAGS.mesh.split(",")):
        axis, _, size = part.partition(":")
        check_key(config, f"mesh.{axis}")
        try:
            config.mesh[axis] = int(size)
        except ValueError as error:
            raise ConfigError(f"--mesh={FLAGS.mesh}: {part!r} is not AXIS:SIZE, such as data:-1,fsdp:4") from error
    return config


def run_of(step: Step, devices, clips: int, source: str) -> plan_report.Run:
    """What the step is part of."""
    task = step.task
    return plan_report.Run(
        config=config_path(),
        mesh=dict(task.mesh.shape),
        batch=step.config.batch_size,
        steps=task.schedule.total,
        clips=clips,
        clips_source=source,
        traced_flops=step.count.flops,
        model_flops=model_flops(step, devices),
    )


def explain(found, step: Step, topology: Topology, devices) -> list[str]:
    """The lines for what does not fit; where the compiler gave up before it allocated, arrays of a batch that it can place."""
    if isinstance(found, Compiled):
        return plan_report.too_large(TooLarge(found.memory.total, topology.chip.hbm, ()), found.allocations, [], step.config)
    if found.allocations:
        return plan_report.too_large(found, found.allocations, ["largest allocations:"], step.config)
    unit = batch_unit(step.config, step.task.mesh)
    batch = step.config.batch_size
    share = min(0.5, found.available / found.used) if found.used else 0.5  # the first guess; a refusal takes minutes
    while batch > unit:
        batch, share = max(unit, int(batch * share) // unit * unit), 0.5
        say(f"too large; looking where the memory goes with a smaller batch of {batch}")
        smaller = compile_step(Step(with_batch(step.config, batch), devices), topology)
        if isinstance(smaller, Compiled):
            size = plan_report.gib(smaller.memory.total)
            note = f"largest arrays at the peak of batch {batch}, which takes {size} a chip; they grow with it:"
            return plan_report.too_large(found, smaller.allocations, [note], step.config)
    return plan_report.too_large(
        found, (), ["not even the smallest batch fits, so what is too large does not depend on it"], step.config
    )


def search(looking: Search) -> tuple[list[str], list[dict]]:
    """The lines of --search, and its trials as data."""
    found, config = looking.run(), looking.config
    lines = ["  search: the largest batch that fits, within a tenth"]
    for trial in found:
        lines.append(
            f"    remat {trial.remat}: {trial.batch / len(looking.devices):g} a chip, batch {trial.batch}, "
            f"{plan_report.gib(trial.fixed + trial.grows)}, {plan_report.si(trial.flops_per_clip, 'FLOP')} a clip as compiled"
        )
    least = cheapest(found, config.batch_size)
    if not found:
        lines.append("    not even the smallest batch fits")
    elif least is not None:
        lines.append(f"    the cheapest policy under which batch {config.batch_size} fits: {least.remat}")
    return lines, [dataclasses.asdict(trial) for trial in looking.trials]


def say(line: str) -> None:
    """Progress, where it is in nobody's way."""
    print(line, file=sys.stderr)


def make_plan() -> int:
    """Compiles, prints, and gives the exit code. Raises: ConfigError."""
    topology = chosen_topology()
    jax.config.update("jax_platforms", "cpu")  # nothing runs here, and nobody's accelerator is taken
    config, devices = chosen_config(), devices_of(topology)
    looking = Search(config, topology, devices, say) if FLAGS.search else None
    clips, source = training_clips(config, FLAGS.clips)
    step = Step.of_run(config, devices, clips)
    run = run_of(step, devices, clips, source)
    print(*plan_report.header(run, topology), sep="\n", flush=True)
    found = compile_step(step, topology)
    fits = isinstance(found, Compiled) and within(found, topology)
    lines = plan_report.fitting(found, run, topology) if fits else explain(found, step, topology, devices)
    data = plan_report.as_data(found, run, topology) | {"fits": fits}
    print(*lines, sep="\n", flush=True)
    if looking:
        more, data["trials"] = search(looking)
        print(*more, sep="\n")
    if FLAGS.json:
        write_json(pathlib.Path(FLAGS.json), data)
    return 0 if fits else 3


def main(argv: list[str]) -> None:
    """Hands the flags over."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    try:
        code = make_plan()
    except ConfigError as error:
        fail(error, 2)
    sys.exit(code)


def cli() -> None:
    """Runs the command, `cvmae-plan`."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
