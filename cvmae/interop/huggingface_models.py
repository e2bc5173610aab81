"""Models of Hugging Face transformers that are read: what the fields of their config.json say, with the defaults of their classes."""

import dataclasses
from collections.abc import Callable, Mapping

from cvmae.interop.json_fields import Fields

MULTI_LABEL = "multi_label_classification"  # problem_type of a classifier that learned each class by itself
# The values of hidden_act that each value of `mlp` has; the first is written.
ACTIVATIONS = {"gelu": ("gelu", "gelu_python"), "gelu_tanh": ("gelu_pytorch_tanh",)}
FIXED_EPS = 1e-5  # of decoder.norm and fc_norm, which take no eps from the config
# (name in `infer_modules`, field of config.json) for an encoder and a decoder.
STACKS = (
    ("width", "hidden_size"),
    ("depth", "num_hidden_layers"),
    ("heads", "num_attention_heads"),
    ("hidden", "intermediate_size"),
)
_BASE = {"width": 768, "depth": 12, "heads": 12, "hidden": 3072}


@dataclasses.dataclass(frozen=True)
class HuggingFaceModel:
    """A model_type of transformers.

    Attributes:
      kind: the kind of its weights, as in `key_maps.KINDS`.
      read: returns the fields of its config in the names that `infer_modules` takes, besides those of `STACKS`, eps and mlp.
      defaults: of the fields of `STACKS` in its config class; absent are those that `read` returns from others: `hidden` where the
        config has `mlp_ratio`, `depth` where it counts the blocks of two stacks.
      eps: the default of layer_norm_eps.
      activation: the default of hidden_act.
      channels: the field with the number of channels.
      section: the part of config.json that describes the encoder; empty for the whole.
    """

    kind: str
    read: Callable[[Fields, dict], dict]
    defaults: Mapping[str, int] = dataclasses.field(default_factory=lambda: _BASE)
    eps: float = 1e-6
    activation: str = "gelu"
    channels: str = "num_channels"
    section: str = ""


def _read_videomae(fields: Fields, values: dict) -> dict:
    mean = fields.flag("use_mean_pooling", True)
    biases = {name: fields.flag(name, True) for name in ("qkv_bias", "qv_bias")}  # the first is transformers 4's
    return (
        _decoder(fields, (384, 4, 6, 1536))
        | _classifier(fields)
        | {
            "size": fields.sides("image_size", 224),
            "patch": fields.whole("patch_size", 16),
            "num_frames": fields.whole("num_frames", 16),
            "tubelet": fields.whole("tubelet_size", 2),
            "qkv_bias": "qv" if all(biases.values()) else "none",
            "bias_field": "qkv_bias" if biases["qv_bias"] else "qv_bias",
            "final_norm": not mean,
            "decoder_norm_eps": FIXED_EPS,
            "pool": "mean" if mean else "first",
            # Without norm_pix_loss it predicts pixels in 0..1, which is not one of `patches.TARGET_NORMS`.
            "target_norm": "patch_channel" if fields.flag("norm_pix_loss", True) else "",
        }
    )


def _read_vit_mae(fields: Fields, values: dict) -> dict:
    return (
        _decoder(fields, (512, 8, 16, 2048))
        | _image(fields, 16)
        | {
            "size": fields.sides("image_size", 224),
            "qkv_bias": "qkv" if fields.flag("qkv_bias", True) else "none",
            "decoder_norm_eps": values["eps"],
            "target_norm": "patch" if fields.flag("norm_pix_loss", False) else "none",
        }
    )


def _decoder(fields: Fields, defaults: tuple[int, ...]) -> dict:
    """Returns the fields of a masked autoencoder's decoder."""
    pairs = zip(STACKS, defaults, strict=True)
    return {f"decoder_{name}": fields.whole(f"decoder_{field}", default) for (name, field), default in pairs}


def _image(fields: Fields, patch: int) -> dict:
    """Returns the fields of an image encoder; `size` leaves out the last rows and columns if they fill no patch, as its convolution does."""
    side, recorded = fields.whole("patch_size", patch), fields.sides("image_size", 224)
    height, width = (length // side * side for length in recorded)
    return {"size": (height, width), "size_recorded": recorded, "patch": side, "num_frames": 1, "tubelet": 1, "final_norm": True}


def _read_dinov2(fields: Fields, values: dict) -> dict:
    hidden = int(values["width"] * fields.number("mlp_ratio", 4))
    swiglu = fields.flag("use_swiglu_ffn", False)
    return _image(fields, 14) | {
        # Two thirds of the MLP's, which has one matrix less, in a multiple of 8.
        "hidden": (int(hidden * 2 / 3) + 7) // 8 * 8 if swiglu else hidden,
        "mlp": "swiglu" if swiglu else values["mlp"],
        "qkv_bias": "qkv" if fields.flag("qkv_bias", True) else "none",
    }


def _read_siglip(fields: Fields, values: dict) -> dict:
    return _image(fields, 16) | {"qkv_bias": "qkv"}


def _read_vjepa2(fields: Fields, values: dict) -> dict:
    side = fields.whole("crop_size", 256)
    return _classifier(fields) | {
        "hidden": int(values["width"] * fields.number("mlp_ratio", 4.0)),
        "size": (side, side),
        "patch": fields.whole("patch_size", 16),
        "num_frames": fields.whole("frames_per_clip", 64),
        "tubelet": fields.whole("tubelet_size", 2),
        "qkv_bias": "qkv" if fields.flag("qkv_bias", True) else "none",
        "final_norm": True,
    }


def _read_videoprism(fields: Fields, values: dict) -> dict:
    side, recorded = fields.frame_patch("tubelet_size", 18), fields.sides("image_size", 288)
    height, width = (length // side * side for length in recorded)
    return {
        "depth": fields.whole("num_spatial_layers", 12),
        "depth_field": "num_spatial_layers",
        "temporal_blocks": fields.whole("num_temporal_layers", 4),
        "size": (height, width),
        "size_recorded": recorded,
        "patch": side,
        "num_frames": fields.whole("num_frames", 16),
        "tubelet": 1,
        "qkv_bias": "qkv" if fields.flag("qkv_bias", True) else "none",
        "softcap": fields.number("attn_logit_softcapping", 50.0),
        "final_norm": True,
    }


def _classifier(fields: Fields) -> dict:
    """Returns the fields of a classifier's classes."""
    loss = "sigmoid" if fields.config.get("problem_type") == MULTI_LABEL else "softmax"
    return {"id2label": fields.config.get("id2label"), "loss": loss}


_VIDEOPRISM = {"width": 768, "heads": 12, "hidden": 3072}
# By model_type.
MODELS = {
    "videomae": HuggingFaceModel("hf-videomae", _read_videomae, eps=1e-12),
    "vit_mae": HuggingFaceModel("hf-vit-mae", _read_vit_mae, eps=1e-12),
    "dinov2": HuggingFaceModel("hf-dinov2", _read_dinov2, {"width": 768, "depth": 12, "heads": 12}),
    "dinov2_with_registers": HuggingFaceModel("hf-dinov2", _read_dinov2, {"width": 768, "depth": 12, "heads": 12}),
    "siglip_vision_model": HuggingFaceModel("hf-siglip", _read_siglip, activation="gelu_pytorch_tanh"),
    "siglip": HuggingFaceModel("hf-siglip", _read_siglip, activation="gelu_pytorch_tanh", section="vision_config"),
    "vjepa2": HuggingFaceModel("hf-vjepa2", _read_vjepa2, {"width": 1024, "depth": 24, "heads": 16}, channels="in_chans"),
    "videoprism_vision_model": HuggingFaceModel("hf-videoprism", _read_videoprism, _VIDEOPRISM, activation="gelu_python"),
    "videoprism": HuggingFaceModel(
        "hf-videoprism", _read_videoprism, _VIDEOPRISM, activation="gelu_python", section="vision_config"
    ),
}
# Fields by their names in `infer_modules`, for messages.
FIELDS = {f"{prefix}{name}": f"{prefix}{field}" for prefix in ("", "decoder_") for name, field in STACKS}
