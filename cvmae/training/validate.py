"""What a config is checked for before anything is compiled, rendered or written.

`CHECKS` says of every field which values mean something; constructors that only a whole config can be given to are called,
and what they complain about becomes a ConfigError.
"""

import contextlib
import fnmatch

import jax

from cvmae.config import ConfigError, require, steps
from cvmae.data import clips, sources
from cvmae.data.manifest import ManifestError
from cvmae.data.pipeline import clip_spec
from cvmae.interop import weights
from cvmae.models import autoencoder, build, masking, patches, positions, vit
from cvmae.training.sharding import make_mesh


def one_of(*words):
    return f"one of {', '.join(words)}", lambda value: value in words


def at_least(low):
    return f"at least {low}", lambda value: value >= low


def between(low, high):
    return f"from {low} to {high}", lambda value: low <= value <= high


ABOVE_0 = "above 0", lambda value: value > 0
BELOW_1 = "at least 0 and below 1", lambda value: 0 <= value < 1
SIZE = "(height, width), each at least 1", lambda value: len(value) == 2 and min(value) >= 1
SHARES = "(low, high) with 0 < low <= high <= 1", lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1
RATIOS = "(low, high) with 0 < low <= high", lambda value: len(value) == 2 and 0 < value[0] <= value[1]
COLOR = "three numbers, red, green, blue", lambda value: len(value) == 3
SPREAD = "three numbers above 0, red, green, blue", lambda value: len(value) == 3 and min(value) > 0
MESH = "at least 1, or -1 for all devices", lambda value: value == -1 or value >= 1
FREE = "anything", lambda value: True

# Field, or pattern of fields, to (what is expected, test). The first match counts, and every field matches one.
CHECKS = {
    "seed": between(0, 2**31 - 1),
    "batch_size": at_least(1),
    "accumulate": at_least(1),
    "total": FREE,  # durations: see DURATIONS
    "*_every": FREE,
    "checkpoint_keep": at_least(1),
    "dtype": one_of(*build.DTYPES),
    "attention": one_of(*vit.ATTENTIONS),
    "mesh.data": MESH,
    "mesh.*": at_least(1),
    "data.source": one_of(*sources.KINDS),
    "data.fit": one_of(*clips.FITS),
    "data.clip_sampling": one_of(*clips.SAMPLINGS),
    "data.frame_size": SIZE,
    "data.num_frames": at_least(1),
    "data.stride": at_least(1),
    "data.timeout_s": ABOVE_0,
    "data.max_bad_fraction": between(0, 1),
    "data.synthetic.*": at_least(1),
    "data.motion.size": FREE,  # motion's own messages name the sizes and numbers
    "data.motion.cache_dir": FREE,
    "data.motion.*": at_least(0),
    "data.tfds.*": FREE,
    "data.manifest": FREE,
    "data.root": FREE,
    "data.*split": ("a word such as train", bool),
    "data.*": at_least(0),
    "augment.size": SIZE,
    "augment.*scale": SHARES,
    "augment.*ratio": RATIOS,
    "augment.flip": between(0, 1),
    "augment.color_probability": between(0, 1),
    "augment.hue": between(0, 0.5),
    "augment.mean": COLOR,
    "augment.std": SPREAD,
    "augment.*": at_least(0),
    "*_branch.positions": one_of(*positions.KINDS),
    "*_branch.decoder.positions": one_of(*positions.KINDS),
    "*_branch.qkv_bias": one_of(*vit.QKV_BIASES),
    "*_branch.mask.kind": one_of(*masking.KINDS),
    "*_branch.mask.ratio": BELOW_1,
    "*_branch.mask.rounding": one_of(*masking.ROUNDINGS),
    "*_branch.target_norm": one_of(*patches.TARGET_NORMS),
    "*_branch.decoder.layout": one_of(*autoencoder.LAYOUTS),
    "*_branch.decoder.cls": one_of(*autoencoder.CLS_KINDS),
    "*_branch.decoder.target_frames": at_least(0),
    "*_branch.decoder.depth": at_least(0),
    "*_branch.*eps": ABOVE_0,
    "*_branch.variant": FREE,  # decode_variant's message names the sizes
    "*_branch.cls_token": FREE,
    "*_branch.final_norm": FREE,
    "*_branch.decoder.embed_bias": FREE,
    "image_branch.tubelet": ("1: a frame has no time axis", lambda value: value == 1),
    "image_branch.frame_sampling": one_of(*clips.FRAME_SAMPLINGS),
    "image_branch.crop": one_of("shared", "independent"),
    "image_branch.train": one_of("full", "frozen"),
    "image_branch.init_from": FREE,
    "*_branch.*": at_least(1),
    "contrast.temperature": ABOVE_0,
    "contrast.width": at_least(1),
    "contrast.hidden": at_least(0),
    "contrast.time_reversed_negatives": FREE,
    "loss.*": at_least(0),
    "loss_warmup.*": FREE,
    "optimizer.warmup": FREE,
    "optimizer.base_lr": ABOVE_0,
    "optimizer.eps": ABOVE_0,
    "optimizer.b?": BELOW_1,
    "optimizer.ema_decay": BELOW_1,
    "optimizer.*": at_least(0),
    "report.*": at_least(0),
}
DURATIONS = ("total", "log_every", "eval_every", "checkpoint_every", "optimizer.warmup", "loss_warmup.*")


def fields(config) -> dict:
    """Every field of a config by its dotted name."""
    found = {}
    for name, value in config.items():
        nested = fields(value) if hasattr(value, "items") else None
        found |= {name: value} if nested is None else {f"{name}.{key}": leaf for key, leaf in nested.items()}
    return found


def check_of(field: str):
    """(what is expected, test) of a field, None where no pattern names it."""
    return next((check for pattern, check in CHECKS.items() if fnmatch.fnmatchcase(field, pattern)), None)


@contextlib.contextmanager
def config_errors(field: str = ""):
    """What constructors and readers say about values they were given becomes a ConfigError, behind the name of a field."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, ManifestError, FileNotFoundError) as error:
        raise ConfigError(f"config.{field}: {error}" if field else str(error)) from error


def validate(config) -> None:
    """Checks all that can be checked without reading data. Raises: ConfigError, one line that names the field and the fix."""
    for field, value in fields(config).items():
        check_field(field, value)
    check_batch(config)
    with config_errors("image_branch.frames"):
        clip_spec(config)
    with config_errors():
        make_mesh(config.mesh)
        needs = build.needs_of(config)
    wanted = [name for name in ("video", "image") if getattr(needs, f"{name}_branch")]
    for name in wanted:
        check_grid(config, name)
    with config_errors():
        build.build_model(config)
    for name in wanted:
        check_positions(config, name, f"mse_{name}" in needs.active)
    check_teacher(config.image_branch, needs.image_branch)


def check_field(field: str, value) -> None:
    """Checks one field by itself."""
    expected, holds = check_of(field) or (f"known to {__name__}.CHECKS", lambda _: False)
    require(holds(value), f"config.{field}={value!r} cannot be used: it must be {expected}")
    if any(fnmatch.fnmatchcase(field, pattern) for pattern in DURATIONS):
        length = steps(value, field, steps_per_epoch=1, total=None if field == "total" else 100)
        require(length > 0 or field not in ("total", "log_every"), f"config.{field}={value!r} is too short: give 1_steps or more")


def check_batch(config) -> None:
    """Whether the batch divides, and every part of it has negatives."""
    batch, parts, devices = config.batch_size, config.accumulate, jax.device_count()
    unit = parts * devices
    below, above = batch // unit * unit, -(-batch // unit) * unit
    require(
        batch % unit == 0,
        f"config.batch_size={batch} does not divide by config.accumulate={parts} times {devices} devices: "
        f"take {f'{below} or ' if below else ''}{above}",
    )
    contrastive = any(weight for name, weight in config.loss.items() if not name.startswith("mse_"))
    require(
        not contrastive or batch // parts > 1,
        f"config.batch_size={batch} in config.accumulate={parts} parts leaves 1 clip a part, which has no negatives to "
        "contrast with: raise batch_size, or lower accumulate",
    )


def grid_of(config, name: str):
    """The grid of the branch `name`."""
    return (build.video_grid if name == "video" else build.image_grid)(config)


def check_grid(config, name: str) -> None:
    """Whether the views of a branch are whole patches and tubelets."""
    with config_errors(f"{name}_branch.variant"):
        vit.decode_variant(config[f"{name}_branch"].variant)
    try:
        grid_of(config, name)
    except ValueError as error:
        field = "data.num_frames" if str(error).startswith("num_frames") else "augment.size"
        raise ConfigError(f"config.{field}: {error}") from error


def check_positions(config, name: str, decoder: bool) -> None:
    """Whether fixed position tables exist for the grid and width of a branch."""
    branch = config[f"{name}_branch"]
    stacks = [("positions", branch.positions, vit.decode_variant(branch.variant)[0].width)]
    if decoder:
        stacks.append(("decoder.positions", branch.decoder.positions, branch.decoder.width))
    for field, kind, width in stacks:
        if kind.startswith("sincos"):
            with config_errors(f"{name}_branch.{field}"):
                positions.fixed_table(kind, grid_of(config, name), width)


def check_teacher(branch, wanted: bool) -> None:
    """Whether weights to start the image branch from are there, and a frozen one has them."""
    path = branch.init_from
    require(wanted or not path, f"config.image_branch.init_from={path!r}, but every term of the image branch has weight 0")
    require(
        not wanted or path or branch.train != "frozen",
        "config.image_branch.train='frozen' without config.image_branch.init_from is a teacher of random weights: give a file",
    )
    if path:
        with config_errors("image_branch.init_from"):
            weights.find_file(path)
