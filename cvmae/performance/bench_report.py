"""The results of `cvmae.bench` as lines to print and as data for --json."""

import jax

from cvmae.performance.bench_huggingface import Comparison
from cvmae.performance.bench_loader import LoaderTimes
from cvmae.performance.plan_report import gib, si
from cvmae.performance.timing import ratio


def device_data() -> dict:
    """Returns the devices and the version of JAX that a measurement ran on."""
    return {"count": jax.device_count(), "kind": jax.devices()[0].device_kind, "jax": jax.__version__}


def note_lines(note: str) -> list[str]:
    """Returns the line of a note; none where it is empty."""
    return [f"  note: {note}"] if note else []


def training_lines(data: dict) -> list[str]:
    """Returns the lines for the data of `measurements.measure_training`."""
    step, flops, loader = data["step"], data["flops"], data["with_loader"]
    low, high = step["quartiles_wall"]
    return [
        *note_lines(data["note"]),
        "  compile        " + ", ".join(f"{name} {value:.1f} s" for name, value in data["seconds"].items()),
        f"  step           {1e3 * step['median_wall']:.1f} ms, median of {len(step['wall'])} "
        f"(quartiles {1e3 * low:.1f} to {1e3 * high:.1f}); CPU time of the host {1e3 * step['median_cpu']:.1f} ms",
        f"  clips/s        {data['clips_per_second']:.2f} (batch {data['batch']})",
        f"  operations     {si(flops['model'], 'FLOP')} of the model, {si(flops['traced'], 'FLOP')} as traced (both from shapes), "
        f"{si(flops['compiled'], 'FLOP')} as compiled; XLA counts {si(flops['xla'], 'FLOP')} (each loop body once)",
        _mfu_line(flops["model"] / step["median_wall"], data["peak_flops"]),
        _memory_line(data["memory"]),
        f"  input wait     {100 * loader['share']:.1f} % of the time of {loader['steps']} steps with the loader, "
        f"{data['batch'] * loader['steps'] / loader['seconds']:.2f} clips/s",
    ]


def _mfu_line(achieved: float, peak: float) -> str:
    if not peak:
        return f"  MFU            unknown: {si(achieved, 'FLOP/s')} of the model; give the device's peak by --peak_tflops=N"
    return f"  MFU            {100 * achieved / peak:.1f} % of {si(peak, 'FLOP/s')}"


def _memory_line(memory: dict) -> str:
    peak = memory["peak"]
    device = f"{gib(peak['device'])} on a device, " if peak["device"] else ""  # where the backend keeps count
    return f"  memory         {gib(memory['total'])} per device as compiled; peak {device}{gib(peak['process'])} in this process"


def loader_data(times: LoaderTimes) -> dict:
    """Returns the data of the loader's times."""
    return {
        "clips": times.clips,
        "threads": times.threads,
        "clips_per_second": times.clips / times.loader.median(),
        "bare_clips_per_second": times.clips / times.bare.median(),
        "share": times.fraction,
        "cpu_share": times.cpu_fraction,
        "loader": times.loader.as_data(),
        "bare": times.bare.as_data(),
    }


def loader_lines(data: dict) -> list[str]:
    """Returns the lines for the data of `loader_data`."""
    cpu = "" if data["cpu_share"] is None else f", {data['cpu_share']:.2f} by CPU time"
    return [
        f"  loader only    {data['clips_per_second']:.1f} clips/s, {data['share']:.2f} of the bare decoding loop by the clock{cpu}; "
        f"the bare loop, {_count(data['threads'], 'thread')}: {data['bare_clips_per_second']:.1f} clips/s"
    ]


def comparison(times: Comparison, batch: int) -> tuple[list[str], dict]:
    """Returns (lines, data) of a comparison with Hugging Face, on `batch` clips per step."""
    data = {
        "batch": batch,
        "losses": times.losses,
        "threads": times.threads,
        "ours": times.ours.as_data(),
        "theirs": times.huggingface.as_data(),
        "ratio_wall": ratio(times.ours, times.huggingface, "wall"),
        "ratio_cpu": ratio(times.ours, times.huggingface, "cpu"),
    }
    lines = [f"  loss of the first step: ours {times.losses[0]:.6f}, Hugging Face {times.losses[1]:.6f}"]
    for name, steps in (("ours", times.ours), ("Hugging Face", times.huggingface)):
        low, high = steps.spread()
        lines.append(
            f"  {name:<14} {steps.median():.3f} s per step (quartiles {low:.3f} to {high:.3f}), "
            f"CPU time {steps.median('cpu'):.3f} s, {batch / steps.median():.2f} clips/s"
        )
    lines.append(
        f"  ratio          {data['ratio_wall']:.3f} by the clock, {data['ratio_cpu']:.3f} by CPU time: "
        f"median of {len(times.ours.wall)} alternating rounds, {_count(times.threads, 'thread')}"
    )
    return lines, data


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
