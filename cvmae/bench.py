"""Command that times the training step of a config on the devices of this machine, and its data loader:

    python -m cvmae.bench --config=configs/demo.py [--steps=20] [--json=FILE] [--profile]
    python -m cvmae.bench --config=configs/k400.py:parent=videomae --config.batch_size=2 --config.dtype=float32 --peer=hf
    python -m cvmae.bench --config=configs/k400.py --decode | --attention | --latency | --encoder | --loader_only

MFU (model FLOP utilization) is the operations of the model over those that the devices could do in the time of a step:

    MFU = model_flops / (median step seconds * devices * peak)

`model_flops` counts two operations for each multiplication with its addition in the matrix products of the step, from their shapes, with
plain attention and without recomputation: the forward and the backward pass, and the resizing of crops to views, which is 1.3 % of
ViT-B's with one view. Elementwise work is left out. The operations of the program as traced and as compiled are printed too; they include
recomputation. `peak` is the vendor's number for dense bfloat16 products, or --peak_tflops. None is published for CPUs, so they have an MFU
only with that flag.

`--peer=hf` compares with Hugging Face's VideoMAE in PyTorch: the same clips, masks, weights and precision; forward pass, backward
pass and AdamW, in alternation with this package's. --compile_peer runs it through torch.compile. PyTorch's threads wait by spinning,
which slows it down a lot on a machine that is busy: there run the command behind `OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0`, or with
one thread each behind `taskset -c 0`.

`--decode` encodes videos (H.264 with two distances of keyframes, VP9, HEVC; .mp4 and .mkv), compares the frames of each library that is
here (torchcodec and decord come with the extra `decoders`) with a full decode, and times them on the same clips with one thread each.
`--attention` times attention's kernels at the shapes of the step, `--latency` the encoder on one clip of 1, 2 and 4 times the frames.
`--encoder` times the encoder on one clip of 16 to 1,024 frames, one length after the other, and counts the memory of each program.

Where a config names no data, clips are synthetic, and so is what the loader reads.

Exit codes: 0 success; 1 the data cannot be read, or writing the file of --json failed; 2 the command or config is wrong, or --json names
no file that can be written; 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

import sys

from absl import app, flags, logging

import cvmae.cli
from cvmae.cli import FLAGS, check_json, config_path, define_json, fail, print_help, refuse_arguments, write_numbers
from cvmae.cli import parse as parse_config
from cvmae.config import ConfigError
from cvmae.data.bad_files import BadDataError
from cvmae.parallel import signals

EXAMPLE = "python -m cvmae.bench --config=configs/demo.py"
GRACE_S = 5.0  # for worker processes to end and temporary videos to be removed
define_json()
flags.adopt_module_key_flags(cvmae.cli)
flags.DEFINE_integer(
    "steps", 20, "Number of steps, or rounds, to time; with --loader_only batches per round, see --loader_batches.", lower_bound=2
)
flags.DEFINE_integer("warmup", 2, "Number of steps before them, which are not timed.", lower_bound=1)
flags.DEFINE_integer(
    "loader_batches",
    8,
    "Batches per round, of three rounds of the loader by itself; 0 leaves them out. With --loader_only, --steps says the same.",
    lower_bound=0,
)
flags.DEFINE_bool("loader", True, "Also time steps with the loader, and the loader by itself; --noloader leaves both out.")
flags.DEFINE_float("peak_tflops", 0.0, "Peak of one device for MFU, in TFLOP/s; 0 takes the published number.", lower_bound=0.0)
flags.DEFINE_enum("peer", "", ("", "hf"), "Compare with this implementation: hf is Hugging Face's VideoMAE in PyTorch.")
flags.DEFINE_integer("threads", 0, "PyTorch's threads on CPU, for --peer; 0 is one per core.", lower_bound=0)
flags.DEFINE_bool("compile_peer", False, "Run --peer through torch.compile, as is usual on GPUs.")
flags.DEFINE_bool("loader_only", False, "Time the loader only.")
flags.DEFINE_bool("decode", False, "Time decoding only, against other libraries; --steps rounds.")
flags.DEFINE_bool("attention", False, "Time attention's kernels only, at the shapes of the training step.")
flags.DEFINE_bool("latency", False, "Time the video encoder only, on single clips of several lengths.")
flags.DEFINE_bool("encoder", False, "Time the video encoder only and count its memory, on single clips of --encoder_frames.")
flags.DEFINE_list(
    "encoder_frames", ["16", "32", "64", "128", "256", "512", "1024"], "Numbers of frames of a clip, for --encoder."
)
flags.DEFINE_bool("profile", False, "Also print the time of the step by kind of operation and by part of the model.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; --help explains the command."""
    print_help(argv, __doc__, __name__)
    return parse_config(argv, EXAMPLE)


def _numbers(words: list[str]) -> tuple[int, ...]:
    """Returns numbers of frames. Raises: ConfigError, a word is no whole number above 0."""
    if bad := [word for word in words if not word.isdecimal() or int(word) < 1] or ([] if words else [""]):
        raise ConfigError(f"--encoder_frames has {bad[0]!r}: expected whole numbers above 0, such as 16,32,64")
    return tuple(map(int, words))


# The flags that each measurement reads, by the flag that asks for it; none asks for the training step.
READS = {
    "": ("steps", "warmup", "loader", "loader_batches", "peak_tflops", "profile"),
    "peer": ("steps", "warmup", "threads", "compile_peer", "profile"),
    "loader_only": ("steps", "loader_batches"),
    "decode": ("steps",),
    "attention": ("steps", "warmup"),
    "latency": ("steps", "warmup"),
    "encoder": ("steps", "warmup", "encoder_frames"),
}


def chosen_measurement() -> str:
    """Returns the flag of the measurement that the command line asks for. Raises: ConfigError, for two, or for a flag that it does not read."""
    chosen = [name for name in READS if name and FLAGS[name].value]
    if len(chosen) > 1:
        raise ConfigError(f"--{chosen[0]} and --{chosen[1]} are two measurements: run the command once for each")
    [name] = chosen or [""]
    reads = READS[name]
    for other in sorted({flag for read in READS.values() for flag in read} - set(reads)):
        if FLAGS[other].present and FLAGS[other].value != FLAGS[other].default:
            measurement = f"--{name}" if name else "the training step"
            raise ConfigError(
                f"--{other} is not read by {measurement}, which reads {', '.join(f'--{flag}' for flag in reads)}: leave it out"
            )
    return name


def loader_batches(loader_only: bool) -> int:
    """Returns the batches per round of the loader by itself. Raises: ConfigError, two flags say it, or there would be none."""
    if not loader_only:
        return FLAGS.loader_batches
    if FLAGS["steps"].present and FLAGS["loader_batches"].present:
        raise ConfigError("--steps and --loader_batches are both the batches per round of --loader_only: give one of them")
    batches = FLAGS.steps if FLAGS["steps"].present else FLAGS.loader_batches
    if not batches:
        raise ConfigError("--loader_batches=0 with --loader_only leaves nothing to measure: give 1 or more")
    return batches


def measure() -> None:
    """Measures what the flags ask for, prints it, and writes the file of --json. Raises: ConfigError, BadDataError."""
    check_json()
    name = chosen_measurement()
    batches, encoder_frames = loader_batches(name == "loader_only"), _numbers(FLAGS.encoder_frames)
    from cvmae.performance import measurements  # JAX's import takes seconds, which --help and errors need not

    options = measurements.Options(
        steps=FLAGS.steps,
        warmup=FLAGS.warmup,
        loader=FLAGS.loader,
        loader_batches=batches,
        peak=FLAGS.peak_tflops * 1e12,
        threads=FLAGS.threads,
        compile_peer=FLAGS.compile_peer,
        profile=FLAGS.profile,
        encoder_frames=encoder_frames,
    )
    lines, data = measurements.measure(name, FLAGS.config, options)
    print(f"{config_path()} on {data['devices']['count']} {data['devices']['kind']}", *lines, sep="\n")
    write_numbers({"config": config_path()} | data)


def main(argv: list[str]) -> None:
    """Runs the command and exits."""
    refuse_arguments(argv)
    logging.set_verbosity(logging.WARNING)
    try:
        measure()
    except ConfigError as error:
        fail(error, 2)
    except BadDataError as error:
        fail(error, 1)
    sys.exit(0)


def cli() -> None:
    """Runs the command, `cvmae-bench`."""
    with signals.ending("a measurement keeps nothing", grace_s=GRACE_S):
        app.run(main, flags_parser=parse)


if __name__ == "__main__":
    cli()
