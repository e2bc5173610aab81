"""What stands beside the weights in a folder of `transformers`: config.json and the processor's mean and deviation."""

import json
import pathlib

from cvmae.interop.pretrained import WeightsError

# Where the values are that clips were standardised with; the second name is that of transformers' newer processors.
_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")

# (our word, field of config.json, default of transformers' config class) for an encoder and a decoder.
_STACKS = (
    ("width", "hidden_size", 768),
    ("depth", "num_hidden_layers", 12),
    ("heads", "num_attention_heads", 12),
    ("hidden", "intermediate_size", 3072),
)
_DECODERS = {"videomae": (384, 4, 6, 1536), "vit_mae": (512, 8, 16, 2048)}
_KINDS = {"videomae": "hf-videomae", "vit_mae": "hf-vit-mae"}


def read_config(folder: pathlib.Path, kind: str) -> dict:
    """What config.json says of the model, in the words of `describe.describe`; nothing where there is no such file.

    Fields that are absent have the defaults of VideoMAEConfig and ViTMAEConfig.

    Raises:
      WeightsError: it is no JSON, or not of a model of this kind.
    """
    file = folder / "config.json"
    config = _read_json(file)
    if config is None:
        return {}
    model, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    if _KINDS.get(model) != kind or activation != "gelu":
        wanted = next(name for name, known in _KINDS.items() if known == kind)
        raise WeightsError(str(file), [f"model_type is {model!r} and hidden_act {activation!r}, not {wanted!r} and 'gelu'"])
    said = {ours: config.get(theirs, default) for ours, theirs, default in _STACKS}
    said |= {
        f"decoder_{ours}": config.get(f"decoder_{theirs}", default)
        for (ours, theirs, _), default in zip(_STACKS, _DECODERS[model], strict=True)
    }
    side, eps = config.get("image_size", 224), config.get("layer_norm_eps", 1e-12)
    said |= {"size": (side, side) if isinstance(side, int) else tuple(side), "patch": config.get("patch_size", 16), "eps": eps}
    return said | (_videomae if model == "videomae" else _vit_mae)(config, eps)


def _videomae(config: dict, eps: float) -> dict:
    mean = config.get("use_mean_pooling", True)
    names = config.get("id2label") or {}
    return {
        "num_frames": config.get("num_frames", 16),
        "tubelet": config.get("tubelet_size", 2),
        "qkv_bias": "qv" if config.get("qv_bias", config.get("qkv_bias", True)) else "none",  # transformers 4 says qkv_bias
        "final_norm": not mean,
        "decoder_norm_eps": 1e-5,  # whatever layer_norm_eps
        "pool": "mean" if mean else "first",
        "names": tuple(names[key] for key in sorted(names, key=int)),
        # Without norm_pix_loss it predicts pixels in 0..1, which is none of our targets.
        "target_norm": "patch_channel" if config.get("norm_pix_loss", True) else "",
    }


def _vit_mae(config: dict, eps: float) -> dict:
    return {
        "num_frames": 1,
        "tubelet": 1,
        "qkv_bias": "qkv" if config.get("qkv_bias", True) else "none",
        "final_norm": True,
        "decoder_norm_eps": eps,
        "target_norm": "patch" if config.get("norm_pix_loss", False) else "none",
    }


def read_pixels(folder: pathlib.Path) -> dict[str, tuple[float, ...]]:
    """`mean` and `std` of the image processor; nothing where no file names them. Raises: WeightsError."""
    for name in _PROCESSORS:
        processor = _read_json(folder / name) or {}
        if "image_mean" in processor and "image_std" in processor:
            return {"mean": tuple(processor["image_mean"]), "std": tuple(processor["image_std"])}
    return {}


def _read_json(file: pathlib.Path) -> dict | None:
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(str(file), [f"it is not JSON: {error}"]) from error
    if not isinstance(found, dict):
        raise WeightsError(str(file), ["it is not a JSON object"])
    return found
