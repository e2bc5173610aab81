"""Parts of `cvmae.performance.gpu_check`: each runs commands of this package and yields rows of the table.

A part yields (measurement, result) as it gets them, so that the rows before a failure stay.
"""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping

from cvmae.performance.bench_report import describe_kernels
from cvmae.performance.bench_videos import H264, VideoSpec, write_videos
from cvmae.performance.gpus import GPUS
from cvmae.performance.plan_report import gib, si

Row = tuple[str, str]
# JAX's float32 products take TensorFloat-32 on GPUs, too coarse for the tests' tolerances.
TEST_ENVIRONMENT = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}


class PartError(Exception):
    """A command of a part failed or took too long; the message is one line."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Configs, batches and videos of the measurements.

    Attributes:
      config: --config of the training step, attention, the encoder and the loader.
      peer: --config of the comparison with PyTorch; peer_batch: its clips per step; compile_peer: True for torch.compile.
      dtype: config.dtype of all of them.
      trials: (clips per step, config.remat), the most promising first, as time may not be enough for all.
      steps: timed steps or rounds.
      attention_batch: clips of attention's kernels.
      videos: that the loader reads; copies: of each, so that the loader's clips are many.
      loader_batch: clips of a batch; workers: processes that decode them, 0 for one on each core.
      patience: times the seconds of every part.
      tests: arguments of pytest.
    """

    config: str = "configs/ssv2.py:variant=B/16"
    peer: str = "configs/k400.py:parent=videomae"
    dtype: str = "bfloat16"
    trials: tuple[tuple[int, str], ...] = ((64, "kernels"), (96, "kernels"), (32, "none"))
    steps: int = 10
    peer_batch: int = 32
    compile_peer: bool = True
    attention_batch: int = 32
    videos: VideoSpec = VideoSpec(count=8)
    copies: int = 16
    loader_batch: int = 64
    workers: int = 0
    patience: int = 1
    tests: tuple[str, ...] = ("-m", "device", "tests/models", "tests/performance")


FULL = Sizes()
# Minutes on two cores, for a test and for a look at the table.
SMALL = Sizes(
    config="configs/ssv2.py:parent=videomae,runlocal",
    peer="configs/k400.py:parent=videomae,runlocal",
    trials=((2, "none"),),
    steps=2,
    peer_batch=2,
    compile_peer=False,  # on CPUs it takes a C++ compiler, and minutes
    attention_batch=2,
    videos=VideoSpec(count=1, frames=40, height=64, width=64),
    copies=4,
    loader_batch=2,
    workers=1,
    patience=100,
    tests=("-m", "device", "-k", "overflow", "tests/models/test_attention.py"),
)


@dataclasses.dataclass
class Runner:
    """Runs commands until a moment.

    Attributes:
      sizes: what to measure.
      folder: for files in between.
      until: `time.monotonic()` at which a running command is ended.
      environment: variables of every command beside those of this process.
      data: the JSON of the present part's commands.
      best: (clips per step, remat, JSON) of the fastest training step; None before it ran.
      device: the kind of device that the commands saw; '' before.
    """

    sizes: Sizes
    folder: pathlib.Path
    until: float
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    data: list[dict] = dataclasses.field(default_factory=list)
    best: tuple[int, str, dict] | None = None
    device: str = ""

    def command(self, *words: str, accept: tuple[int, ...] = (0,), environment: Mapping[str, str] | None = None) -> str:
        """Runs a Python command, `-m MODULE ...`, and returns its stdout.

        Args:
          words: its arguments.
          accept: exit codes of success.
          environment: more variables.

        Raises:
          PartError: it ended with another code, or the time is over.
        """
        seconds = self.until - time.monotonic()
        if seconds <= 0:
            raise PartError("left out: no time remains")
        with subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, **self.environment, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that its worker processes end with it
        ) as process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise PartError(f"failed: not done after {seconds:.0f} s") from None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
        if process.returncode not in accept:
            raise PartError(f"failed: {_reason(out, err, process.returncode)}")
        return out

    def json(self, *words: str, accept: tuple[int, ...] = (0,), environment: Mapping[str, str] | None = None) -> dict:
        """Runs a command with `--json` and returns its data. Arguments and errors: see `command`."""
        file = self.folder / "part.json"
        file.unlink(missing_ok=True)
        self.command(*words, f"--json={file}", accept=accept, environment=environment)
        data = json.loads(file.read_text())
        self.data.append({"command": " ".join(("python", *words)), "result": data})
        self.device = data.get("devices", {}).get("kind", self.device)
        return data

    def bench(self, config: str, *words: str, environment: Mapping[str, str] | None = None) -> dict:
        """Runs `cvmae.bench` in the dtype of `sizes` and returns its data. Raises: PartError."""
        common = (f"--config={config}", f"--config.dtype={self.sizes.dtype}", f"--steps={self.sizes.steps}")
        return self.json("-m", "cvmae.bench", *common, *words, environment=environment)


def _reason(out: str, err: str, code: int) -> str:
    """Returns one line of what a command printed: its error, else its last."""
    lines = [line.strip() for line in (*err.splitlines(), *out.splitlines()) if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return f"exit code {code}: {(errors or lines or ['no output'])[-1][:200]}"


def tests(run: Runner) -> Iterator[Row]:
    """Runs the tests whose cases depend on the device."""
    if not pathlib.Path("tests").is_dir():
        raise PartError("left out: no folder tests here; start in the root of the repository")
    out = run.command("-m", "pytest", "-q", "-rs", *run.sizes.tests, environment=TEST_ENVIRONMENT)
    run.data.append({"output": out[-4000:]})
    yield "tests of what depends on the device", out.strip().splitlines()[-1].strip("= ")


def step(run: Runner) -> Iterator[Row]:
    """Times the training step at several batches."""
    for batch, remat in run.sizes.trials:
        name = f"training step, batch {batch}, remat={remat}"
        words = (f"--config.batch_size={batch}", f"--config.remat={remat}", *STEP_FIELDS, "--noloader")
        try:
            data = run.bench(run.sizes.config, *words)
        except PartError as error:
            yield name, str(error)
            continue
        rate, mfu = data["clips_per_second"], data["flops"]["model"] / data["step"]["median_wall"]
        share = f"MFU {100 * mfu / data['peak_flops']:.1f} %" if data["peak_flops"] else f"{si(mfu, 'FLOP/s')} of the model"
        yield (
            name,
            f"{1e3 * data['step']['median_wall']:.1f} ms, {rate:.1f} clips/s, {share}; compiled in {data['seconds']['compile']:.0f} s",
        )
        if run.best is None or rate > run.best[2]["clips_per_second"]:
            run.best = batch, remat, data
    if run.best is None:
        raise PartError("failed: the step ran at no batch")


# Blocks as a loop compile sooner. Synthetic clips need no worker processes, which take seconds to start.
STEP_FIELDS = ("--config.scan=True", "--config.data.workers=0", "--config.data.threads=4")


def plan(run: Runner) -> Iterator[Row]:
    """Compares the memory of the fastest step with what `cvmae.plan` says of it without the card."""
    if run.best is None:
        raise PartError("left out: no step ran that could be compared")
    batch, remat, data = run.best
    name = next((f"{name}:1" for name, gpu in GPUS.items() if gpu.device == run.device), "cpu:1" if run.device == "cpu" else "")
    if not name:
        raise PartError(f"left out: cvmae.plan has no {run.device}")
    words = (f"--topology={name}", f"--batch={batch}", "--clips=100000", f"--config.remat={remat}", *STEP_FIELDS)
    planned = run.json(
        "-m", "cvmae.plan", f"--config={run.sizes.config}", f"--config.dtype={run.sizes.dtype}", *words, accept=(0, 3)
    )
    memory, peak = data["memory"], data["memory"]["peak"]["device"]
    measured = f"{gib(peak)} at the peak" if peak else "not counted on this device"
    total = planned["memory"]["total"] if "memory" in planned else planned["used"]
    yield (
        f"memory of the step, batch {batch}, remat={remat}",
        f"planned {gib(total)}, compiled here {gib(memory['total'])}, {measured}",
    )
    if planned.get("estimate"):
        step_ms = 1e3 * planned["estimate"]["step"]
        yield "time of the same step", f"planned {step_ms:.1f} ms, measured {1e3 * data['step']['median_wall']:.1f} ms"


def peer(run: Runner) -> Iterator[Row]:
    """Times Hugging Face's VideoMAE in PyTorch in alternation with this package's."""
    compiled = run.sizes.compile_peer
    words = (f"--config.batch_size={run.sizes.peer_batch}", "--peer=hf", f"--{'' if compiled else 'no'}compile_peer")
    data = run.bench(
        run.sizes.peer, *words, environment={"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    )  # PyTorch needs some of the memory
    ours, other = data["ours"]["median_wall"], data["theirs"]["median_wall"]
    yield (
        f"VideoMAE's step, batch {data['batch']}, against transformers'{' with torch.compile' if compiled else ''}",
        f"{1e3 * ours:.1f} ms against {1e3 * other:.1f} ms, {1 / data['ratio_wall']:.2f} times as fast; "
        f"losses {data['losses'][0]:.4f} and {data['losses'][1]:.4f}",
    )


def attention(run: Runner) -> Iterator[Row]:
    """Times attention's kernels at the shapes of the training step."""
    data = run.bench(run.sizes.config, f"--config.batch_size={run.sizes.attention_batch}", "--attention")
    for shape in data["shapes"]:
        name, times, failures = describe_kernels(shape)
        yield f"attention, {data['batch']} clips, {name}", "; ".join([times, *failures, f"the step takes {shape['taken']}"])


def latency(run: Runner) -> Iterator[Row]:
    """Times the encoder on single clips."""
    for row in run.bench(run.sizes.config, "--latency")["frames"]:
        milliseconds = 1e3 * row["times"]["median_wall"]
        yield f"encoder, one clip of {row['frames']} frames, {row['tokens']} tokens", f"{milliseconds:.2f} ms"


def loader(run: Runner) -> Iterator[Row]:
    """Times the loader from H.264 files with worker processes."""
    workers, folder = run.sizes.workers or len(os.sched_getaffinity(0)), run.folder / "videos"
    folder.mkdir()
    paths = write_videos(folder, H264, run.sizes.videos)["mp4"]
    with open(folder / "manifest.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label", "split"))
        for copy in range(run.sizes.copies):
            for path in paths:
                rows.writerow((shutil.copy(path, path.with_stem(f"{path.stem}-{copy}")), 0, "train"))
    fields = {"source": "files", "manifest": folder / "manifest.csv", "workers": workers, "max_bad_fraction": 0.0}
    words = [f"--config.data.{name}={value}" for name, value in fields.items()]
    data = run.bench(run.sizes.config, *words, f"--config.batch_size={run.sizes.loader_batch}", "--loader_only")["loader"]
    video = run.sizes.videos
    yield (
        f"loader, {video.width}x{video.height} H.264, gop 12, worker processes: {workers}",
        f"{data['clips_per_second']:.1f} clips/s; a bare loop over the decoder with as many threads: {data['bare_clips_per_second']:.1f}",
    )


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the check.

    Attributes:
      measure: yields its rows.
      seconds: that it may take at most.
    """

    measure: Callable[[Runner], Iterator[Row]]
    seconds: int


# In the order of their worth, as the last may find no time: what a part leaves of its seconds is for the others.
PARTS = {
    "tests": Part(tests, 70),
    "step": Part(step, 180),
    "peer": Part(peer, 120),
    "attention": Part(attention, 50),
    "latency": Part(latency, 50),
    "loader": Part(loader, 50),
    "plan": Part(plan, 90),
}
