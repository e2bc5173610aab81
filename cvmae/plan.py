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

from absl import app, flags, logging

import cvmae.cli
from cvmae.cli import FLAGS, check_json, config_path, define_json, fail, print_help, refuse_arguments, write_numbers
from cvmae.cli import parse as parse_config
from cvmae.config import ConfigError
from cvmae.parallel import signals
from cvmae.performance.chips import EXAMPLES, GIB, Topology, parse_topology

EXAMPLE = "python -m cvmae.plan --config=configs/ssv2.py:variant=B/16 --topology=v5e:4x4"
define_json()
flags.adopt_module_key_flags(cvmae.cli)
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


def make_plan() -> int:
    """Compiles, prints the plan, and returns the exit code. Raises: ConfigError."""
    check_json()
    topology = topology_from_flags()
    from cvmae.performance.planning import Request, print_plan  # JAX's import takes seconds, which --help and errors need not

    data = print_plan(
        Request(
            name=config_path(),
            config=FLAGS.config,
            topology=topology,
            mesh=FLAGS.mesh,
            batch=FLAGS.batch,
            clips=FLAGS.clips,
            search=FLAGS.search,
        )
    )
    write_numbers(data)
    return 0 if data["fits"] else 3


def main(argv: list[str]) -> None:
    """Runs the command and exits."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    try:
        code = make_plan()
    except ConfigError as error:
        fail(error, 2)
    sys.exit(code)


def cli() -> None:
    """Runs the command, `cvmae-plan`."""
    with signals.ending("a plan keeps nothing"):
        app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
