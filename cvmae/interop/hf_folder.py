"""A video encoder in a folder or file of `transformers`: what stands beside the weights, and its arrays in our tree."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp

from cvmae.interop.keymap import KeyMap
from cvmae.interop.videomae import HF_VIDEOMAE, HF_VIDEOMAE_ENCODER
from cvmae.interop.weights import WeightsError, convert, find_file, find_key_map, read_keys, read_safetensors
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, Size, Trunk

# Where the values are that clips were standardised with; the second name is that of transformers' newer processors.
_PROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")


@dataclasses.dataclass(frozen=True)
class HfFolder:
    """A safetensors file of VideoMAE's and what the folder around it says.

    Attributes:
      file: the weights.
      key_map: of their kind.
      encoder: the encoder that was trained.
      pixels: `mean` and `std`, where a file names them.
      described: whether a config.json tells what the weights cannot: heads, eps, grid.
    """

    file: str
    key_map: KeyMap
    encoder: Encoder
    pixels: dict[str, tuple[float, ...]]
    described: bool

    @property
    def name(self) -> str:
        return f"{self.file} (as {self.key_map.kind})"

    def arrays(self) -> dict:
        """The encoder's arrays as nested dicts. Raises: WeightsError where the file does not hold what it should."""
        params, problems = convert(read_safetensors(self.file), self.key_map, {"encoder": shapes(self.encoder)})
        if problems:
            raise WeightsError(self.name, problems)
        return params["encoder"]


def shapes(encoder: Encoder):
    """Shapes of an encoder's parameters, without making them."""
    grid = encoder.grid
    clip = jax.ShapeDtypeStruct((1, grid.num_frames, grid.height, grid.width, 3), jnp.float32)
    return jax.eval_shape(encoder.init, jax.random.key(0), clip)["params"]


def read_hf_folder(path, like: Encoder) -> HfFolder:
    """What a folder, or the folder of a file, says of its weights.

    Args:
      path: a folder of save_pretrained, or a .safetensors file.
      like: the encoder to fill; where there is no config.json its size, eps and grid are assumed.

    Raises:
      FileNotFoundError: there are no weights.
      WeightsError: they are not a VideoMAE's, or config.json is none of one.
    """
    file = find_file(path)
    keys = read_keys(file)
    key_map = find_key_map("auto", keys, file)
    if key_map not in (HF_VIDEOMAE, HF_VIDEOMAE_ENCODER):
        raise WeightsError(file, [f"{key_map.kind} is not a kind that holds a video encoder"])
    folder = pathlib.Path(file).parent
    config = _read_json(folder / "config.json")
    if config is None:
        final_norm = any(found and found[1] == "encoder/norm/scale" for found in map(key_map.find, keys))
        encoder = like.clone(positions="sincos1d", cls_token=False, final_norm=final_norm)
    else:
        encoder = _encoder(config, folder / "config.json")
    return HfFolder(file, key_map, encoder, _pixels(folder), config is not None)


def _read_json(file: pathlib.Path) -> dict | None:
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(str(file), [f"it is not JSON: {error}"]) from error


def _encoder(config: dict, file: pathlib.Path) -> Encoder:
    """The encoder that a VideoMAEConfig describes; fields that are absent have VideoMAEConfig's defaults."""
    kind, activation = config.get("model_type"), config.get("hidden_act", "gelu")
    if kind != "videomae" or activation != "gelu":
        raise WeightsError(str(file), [f"model_type is {kind!r} and hidden_act {activation!r}, not 'videomae' and 'gelu'"])
    width, side = config.get("hidden_size", 768), config.get("image_size", 224)
    ratio = config.get("intermediate_size", 3072) / width
    size = Size(width, config.get("num_hidden_layers", 12), config.get("num_attention_heads", 12), ratio)
    bias = "qv" if config.get("qv_bias", config.get("qkv_bias", True)) else "none"  # transformers 4 says qkv_bias
    trunk = Trunk(size, bias, config.get("layer_norm_eps", 1e-12))
    grid = Grid(config.get("num_frames", 16), side, side, config.get("tubelet_size", 2), config.get("patch_size", 16))
    return Encoder(trunk, grid, "sincos1d", final_norm=not config.get("use_mean_pooling", True))


def _pixels(folder: pathlib.Path) -> dict[str, tuple[float, ...]]:
    for name in _PROCESSORS:
        processor = _read_json(folder / name) or {}
        if "image_mean" in processor and "image_std" in processor:
            return {"mean": tuple(processor["image_mean"]), "std": tuple(processor["image_std"])}
    return {}
