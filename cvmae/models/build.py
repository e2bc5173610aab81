"""Builds modules from a config: the only file that maps config fields to module attributes."""

import dataclasses
from collections.abc import Callable, Sequence

import jax.numpy as jnp

from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.backbone import Backbone
from cvmae.models.choices import check_choice
from cvmae.models.classifier import Classifier
from cvmae.models.crossvideo import ActiveTerms, CrossVideo
from cvmae.models.factorized import UNMASKED, FactorizedEncoder
from cvmae.models.masking import visible_tokens
from cvmae.models.patches import Grid, TargetNorm
from cvmae.models.positions import PositionEmbedding
from cvmae.models.probes import AttentiveProbe, LinearProbe
from cvmae.models.trained_part import TrainedPart
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize, decode_variant
from cvmae.parallel.logical_axes import Rules

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def grid_of(branch, num_frames: int, size: Sequence[int]) -> Grid:
    """The grid of a branch over clips of `num_frames` frames of `size` = (H, W)."""
    height, width = size
    return Grid(num_frames, height, width, branch.tubelet, decode_variant(branch.variant)[1])


def video_grid(config) -> Grid:
    """The grid of the video branch."""
    return grid_of(config.video_branch, config.data.num_frames, config.augment.size)


def image_grid(config) -> Grid:
    """The grid of the image branch, whose clips are single frames."""
    return grid_of(config.image_branch, 1, config.augment.size)


def build_trunk(config, branch, size: ViTSize, drop_path: float = 0.0, rules: Rules | None = None) -> TransformerConfig:
    """The attributes that the blocks of a branch's encoder or decoder share; `rules` of the mesh that they are to run on."""
    return TransformerConfig(
        size,
        branch.qkv_bias,
        branch.eps,
        config.attention,
        DTYPES[config.dtype],
        drop_path,
        config.remat,
        config.scan,
        rules,
        branch.get("mlp", "gelu"),  # configs of before the field
    )


def build_vit(config, branch, grid: Grid, drop_path: float, rules: Rules | None) -> Encoder:
    """Builds the ViT of a branch. Raises: ValueError naming the field that does not fit."""
    check_choice("positions", branch.positions, PositionEmbedding)
    trunk = build_trunk(config, branch, decode_variant(branch.variant)[0], drop_path, rules)
    # Configs of before the fields lack them.
    trunk = dataclasses.replace(trunk, layer_scale=branch.get("layer_scale", False), softcap=branch.get("softcap", 0.0))
    if branch.get("temporal_blocks", 0):
        raise ValueError(
            f"temporal_blocks={branch.temporal_blocks} with backbone='vit', which has none: set 0, or backbone=factorized"
        )
    return Encoder(trunk, grid, branch.positions, branch.cls_token, branch.final_norm, branch.get("registers", 0))


def build_factorized(config, branch, grid: Grid, drop_path: float, rules: Rules | None) -> FactorizedEncoder:
    """Builds the factorized encoder of a branch. Raises: ValueError naming the field that does not fit."""
    for field, value in (("positions", "separable"), ("cls_token", False), ("registers", 0)):
        if branch[field] != value:
            raise ValueError(f"{field}={branch[field]} with backbone='factorized', which has {field}={value}: set that")
    trunk = build_trunk(config, branch, decode_variant(branch.variant)[0], drop_path, rules)
    trunk = dataclasses.replace(trunk, layer_scale=branch.layer_scale, softcap=branch.softcap)
    return FactorizedEncoder(trunk, grid, branch.temporal_blocks, branch.final_norm)


# The values of config.*_branch.backbone, each with its builder: (config, branch, grid, drop_path, rules) -> Backbone.
BACKBONES: dict[str, Callable[..., Backbone]] = {"vit": build_vit, "factorized": build_factorized}


def build_encoder(config, branch, grid: Grid, drop_path: float = 0.0, rules: Rules | None = None) -> Backbone:
    """Builds the encoder of a branch, for pre-training and for downstream tasks that use its parameters.

    A config without the field `backbone` is older than it, and of a ViT.

    Args:
      config: of any task.
      branch: config.video_branch or config.image_branch.
      grid: of the clips that it encodes.
      drop_path: stochastic depth of the last block.
      rules: of the mesh that it is to run on; None for one device.

    Raises:
      ValueError: no encoder has that name, or another field does not fit.
    """
    name = branch.get("backbone", "vit")
    if name not in BACKBONES:
        raise ValueError(f"backbone is {name!r}; expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name](config, branch, grid, drop_path, rules)


def num_blocks(branch) -> tuple[int, int]:
    """Returns the number of blocks of a branch's encoder, and how many of them, the last ones, are temporal."""
    temporal = branch.get("temporal_blocks", 0)  # configs of before the field lack it
    return decode_variant(branch.variant)[0].depth + temporal, temporal


def decoder_spec(config, branch, rules: Rules | None = None) -> DecoderSpec:
    """The attributes of a branch's decoder. Raises: ValueError, a field does not fit."""
    c = branch.decoder
    try:
        size = ViTSize(c.width, c.depth, c.heads)
    except ValueError:
        raise ValueError(f"decoder.width={c.width} is not a multiple of decoder.heads={c.heads}: change one of them") from None
    trunk = build_trunk(config, branch, size, rules=rules)
    return DecoderSpec(trunk, c.layout, c.positions, c.cls, c.embed_bias, c.norm_eps, c.target_frames)


def build_teacher(config, rules: Rules | None = None) -> Backbone:
    """Builds the encoder of config.video_branch.teacher, whose features video_branch.target=latent predicts, over the clips of a run.

    Raises:
      ValueError: its fields are open, or its grid is not that of the video branch.
    """
    fields = _teacher_fields(config.video_branch)
    own, grid = video_grid(config), grid_of(fields, config.data.num_frames, config.augment.size)
    if own.shape != grid.shape:
        other, own_shape = ("x".join(map(str, g.shape)) for g in (grid, own))
        raise ValueError(
            f"teacher cuts clips into {other} tokens (time, rows, columns), the branch into {own_shape}: take --config.video_branch.tubelet="
            f"{grid.tubelet} and a variant of patch {grid.patch}, or a teacher of tubelet {own.tubelet} and patch {own.patch}"
        )
    return build_encoder(config, fields, grid, rules=rules)


def _teacher_fields(branch):
    if branch.teacher.variant is None:
        raise ValueError(
            "the fields of the teacher are those of its weights, and still open: set teacher.init_from, and call fill_fields"
        )
    return branch.teacher


def build_autoencoder(
    config, branch, grid: Grid, rules: Rules | None = None, *, pixels: bool = True, latents: bool = False
) -> Autoencoder:
    """Builds the autoencoder of a branch, without a decoder where nothing is predicted.

    Args:
      config: of task=pretrain.
      branch: config.video_branch or config.image_branch.
      grid: of its clips.
      rules: of the mesh that it is to run on; None for one device.
      pixels: True if the pixels of masked patches are predicted.
      latents: True if the features of the branch's teacher are.

    Raises:
      ValueError: a field does not fit; the message names it and the fix.
    """
    encoder = build_encoder(config, branch, grid, rules=rules)
    if isinstance(encoder, FactorizedEncoder):
        raise ValueError(f"backbone='factorized': {UNMASKED}; take backbone=vit, and this one in downstream tasks")
    mask = branch.mask
    visible_tokens(grid, mask.kind, mask.ratio, mask.rounding)
    check_choice("target_norm", branch.target_norm, TargetNorm)
    if not (pixels or latents):
        return Autoencoder(encoder)
    spec = decoder_spec(config, branch, rules)
    spec.target_tubelet(grid)
    if spec.cls == "encoder" and not branch.cls_token:
        raise ValueError("decoder.cls='encoder' needs cls_token=True: set it, or take decoder.cls 'own' or 'none'")
    width = decode_variant(_teacher_fields(branch).variant)[0].width if latents else 0
    return Autoencoder(encoder, Decoder(spec, grid, pixels, width))


def build_model(config, terms: ActiveTerms, rules: Rules | None = None) -> CrossVideo:
    """Builds CrossVideoMAE as the config describes it, with only those parts that the active loss terms need.

    Args:
      config: of task=pretrain.
      terms: the outputs that the loss terms need.
      rules: of the mesh that it is to run on; None for one device.

    Raises:
      ValueError: a field does not fit; the message names the branch and the field.
    """
    branches = {}
    for name, needed, grid in (("video", terms.video_branch, video_grid), ("image", terms.image_branch, image_grid)):
        branch = config[f"{name}_branch"]
        try:
            pixels, latents = (f"{name}_{output}" in terms.outputs for output in ("predictions", "latents"))
            module = build_autoencoder(config, branch, grid(config), rules, pixels=pixels, latents=latents) if needed else None
            branches[name] = module
            if latents:
                build_teacher(config)
        except ValueError as error:
            raise ValueError(f"config.{name}_branch: {error}") from error
    c = config.contrast
    frozen = config.image_branch.train == "frozen"
    head_layers = c.get("layers", 2)  # configs of earlier versions lack the field
    heads = {"width": c.width, "hidden": c.hidden, "head_layers": head_layers}
    return CrossVideo(terms, branches["video"], branches["image"], **heads, freeze_image=frozen, rules=rules)


def build_classifier(config, classes: int, rules: Rules | None = None) -> Classifier:
    """Builds the classifier that fine-tuning trains; one that pools the mean replaces the encoder's last norm by its own.

    Raises:
      ValueError: a field does not fit.
    """
    head = config.head
    encoder = build_encoder(config, config.video_branch, video_grid(config), head.drop_path, rules)
    if head.pool == "mean":
        encoder = encoder.clone(final_norm=False)
    pooler = None
    if head.pool == "attentive":
        try:
            pooler = ViTSize(decode_variant(config.video_branch.variant)[0].width, head.blocks, head.heads)
        except ValueError as error:
            raise ValueError(f"config.head.heads: {error}") from error
    regularization = {"dropout": head.dropout, "init_scale": head.init_scale, "eps": head.eps}
    of_pooler = {"pooler": pooler, "attention": config.attention, "rules": rules, "remat": config.remat}
    return Classifier(encoder, classes, head.pool, **regularization, **of_pooler)


def trained_part(config) -> TrainedPart:
    """The part of the classifier that fine-tuning trains; all of it in configs of earlier versions, which lack the field.

    Raises:
      ValueError: the encoder has no such part.
    """
    size, _ = decode_variant(config.video_branch.variant)
    depth, temporal = num_blocks(config.video_branch)
    return TrainedPart.parse(config.get("finetune", {}).get("train", "all"), depth, size.width, temporal)


def build_probe(config, classes: int, rules: Rules | None = None) -> LinearProbe | AttentiveProbe:
    """Builds a head of a probe. Raises: ValueError naming the field that does not fit."""
    if config.task == "linear":
        return LinearProbe(classes)
    width = decode_variant(config.video_branch.variant)[0].width
    try:
        size = ViTSize(width, config.probe.blocks, config.probe.heads)
    except ValueError as error:
        raise ValueError(f"config.probe.heads: {error}") from error
    return AttentiveProbe(classes, size, config.attention, config.video_branch.eps, rules, config.remat)
