"""The results of `cvmae.bench` as lines to print and as data for --json."""

import dataclasses
from collections.abc import Sequence

import jax

from cvmae.data.lines import counted
from cvmae.performance.bench_attention import AttentionTimes
from cvmae.performance.bench_decode import OURS, TOLERANCE, DecodeTimes
from cvmae.performance.bench_huggingface import Comparison
from cvmae.performance.bench_latency import EncoderCost, EncoderLatency
from cvmae.performance.bench_loader import LoaderTimes, describe_unreadable
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
    step, flops, loader = data["step"], data["flops"], data.get("with_loader")
    low, high = step["quartiles_wall"]
    lines = [
        *note_lines(data["note"]),
        "  compile        " + ", ".join(f"{name} {value:.1f} s" for name, value in data["seconds"].items()),
        f"  step           {1e3 * step['median_wall']:.1f} ms, median of {len(step['wall'])} "
        f"(quartiles {1e3 * low:.1f} to {1e3 * high:.1f}); CPU time of the host {1e3 * step['median_cpu']:.1f} ms",
        f"  clips/s        {data['clips_per_second']:.2f} (batch {data['batch']})",
        f"  operations     {si(flops['model'], 'FLOP')} of the model, {si(flops['traced'], 'FLOP')} as traced (both from shapes), "
        f"{si(flops['compiled'], 'FLOP')} as compiled; XLA counts {si(flops['xla'], 'FLOP')} (each loop body once)",
        _mfu_line(flops["model"] / step["median_wall"], data["peak_flops"]),
        _memory_line(data["memory"]),
    ]
    if loader:
        lines.append(
            f"  input wait     {100 * loader['share']:.1f} % of the time of {loader['steps']} steps with the loader, "
            f"{data['batch'] * loader['steps'] / loader['seconds']:.2f} clips/s"
        )
    return lines


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
        "unreadable": times.unreadable,
        "clips_per_second": times.clips / times.loader.median(),
        "bare_clips_per_second": times.clips / times.bare.median(),
        "share": times.fraction,
        "cpu_share": times.cpu_fraction,
        "loader": times.loader.as_data(),
        "bare": times.bare.as_data(),
    }


def loader_lines(data: dict) -> list[str]:
    """Returns the lines for the data of `loader_data`."""
    bad, note = data["unreadable"], ""
    if bad:
        note = f"{counted(len(bad), 'video')} cannot be read, and others were decoded instead: {describe_unreadable(bad)}"
    cpu = "" if data["cpu_share"] is None else f", {data['cpu_share']:.2f} by CPU time"
    return [
        f"  loader only    {data['clips_per_second']:.1f} clips/s, {data['share']:.2f} of the bare decoding loop by the clock{cpu}; "
        f"the bare loop, {counted(data['threads'], 'thread')}: {data['bare_clips_per_second']:.1f} clips/s; "
        f"medians of {len(data['loader']['wall'])} rounds of {counted(data['clips'], 'clip')}",
        *note_lines(note),
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
        f"median of {len(times.ours.wall)} alternating rounds, {counted(times.threads, 'thread')}"
    )
    return lines, data


def decode_data(measured: Sequence[DecodeTimes]) -> list[dict]:
    """Returns the data of decoding: a dict for each coding in each container."""
    rows = []
    for files in measured:
        libraries = {
            name: times.as_data()
            | {
                "clips_per_cpu_second": files.clips / times.median("cpu"),
                "ratio_cpu": ratio(times, files.times[OURS], "cpu"),
                "difference": files.differences[name],
            }
            for name, times in files.times.items()
        }
        rows.append({"coding": files.coding, "container": files.container, "megabits": files.megabits, "libraries": libraries})
    return rows


def decode_lines(data: dict) -> list[str]:
    """Returns the lines for the data of `measurements.measure_decode`: a Markdown table, and what is to be said of it."""
    files, names = data["files"], list(data["files"][0]["libraries"])
    ahead = [min(row["libraries"][name]["ratio_cpu"] for name in names if name != OURS) for row in files]
    lines = [f"  {data['about']}", "", f"| file | Mbit/s | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for row in files:
        cells = [_decode_cell(name, row["libraries"][name]) for name in names]
        lines.append(f"| {row['coding']}, .{row['container']} | {row['megabits']:.2f} | {' | '.join(cells)} |")
    lines += [
        "",
        f"  {OURS} against the fastest of the others: {min(ahead):.2f} to {max(ahead):.2f} times as many clips per CPU-second",
    ]
    differing = [line for name in names for line in _difference_lines(files, name)]
    lines += [*differing, f"  frames: {'all others' if differing else 'all'} bit-equal to a full decode of the file in RGB"]
    return lines + [f"  left out: {note}" for note in data["missing"]]


def _difference_lines(files: list[dict], name: str) -> list[str]:
    """Returns a line with all files of which a library's frames differ by rounding, and one with those of which it gives other frames."""
    differences = {f"{row['coding']}, .{row['container']}": row["libraries"][name]["difference"] for row in files}
    rounded = {file: value for file, value in differences.items() if 0 < value <= TOLERANCE}
    others = {file: value for file, value in differences.items() if value > TOLERANCE}
    return [
        f"  frames of {name}: up to {max(group.values())} of 255 from a full decode ({'; '.join(group)}): {verdict}"
        for group, verdict in ((rounded, "rounding of colors"), (others, "OTHER FRAMES"))
        if group
    ]


def _decode_cell(name: str, library: dict) -> str:
    rate = f"{library['clips_per_cpu_second']:.1f}"
    return rate if name == OURS else f"{rate} ({library['ratio_cpu']:.2f})"


def attention_data(measured: Sequence[AttentionTimes]) -> list[dict]:
    """Returns the data of attention: a dict for each shape."""
    return [
        {
            "tokens": shape.tokens,
            "heads": shape.heads,
            "width": shape.width,
            "taken": shape.taken,
            "kernels": {kernel: times.as_data() for kernel, times in shape.times.items()},
            "failed": shape.failed,
        }
        for shape in measured
    ]


def attention_lines(data: dict) -> list[str]:
    """Returns the lines for the data of `measurements.measure_attention_kernels`."""
    lines = [
        f"  forward and backward pass of {counted(data['batch'], 'clip')}, {data['dtype']}; median of {data['rounds']} rounds"
    ]
    for shape in data["shapes"]:
        name, times, failures = describe_kernels(shape)
        lines.append(f"  {name}: {times}; the step takes {shape['taken']}")
        lines += [f"    {failure}" for failure in failures]
    return lines


def describe_kernels(shape: dict) -> tuple[str, str, list[str]]:
    """Returns (name, times, failures) of an entry of `attention_data` as texts: `80 tokens, 3 heads of 32`, `xla 1.25 ms, ...`."""
    times = [f"{kernel} {1e3 * times['median_wall']:.2f} ms" for kernel, times in shape["kernels"].items()]
    failures = [f"{kernel} failed: {reason}" for kernel, reason in shape["failed"].items()]
    return f"{shape['tokens']} tokens, {counted(shape['heads'], 'head')} of {shape['width']}", ", ".join(times), failures


def latency_data(measured: Sequence[EncoderLatency]) -> list[dict]:
    """Returns the data of the encoder's latency: a dict for each number of frames."""
    return [dataclasses.asdict(one) | {"times": one.times.as_data()} for one in measured]


def latency_lines(data: dict) -> list[str]:
    """Returns the lines for the data of `measurements.measure_latency`."""
    return [
        f"  {row['frames']} frames, {row['tokens']} tokens: {1e3 * row['times']['median_wall']:.2f} ms "
        f"(quartiles {1e3 * row['times']['quartiles_wall'][0]:.2f} to {1e3 * row['times']['quartiles_wall'][1]:.2f}), "
        f"{row['frames'] / row['times']['median_wall']:.0f} frames/s, {row['attention']}"
        for row in data["frames"]
    ]


def length_data(measured: Sequence[EncoderCost]) -> list[dict]:
    """Returns the data of the encoder's time and memory: a dict for each number of frames."""
    return [dataclasses.asdict(one) | {"times": one.times and one.times.as_data()} for one in measured]


def length_lines(data: dict) -> list[str]:
    """Returns the lines for the data of `measurements.measure_encoder_lengths`."""
    height, width = data["size"]
    lines = [
        f"the encoder on one clip of {height}x{width}, {data['dtype']}; memory of its program: parameters, clip, tokens, temporaries"
    ]
    for row in data["lengths"]:
        time = row["problem"]
        if row["times"] is not None:
            time = f"{1e3 * row['times']['median_wall']:.2f} ms, {row['frames'] / row['times']['median_wall']:.0f} frames/s"
        memory = f"{row['total'] / 2**20:.0f} MiB ({row['temporary'] / 2**20:.0f} of temporaries)"
        lines.append(f"  {row['frames']:>5} frames, {row['tokens']} tokens: {time}, {memory}, {row['attention']}")
    return lines
