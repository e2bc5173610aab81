"""From a config to modules: the one place that knows which config field becomes which module attribute."""

import dataclasses

import jax.numpy as jnp

from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.classifier import Classifier
from cvmae.models.crossvideo import ActiveTerms, CrossVideo
from cvmae.models.masking import visible_tokens
from cvmae.models.patches import TARGET_NORMS, Grid
from cvmae.models.positions import KINDS
from cvmae.models.probes import AttentiveProbe, LinearProbe
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize, decode_variant

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def grid_of(branch, num_frames: int, size: tuple[int, int]) -> Grid:
    """The grid of a branch over clips of `num_frames` frames of `size` = (H, W)."""
    return Grid(num_frames, *size, branch.tubelet, decode_variant(branch.variant)[1])


def video_grid(config) -> Grid:
    return grid_of(config.video_branch, config.data.num_frames, config.augment.size)


def image_grid(config) -> Grid:
    return grid_of(config.image_branch, 1, config.augment.size)


def build_trunk(config, branch, size: ViTSize, drop_path: float = 0.0) -> TransformerConfig:
    """What the blocks of a branch's encoder or decoder share."""
    dtype = DTYPES[config.dtype]
    return TransformerConfig(size, branch.qkv_bias, branch.eps, config.attention, dtype, drop_path, config.remat, config.scan)


def build_encoder(config, branch, grid: Grid, drop_path: float = 0.0) -> Encoder:
    """The encoder of a branch; also what downstream tasks build to use pre-trained parameters."""
    if branch.positions not in KINDS:
        raise ValueError(f"positions is {branch.positions!r}; expected one of {', '.join(KINDS)}")
    trunk = build_trunk(config, branch, decode_variant(branch.variant)[0], drop_path)
    return Encoder(trunk, grid, branch.positions, branch.cls_token, branch.final_norm)


def decoder_spec(config, branch) -> DecoderSpec:
    c = branch.decoder
    trunk = build_trunk(config, branch, ViTSize(c.width, c.depth, c.heads))
    return DecoderSpec(trunk, c.layout, c.positions, c.cls, c.embed_bias, c.norm_eps, c.target_frames)


def build_autoencoder(config, branch, grid: Grid, decoder: bool) -> Autoencoder:
    """The autoencoder of a branch, without decoder where its reconstruction has no weight.

    Raises:
      ValueError: a field does not fit; the message names it and the fix.
    """
    encoder = build_encoder(config, branch, grid)
    mask = branch.mask
    visible_tokens(grid, mask.kind, mask.ratio, mask.rounding)
    if branch.target_norm not in TARGET_NORMS:
        raise ValueError(f"target_norm is {branch.target_norm!r}; expected one of {', '.join(TARGET_NORMS)}")
    if not decoder:
        return Autoencoder(encoder)
    spec = decoder_spec(config, branch)
    spec.target_tubelet(grid)
    if spec.cls == "encoder" and not branch.cls_token:
        raise ValueError("decoder.cls='encoder' needs cls_token=True: set it, or take decoder.cls 'own' or 'none'")
    return Autoencoder(encoder, Decoder(spec, grid))


def build_model(config, terms: ActiveTerms) -> CrossVideo:
    """CrossVideoMAE as the config describes it, with only those parts that the active loss terms need.

    Raises:
      ValueError: a field does not fit; the message names the branch and the field.
    """
    parts = {}
    for name, wanted, grid in (("video", terms.video_branch, video_grid), ("image", terms.image_branch, image_grid)):
        branch = config[f"{name}_branch"]
        try:
            decoder = f"{name}_predictions" in terms.outputs
            parts[name] = build_autoencoder(config, branch, grid(config), decoder) if wanted else None
        except ValueError as error:
            raise ValueError(f"config.{name}_branch: {error}") from error
    c = config.contrast
    return CrossVideo(terms, width=c.width, hidden=c.hidden, freeze_image=config.image_branch.train == "frozen", **parts)


def build_classifier(config, classes: int) -> Classifier:
    """The classifier that fine-tuning trains. One that pools the mean has a norm of its own in place of the encoder's last."""
    head = config.head
    encoder = build_encoder(config, config.video_branch, video_grid(config), head.drop_path)
    if head.pool == "mean":
        encoder = dataclasses.replace(encoder, final_norm=False)
    return Classifier(encoder, classes, head.pool, head.dropout, head.init_scale, head.eps)


def build_probe(config, classes: int) -> LinearProbe | AttentiveProbe:
    """One head of a probe. Raises: ValueError naming the field that does not fit."""
    if config.task == "linear":
        return LinearProbe(classes)
    width = decode_variant(config.video_branch.variant)[0].width
    try:
        size = ViTSize(width, config.probe.blocks, config.probe.heads)
    except ValueError as error:
        raise ValueError(f"config.probe.heads: {error}") from error
    return AttentiveProbe(classes, size, config.attention, config.video_branch.eps)
