"""Image MAE's files: `transformers`' ViTMAEForPreTraining, read from its class and from what save_pretrained writes."""

from cvmae.interop.hf_block import BLOCK
from cvmae.interop.keymap import KeyMap, Rule, Table, in_blocks

# The names of published files.
_BLOCK = (
    *BLOCK,
    ("attention.attention.query.bias", "attention/query/bias", "copy"),
    ("attention.attention.key.bias", "attention/key/bias", "copy"),
    ("attention.attention.value.bias", "attention/value/bias", "copy"),
)

# The names that transformers 5 has in memory, which a state dict saved without save_pretrained holds.
_BLOCK_IN_MEMORY = (
    ("attention.q_proj.weight", "attention/query/kernel", "linear"),
    ("attention.q_proj.bias", "attention/query/bias", "copy"),
    ("attention.k_proj.weight", "attention/key/kernel", "linear"),
    ("attention.k_proj.bias", "attention/key/bias", "copy"),
    ("attention.v_proj.weight", "attention/value/kernel", "linear"),
    ("attention.v_proj.bias", "attention/value/bias", "copy"),
    ("attention.o_proj.weight", "attention/out/kernel", "linear"),
    ("attention.o_proj.bias", "attention/out/bias", "copy"),
    ("layernorm_before.weight", "norm1/scale", "copy"),
    ("layernorm_before.bias", "norm1/bias", "copy"),
    ("layernorm_after.weight", "norm2/scale", "copy"),
    ("layernorm_after.bias", "norm2/bias", "copy"),
    ("mlp.fc1.weight", "mlp_in/kernel", "linear"),
    ("mlp.fc1.bias", "mlp_in/bias", "copy"),
    ("mlp.fc2.weight", "mlp_out/kernel", "linear"),
    ("mlp.fc2.bias", "mlp_out/bias", "copy"),
)

HF_VIT_MAE = KeyMap(
    kind="hf-vit-mae",
    prefixes=("vit.embeddings.",),
    rules=(
        Rule("vit.embeddings.cls_token", "encoder/cls", "token"),
        Rule("vit.embeddings.patch_embeddings.projection.weight", "encoder/embed/kernel", "conv"),
        Rule("vit.embeddings.patch_embeddings.projection.bias", "encoder/embed/bias"),
        *in_blocks("vit.encoder.layer.{i}", "encoder", _BLOCK),
        *in_blocks("vit.layers.{i}", "encoder", _BLOCK_IN_MEMORY),
        Rule("vit.layernorm.weight", "encoder/norm/scale"),
        Rule("vit.layernorm.bias", "encoder/norm/bias"),
        Rule("decoder.decoder_embed.weight", "decoder/embed/kernel", "linear"),
        Rule("decoder.decoder_embed.bias", "decoder/embed/bias"),
        Rule("decoder.mask_token", "decoder/mask_token", "token"),
        *in_blocks("decoder.decoder_layers.{i}", "decoder", _BLOCK),
        # transformers 5's save_pretrained turns every `layers` back into `encoder.layer`, the decoder's too.
        *in_blocks("decoder.decoder_encoder.layer.{i}", "decoder", _BLOCK),
        *in_blocks("decoder.decoder_layers.{i}", "decoder", _BLOCK_IN_MEMORY),
        Rule("decoder.decoder_norm.weight", "decoder/norm/scale"),
        Rule("decoder.decoder_norm.bias", "decoder/norm/bias"),
        Rule("decoder.decoder_pred.weight", "decoder/predict/kernel", "linear"),
        Rule("decoder.decoder_pred.bias", "decoder/predict/bias"),
    ),
    tables=(
        Table("vit.embeddings.position_embeddings", "encoder"),
        Table("decoder.decoder_pos_embed", "decoder"),
    ),
    settings=(
        ("encoder.positions", ("sincos2d",)),
        ("encoder.cls_token", (True,)),
        ("encoder.final_norm", (True,)),
        ("decoder.spec.positions", ("sincos2d",)),
        ("decoder.spec.cls", ("encoder",)),
    ),
)
