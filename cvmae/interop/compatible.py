"""Compares the modules of weights with those of a run, and names the differences as flags to copy."""

import dataclasses
import math
import shlex

from cvmae.interop.pretrained import Pretrained
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.factorized import BlockEncoder, FactorizedEncoder
from cvmae.models.vit import VIT_SIZES, ViTSize

# Fields of a branch that must agree for parameters to mean the same. The number and size of frames may differ.
ENCODER_FIELDS = {
    "backbone": lambda encoder: "factorized" if isinstance(encoder, FactorizedEncoder) else "vit",
    "variant": lambda encoder: (encoder.trunk.size, encoder.grid.patch),
    "tubelet": lambda encoder: encoder.grid.tubelet,
    "positions": lambda encoder: encoder.positions,
    "cls_token": lambda encoder: encoder.cls_token,
    "qkv_bias": lambda encoder: encoder.trunk.qkv_bias,
    "eps": lambda encoder: encoder.trunk.eps,
    "mlp": lambda encoder: encoder.trunk.mlp,
    "layer_scale": lambda encoder: encoder.trunk.layer_scale,
    "registers": lambda encoder: encoder.registers,
    "softcap": lambda encoder: encoder.trunk.softcap,
    "temporal_blocks": lambda encoder: getattr(encoder, "temporal_blocks", 0),
}
# The decoder's layout may differ: all layouts give the same predictions.
DECODER_FIELDS = {
    "decoder.width": lambda decoder: decoder.trunk.size.width,
    "decoder.depth": lambda decoder: decoder.trunk.size.depth,
    "decoder.heads": lambda decoder: decoder.trunk.size.heads,
    "decoder.positions": lambda decoder: decoder.positions,
    "decoder.cls": lambda decoder: decoder.cls,
    "decoder.embed_bias": lambda decoder: decoder.embed_bias,
    "mlp": lambda decoder: decoder.trunk.mlp,  # one field of both
    "decoder.norm_eps": lambda decoder: decoder.norm_eps,
}


def check_compatible(source: Pretrained, encoder: BlockEncoder, decoder: DecoderSpec | None, branch: str) -> None:
    """Raises ValueError, with the flags to copy, if weights belong to other modules than those to fill."""
    flags = _differing(ENCODER_FIELDS, source.block_encoder, encoder)
    if encoder.positions == "learned" and source.block_encoder.positions != "rope3d":  # which is no table to start from
        flags.pop("positions", None)
    # A fine-tuned classifier that pools the mean has no last norm, whatever its config says.
    if encoder.final_norm and not source.encoder.final_norm:
        flags["final_norm"] = False
    if source.encoder.grid.time_patches == 1 and encoder.grid.time_patches > 1 and source.encoder.grid.tubelet == 1:
        raise ValueError(
            f"{source.name} is an encoder of images: give config.{branch}_branch.inflate (mean or center) to start a video encoder from "
            "it, or config.data.num_frames=1 for single frames"
        )
    if decoder is not None:
        assert source.decoder is not None  # the caller asks for none where the weights have none
        flags |= _differing(DECODER_FIELDS, source.decoder, decoder)
        tubelet = source.decoder.target_tubelet(source.encoder.grid)
        if tubelet != decoder.target_tubelet(encoder.grid):
            flags["decoder.target_frames"] = tubelet * encoder.grid.time_patches
    if flags:
        or_not = f" - or leave its decoder out by --config.{branch}_branch.init_decoder=False" if _of_decoder(flags) else ""
        flags = {f"{branch}_branch.{field}": value for field, value in flags.items()}
        raise ValueError(f"{refusal(source, flags)}{or_not}")


def refusal(source: Pretrained, flags: dict) -> str:
    """Returns why weights are refused, with the flags that describe them."""
    values = {
        field: variant_of(source.name, *value) if field.endswith("_branch.variant") else value for field, value in flags.items()
    }
    text = " ".join(shlex.quote(f"--config.{field}={value}") for field, value in values.items())
    return f"the model in {source.name} was trained with other settings: give other weights, or these flags: {text}"


def _of_decoder(flags) -> bool:
    return any(field.startswith("decoder.") for field in flags)


def _differing(fields: dict, source_module, module) -> dict:
    """Returns {field: its value in the weights' module} for the fields in which the two modules differ."""
    return {field: get(source_module) for field, get in fields.items() if get(source_module) != get(module)}


def variant_of(name: str, size: ViTSize, patch: int) -> str:
    """Returns the variant of a size and a patch side, as configs have it.

    Raises:
      ValueError: no variant has the size; the message names `name`, the encoder's file, the nearest variant, and what takes the encoder.
    """
    known = next((variant for variant, other in VIT_SIZES.items() if other == size), None)
    if known is None:
        nearest = min(VIT_SIZES, key=lambda variant: _distance(VIT_SIZES[variant], size))
        raise ValueError(
            f"the encoder in {name} has {_words(size)}, the size of no variant (nearest is {nearest}: {_words(VIT_SIZES[nearest])}; all: "
            f"{', '.join(VIT_SIZES)}): cvmae.load and cvmae.embed take any size; for runs, add yours to cvmae.VIT_SIZES in a config file "
            "(configs/README.md, Sizes of encoders)"
        )
    return f"{known}/{patch}"


def _words(size: ViTSize) -> str:
    return f"width {size.width}, {size.depth} blocks, {size.heads} heads, MLPs of {round(size.width * size.mlp_ratio)}"


def _distance(one: ViTSize, other: ViTSize) -> float:
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other))
    return sum(abs(math.log(left / right)) for left, right in pairs)
