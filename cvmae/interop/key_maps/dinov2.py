"""DINOv2's files as transformers' save_pretrained writes them: Dinov2Model, Dinov2WithRegistersModel, and those of their classifiers."""

from cvmae.interop.key_maps.common import TRANSFORMERS, in_blocks, linear, norm, patches
from cvmae.interop.keymap import KeyMap, Rule

_BLOCK = (
    *(row for row in TRANSFORMERS if row[0].startswith("attention.")),
    *((f"attention.attention.{name}.bias", f"attention/{name}/bias", "copy") for name in ("query", "key", "value")),
    *norm("norm1", "norm1"),
    *norm("norm2", "norm2"),
    # SwiGLU, whose gate stands before the values.
    ("mlp.weights_in.weight", ("mlp_gate/kernel", "mlp_in/kernel"), "gate_linear"),
    ("mlp.weights_in.bias", ("mlp_gate/bias", "mlp_in/bias"), "gate_copy"),
    *linear("mlp.fc1", "mlp_in"),
    *linear("mlp.fc2", "mlp_out"),
    *((f"layer_scale{i}.lambda1", f"layer_scale{i}/scale", "copy") for i in (1, 2)),
    *linear("mlp.weights_out", "mlp_out"),
)
# The names that transformers 5 has in memory, which a state dict saved without save_pretrained holds.
_BLOCK_IN_MEMORY = (
    *linear("attention.q_proj", "attention/query"),
    *linear("attention.k_proj", "attention/key"),
    *linear("attention.v_proj", "attention/value"),
    *linear("attention.o_proj", "attention/out"),
    *linear("mlp.gate_proj", "mlp_gate"),
    *linear("mlp.up_proj", "mlp_in"),
    *linear("mlp.down_proj", "mlp_out"),
)


def _key_map(prefix: str, layout: str) -> KeyMap:
    """Returns the layout of a model whose keys start with `prefix`."""
    rows = (
        ("embeddings.cls_token", "encoder/cls", "token"),
        ("embeddings.register_tokens", "encoder/registers", "rows"),
        ("embeddings.position_embeddings", ("encoder/positions/cls", "encoder/positions/table"), "token_and_rows"),
    )
    return KeyMap(
        kind="hf-dinov2",
        layout=layout,
        signature=(
            f"{prefix}embeddings.cls_token",
            f"{prefix}embeddings.patch_embeddings.",
            f"{prefix}encoder.layer.0.layer_scale1.",
        ),
        rules=(
            *(Rule(f"{prefix}{source}", target, transform) for source, target, transform in rows),
            *(Rule(*row) for row in patches(f"{prefix}embeddings.patch_embeddings.projection", "conv2d")),
            *(Rule(*row) for row in norm(f"{prefix}layernorm", "encoder/norm")),
            *in_blocks(f"{prefix}encoder.layer.{{i}}", "encoder", (*_BLOCK, *_BLOCK_IN_MEMORY)),
        ),
        ignored={
            f"{prefix}embeddings.mask_token": "the mask token of its pre-training: here masked patches are left out",
            **({"classifier.*": "the head on its cls token and its mean: heads here are on one of them"} if prefix else {}),
        },
        encoder={"cls_token": True, "eps": 1e-6},
        heads={384: 6, 768: 12, 1024: 16, 1536: 24},
        reconstructs=False,
    )


HF_DINOV2 = (
    _key_map("", "Dinov2Model or Dinov2WithRegistersModel"),
    _key_map("dinov2.", "Dinov2ForImageClassification"),
    _key_map("dinov2_with_registers.", "Dinov2WithRegistersForImageClassification"),
)
