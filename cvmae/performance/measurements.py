"""What `cvmae.bench` measures, one after the other."""

import dataclasses

import jax

from cvmae.config import ConfigError, config_errors
from cvmae.data.pipeline import make_loader
from cvmae.data.published import CLASSES
from cvmae.data.sources import make_source
from cvmae.performance import bench_huggingface, bench_report
from cvmae.performance.bench_loader import measure_loader
from cvmae.performance.bench_step import Bench, peak_flops, peak_memory
from cvmae.performance.profile import profile
from cvmae.performance.traced_step import check_task, dataset_name, model_flops

ROUNDS = 3  # of the loader


@dataclasses.dataclass(frozen=True)
class Options:
    """Steps to time and to leave out before them; batches of the loader in a round; operations a second of a device (0: of the
    table); threads of the peer, and whether torch.compile compiles it; whether to profile."""

    steps: int
    warmup: int
    loader_batches: int
    peak: float
    threads: int
    compile_peer: bool
    profile: bool


def with_data(config):
    """(config, note): with synthetic clips where the config's own are not here."""
    if config.data.source != "files" or config.data.manifest:
        return config, ""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.data.source = "synthetic"
        changed.data.synthetic.classes = CLASSES.get(dataset_name(config), changed.data.synthetic.classes)
        changed.data.synthetic.clips = max(4 * config.batch_size, changed.data.synthetic.classes)
    return changed, "no config.data.manifest: clips are synthetic, nothing is decoded"


def open_data(config):
    """(config, its training source, note): see `with_data`. Raises: ConfigError."""
    config, note = with_data(config)
    with config_errors("data"):
        return config, make_source(config.data, config.data.split), note


def loader_alone(config, options: Options) -> tuple[list[str], dict]:
    """Lines and data of the loader of a config. Raises: ConfigError, BadDataError."""
    config, source, note = open_data(config)
    found = bench_report.loader_data(measure_loader(config, source, batches=max(1, options.loader_batches), rounds=ROUNDS))
    return [f"  note: {note}"] * bool(note) + bench_report.loader_lines(found), {
        "batch": config.batch_size,
        "note": note,
        "loader": found,
    }


def alone(config, options: Options) -> tuple[list[str], dict]:
    """Lines and data of a config by itself. Raises: ConfigError, BadDataError."""
    check_task(config)
    config, source, note = open_data(config)
    devices = jax.devices()
    bench = Bench.of(config, devices)
    state = bench.step.task.initial_state()
    with make_loader(config, source) as loader:
        batch = next(loader)
    state, times = bench.time_steps(state, batch, options.steps, options.warmup)
    state, total, waited = bench.time_with_loader(config, source, state, options.steps)
    compiled, xla = bench.flops
    data = {
        "batch": config.batch_size,
        "note": note,
        "seconds": bench.seconds,
        "step": times.as_data(),
        "clips_per_second": config.batch_size / times.median(),
        "with_loader": {"seconds": total, "waited": waited, "steps": options.steps, "share": waited / total},
        "flops": {
            "model": model_flops(bench.step, devices),
            "traced": bench.step.count.flops,
            "compiled": compiled * len(devices),
            "xla": xla * len(devices),
        },
        "memory": dataclasses.asdict(bench.memory) | {"total": bench.memory.total} | {"peak": peak_memory(devices)},
    }
    data["peak_flops"] = (options.peak or peak_flops(devices[0].device_kind)) * len(devices)
    lines = bench_report.step_lines(data)
    if options.loader_batches:
        found = measure_loader(config, source, batches=options.loader_batches, rounds=ROUNDS)
        data["loader"] = bench_report.loader_data(found)
        lines += bench_report.loader_lines(data["loader"])
    if options.profile:
        lines += _profile(bench, state, batch)
    return lines, data


def _profile(bench: Bench, state, batch) -> list[str]:
    held = [state]

    def run():
        held[0] = bench.run(held[0], batch)[0]

    return profile(run, bench.text).lines()


def against_peer(config, options: Options) -> tuple[list[str], dict]:
    """Lines and data of both implementations on the same work. Raises: ConfigError."""
    if jax.device_count() > 1:
        raise ConfigError(f"--peer=hf compares one device, but there are {jax.device_count()}")
    how = {"threads": options.threads, "compiled": options.compile_peer}
    found, ours = bench_huggingface.compare(config, rounds=options.steps, warmup=options.warmup, **how)
    lines, data = bench_report.peer(found, config.batch_size)
    if options.profile:
        lines += profile(ours, ours.program.as_text()).lines()
    return lines, data
