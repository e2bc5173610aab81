"""Measurements as text and as data."""

import jax

from cvmae.performance.bench_huggingface import Comparison
from cvmae.performance.bench_loader import LoaderTimes
from cvmae.performance.plan_report import gib, si
from cvmae.performance.timing import ratio


def devices() -> dict:
    """What a measurement ran on."""
    return {"count": jax.device_count(), "kind": jax.devices()[0].device_kind, "jax": jax.__version__}


def step_lines(data: dict) -> list[str]:
    """Of `measurements.alone`."""
    step, flops, memory = data["step"], data["flops"], data["memory"]
    low, high = step["quartiles_wall"]
    seconds = step["median_wall"]
    achieved = flops["model"] / seconds
    lines = [f"  note: {data['note']}"] * bool(data["note"]) + [
        "  compile        " + ", ".join(f"{name} {value:.1f} s" for name, value in data["seconds"].items()),
        f"  step           {1e3 * seconds:.1f} ms, median of {len(step['wall'])} "
        f"(quartiles {1e3 * low:.1f} to {1e3 * high:.1f}); CPU time of the host {1e3 * step['median_cpu']:.1f} ms",
        f"  clips/s        {data['clips_per_second']:.2f} (batch {data['batch']})",
        f"  operations     the model's {si(flops['model'], 'FLOP')}, {si(flops['traced'], 'FLOP')} as traced (both from shapes), "
        f"{si(flops['compiled'], 'FLOP')} as compiled; XLA's own count {si(flops['xla'], 'FLOP')} (loop bodies once)",
    ]
    if data["peak_flops"]:
        lines.append(f"  MFU            {100 * achieved / data['peak_flops']:.1f} % of {si(data['peak_flops'], 'FLOP/s')}")
    else:
        lines.append(
            f"  MFU            not known: {si(achieved, 'FLOP/s')} of the model; give the device's peak, --peak_tflops=N"
        )
    peak = memory["peak"]
    lines.append(
        f"  memory         as compiled {gib(memory['total'])} a device; at most "
        + (f"{gib(peak['device'])} of a device, " if peak["device"] else "")
        + f"{gib(peak['process'])} of this process"
    )
    loader = data["with_loader"]
    return [
        *lines,
        f"  input wait     {100 * loader['share']:.1f} % of {loader['steps']} steps with the loader, "
        f"{data['batch'] * loader['steps'] / loader['seconds']:.2f} clips/s",
    ]


def loader_data(found: LoaderTimes) -> dict:
    """For JSON."""
    return {
        "clips": found.clips,
        "threads": found.threads,
        "clips_per_second": found.clips / found.loader.median(),
        "bare_clips_per_second": found.clips / found.bare.median(),
        "share": found.share,
        "cpu_share": found.cpu_share,
        "loader": found.loader.as_data(),
        "bare": found.bare.as_data(),
    }


def loader_lines(data: dict) -> list[str]:
    """Of `loader_data`."""
    cpu = "" if data["cpu_share"] is None else f", {data['cpu_share']:.2f} by CPU time"
    return [
        f"  loader alone   {data['clips_per_second']:.1f} clips/s; the bare decoding loop with {data['threads']} threads "
        f"{data['bare_clips_per_second']:.1f}: {data['share']:.2f} by the clock{cpu}"
    ]


def peer(found: Comparison, batch: int) -> tuple[list[str], dict]:
    """Lines and data of a comparison."""
    data = {
        "batch": batch,
        "losses": found.losses,
        "threads": found.threads,
        "ours": found.ours.as_data(),
        "theirs": found.theirs.as_data(),
        "ratio_wall": ratio(found.ours, found.theirs, "wall"),
        "ratio_cpu": ratio(found.ours, found.theirs, "cpu"),
    }
    lines = [f"  loss of the first step: ours {found.losses[0]:.6f}, Hugging Face's {found.losses[1]:.6f}"]
    for name, times in (("ours", found.ours), ("Hugging Face", found.theirs)):
        low, high = times.spread()
        lines.append(
            f"  {name:<14} {times.median():.3f} s a step (quartiles {low:.3f} to {high:.3f}), "
            f"CPU time {times.median('cpu'):.3f} s, {batch / times.median():.2f} clips/s"
        )
    lines.append(
        f"  ratio          {data['ratio_wall']:.3f} by the clock, {data['ratio_cpu']:.3f} by CPU time: "
        f"median of {len(found.ours.wall)} rounds in turn, {found.threads} threads"
    )
    return lines, data
