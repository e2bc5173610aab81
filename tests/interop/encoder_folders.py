"""Folders of tiny encoders as transformers writes them, made without transformers, for tests of readers."""

import json
import pathlib
import re
from collections.abc import Mapping

import numpy as np
from safetensors.numpy import load_file

from cvmae.interop.key_maps.dinov2 import HF_DINOV2
from cvmae.interop.key_maps.siglip import HF_SIGLIP
from cvmae.interop.key_maps.videoprism import HF_VIDEOPRISM
from cvmae.interop.key_maps.vjepa2 import HF_VJEPA2_CLASSIFIER
from cvmae.interop.keymap import KeyMap
from cvmae.models.classifier import Classifier
from cvmae.models.factorized import FactorizedEncoder
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from tests.interop.models import random_params, save_weights

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
PROCESSOR = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}


def image_encoder(grid: Grid, cls_token: bool, registers: int = 0, **trunk) -> Encoder:
    return Encoder(TransformerConfig(ViTSize(32, 2, 2), **trunk), grid, "learned", cls_token, registers=registers)


def write(folder: pathlib.Path, params: dict, key_map: KeyMap, grid: Grid, config: dict) -> pathlib.Path:
    """Writes parameters, config.json and preprocessor_config.json; returns the file of arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / "model.safetensors", params, key_map, grid)
    (folder / "config.json").write_text(json.dumps(SIZE | config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder / "model.safetensors"


def make_dinov2(folder: pathlib.Path, side: int = 24, patch: int = 8) -> pathlib.Path:
    grid = Grid(1, side, side, 1, patch)
    params = random_params(image_encoder(grid, cls_token=True, registers=2, layer_scale=True))
    config = {"model_type": "dinov2_with_registers", "image_size": side, "mlp_ratio": 4, "use_swiglu_ffn": False}
    config |= {"patch_size": patch}
    return write(folder, {"encoder": params}, HF_DINOV2[0], grid, config)


def make_siglip(folder: pathlib.Path, side: int = 24) -> pathlib.Path:
    grid = Grid(1, side, side, 1, 8)
    params = random_params(image_encoder(grid, cls_token=False, mlp="gelu_tanh"))
    config = {"model_type": "siglip_vision_model", "image_size": side, "intermediate_size": 128}
    return write(folder, {"encoder": params}, HF_SIGLIP[0], grid, config)


def make_vjepa2(folder: pathlib.Path, side: int = 16) -> pathlib.Path:
    grid = Grid(4, side, side, 2, 8)
    encoder = Encoder(TransformerConfig(ViTSize(32, 2, 2)), grid, "rope3d")
    params = random_params(Classifier(encoder, 3, "attentive", pooler=ViTSize(32, 1, 2)))
    config = {"model_type": "vjepa2", "crop_size": side, "frames_per_clip": 4, "id2label": {"0": "a", "1": "b", "2": "c"}}
    return write(folder, params, HF_VJEPA2_CLASSIFIER, grid, config)


def make_videoprism(folder: pathlib.Path, side: int = 16) -> pathlib.Path:
    grid = Grid(4, side, side, 1, 8)
    params = random_params(FactorizedEncoder(TransformerConfig(ViTSize(32, 2, 2), softcap=50.0), grid, temporal_blocks=1))
    config = {"model_type": "videoprism_vision_model", "image_size": side, "num_frames": 4, "tubelet_size": [1, 8, 8]}
    config |= {"num_spatial_layers": 2, "num_temporal_layers": 1, "intermediate_size": 128}
    return write(folder, {"encoder": params}, HF_VIDEOPRISM[0], grid, config)


# transformers' names of arrays in VideoPrism, and those of its authors.
AUTHORS = {
    "spatial_embeddings.patch_embeddings.projection.": "patch_projection/linear/",
    "spatial_embeddings.position_embeddings": "spatial_pos_emb/emb_var",
    "temporal_embeddings.position_embeddings": "temporal_pos_emb/emb_var",
    "layernorm1.": "spatial_ln/",
    "layernorm2.": "temporal_ln/",
    "spatial_layers.": "spatial_encoder/transformers_stack/x_layers/",
    "temporal_layers.": "temporal_encoder/transformers_stack/x_layers/",
    "attention.q_proj.": "self_attention/query/",
    "attention.k_proj.": "self_attention/key/",
    "attention.v_proj.": "self_attention/value/",
    "attention.o_proj.": "self_attention/post/",
    "layernorm_before.": "layer_norm/",
    "layernorm_after.": "ff_layer/layer_norm/",
    "mlp.fc1.": "ff_layer/ffn_layer1/linear/",
    "mlp.fc2.": "ff_layer/ffn_layer2/linear/",
}


def authors_arrays(arrays: Mapping[str, np.ndarray], heads: int, prefix: str = "params/") -> dict[str, np.ndarray]:
    """Returns the arrays of a VideoPrismVisionModel as its authors' npz files have them: layers in one array, heads on an axis."""
    stacks: dict[str, dict[int, np.ndarray]] = {}
    for key, array in arrays.items():
        number = re.search(r"_layers\.(\d+)\.", key)
        name = key.replace(f".{number[1]}.", ".", 1) if number else key
        for theirs, authors in AUTHORS.items():
            name = name.replace(theirs, authors, 1) if number or name.startswith(theirs) else name
        stacks.setdefault(_authors_name(name), {})[int(number[1]) if number else -1] = _authors_array(name, array, heads)
    return {
        f"{prefix}{name}": layers[-1] if -1 in layers else np.stack([layers[i] for i in sorted(layers)])
        for name, layers in stacks.items()
    }


def _authors_name(name: str) -> str:
    if "_attention/" in name:
        return name.replace("/weight", "/w").replace("/bias", "/b")
    return name.replace("weight", "scale" if "_ln/" in name or "layer_norm/" in name else "kernel")


def _authors_array(name: str, array: np.ndarray, heads: int) -> np.ndarray:
    if name.startswith("patch_projection") and array.ndim == 5:
        return array[:, :, 0].transpose(2, 3, 1, 0).reshape(-1, len(array))
    if name.endswith("emb_var"):
        return array[0]
    if "self_attention/post/" in name:
        return array.reshape(len(array), heads, -1) if array.ndim == 2 else array
    if "_attention/" in name:
        return np.ascontiguousarray(array.T).reshape(*array.shape[1:], heads, -1)
    return array.T


def make_videoprism_npz(folder: pathlib.Path) -> pathlib.Path:
    """Writes the same as its authors do."""
    arrays: dict = authors_arrays(load_file(make_videoprism(folder / "hf")), heads=2)
    np.savez(folder / "prism.npz", **arrays)
    return folder / "prism.npz"


FOLDERS = {"hf-dinov2": make_dinov2, "hf-siglip": make_siglip, "hf-vjepa2": make_vjepa2, "hf-videoprism": make_videoprism}
