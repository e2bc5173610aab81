"""Checks of a config before anything is compiled, rendered or written.

Which fields there are (`schema`), every field by itself (`fields.CHECKS`); then the constructors that take several fields are called, and their errors become
ConfigError.
"""

import math
import os

from cvmae.config import UNTRAINED, ConfigError, config_errors, require, steps
from cvmae.data.pipeline import clip_spec
from cvmae.interop import hub
from cvmae.interop.pretrained import vit_of
from cvmae.models import build, masking, positions, rotary, vit
from cvmae.models.trained_part import TrainedPart
from cvmae.objective.terms import active_terms, find_term
from cvmae.parallel.mesh import BATCH, make_mesh, make_rules
from cvmae.storage.client import check_scheme
from cvmae.storage.path import is_remote
from cvmae.tasks.block_checks import check_blocks
from cvmae.tasks.data_checks import check_data
from cvmae.tasks.fields import check_fields
from cvmae.tasks.kernel_checks import check_kernel
from cvmae.tasks.mixtures import check_mixture
from cvmae.tasks.schema import check_schema
from cvmae.tasks.teacher import check_teacher
from cvmae.training import tracker_fields
from cvmae.visualize.attention import AttentionSpec
from cvmae.workdir import PROBES


def validate(config, devices=None) -> None:
    """Checks all that can be checked without reading data, for all devices here or those given.

    Raises: ConfigError, one line that names the field and the fix.
    """
    check_schema(config)
    own = check_mixture(config)
    check_fields(config)
    with config_errors():
        mesh = make_mesh(config.mesh, devices)
        rules = make_rules(mesh, config.sharding)
    check_batch(config, mesh)
    check_total(config)
    check_data(config, own)
    tracker_fields.check(config.get("log", {}))
    with config_errors("image_branch.frames"):
        clip_spec(config)
    (check_pretraining if config.task == "pretrain" else check_downstream)(config)
    check_kernel(config, rules)


def check_pretraining(config) -> None:
    """Checks the parts of both branches that active terms need."""
    check_teacher(config)
    check_start(config.video_branch.get("teacher", {}).get("init_from", ""), "video_branch.teacher.init_from")
    with config_errors():
        terms = active_terms(config)
    wanted = [name for name in ("video", "image") if getattr(terms, f"{name}_branch")]
    require(
        "video" in wanted or not config.report.labelled,
        f"config.report.labelled={config.report.labelled} probes the video encoder, but every term of the video branch has weight 0: "
        "set --config.report.labelled=0",
    )
    require(
        terms.views > 1 or not config.augment.get("plus_shift"),
        f"config.augment.plus_shift={config.augment.get('plus_shift')} moves v⁺ in time, but no term with a weight compares it with v: "
        "set it to 0, or the weight of an intra- or cross-modal term above 0",
    )
    for name in wanted:
        check_grid(config, name)
    with config_errors():
        build.build_model(config, terms)
    for name in wanted:
        check_positions(config, name, terms.has_decoder(name))
    for name in ("video", "image"):
        check_branch_start(config[f"{name}_branch"], name, name in wanted)
    check_inflate(config.video_branch, config.video_branch.init_from)
    check_monitor(config, "video" in wanted)
    starts = [f"config.{name}_branch.init_from" for name in ("video", "image") if config[f"{name}_branch"].init_from]
    require(
        not starts or not config.get("cooldown", {}).get("init_from"),
        f"config.cooldown.init_from with {' and '.join(starts)}: the run continues with its own weights; leave one of them out",
    )


def check_monitor(config, has_video: bool) -> None:
    """Checks the part of the video encoder that is trained, and that there is something to monitor."""
    with config_errors("video_branch.train"):
        depth = vit.decode_variant(config.video_branch.variant)[0].depth
        TrainedPart.parse(config.video_branch.get("train", "all"), depth)
    clips = config.get("monitor", {}).get("clips", 0)
    remedies = {
        "every term of the video branch has weight 0": has_video,
        "config.eval_every is 0": not _is_never(config.eval_every),
    }
    for why, fine in remedies.items():
        require(not clips or fine, f"config.monitor.clips={clips}, but {why}: set --config.monitor.clips=0")


def _is_never(duration: str) -> bool:
    return not steps(duration, "eval_every", steps_per_epoch=1, total=100)


def check_downstream(config) -> None:
    """Checks the encoder, its head, the views and the weights to start from."""
    check_grid(config, "video")
    check_positions(config, "video", False)
    if config.task == "finetune":
        with config_errors():
            build.build_classifier(config, 2)
        with config_errors("finetune.train"):
            build.trained_part(config)
    if config.task in PROBES:
        with config_errors():
            build.build_probe(config, 2)
        check_probe(config)
    views = config.get("test") or config.get("features")
    require(
        views is None or views.crops == 1 or config.data.fit == "crop",
        f"config.data.fit={config.data.fit!r} leaves nothing to crop in more than one way: set it to crop, or one crop",
    )
    check_blocks(config)
    require(
        bool(config.init_from),
        "config.init_from is empty: give a workdir, a weights file or folder, or a hub id owner/name; or untrained, for an encoder of "
        "random weights",
    )
    start = "" if config.init_from == UNTRAINED else config.init_from
    check_start(start, "init_from")
    check_inflate(config.video_branch, start)
    if "visualize" in config:
        check_pictures(config)


def check_probe(config) -> None:
    """Checks that a test has whole groups of the clips that a probe reads together."""
    together = config.probe.get("clips", 1)
    require(
        config.test.clips % together == 0,
        f"config.test.clips={config.test.clips} is no multiple of config.probe.clips={together}, which are read together "
        f"in the test too: set --config.test.clips={together}, or --config.probe.clips=1 to average over clips",
    )


def check_pictures(config) -> None:
    """Checks that the encoder has the attention to draw, and that the mask ratios leave patches on both sides."""
    c, grid = config.visualize, build.video_grid(config)
    with config_errors("visualize"):
        encoder = vit_of(build.build_encoder(config, config.video_branch, grid), "config.video_branch")
        AttentionSpec(c.map, c.layer, c.head, c.query, tuple(c.position)).check(encoder)
    for ratio in c.ratios:
        with config_errors("visualize.ratios"):
            masking.visible_tokens(grid, c.mask, ratio)
    check_start(c.image_from, "visualize.image_from")
    require(
        c.semantic != "image" or c.image_from or config.init_from != UNTRAINED,
        "config.visualize.semantic='image' needs an image branch: give config.visualize.image_from, or take pca",
    )


def check_total(config) -> None:
    """Checks that there is something to train; a classifier whose head has its weights may be only tested."""
    weights = config.get("head", {}).get("init") == "weights"
    require(
        not weights or config.init_from not in ("", UNTRAINED),
        "config.head.init='weights' without config.init_from has nothing to take: give a classifier's weights",
    )
    nothing = "total" in config and not steps(config.total, "total", steps_per_epoch=1)
    require(
        not nothing or weights,
        f"config.total={config.total if nothing else ''!r} is too short: give 1_steps or more (0_steps with head.init=weights tests a classifier)",
    )


def batch_unit(config, mesh) -> int:
    """Returns the number that config.batch_size must be a multiple of: every micro-batch is spread evenly over the mesh."""
    return config.get("accumulate", 1) * math.prod(mesh.shape[axis] for axis in BATCH)


def check_batch(config, mesh) -> None:
    """Checks that the batch divides, and that every micro-batch has negatives."""
    batch, parts, unit = config.batch_size, config.get("accumulate", 1), batch_unit(config, mesh)
    below, above = batch // unit * unit, -(-batch // unit) * unit
    require(
        batch % unit == 0,
        f"config.batch_size={batch} does not divide by config.accumulate={parts} times {unit // parts} devices: "
        f"take {f'{below} or ' if below else ''}{above}",
    )
    require(
        not is_contrastive(config) or batch // parts > 1,
        f"config.batch_size={batch} in config.accumulate={parts} micro-batches leaves 1 clip in each, which has no negatives to "
        "contrast with: raise batch_size, or lower accumulate",
    )


def is_contrastive(config) -> bool:
    """Returns True if a term of the loss needs negatives."""
    return any(find_term(name).contrastive for name, weight in config.get("loss", {}).items() if weight)


def grid_of(config, name: str):
    """Returns the grid of the branch `name`."""
    return (build.video_grid if name == "video" else build.image_grid)(config)


def check_grid(config, name: str) -> None:
    """Checks that patches and tubelets divide the views of a branch."""
    with config_errors(f"{name}_branch.variant"):
        vit.decode_variant(config[f"{name}_branch"].variant)
    try:
        grid_of(config, name)
    except ValueError as error:
        field = "data.num_frames" if str(error).startswith("num_frames") else "augment.size"
        raise ConfigError(f"config.{field}: {error}") from error


def check_positions(config, name: str, decoder: bool) -> None:
    """Checks that fixed position tables exist for the grid and width of a branch."""
    branch = config[f"{name}_branch"]
    size = vit.decode_variant(branch.variant)[0]
    if branch.positions == "rope3d":
        with config_errors(f"{name}_branch.positions"):
            rotary.table(grid_of(config, name), size.width // size.heads)
    stacks = [("positions", branch.positions, size.width)]
    if decoder:
        stacks.append(("decoder.positions", branch.decoder.positions, branch.decoder.width))
    for field, kind, width in stacks:
        if kind.startswith("sincos"):
            with config_errors(f"{name}_branch.{field}"):
                positions.fixed_table(kind, grid_of(config, name), width)


def check_start(path: str, field: str) -> None:
    """Raises ConfigError if there are no weights at `path`; a hub id is only checked for its form."""
    known = "give a workdir, a weights file or folder, or a hub id owner/name"
    require(not path or bool(path.strip()), f"config.{field}={path!r} is blank: {known}")
    if is_remote(path):  # whether it is there, its reader says
        check_scheme(path)
        return
    is_there = os.path.exists(os.path.expanduser(path)) or hub.is_hub_id(path)
    require(not path or is_there, f"config.{field}={path!r} does not exist: {known}")


def check_inflate(branch, path: str) -> None:
    """Checks that there is something to inflate."""
    require(
        branch.inflate == "none" or bool(path),
        f"config.video_branch.inflate={branch.inflate!r} without init_from has nothing to inflate: give an image encoder's weights",
    )


def check_branch_start(branch, name: str, wanted: bool) -> None:
    """Checks that the weights to start a branch of pre-training from exist, and that a frozen branch has some."""
    path = branch.init_from
    require(wanted or not path, f"config.{name}_branch.init_from={path!r}, but every term of the {name} branch has weight 0")
    check_start(path, f"{name}_branch.init_from")
    require(
        not wanted or path or branch.get("train") != "frozen",
        "config.image_branch.train='frozen' without config.image_branch.init_from is a teacher of random weights: give a file",
    )
