"""The measurements of `cvmae.bench`: a training step with its loader, and by themselves the loader, decoding, attention and the encoder."""

import dataclasses

import jax

from cvmae.config import ConfigError, config_errors, require
from cvmae.data.pipeline import clip_spec, make_loader
from cvmae.data.published import CLASSES
from cvmae.data.sources import Source, make_source
from cvmae.models.vit import decode_variant
from cvmae.parallel import launch
from cvmae.performance import bench_decode, bench_huggingface, bench_report
from cvmae.performance.bench_attention import measure_attention
from cvmae.performance.bench_latency import measure_encoder, measure_lengths
from cvmae.performance.bench_loader import measure_loader
from cvmae.performance.bench_step import CompiledStep, peak_flops, peak_memory
from cvmae.performance.bench_videos import CODINGS, VideoSpec, has_encoder
from cvmae.performance.profile import profile
from cvmae.performance.traced_step import check_task, dataset_name, model_flops
from cvmae.tasks.data_checks import check_manifest
from cvmae.tasks.fields import check_fields, check_paths
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.validate import check_grid
from cvmae.tasks.workers import resolve_workers

LOADER_ROUNDS = 3
VIDEOS = VideoSpec()  # of decoding
LENGTHS = (1, 2, 4)  # of clips for the encoder, in config.data.num_frames


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of `cvmae.bench`.

    Attributes:
      steps: timed steps.
      warmup: steps before them, which are not timed.
      loader: False leaves out what reads clips while it is timed.
      loader_batches: batches of the loader in each round; 0 leaves out the loader by itself.
      peak: operations per second of one device; 0 takes the published number.
      threads: threads of PyTorch on CPU; 0 is one per core.
      compile_peer: True runs PyTorch through torch.compile.
      profile: True adds where the time of the step goes.
      encoder_frames: numbers of frames of a clip, for the encoder's time and memory.
    """

    steps: int
    warmup: int
    loader: bool
    loader_batches: int
    peak: float
    threads: int
    compile_peer: bool
    profile: bool
    encoder_frames: tuple[int, ...] = ()


def measure_training(config, options: Options) -> tuple[list[str], dict]:
    """Times the training step by itself, then with the loader, then the loader: (lines to print, data).

    Raises:
      ConfigError: the config cannot run, or its task does not train.
      BadDataError: too many videos cannot be read.
    """
    check_task(config)
    config, source, note = open_data(config)
    devices = jax.devices()
    step = CompiledStep.compile(config, devices)
    state = step.traced.task.initial_state()
    with make_loader(config, source) as loader:
        batch = next(loader)
    state, times = step.time_steps(state, batch, options.steps, options.warmup)
    compiled, xla = step.flops
    data = {
        "batch": config.batch_size,
        "note": note,
        "seconds": step.seconds,
        "step": times.as_data(),
        "clips_per_second": config.batch_size / times.median(),
        "flops": {
            "model": model_flops(step.traced),
            "traced": step.traced.flops.total,
            "compiled": compiled * len(devices),
            "xla": xla * len(devices),
        },
        "memory": dataclasses.asdict(step.memory) | {"total": step.memory.total, "peak": peak_memory(devices)},
        "peak_flops": (options.peak or peak_flops(devices[0].device_kind)) * len(devices),
    }
    if options.loader:
        state, total, waited = step.time_with_loader(config, source, state, options.steps)
        data["with_loader"] = {"seconds": total, "waited": waited, "steps": options.steps, "share": waited / total}
    lines = bench_report.training_lines(data)
    if options.loader and options.loader_batches:
        times = measure_loader(config, source, batches=options.loader_batches, rounds=LOADER_ROUNDS)
        data["loader"] = bench_report.loader_data(times)
        lines += bench_report.loader_lines(data["loader"])
    if options.profile:
        lines += _profile(step, state, batch)
    return lines, data


def measure_loader_only(config, options: Options) -> tuple[list[str], dict]:
    """Times the loader of a config of any task: (lines to print, data). Raises: ConfigError, BadDataError."""
    config, source, note = open_data(config)
    times = measure_loader(config, source, batches=options.loader_batches, rounds=LOADER_ROUNDS)
    data = {"batch": config.batch_size, "note": note, "loader": bench_report.loader_data(times)}
    return bench_report.note_lines(note) + bench_report.loader_lines(data["loader"]), data


def compare_with_huggingface(config, options: Options) -> tuple[list[str], dict]:
    """Times both implementations on the same work: (lines to print, data). Raises: ConfigError."""
    if jax.device_count() > 1:
        raise ConfigError(f"--peer=hf compares on one device, but there are {jax.device_count()}")
    comparison, step = bench_huggingface.compare(
        config, rounds=options.steps, warmup=options.warmup, threads=options.threads, compiled=options.compile_peer
    )
    lines, data = bench_report.comparison(comparison, config.batch_size)
    if options.profile:
        lines += profile(step, step.program.as_text()).lines()
    return lines, data


def measure_decode(config, options: Options) -> tuple[list[str], dict]:
    """Times decoding of the config's clips by this package and other libraries: (lines to print, data). Raises: ConfigError."""
    with config_errors("data"):
        spec = dataclasses.replace(clip_spec(config), clips=1)
    readers, missing = bench_decode.available()
    codings = [coding for coding in CODINGS if has_encoder(coding)]
    missing += [f"{coding.name}: PyAV has no encoder {coding.encoder} here" for coding in CODINGS if coding not in codings]
    files = bench_decode.measure_decoding(spec, rounds=options.steps, videos=VIDEOS, codings=codings, readers=readers)
    sampling = "uniform" if spec.sampling == "uniform" else f"stride {spec.stride}, {spec.sampling} start"
    about = (
        f"clips of {spec.num_frames} frames, {sampling}, as RGB, from videos of {VIDEOS.frames} frames of {VIDEOS.width}x{VIDEOS.height}: "
        f"clips per CPU-second with one thread, median of {options.steps} alternating rounds of {files[0].clips} clips; "
        f"in parentheses how many times as many {bench_decode.OURS} decodes"
    )
    data = {
        "about": about,
        "versions": bench_decode.versions(readers),
        "missing": missing,
        "files": bench_report.decode_data(files),
    }
    return bench_report.decode_lines(data), data


def measure_attention_kernels(config, options: Options) -> tuple[list[str], dict]:
    """Times attention's kernels at the shapes of the training step: (lines to print, data). Raises: ConfigError."""
    check_task(config)
    shapes = measure_attention(config, rounds=options.steps, warmup=options.warmup)
    data = {
        "batch": config.batch_size,
        "dtype": config.dtype,
        "rounds": options.steps,
        "shapes": bench_report.attention_data(shapes),
    }
    return bench_report.attention_lines(data), data


def measure_latency(config, options: Options) -> tuple[list[str], dict]:
    """Times the video encoder on clips of one, two and four times the config's frames: (lines to print, data). Raises: ConfigError."""
    _check_encoder(config)
    check_grid(config, "video")
    with config_errors("data.num_frames"):
        frames = [times * config.data.num_frames for times in LENGTHS]
        measured = measure_encoder(config, frames, rounds=options.steps, warmup=options.warmup)
    data = {"dtype": config.dtype, "frames": bench_report.latency_data(measured)}
    return bench_report.latency_lines(data), data


def measure_encoder_lengths(config, options: Options) -> tuple[list[str], dict]:
    """Times the video encoder on single clips and counts its memory, for each of `encoder_frames`: (lines, data). Raises: ConfigError."""
    _check_encoder(config)
    with config_errors("video_branch.variant"):
        decode_variant(config.video_branch.variant)
    try:
        measured = list(measure_lengths(config, options.encoder_frames, rounds=options.steps, warmup=options.warmup))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"--encoder_frames={','.join(map(str, options.encoder_frames))}: {error}") from error
    size = tuple(config.augment.size)
    data = {"dtype": config.dtype, "size": size, "lengths": bench_report.length_data(measured)}
    return bench_report.length_lines(data), data


def _check_encoder(config) -> None:
    """Raises ConfigError where the encoder to be timed is that of the fields, and the config names weights that may be of another."""
    path = config.video_branch.get("init_from", "")
    require(
        not path,
        f"config.video_branch.init_from={path!r} is not read here: a pre-training's encoder is that of its fields, and is timed with random "
        f"weights. Leave it out, or time the encoder of those weights with the config's argument task=linear and --config.init_from={path}",
    )


def open_data(config) -> tuple[object, Source, str]:
    """Returns (config, source of its training split, note), see `with_synthetic_fallback`. Raises: ConfigError."""
    check_paths(config)
    check_manifest("data", config.data)
    config, note = with_synthetic_fallback(config)
    with config_errors("data"):
        source = make_source(config.data, config.data.split)
    config, lines = resolve_workers(config, source)
    return config, source, "; ".join(filter(None, [note, *lines]))


def with_synthetic_fallback(config) -> tuple[object, str]:
    """Returns (config, note): a copy with synthetic clips where the config names no videos, else the config itself and ''."""
    if config.data.source != "files" or config.data.manifest or config.data.get("mixture"):
        return config, ""
    changed = config.copy_and_resolve_references()
    with changed.unlocked():
        changed.data.source = "synthetic"
        changed.data.synthetic.classes = CLASSES.get(dataset_name(config), changed.data.synthetic.classes)
        changed.data.synthetic.clips = max(4 * config.batch_size, changed.data.synthetic.classes)
    return changed, "config.data.manifest is empty: clips are synthetic, and nothing is decoded"


def _profile(step: CompiledStep, state, batch) -> list[str]:
    def run():
        nonlocal state  # which the step donates
        state = step.run(state, batch)[0]

    return profile(run, step.text).lines()


MEASUREMENTS = {
    "": measure_training,
    "peer": compare_with_huggingface,
    "loader_only": measure_loader_only,
    "decode": measure_decode,
    "attention": measure_attention_kernels,
    "latency": measure_latency,
    "encoder": measure_encoder_lengths,
}


def measure(name: str, config, options: Options) -> tuple[list[str], dict]:
    """Makes the measurement of a flag, one of MEASUREMENTS: (lines to print, data, which begins with the devices).

    Raises:
      ConfigError: the config cannot be measured, or JAX has no device.
      BadDataError: too many videos cannot be read.
    """
    launch.check_devices()
    config, _ = fill_fields(config)
    check_fields(config)
    lines, data = MEASUREMENTS[name](config, options)
    return lines, {"devices": bench_report.device_data()} | data
