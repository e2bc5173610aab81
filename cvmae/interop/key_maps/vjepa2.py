"""V-JEPA 2's files: transformers' VJEPA2Model and VJEPA2ForVideoClassification, and the encoders of the authors' `.pth`."""

import dataclasses

from cvmae.interop.key_maps.common import FUSED, FUSED_BIAS, IMAGENET, TIMM, in_blocks, linear, norm, patches
from cvmae.interop.keymap import KeyMap, Rule

_ENCODER = {"positions": "rope3d", "cls_token": False, "eps": 1e-6}
_HEADS = {1024: 16, 1280: 16, 1408: 22}
_PREDICTOR = (
    "the predictor of its pre-training, which predicts features of hidden tokens from the encoder's: no part of an encoder"
)

_HF_BLOCK = (
    *linear("attention.query", "attention/query"),
    *linear("attention.key", "attention/key"),
    *linear("attention.value", "attention/value"),
    *linear("attention.proj", "attention/out"),
    *norm("norm1", "norm1"),
    *norm("norm2", "norm2"),
    *linear("mlp.fc1", "mlp_in"),
    *linear("mlp.fc2", "mlp_out"),
)
# The pooler's own blocks, and its query's cross-attention, which has no projection behind it.
_POOLER_BLOCK = (
    *linear("self_attn.q_proj", "attention/query"),
    *linear("self_attn.k_proj", "attention/key"),
    *linear("self_attn.v_proj", "attention/value"),
    *linear("self_attn.out_proj", "attention/out"),
    *norm("layer_norm1", "norm1"),
    *norm("layer_norm2", "norm2"),
    *linear("mlp.fc1", "mlp_in"),
    *linear("mlp.fc2", "mlp_out"),
)
_CROSS = "pooler.cross_attention_layer"
_POOLER = (
    ("pooler.query_tokens", "pooler/query", "token"),
    *linear(f"{_CROSS}.cross_attn.q_proj", "pooler/query_in"),
    *linear(f"{_CROSS}.cross_attn.k_proj", "pooler/key"),
    *linear(f"{_CROSS}.cross_attn.v_proj", "pooler/value"),
    *norm(f"{_CROSS}.layer_norm1", "pooler/norm1"),
    *norm(f"{_CROSS}.layer_norm2", "pooler/norm2"),
    *linear(f"{_CROSS}.mlp.fc1", "pooler/mlp_in"),
    *linear(f"{_CROSS}.mlp.fc2", "pooler/mlp_out"),
    *linear("classifier", "head"),
)


def _hf(prefix: str) -> tuple[Rule, ...]:
    """Returns the rules of VJEPA2Model, whose keys start with `prefix`."""
    rows = (
        *patches(f"{prefix}encoder.embeddings.patch_embeddings.proj", "conv3d"),
        *norm(f"{prefix}encoder.layernorm", "encoder/norm"),
    )
    return (*(Rule(*row) for row in rows), *in_blocks(f"{prefix}encoder.layer.{{i}}", "encoder", _HF_BLOCK))


HF_VJEPA2 = KeyMap(
    kind="hf-vjepa2",
    layout="VJEPA2Model",
    signature=("encoder.embeddings.patch_embeddings.proj.", "encoder.layer.0.attention.proj."),
    rules=_hf(""),
    ignored={"predictor.*": _PREDICTOR},
    encoder=_ENCODER,
    heads=_HEADS,
    num_frames=64,
    side=256,
)
HF_VJEPA2_CLASSIFIER = dataclasses.replace(
    HF_VJEPA2,
    layout="VJEPA2ForVideoClassification",
    signature=("vjepa2.encoder.embeddings.patch_embeddings.proj.",),
    rules=(
        *_hf("vjepa2."),
        *(Rule(*row) for row in _POOLER),
        *in_blocks("pooler.self_attention_layers.{i}", "pooler", _POOLER_BLOCK),
    ),
    ignored={"vjepa2.predictor.*": _PREDICTOR},
    head={"eps": 1e-6},
)
# An encoder of the authors' files, which hold several (see `torch_file.CONTAINERS`); its keys start with `module.backbone.`.
VJEPA2 = KeyMap(
    kind="vjepa2",
    layout="encoder, without its predictor",
    signature=("patch_embed.proj.", "blocks.0.attn.qkv.bias", "!cls_token", "!fc_norm.", "!head."),
    rules=(
        *(Rule(*row) for row in (*patches("patch_embed.proj", "conv3d"), *norm("norm", "encoder/norm"))),
        *in_blocks("blocks.{i}", "encoder", (*TIMM, FUSED, FUSED_BIAS)),
    ),
    ignored={"pos_embed": "a table that its rotary encoder does not use"},
    encoder=_ENCODER,
    heads=_HEADS,
    normalization=IMAGENET,
    num_frames=64,
    side=256,
)
