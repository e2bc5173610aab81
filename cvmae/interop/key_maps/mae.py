"""Image MAE's files: facebookresearch's `.pth`, and transformers' ViTMAEForPreTraining as save_pretrained writes it."""

import dataclasses

from cvmae.interop.key_maps.common import FUSED, FUSED_BIAS, HEADS, IMAGENET, TIMM, TRANSFORMERS, in_blocks, linear, norm, patches
from cvmae.interop.keymap import KeyMap, Rule, Table

_BLOCK = (*TIMM, FUSED, FUSED_BIAS)
_DECODER = {"layout": "unshuffle", "positions": "sincos2d", "cls": "encoder"}


def _encoder() -> tuple[Rule, ...]:
    rows = (("cls_token", "encoder/cls", "token"), *patches("patch_embed.proj", "conv2d"))
    return (*(Rule(*row) for row in rows), *in_blocks("blocks.{i}", "encoder", _BLOCK))


# The published encoders, and the same with their decoders (the files whose names end in `_full`).
MAE = KeyMap(
    kind="mae",
    layout="pre-training",
    signature=("cls_token", "patch_embed.proj.", "blocks.0.attn.qkv.", "!head."),
    rules=(
        *_encoder(),
        *(Rule(*row) for row in norm("norm", "encoder/norm")),
        *(Rule(*row) for row in linear("decoder_embed", "decoder/embed")),
        Rule("mask_token", "decoder/mask_token", "token"),
        *in_blocks("decoder_blocks.{i}", "decoder", _BLOCK),
        *(Rule(*row) for row in (*norm("decoder_norm", "decoder/norm"), *linear("decoder_pred", "decoder/predict"))),
    ),
    tables=(Table("pos_embed", "encoder"), Table("decoder_pos_embed", "decoder")),
    encoder={"positions": "sincos2d", "cls_token": True, "eps": 1e-6},
    decoder=_DECODER | {"norm_eps": 1e-6},
    heads=HEADS,
    decoder_heads={512: 16},
    normalization=IMAGENET,
)

_TRAINED_TABLE = Rule("pos_embed", ("encoder/positions/cls", "encoder/positions/table"), "token_and_rows")

# Fine-tuning trains the position table. With global pooling there is fc_norm, without it norm.
MAE_CLASSIFIER = KeyMap(
    kind="mae",
    layout="fine-tuned",
    signature=("cls_token", "patch_embed.proj.", "blocks.0.attn.qkv.", "head.weight"),
    rules=(
        *_encoder(),
        _TRAINED_TABLE,
        *(Rule(*row) for row in (*norm("norm", "encoder/norm"), *norm("fc_norm", "norm"), *linear("head", "head"))),
    ),
    encoder={"cls_token": True, "eps": 1e-6},
    head={"eps": 1e-6},
    heads=HEADS,
    normalization=IMAGENET,
)

# The same without its head: with global pooling there is fc_norm to tell it by.
MAE_HEADLESS = dataclasses.replace(
    MAE_CLASSIFIER,
    layout="fine-tuned, without its head",
    signature=("cls_token", "patch_embed.proj.", "blocks.0.attn.qkv.", "fc_norm.", "!head.", "!decoder_"),
)
# Without fc_norm its keys are those of the pre-trained encoder, and its table alone tells it; see `key_maps.with_trained_table`.
MAE_TRAINED_TABLE = dataclasses.replace(
    MAE_CLASSIFIER,
    layout="encoder with trained positions",
    signature=(
        "cls_token",
        "pos_embed",
        "patch_embed.proj.",
        "blocks.0.attn.qkv.",
        "!head.",
        "!fc_norm.",
        "!decoder_",
        "!mask_token",
    ),
    head=None,
)

MAE_PROBE = KeyMap(
    kind="mae",
    layout="linear probe",
    signature=("cls_token", "patch_embed.proj.", "blocks.0.attn.qkv.", "head.0."),
    rules=(*_encoder(), _TRAINED_TABLE, *(Rule(*row) for row in norm("norm", "encoder/norm"))),
    ignored={"head.*": "the head of a linear probe, which stands on batch-normalized features"},
    encoder={"cls_token": True, "eps": 1e-6},
    heads=HEADS,
    normalization=IMAGENET,
)

# The names of published files.
_HF_BLOCK = (
    *TRANSFORMERS,
    ("attention.attention.query.bias", "attention/query/bias", "copy"),
    ("attention.attention.key.bias", "attention/key/bias", "copy"),
    ("attention.attention.value.bias", "attention/value/bias", "copy"),
)

# The names that transformers 5 has in memory, which a state dict saved without save_pretrained holds.
_HF_BLOCK_IN_MEMORY = (
    *linear("attention.q_proj", "attention/query"),
    *linear("attention.k_proj", "attention/key"),
    *linear("attention.v_proj", "attention/value"),
    *linear("attention.o_proj", "attention/out"),
    *linear("mlp.fc1", "mlp_in"),
    *linear("mlp.fc2", "mlp_out"),
)
_HF_NORMS = (*norm("layernorm_before", "norm1"), *norm("layernorm_after", "norm2"))

HF_VIT_MAE = KeyMap(
    kind="hf-vit-mae",
    layout="ViTMAEForPreTraining",
    signature=("vit.embeddings.",),
    rules=(
        Rule("vit.embeddings.cls_token", "encoder/cls", "token"),
        *(Rule(*row) for row in patches("vit.embeddings.patch_embeddings.projection", "conv2d")),
        *in_blocks("vit.encoder.layer.{i}", "encoder", _HF_BLOCK),
        *in_blocks("vit.layers.{i}", "encoder", (*_HF_BLOCK_IN_MEMORY, *_HF_NORMS)),
        *(Rule(*row) for row in norm("vit.layernorm", "encoder/norm")),
        *(Rule(*row) for row in linear("decoder.decoder_embed", "decoder/embed")),
        Rule("decoder.mask_token", "decoder/mask_token", "token"),
        *in_blocks("decoder.decoder_layers.{i}", "decoder", _HF_BLOCK),
        # transformers 5's save_pretrained turns every `layers` back into `encoder.layer`, the decoder's too.
        *in_blocks("decoder.decoder_encoder.layer.{i}", "decoder", _HF_BLOCK),
        *in_blocks("decoder.decoder_layers.{i}", "decoder", _HF_BLOCK_IN_MEMORY),
        *(Rule(*row) for row in norm("decoder.decoder_norm", "decoder/norm")),
        *(Rule(*row) for row in linear("decoder.decoder_pred", "decoder/predict")),
    ),
    tables=(
        Table("vit.embeddings.position_embeddings", "encoder"),
        Table("decoder.decoder_pos_embed", "decoder"),
    ),
    encoder={"positions": "sincos2d", "cls_token": True, "eps": 1e-12},
    decoder=_DECODER | {"norm_eps": 1e-12},
    heads=HEADS,
    decoder_heads={512: 16},
)

_HF_ENCODER = (
    Rule("embeddings.cls_token", "encoder/cls", "token"),
    *(Rule(*row) for row in patches("embeddings.patch_embeddings.projection", "conv2d")),
    *in_blocks("encoder.layer.{i}", "encoder", _HF_BLOCK),
    *in_blocks("layers.{i}", "encoder", (*_HF_BLOCK_IN_MEMORY, *_HF_NORMS)),
    *(Rule(*row) for row in norm("layernorm", "encoder/norm")),
)
HF_VIT_MAE_ENCODER = dataclasses.replace(
    HF_VIT_MAE,
    layout="ViTMAEModel",
    signature=("embeddings.cls_token", "embeddings.patch_embeddings."),
    rules=_HF_ENCODER,
    tables=(Table("embeddings.position_embeddings", "encoder"),),
    decoder=None,
)
