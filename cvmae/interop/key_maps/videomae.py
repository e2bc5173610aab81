"""VideoMAE's files: the authors' `.pth`, whose layout VideoMAEv2 kept, and transformers' as save_pretrained writes them."""

import dataclasses

from cvmae.interop.key_maps.common import FUSED, HEADS, IMAGENET, TIMM, TRANSFORMERS, in_blocks, linear, norm, patches
from cvmae.interop.keymap import KeyMap, Rule

# Queries and values have a bias, keys have none.
_BLOCK = (*TIMM, FUSED, ("attn.q_bias", "attention/query/bias", "copy"), ("attn.v_bias", "attention/value/bias", "copy"))
_ENCODER = {"positions": "sincos1d", "eps": 1e-6}
_DECODER = {"layout": "concat", "positions": "sincos1d", "cls": "none", "embed_bias": False}


def _encoder(prefix: str) -> tuple[Rule, ...]:
    rules = tuple(Rule(*row) for row in patches(f"{prefix}patch_embed.proj", "conv3d"))
    return (*rules, *in_blocks(f"{prefix}blocks.{{i}}", "encoder", _BLOCK))


VIDEOMAE = KeyMap(
    kind="videomae",
    layout="pre-training",
    signature=("encoder.patch_embed.proj.", "encoder.blocks."),
    rules=(
        *_encoder("encoder."),
        *(Rule(*row) for row in norm("encoder.norm", "encoder/norm")),
        Rule("encoder_to_decoder.weight", "decoder/embed/kernel", "linear"),
        Rule("mask_token", "decoder/mask_token", "token"),
        *in_blocks("decoder.blocks.{i}", "decoder", _BLOCK),
        *(Rule(*row) for row in (*norm("decoder.norm", "decoder/norm"), *linear("decoder.head", "decoder/predict"))),
    ),
    encoder=_ENCODER,
    decoder=_DECODER | {"norm_eps": 1e-6},
    heads=HEADS,
    decoder_heads={192: 3, 384: 6, 512: 8, 640: 8},
    normalization=IMAGENET,
    target_norm="patch_channel",
)

VIDEOMAE_CLASSIFIER = KeyMap(
    kind="videomae",
    layout="fine-tuned",
    signature=("patch_embed.proj.", "blocks.0.attn.qkv.", "fc_norm.", "!cls_token"),
    rules=(*_encoder(""), *(Rule(*row) for row in (*norm("fc_norm", "norm"), *linear("head", "head")))),
    encoder=_ENCODER,
    head={"eps": 1e-6},
    heads=HEADS,
    normalization=IMAGENET,
)

# The encoder alone, or a classifier on its first token (the authors' use_mean_pooling=False), which keeps the encoder's last norm.
VIDEOMAE_ENCODER = KeyMap(
    kind="videomae",
    layout="encoder",
    signature=("patch_embed.proj.", "blocks.0.attn.qkv.", "!fc_norm.", "!cls_token"),
    rules=(*_encoder(""), *(Rule(*row) for row in (*norm("norm", "encoder/norm"), *linear("head", "head")))),
    encoder=_ENCODER,
    head={"eps": 1e-6},
    heads=HEADS,
    normalization=IMAGENET,
)

# Files hold q_bias and v_bias, as the authors' do; in transformers' memory they are query.bias and value.bias.
_HF_BLOCK = (
    *TRANSFORMERS,
    ("attention.attention.q_bias", "attention/query/bias", "copy"),
    ("attention.attention.v_bias", "attention/value/bias", "copy"),
)
_HF_BIASES_IN_MEMORY = (
    ("attention.attention.query.bias", "attention/query/bias", "copy"),
    ("attention.attention.value.bias", "attention/value/bias", "copy"),
)
_HF_ENCODER = {"positions": "sincos1d", "eps": 1e-12}


def _hf_blocks(source: str, branch: str) -> tuple[Rule, ...]:
    return (*in_blocks(source, branch, _HF_BLOCK), *in_blocks(source, branch, _HF_BIASES_IN_MEMORY))


def _hf_encoder(prefix: str) -> tuple[Rule, ...]:
    """Returns the rules of VideoMAEModel, whose keys start with `prefix`.

    Its position tables are computed, not stored. `layernorm` is there only with use_mean_pooling=False, as in the weights of
    VideoMAE's authors: `Encoder.final_norm`.
    """
    rows = (*patches(f"{prefix}embeddings.patch_embeddings.projection", "conv3d"), *norm(f"{prefix}layernorm", "encoder/norm"))
    return (*(Rule(*row) for row in rows), *_hf_blocks(f"{prefix}encoder.layer.{{i}}", "encoder"))


HF_VIDEOMAE = KeyMap(
    kind="hf-videomae",
    layout="VideoMAEForPreTraining",
    signature=("videomae.embeddings.",),
    rules=(
        *_hf_encoder("videomae."),
        Rule("encoder_to_decoder.weight", "decoder/embed/kernel", "linear"),
        Rule("mask_token", "decoder/mask_token", "token"),
        *_hf_blocks("decoder.decoder_layers.{i}", "decoder"),
        *(Rule(*row) for row in (*norm("decoder.norm", "decoder/norm"), *linear("decoder.head", "decoder/predict"))),
    ),
    encoder=_HF_ENCODER,
    decoder=_DECODER | {"norm_eps": 1e-5},
    heads=HEADS,
    decoder_heads={192: 3, 384: 6, 512: 8, 640: 8},
    target_norm="patch_channel",
)

HF_VIDEOMAE_ENCODER = KeyMap(
    kind="hf-videomae",
    layout="VideoMAEModel",
    signature=("embeddings.patch_embeddings.", "encoder.layer.", "!embeddings.cls_token"),
    rules=_hf_encoder(""),
    encoder=_HF_ENCODER,
    heads=HEADS,
)

# `fc_norm` is there only with use_mean_pooling=True; its eps is 1e-5 whatever the config says of the other norms.
HF_VIDEOMAE_CLASSIFIER = KeyMap(
    kind="hf-videomae",
    layout="VideoMAEForVideoClassification",
    signature=("videomae.embeddings.", "classifier."),
    rules=(
        *_hf_encoder("videomae."),
        *(Rule(*row) for row in (*norm("fc_norm", "norm"), *linear("classifier", "head"))),
    ),
    encoder=_HF_ENCODER,
    head={"eps": 1e-5},
    heads=HEADS,
)

HF_VIDEOMAE_HEADLESS = dataclasses.replace(
    HF_VIDEOMAE_CLASSIFIER,
    layout="VideoMAEForVideoClassification, without its head",
    signature=("videomae.embeddings.", "fc_norm.", "!classifier."),
)
