"""Command that measures one GPU in a limited time, and writes a table: what `launch/gpu_check.sh` runs after the installation.

    python -m cvmae.performance.gpu_check [--seconds=480] [--out=gpu_check] [--parts=step,peer] [--small]

Parts: the tests that need the device, the training step at several batches, Hugging Face's VideoMAE under torch.compile, attention's
kernels, the encoder's latency, the loader, and the plan's memory. Each is a command of this package in a process of its own, with a time
of its own; the line of a part that fails says why, and the others run. OUT/gpu_check.json and OUT/gpu_check.md are written after each part.

JAX_PLATFORMS is cuda where the environment sets none, so that nothing runs on the CPU unnoticed; --small with JAX_PLATFORMS=cpu tries the
command without a GPU.

Exit codes: 0 every part was measured; 1 a part failed or found no time, and its line says so; 2 the command is wrong; 130 stopped by Ctrl-C,
143 by SIGTERM.
"""

import contextlib
import dataclasses
import datetime
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from absl import app, flags

from cvmae.cli import check_folder, fail, parse_own, refuse_arguments
from cvmae.config import ConfigError, nearest
from cvmae.files import write_json
from cvmae.parallel import signals
from cvmae.performance.gpu_parts import FULL, PARTS, SMALL, Part, PartError, Row, Runner, Sizes

FLAGS = flags.FlagValues()
flags.DEFINE_integer("seconds", 480, "Seconds for all parts together.", lower_bound=1, flag_values=FLAGS)
flags.DEFINE_string("out", "gpu_check", "Folder of the results.", flag_values=FLAGS)
flags.DEFINE_list("parts", list(PARTS), f"Parts to measure, in this order, of {', '.join(PARTS)}.", flag_values=FLAGS)
flags.DEFINE_bool("small", False, "Tiny models and videos, to try the command on a CPU.", flag_values=FLAGS)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of a part.

    Attributes:
      rows: of the table.
      seconds: that it took.
      failed: True where it is not complete.
      data: of its commands.
    """

    rows: list[Row]
    seconds: float
    failed: bool
    data: list[dict]


def run_part(name: str, part: Part, run: Runner, end: float) -> Outcome:
    """Runs a part until its own time is over, or all time is, at `end` of `time.monotonic()`."""
    begin = time.monotonic()
    run.until, run.data = min(begin + run.sizes.patience * part.seconds, end), []
    rows: list[Row] = []
    failed = False
    try:
        for row in part.measure(run):
            rows.append(row)
    except PartError as error:
        failed = True
        rows.append((name, str(error)))
    except Exception as error:  # a part that breaks must not take the others along
        failed = True
        rows.append((name, f"failed: {type(error).__name__}: {str(error).partition(chr(10))[0]}"))
    return Outcome(rows, time.monotonic() - begin, failed, run.data)


def environment() -> dict[str, str]:
    """Returns what a table needs to be compared: GPU and driver as nvidia-smi gives them, versions, date."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip() if shutil.which(query[0]) else ""
    return {"gpu": gpu.replace("\n", "; "), "date": datetime.datetime.now(datetime.UTC).date().isoformat()}


def markdown(outcomes: dict[str, Outcome], about: dict[str, str], command: str) -> str:
    """Returns the table, with what it was made by and on."""
    lines = [f"    {command}", "", ", ".join(filter(None, about.values())) + ".", "", "| measurement | result |", "|---|---|"]
    for outcome in outcomes.values():
        lines += [f"| {name} | {result.replace('|', '/')} |" for name, result in outcome.rows]
    seconds = ", ".join(f"{name} {outcome.seconds:.0f} s" for name, outcome in outcomes.items())
    return "\n".join([*lines, "", f"Time: {seconds}.", ""])


def check(names: Sequence[str], sizes: Sizes, seconds: float, out: pathlib.Path, command: str) -> dict[str, Outcome]:
    """Runs parts and writes their results into `out` after each: gpu_check.json and gpu_check.md.

    Args:
      names: of PARTS.
      sizes: what to measure.
      seconds: for all parts together.
      out: folder, made if it is not there.
      command: for the table.
    """
    out.mkdir(parents=True, exist_ok=True)
    end, about = time.monotonic() + seconds, environment()
    outcomes: dict[str, Outcome] = {}
    with tempfile.TemporaryDirectory() as folder:
        platform = os.environ.get("JAX_PLATFORMS") or "cuda"
        run = Runner(sizes, pathlib.Path(folder), end, {"JAX_PLATFORMS": platform})
        for name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            outcomes[name] = run_part(name, PARTS[name], run, end)
            about["device"] = run.device
            write_json(out / "gpu_check.json", about | {"parts": {k: dataclasses.asdict(o) for k, o in outcomes.items()}})
            (out / "gpu_check.md").write_text(markdown(outcomes, about, command), encoding="utf-8")
    return outcomes


def main(argv: list[str]) -> None:
    """Runs the command and exits."""
    refuse_arguments(argv)
    unknown = [name for name in FLAGS.parts if name not in PARTS]
    if unknown:
        fail(ConfigError(f"--parts={unknown[0]}: {nearest(unknown[0], PARTS)}"), 2)
    if not FLAGS.parts:
        fail(ConfigError(f"--parts is empty: give some of {', '.join(PARTS)}"), 2)
    command = shlex.join(["python", "-m", "cvmae.performance.gpu_check", *sys.argv[1:]])
    out = pathlib.Path(FLAGS.out)
    try:
        with contextlib.suppress(OSError):  # which the check of the folder explains
            out.mkdir(parents=True, exist_ok=True)
        check_folder(out, f"--out={FLAGS.out}")
        outcomes = check(FLAGS.parts, SMALL if FLAGS.small else FULL, FLAGS.seconds, out, command)
    except ConfigError as error:
        fail(error, 2)
    except KeyboardInterrupt:
        fail(f"interrupted; {out} has the parts that had ended", 130)
    print((out / "gpu_check.md").read_text(encoding="utf-8"))
    sys.exit(int(any(outcome.failed for outcome in outcomes.values())))


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; --help explains the command."""
    try:
        return parse_own(argv, FLAGS, __doc__, local=("out",))
    except (flags.Error, ConfigError) as error:
        fail(error, 2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signals.raising(lambda: SystemExit(128 + signal.SIGTERM)))  # ends the running command
    app.run(main, flags_parser=parse)
