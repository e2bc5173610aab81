"""Which values mean something, for every field of a config."""

import fnmatch
import re

from cvmae.augment.pretrain_views import FIRST_VIEWS
from cvmae.config import did_you_mean, flatten, require, steps
from cvmae.data import clips, sources
from cvmae.data.auto_workers import AUTO
from cvmae.evaluation import extract, features
from cvmae.interop import inflate
from cvmae.models import autoencoder, build, classifier, masking, patches, positions, vit
from cvmae.models.attention import ATTENTIONS
from cvmae.objective import latents
from cvmae.parallel.state_sharding import MODES
from cvmae.storage.client import LIBRARIES, SCHEMES, WRITABLE, scheme_of
from cvmae.tasks import TASKS
from cvmae.training.optimizer import COOLDOWN_SHAPES, SCHEDULES
from cvmae.training.trace import parse_steps
from cvmae.visualize import animation, attention, embedding, reconstruction


def one_of(*words):
    return f"one of {', '.join(words)}", lambda value: value in words


def at_least(low):
    return f"at least {low}", lambda value: value >= low


def is_count(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def between(low, high):
    return f"from {low} to {high}", lambda value: low <= value <= high


def each(expected, holds):
    return f"one number or more, each {expected}", lambda values: len(values) > 0 and all(map(holds, values))


def some_of(*words):
    return f"one or more of {', '.join(words)}", lambda values: len(values) > 0 and set(values) <= set(words)


ABOVE_0 = "above 0", lambda value: value > 0
BELOW_1 = "at least 0 and below 1", lambda value: 0 <= value < 1
SIZE = "(height, width), each from 1 to 4096", lambda value: len(value) == 2 and 1 <= min(value) <= max(value) <= 4096
SHARES = "(low, high) with 0 < low <= high <= 1", lambda value: len(value) == 2 and 0 < value[0] <= value[1] <= 1
RATIOS = "(low, high) with 0 < low <= high", lambda value: len(value) == 2 and 0 < value[0] <= value[1]
COLOR = "three numbers, red, green, blue", lambda value: len(value) == 3
SPREAD = "three numbers above 0, red, green, blue", lambda value: len(value) == 3 and min(value) > 0
PLACE = "(time, row, column), each from 0 to 1", lambda value: len(value) == 3 and all(0 <= share <= 1 for share in value)
MESH = "at least 1, or -1 for what the others leave", lambda value: value == -1 or value >= 1
PATH = f"a path of this machine, or one with {SCHEMES}", lambda value: scheme_of(value) in ("", *LIBRARIES)
LOCAL = "a folder on a disk of this machine, or empty", lambda value: not scheme_of(value)
CACHE = "auto, a folder of this machine or with gs:// or s3://, or empty", lambda value: scheme_of(value) in ("", *WRITABLE)
FREE = "anything", lambda value: True

TARGETS = ("pixels", "latent")  # of video_branch.target

# Field, or pattern of fields, to (what is expected, test). The first match counts, and every field matches one.
CHECKS = {
    "task": one_of(*TASKS),
    "init_from": PATH,
    "compilation_cache": CACHE,
    "seed": between(0, 2**31 - 1),
    "batch_size": at_least(1),
    "accumulate": at_least(1),
    "total": FREE,  # durations: see DURATIONS
    "*_every": FREE,
    "checkpoint_keep": at_least(1),
    "profile": FREE,  # parse_steps names its form
    "log.*": FREE,  # tracker_fields.check names the forms
    "dtype": one_of(*build.DTYPES),
    "attention": one_of(*ATTENTIONS),
    "remat": one_of(*vit.REMATS),
    "scan": FREE,
    "mesh.dcn": at_least(1),
    "mesh.*": MESH,
    "sharding.*": FREE,  # make_rules names the axes
    "optimizer_sharding": one_of(*MODES),
    "data.name": FREE,
    "data.source": one_of(*sources.KINDS),
    "data.square_pixels": FREE,
    "data.fit": one_of(*clips.FITS),
    "data.clip_sampling": one_of(*clips.SAMPLINGS),
    "data.frame_size": SIZE,
    "data.fps": between(0, 1000),
    "data.num_frames": at_least(1),
    "data.stride": at_least(1),
    "data.timeout_s": ABOVE_0,
    "data.max_bad_fraction": between(0, 1),
    "data.allow_change": FREE,
    "data.synthetic.*": at_least(1),
    "data.motion.size": FREE,  # motion's own messages name the sizes and numbers
    "data.motion.cache_dir": LOCAL,
    "data.motion.*": at_least(0),
    "data.mixture": FREE,  # its own messages name the form
    "data.tfds.*": FREE,
    "data.webdataset.shards": PATH,
    "data.hf.path": PATH,
    "data.hf.*": FREE,
    "data.manifest": PATH,
    "data.multi_label": FREE,
    "data.pictures": FREE,
    "data.root": PATH,
    "data.cache_dir": LOCAL,
    "data.cache_gb": ABOVE_0,
    "data.*split": ("a word such as train", bool),
    "data.workers": ("a whole number, at least 0, or auto", lambda value: value == AUTO or is_count(value)),
    "data.threads": ("a whole number, at least 0, or auto", lambda value: value == AUTO or is_count(value)),
    "data.*": at_least(0),
    "augment.size": SIZE,
    "augment.mirror_labels": FREE,
    "augment.repeats": at_least(1),
    "augment.smoothing": BELOW_1,
    "augment.rand_augment.magnitude": between(0, 10),
    "augment.erasing.area": SHARES,
    "augment.*.probability": between(0, 1),
    "augment.mix.switch": between(0, 1),
    "augment.grayscale": between(0, 1),
    "augment.*scale": SHARES,
    "augment.*ratio": RATIOS,
    "augment.flip": between(0, 1),
    "augment.color_probability": between(0, 1),
    "augment.blur": between(0, 1),
    "augment.solarize": between(0, 1),
    "augment.first_view": one_of(*FIRST_VIEWS),
    "augment.plus_shift": at_least(0),
    "augment.hue": between(0, 0.5),
    "augment.mean": COLOR,
    "augment.std": SPREAD,
    "augment.*": at_least(0),
    "*_branch.backbone": one_of(*build.BACKBONES),
    "*_branch.positions": one_of(*positions.KINDS),
    "*_branch.decoder.positions": one_of(*positions.TABLES),
    "*_branch.qkv_bias": one_of(*vit.QKV_BIASES),
    "*_branch.mlp": one_of(*vit.MLPS),
    "*_branch.mask.kind": one_of(*masking.KINDS),
    "*_branch.mask.ratio": BELOW_1,
    "*_branch.mask.rounding": one_of(*masking.ROUNDINGS),
    "*_branch.target_norm": one_of(*patches.TARGET_NORMS),
    "*_branch.decoder.layout": one_of(*autoencoder.LAYOUTS),
    "*_branch.decoder.cls": one_of(*autoencoder.CLS_KINDS),
    "*_branch.decoder.target_frames": at_least(0),
    "*_branch.decoder.share": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "*_branch.decoder.subsample": one_of(*masking.SUBSAMPLES),
    "*_branch.decoder.depth": at_least(0),
    "*_branch.*eps": ABOVE_0,
    "*_branch.variant": FREE,  # decode_variant's message names the sizes
    "*_branch.cls_token": FREE,
    "*_branch.layer_scale": FREE,
    "*_branch.registers": at_least(0),
    "*_branch.softcap": at_least(0),
    "*_branch.temporal_blocks": at_least(0),
    "*_branch.final_norm": FREE,
    "*_branch.decoder.embed_bias": FREE,
    "image_branch.tubelet": ("1: a frame has no time axis", lambda value: value == 1),
    "image_branch.frame_sampling": one_of(*clips.FRAME_SAMPLINGS),
    "image_branch.crop": one_of("shared", "independent"),
    "image_branch.train": one_of("full", "frozen"),
    "video_branch.target": one_of(*TARGETS),
    "video_branch.teacher.init_from": PATH,
    "video_branch.teacher.norm": one_of(*latents.LATENT_NORMS),
    "video_branch.teacher.*": FREE,  # fill_teacher_fields compares them with the weights
    "video_branch.train": FREE,  # TrainedPart.parse names its forms
    "*_branch.init_from": PATH,
    "*_branch.init_decoder": FREE,
    "video_branch.inflate": one_of(*inflate.KINDS),
    "*_branch.*": at_least(1),
    "contrast.temperature": ABOVE_0,
    "contrast.width": at_least(1),
    "contrast.hidden": at_least(0),
    "contrast.layers": at_least(1),
    "contrast.time_reversed_negatives": FREE,
    "loss.*": at_least(0),
    "loss_warmup.*": FREE,
    "cooldown.init_from": PATH,
    "optimizer.warmup": FREE,
    "optimizer.schedule": one_of(*SCHEDULES),
    "optimizer.cooldown": FREE,
    "optimizer.cooldown_shape": one_of(*COOLDOWN_SHAPES),
    "optimizer.base_lr": ABOVE_0,
    "optimizer.eps": ABOVE_0,
    "optimizer.b?": BELOW_1,
    "optimizer.ema_decay": BELOW_1,
    "optimizer.layer_decay": ("above 0 and at most 1", lambda value: 0 < value <= 1),
    "optimizer.*": at_least(0),
    "report.*": at_least(0),
    "monitor.collapse": BELOW_1,
    "monitor.clips": at_least(0),
    "head.init": one_of("new", "weights"),
    "head.eps": ABOVE_0,
    "head.heads": at_least(1),
    "head.pool": one_of(*classifier.POOLS),
    "head.loss": one_of(*classifier.LOSSES),
    "head.dropout": BELOW_1,
    "head.drop_path": BELOW_1,
    "head.*": at_least(0),
    "finetune.train": FREE,  # TrainedPart.parse names its forms
    "finetune.lora_alpha": ABOVE_0,
    "probe.rates": each("above 0", lambda value: value > 0),
    "probe.weight_decays": each("at least 0", lambda value: value >= 0),
    "probe.heads": at_least(1),
    "probe.clips": at_least(1),
    "probe.layers": each("a whole number", lambda value: isinstance(value, int)),
    "probe.loss": one_of(*classifier.LOSSES),
    "probe.*": at_least(0),
    "test.*": at_least(1),
    "*.layer": at_least(-1),
    "features.*": at_least(1),
    "knn.neighbours": each("at least 1", lambda value: value >= 1),
    "knn.temperature": ABOVE_0,
    "extract.tokens": one_of(*features.TOKENS),
    "extract.format": one_of(*extract.FORMATS),
    "extract.dtype": one_of(*extract.DTYPES),
    "extract.window_stride": at_least(0),
    "visualize.records": ("record numbers, each at least 0", lambda values: all(value >= 0 for value in values)),
    "visualize.ratios": each("above 0 and below 1", lambda value: 0 < value < 1),
    "visualize.mask": one_of(*masking.KINDS),
    "visualize.map": one_of(*attention.MAPS),
    "visualize.head": at_least(-1),
    "visualize.query": one_of(*attention.QUERIES),
    "visualize.position": PLACE,
    "visualize.semantic": one_of("auto", "image", "pca"),
    "visualize.image_from": PATH,
    "visualize.target_norm": one_of("auto", *reconstruction.NORMS),
    "visualize.formats": some_of(*animation.FORMATS),
    "visualize.fps": between(0.1, 100),  # GIFs count hundredths of a second
    "visualize.embedding": one_of(*embedding.KINDS),
    "visualize.perplexity": ABOVE_0,
    "visualize.neighbours": at_least(1),
    "visualize.gallery": at_least(1),
    "visualize.*": at_least(0),
}
DURATIONS = (
    "total",
    "log_every",
    "eval_every",
    "checkpoint_every",
    "checkpoint_keep_every",
    "optimizer.warmup",
    "optimizer.cooldown",
    "loss_warmup.*",
)


def check_of(field: str):
    """(what is expected, test) of a field, None where no pattern names it."""
    return next((check for pattern, check in CHECKS.items() if fnmatch.fnmatchcase(field, pattern)), None)


def _of_section(field: str) -> str:
    """Returns the name of a field of a mixture's source as that of config.data, which is checked likewise."""
    return re.sub(r"^data\.sources\.[^.]+", "data", field)


def _near(value, expected: str) -> str:
    """Returns a hint that names the word of `one_of` nearest to a value; empty where none is near."""
    words = expected.removeprefix("one of ").split(", ") if expected.startswith("one of ") else []
    hint = did_you_mean(str(value), words)
    return hint and f"; {hint}"


def check_paths(config) -> None:
    """Raises ConfigError for the first field with a path that has an unsupported scheme, before any of them is read."""
    for field, value in flatten(config).items():
        if check_of(_of_section(field)) is PATH and isinstance(value, str):
            check_field(field, value)


def check_fields(config) -> None:
    """Raises ConfigError for the first field whose value means nothing by itself."""
    for field, value in flatten(config).items():
        check_field(field, value)


def check_field(field: str, value) -> None:
    """Checks one field by itself."""
    if field.startswith(("data.sources.", "video_branch.teacher.")) and value is None:
        return  # the source of a mixture has that of config.data; the fields of no teacher are open
    expected, holds = check_of(_of_section(field)) or (
        f"known to {__name__}.CHECKS",
        lambda _: False,
    )
    require(holds(value), f"config.{field}={value!r} cannot be used: it must be {expected}{_near(value, expected)}")
    if field == "profile":
        parse_steps(value)
    if any(fnmatch.fnmatchcase(field, pattern) for pattern in DURATIONS):
        length = steps(value, field, steps_per_epoch=1, total=None if field == "total" else 100)
        require(
            length <= 100 or not str(value).endswith("_percent") or field.endswith("_every"),
            f"config.{field}={value!r} is longer than the run: give 100_percent or less",
        )
        require(length > 0 or field != "log_every", f"config.{field}={value!r} is too short: give 1_steps or more")
