"""The vision towers of SigLIP as transformers' save_pretrained writes them: SiglipVisionModel alone, and within SiglipModel."""

from cvmae.interop.key_maps.common import in_blocks, linear, norm, patches
from cvmae.interop.keymap import KeyMap, Rule

_BLOCK = (
    *linear("self_attn.q_proj", "attention/query"),
    *linear("self_attn.k_proj", "attention/key"),
    *linear("self_attn.v_proj", "attention/value"),
    *linear("self_attn.out_proj", "attention/out"),
    *norm("layer_norm1", "norm1"),
    *norm("layer_norm2", "norm2"),
    *linear("mlp.fc1", "mlp_in"),
    *linear("mlp.fc2", "mlp_out"),
)
_TEXT = "of the text tower, or of its comparison with the vision tower"


def _key_map(prefix: str, layout: str) -> KeyMap:
    """Returns the layout of a model whose vision tower has keys that start with `prefix`."""
    outside = {"text_model.*": _TEXT, "logit_scale": _TEXT, "logit_bias": _TEXT, "classifier.*": "the head of its classifier"}
    return KeyMap(
        kind="hf-siglip",
        layout=layout,
        signature=(f"{prefix}embeddings.patch_embedding.", f"{prefix}encoder.layers.0.self_attn."),
        rules=(
            *(Rule(*row) for row in patches(f"{prefix}embeddings.patch_embedding", "conv2d")),
            Rule(f"{prefix}embeddings.position_embedding.weight", "encoder/positions/table"),
            *in_blocks(f"{prefix}encoder.layers.{{i}}", "encoder", _BLOCK),
            *(Rule(*row) for row in norm(f"{prefix}post_layernorm", "encoder/norm")),
        ),
        ignored={
            f"{prefix}head.*": "the head that pools its tokens by attention: here tokens are averaged, or pooled by task=attentive",
            f"{prefix}embeddings.position_ids": "the numbers of its positions",
            **(outside if prefix else {}),
        },
        encoder={"cls_token": False, "positions": "learned", "eps": 1e-6, "mlp": "gelu_tanh"},
        heads={768: 12, 1024: 16, 1152: 16},
        reconstructs=False,
    )


HF_SIGLIP = (_key_map("", "SiglipVisionModel"), _key_map("vision_model.", "SiglipModel"))
