"""VideoMAE's files: `transformers`' VideoMAEForPreTraining, read from its class and from what save_pretrained writes."""

from cvmae.interop.hf_block import BLOCK
from cvmae.interop.keymap import KeyMap, Rule, in_blocks

# In memory the biases are query.bias and value.bias; files hold q_bias and v_bias, as the original code did. Keys have none.
_BLOCK = (
    *BLOCK,
    ("attention.attention.q_bias", "attention/query/bias", "copy"),
    ("attention.attention.query.bias", "attention/query/bias", "copy"),
    ("attention.attention.v_bias", "attention/value/bias", "copy"),
    ("attention.attention.value.bias", "attention/value/bias", "copy"),
)

# Its position tables are computed, not stored. `videomae.layernorm` is there only with use_mean_pooling=False, as in the
# weights of VideoMAE's authors: our `final_norm`.
HF_VIDEOMAE = KeyMap(
    kind="hf-videomae",
    prefixes=("videomae.embeddings.", "videomae.encoder."),
    rules=(
        Rule("videomae.embeddings.patch_embeddings.projection.weight", "encoder/embed/kernel", "conv"),
        Rule("videomae.embeddings.patch_embeddings.projection.bias", "encoder/embed/bias"),
        *in_blocks("videomae.encoder.layer.{i}", "encoder", _BLOCK),
        Rule("videomae.layernorm.weight", "encoder/norm/scale"),
        Rule("videomae.layernorm.bias", "encoder/norm/bias"),
        Rule("encoder_to_decoder.weight", "decoder/embed/kernel", "linear"),
        Rule("mask_token", "decoder/mask_token", "token"),
        *in_blocks("decoder.decoder_layers.{i}", "decoder", _BLOCK),
        Rule("decoder.norm.weight", "decoder/norm/scale"),
        Rule("decoder.norm.bias", "decoder/norm/bias"),
        Rule("decoder.head.weight", "decoder/predict/kernel", "linear"),
        Rule("decoder.head.bias", "decoder/predict/bias"),
    ),
    ignored={
        "classifier.*": "the head of a fine-tuned classifier, which an autoencoder does not have",
        "fc_norm.*": "the norm between pooling and the head of a fine-tuned classifier",
    },
    settings=(
        ("encoder.positions", ("sincos1d",)),
        ("encoder.cls_token", (False,)),
        ("decoder.spec.positions", ("sincos1d",)),
        ("decoder.spec.cls", ("none",)),
    ),
)
