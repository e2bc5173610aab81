"""The command that times the training step of a config on the devices that are here, and the loader alone:

    python -m cvmae.bench --config=configs/demo.py [--steps=20] [--json=FILE] [--profile]
    python -m cvmae.bench --config=configs/k400.py:parent=videomae --config.batch_size=2 --config.dtype=float32 --peer=hf

MFU is the model's operations over what the devices could do in the time of a step:

    MFU = model_flops / (median step seconds * devices * peak)

`model_flops` counts two operations for every multiplication with its addition in the matrix products of forward and backward
pass, from their shapes, with plain attention and nothing computed twice; elementwise work is left out. Beside it stand the operations
of the program as it was traced and as it was compiled, which include what is computed again. `peak` is the vendor's for dense bfloat16
products, or --peak_tflops; of CPUs none is published, so their MFU is only given with that flag.

`--peer=hf` also runs Hugging Face's VideoMAE in PyTorch: the same clips, masks, weights and precision, forward, backward and
AdamW, in turn with ours; --compile_peer runs it through torch.compile. PyTorch's threads wait by spinning, which costs it dearly on a machine that does other work too: run it
there behind `OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0`, or with one thread each, behind `taskset -c 0`.

Where a config's data is not here, clips are synthetic, and the loader is theirs.

Exit codes: 0 done; 1 the data cannot be read; 2 the command or config is wrong.
"""

import pathlib
import sys

import jax
from absl import app, flags, logging

from cvmae import cli
from cvmae.cli import FLAGS, config_path, define_json, fail, refuse_arguments
from cvmae.cli import parse as parse_config
from cvmae.config import ConfigError
from cvmae.data.bad_files import BadDataError
from cvmae.files import write_json
from cvmae.performance import bench_report, measurements

EXAMPLE = "python -m cvmae.bench --config=configs/demo.py"
flags.adopt_module_key_flags(cli)
define_json()
flags.DEFINE_integer("steps", 20, "Steps to time.", lower_bound=2)
flags.DEFINE_integer("warmup", 2, "Steps before them.", lower_bound=1)
flags.DEFINE_integer("loader_batches", 8, "Batches of the loader in each of its three rounds; 0 leaves it out.", lower_bound=0)
flags.DEFINE_float("peak_tflops", 0.0, "Peak of one device for MFU, where the table has none.", lower_bound=0.0)
flags.DEFINE_enum("peer", "", ("", "hf"), "Also run this implementation, in turn with ours.")
flags.DEFINE_integer("threads", 0, "Threads of the peer on CPU; 0: one per core.", lower_bound=0)
flags.DEFINE_bool("compile_peer", False, "Compile the peer by torch.compile, as its users do on GPUs.")
flags.DEFINE_bool("loader_only", False, "Time nothing but the loader.")
flags.DEFINE_bool("profile", False, "Also print where the time of the step goes.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line."""
    return parse_config(argv, EXAMPLE)


def measure() -> tuple[list[str], dict]:
    """Lines to print, and everything as data. Raises: ConfigError, BadDataError."""
    peak = FLAGS.peak_tflops * 1e12
    timed = (FLAGS.steps, FLAGS.warmup, FLAGS.loader_batches, peak)
    options = measurements.Options(*timed, FLAGS.threads, FLAGS.compile_peer, FLAGS.profile)
    if FLAGS.peer:
        return measurements.against_peer(FLAGS.config, options)
    if FLAGS.loader_only:
        return measurements.loader_alone(FLAGS.config, options)
    return measurements.alone(FLAGS.config, options)


def main(argv: list[str]) -> None:
    """Hands the flags over."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    try:
        lines, data = measure()
    except ConfigError as error:
        fail(error, 2)
    except BadDataError as error:
        fail(error, 1)
    print(f"{config_path()} on {jax.device_count()} {jax.devices()[0].device_kind}", *lines, sep="\n")
    if FLAGS.json:
        write_json(pathlib.Path(FLAGS.json), {"config": config_path(), "devices": bench_report.devices()} | data)
    sys.exit(0)


def cli() -> None:
    """Runs the command, `cvmae-bench`."""
    app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
