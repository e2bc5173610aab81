"""Lines for the start of a run: settings that work but are rarely meant."""

from collections.abc import Mapping

import numpy as np

from cvmae.config import UNTRAINED, config_errors, require, steps
from cvmae.data.mixture import source_kinds
from cvmae.data.row_checks import check_rows
from cvmae.data.sources import Source
from cvmae.data.video_files import is_picture
from cvmae.interop.huggingface import refusals
from cvmae.interop.pretrained import Pretrained
from cvmae.models.backbone import Backbone
from cvmae.models.vit import Encoder
from cvmae.objective.objective import Objective
from cvmae.objective.terms import active_terms
from cvmae.tasks.validate import is_contrastive
from cvmae.training.run_schedule import Schedule

_LOOKED_AT = 64  # records of a source that are looked at to see whether they are pictures
WSD = {"cooldown": "10_percent", "cooldown_shape": "linear"}  # fields of the schedule wsd alone, with the values of the configs
LOW_VALID = 0.5  # below this fraction of valid pairs a frame-level term is noted


def check_clips(config, clips: int) -> None:
    """Raises ConfigError where a batch would hold a clip twice, which would then be its own negative."""
    require(
        clips >= config.batch_size or not is_contrastive(config),
        f"config.data.split={config.data.split!r} has {clips} clips, fewer than config.batch_size={config.batch_size}: a clip "
        f"would be its own negative; take a batch_size of {clips} or less",
    )


def training_notes(config, schedule: Schedule, backend: str) -> list[str]:
    """Returns notes for the start of training.

    Args:
      config: of a task that trains.
      schedule: its length in steps.
      backend: `cpu`, `gpu` or `tpu`.
    """
    notes = _shared_notes(config, backend)
    epoch, total = schedule.steps_per_epoch, schedule.total
    warmup = steps(config.optimizer.warmup, "optimizer.warmup", steps_per_epoch=epoch, total=total)
    trial = source_kinds(config.data) == {"synthetic"}  # which is not meant to learn
    if 0 < epoch < 1 and not trial:
        clips = round(epoch * config.batch_size)
        of = (
            f"an epoch of config.data.mixture={config.data.mixture!r}"
            if config.data.get("mixture")
            else f"config.data.split={config.data.split!r}"
        )
        notes.append(
            f"note: config.batch_size={config.batch_size} is more than the {clips} clips of {of}: a batch "
            f"holds clips several times, and config.total={config.total} is {total} steps; take --config.batch_size={clips} or less"
        )
    if total and warmup >= total and not trial:
        notes.append(
            f"note: config.optimizer.warmup={config.optimizer.warmup} is {warmup} steps, all of the run: the learning rate never "
            "reaches its peak"
        )
    optimizer = config.optimizer
    unread = [name for name, default in WSD.items() if optimizer.get(name, default) != default]
    if optimizer.get("schedule", "wsd") != "wsd" and unread:
        fields = " and ".join(f"config.optimizer.{name}={optimizer[name]}" for name in unread)
        notes.append(f"note: {fields}: not read with schedule={optimizer.schedule}, only with wsd")
    return notes if trial else notes + _frozen_random(config)


def _frozen_random(config) -> list[str]:
    """Returns a note if a part of an encoder is frozen that has random weights."""
    if config.task == "pretrain":
        if not active_terms(config).video_branch:
            return []
        section, start = "video_branch", config.video_branch.init_from or config.get("cooldown", {}).get("init_from")
    else:
        section, start = "finetune", config.get("init_from", UNTRAINED) != UNTRAINED
    part = config.get(section, {}).get("train", "all")
    field = "config.init_from" if section == "finetune" else "config.video_branch.init_from"
    return (
        []
        if part == "all" or start
        else [f"note: config.{section}.train={part} freezes random weights: give {field}, or take all"]
    )


def export_notes(encoder: Backbone) -> list[str]:
    """Returns a note if the class VideoMAE of transformers, the export hf-videomae, cannot express a video encoder."""
    if not isinstance(encoder, Encoder):
        return ["note: only a ViT can be exported as hf-videomae"]
    reasons = refusals(Pretrained("", encoder, {}), "encoder")
    if not reasons:
        return []
    return [
        f"note: the encoder of this run cannot be exported as hf-videomae ({'; '.join(reasons)}), only in other formats; the argument "
        "exportable, --config=FILE.py:exportable, sets both"
    ]


def valid_notes(config, objective: Objective) -> list[str]:
    """Returns a note if masks leave few pairs of the frame-level terms valid, as many as the masks' formula expects."""
    expected = objective.expected_valid
    clips = config.batch_size // config.accumulate
    if expected is None or (expected >= LOW_VALID and expected * clips >= 2):
        return []
    names = ", ".join(term.name for term in objective.loss_terms if "f_valid" in term.needs)
    mask = config.video_branch.mask
    return [
        f"note: config.video_branch.mask (kind={mask.kind}, ratio={mask.ratio:g}) leaves {100 * expected:.0f} % of the pairs of {names} "
        f"valid, {expected * clips:.1f} of {clips} clips a frame: a time patch needs a visible token in each of {objective.terms.views} "
        "views, and a frame two valid pairs; lower the ratio, or take kind=tube"
    ]


def check_reversible(config, source: Source) -> None:
    """Raises ConfigError where pictures are clips and reversed clips are negatives, since each is its own reverse."""
    require(
        not (config.contrast.time_reversed_negatives and any(_are_pictures(source))),
        "config.contrast.time_reversed_negatives=True needs videos: a clip of a picture, one repeated frame, is its own reverse and "
        f"would be pushed away from itself; config.data.split={config.data.split!r} has pictures",
    )


def picture_notes(config, source: Source) -> list[str]:
    """Returns a note if the video encoder is pre-trained on pictures alone, clips of one repeated frame."""
    if not all(_are_pictures(source)):
        return []
    return [
        f"note: config.data.split={config.data.split!r} has pictures only, so every clip is one repeated frame: the video encoder learns "
        "what an image MAE does, and nothing about motion. stage=image trains an image MAE on them, data.mixture adds videos"
    ]


def repeated_clip_notes(config, source: Source, clips: int) -> list[str]:
    """Returns a note if `clips` clips of a video are read together, and all videos are pictures, whose clips are one repeated frame."""
    if clips == 1 or not all(_are_pictures(source)):
        return []
    return [
        f"note: config.data.split={config.data.split!r} has pictures only, so the config.probe.clips={clips} clips that are read together "
        "differ by their crops alone: --config.probe.clips=1 --config.test.clips=1 takes one"
    ]


def _are_pictures(source: Source) -> list[bool]:
    """Tells by the suffixes of some records, evenly spread, which of them are pictures."""
    chosen = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int)) if len(source) else ()
    return [is_picture(source.key(int(index))) for index in chosen]


def frozen_notes(config, sources: Mapping[str, Source], backend: str) -> list[str]:
    """Returns notes for the start of a task that trains nothing; `sources` are the splits by their field of config.data."""
    notes = _shared_notes(config, backend) + source_notes(*sources.values())
    gallery = len(sources["split"]) if "split" in sources else 0
    beyond = [k for k in config.get("knn", {}).get("neighbours", ()) if k > gallery]
    if beyond:
        numbers = ", ".join(map(str, beyond))
        notes.append(f"note: config.knn.neighbours={numbers}: the gallery has {gallery} clips, so all of them vote")
    return notes


def row_notes(config, sources: Mapping[str, Source], labeled: bool, refuse: bool = True) -> list[str]:
    """Returns notes about the rows of splits together: files that are in two of them, classes without training clips.

    Args:
      config: of the run.
      sources: the splits that numbers are computed on and that of training, by their field of config.data.
      labeled: True for a task that reads labels.
      refuse: False for one that is not about them, see `check_rows`.

    Raises:
      ConfigError: no number of the run would mean anything.
    """
    if "split" not in sources:
        return []
    with config_errors("data"):
        lines = check_rows(sources, {field: config.data[field] for field in sources}, labeled, refuse)
    return [f"note: {line}" for line in lines]


def source_notes(*sources: Source) -> list[str]:
    """Returns notes about the files of sources, such as those of a folder that are left out, each once."""
    lines = (note for source in sources for note in getattr(source, "notes", ()))
    return [f"note: {line}" for line in dict.fromkeys(lines)]


def _shared_notes(config, backend: str) -> list[str]:
    notes = []
    if config.dtype == "bfloat16" and backend == "cpu":
        notes.append("note: config.dtype=bfloat16 is slower than float32 on a CPU: set --config.dtype=float32")
    size, frame = tuple(config.augment.size), tuple(config.data.frame_size)
    if size[0] > frame[0] or size[1] > frame[1]:
        notes.append(f"note: config.augment.size={size} is larger than config.data.frame_size={frame}: clips are enlarged")
    return notes
