"""VideoPrism's files: the video encoders of transformers' models, and of the npz files of its authors, whose layers are scanned."""

import functools
import statistics
from collections.abc import Mapping

import numpy as np

from cvmae.interop.key_maps.common import UNIT_RANGE, linear, patches
from cvmae.interop.keymap import KeyMap, Rule
from cvmae.interop.pretrained import WeightsError

_LARGEST_STACK = 1000  # layers; a longer first axis is that of a damaged or other array
_SCANNED = "/x_layers/"  # in the keys of the authors' layers, all of a stack in one array
_key_map = functools.partial(
    KeyMap,
    backbone="factorized",
    encoder={"eps": 1e-6, "softcap": 50.0},
    heads={768: 12, 1024: 16, 1408: 16},
    normalization=UNIT_RANGE,
    reconstructs=False,
    side=288,
)
_POOLING = "of the pooling over its tokens, which has another form here (head.pool=attentive, task=attentive)"
_AUXILIARY = "of the blocks between its encoder and the comparison with texts"
_TEXT = "of the text tower, no part of an encoder of videos"
_CLASSIFIER = "the head of its classifier, which stands on its pooling"


def _norm(source: str, target: str, names: tuple[str, str]) -> tuple[tuple[str, str, str], ...]:
    """Returns the rows of a layer norm, whose scale is stored less 1; `names` of scale and bias in the file."""
    scale, bias = names
    return (f"{source}{scale}", f"{target}/scale", "scale_from_one"), (f"{source}{bias}", f"{target}/bias", "copy")


_TORCH = (".weight", ".bias")
_HF_BLOCK = (
    *linear("attention.q_proj", "attention/query"),
    *linear("attention.k_proj", "attention/key"),
    *linear("attention.v_proj", "attention/value"),
    *linear("attention.o_proj", "attention/out"),
    *_norm("layernorm_before", "norm1", _TORCH),
    *_norm("layernorm_after", "norm2", _TORCH),
    *linear("mlp.fc1", "mlp_in"),
    *linear("mlp.fc2", "mlp_out"),
)
_FLAX = ("/scale", "/bias")
_NPZ_BLOCK = (
    *(
        (f"self_attention/{name}/{array}", f"attention/{name}/{ours}", transform)
        for name in ("query", "key", "value")
        for array, ours, transform in (("w", "kernel", "heads_copy"), ("b", "bias", "heads_bias"))
    ),
    ("self_attention/post/w", "attention/out/kernel", "heads_linear"),
    ("self_attention/post/b", "attention/out/bias", "copy"),
    *_norm("layer_norm", "norm1", _FLAX),
    *_norm("ff_layer/layer_norm", "norm2", _FLAX),
    *(
        (f"ff_layer/{name}/linear/{array}", f"{ours}/{array}", "copy")
        for name, ours in (("ffn_layer1", "mlp_in"), ("ffn_layer2", "mlp_out"))
        for array in ("kernel", "bias")
    ),
)


def _stack(source: str, target: str, rows) -> tuple[Rule, ...]:
    """Returns the rules of a stack of blocks; `source` is the key of an array of a block, with `{i}` and `{name}`."""
    return tuple(Rule(source.replace("{name}", name), f"{target}/block{{i}}/{path}", kind) for name, path, kind in rows)


def _hf(prefix: str, layout: str, barred: tuple[str, ...] = (), ignored: dict[str, str] | None = None) -> KeyMap:
    """Returns the layout of a model whose encoder has keys that start with `prefix`."""
    rows = (
        *patches(f"{prefix}spatial_embeddings.patch_embeddings.projection", "conv3d"),
        (f"{prefix}spatial_embeddings.position_embeddings", "encoder/positions/space", "rows"),
        (f"{prefix}temporal_embeddings.position_embeddings", "encoder/positions/time", "rows"),
        *_norm(f"{prefix}layernorm1", "encoder/space_norm", _TORCH),
        *_norm(f"{prefix}layernorm2", "encoder/norm", _TORCH),
    )
    return _key_map(
        kind="hf-videoprism",
        layout=layout,
        signature=(f"{prefix}spatial_embeddings.", f"{prefix}temporal_embeddings.", *barred),
        rules=(
            *(Rule(*row) for row in rows),
            *_stack(f"{prefix}spatial_layers.{{i}}.{{name}}", "encoder/blocks", _HF_BLOCK),
            *_stack(f"{prefix}temporal_layers.{{i}}.{{name}}", "encoder/temporal", _HF_BLOCK),
        ),
        ignored=ignored or {},
    )


def _around(prefix: str) -> dict[str, str]:
    """Returns why what stands on the encoder of a video model is left out; its keys start with `prefix`."""
    poolings = {f"{prefix}head.*": _POOLING, f"{prefix}head_layernorm.*": _POOLING}
    return poolings | {f"{prefix}auxiliary_layers.*": _AUXILIARY}


HF_VIDEOPRISM = (
    _hf("", "VideoPrismVisionModel"),
    _hf("vision_model.", "VideoPrismVideoModel", ("!classifier.",), _around("")),
    _hf("vision_model.", "VideoPrismForVideoClassification", ("classifier.",), _around("") | {"classifier.*": _CLASSIFIER}),
    _hf("video_model.vision_model.", "VideoPrismClipModel", (), _around("video_model.") | {"text_model.*": _TEXT}),
)


def _npz(prefix: str, layout: str, ignored: dict[str, str] | None = None) -> KeyMap:
    """Returns the layout of the authors' model whose encoder has keys that start with `prefix`, their scanned layers taken apart."""
    rows = (
        (f"{prefix}patch_projection/linear/kernel", "encoder/embed/kernel", "copy"),
        (f"{prefix}patch_projection/linear/bias", "encoder/embed/bias", "copy"),
        (f"{prefix}spatial_pos_emb/emb_var", "encoder/positions/space", "copy"),
        (f"{prefix}temporal_pos_emb/emb_var", "encoder/positions/time", "copy"),
        *_norm(f"{prefix}spatial_ln", "encoder/space_norm", _FLAX),
        *_norm(f"{prefix}temporal_ln", "encoder/norm", _FLAX),
    )
    stacks = (("spatial_encoder", "encoder/blocks"), ("temporal_encoder", "encoder/temporal"))
    rules = [Rule(*row) for row in rows]
    for name, target in stacks:
        rules += _stack(f"{prefix}{name}/transformers_stack{_SCANNED}{{name}}[{{i}}]", target, _NPZ_BLOCK)
    return _key_map(
        kind="videoprism",
        layout=layout,
        signature=(f"{prefix}patch_projection/linear/", f"{prefix}spatial_encoder/", f"{prefix}temporal_encoder/"),
        rules=tuple(rules),
        ignored=ignored or {},
    )


_COMPARED = {
    "params/auxiliary_encoder/*": _AUXILIARY,
    "params/contrastive_vision_pooler/*": _POOLING,
    "params/text_encoder/*": _TEXT,
}
VIDEOPRISM = (
    _npz("params/", "FactorizedEncoder of the authors"),
    _npz("params/vision_encoder/", "FactorizedVideoCLIP of the authors", _COMPARED),
)


def unstack(arrays: Mapping[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Takes scanned layers apart: an array [layers, ...] of the authors' files becomes one for each layer, under KEY[0], KEY[1], ...

    Arrays under other keys stay as they are.

    Args:
      arrays: by key of the file.
      source: the file's name, for messages.

    Raises:
      WeightsError: arrays of one stack have different numbers of layers; those that differ from most are listed.
    """
    lengths: dict[str, list[int]] = {}
    for key, array in arrays.items():
        if _SCANNED in key:
            lengths.setdefault(key.partition(_SCANNED)[0], []).append(len(array) if array.ndim else 0)
    depths = {stack: statistics.mode(counts) for stack, counts in lengths.items()}
    layers: dict[str, np.ndarray] = {}
    problems = []
    for key, array in arrays.items():
        depth = depths[key.partition(_SCANNED)[0]] if _SCANNED in key else 0
        if not 0 < depth <= _LARGEST_STACK:
            layers[key] = array
        elif array.ndim and len(array) == depth:
            layers |= {f"{key}[{i}]": np.asarray(layer) for i, layer in enumerate(array)}
        else:
            what = f"expected a first axis of {depth}, the layers of most arrays beside it"
            problems.append(f"mis-shaped: {key} is {list(array.shape)}, {what}: get the file again")
    if problems:
        raise WeightsError(source, problems)
    return layers
