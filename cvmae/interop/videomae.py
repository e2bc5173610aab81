"""VideoMAE's files of `transformers`, read from its classes and from what save_pretrained writes."""

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
_ENCODER_SETTINGS = (("encoder.positions", ("sincos1d",)), ("encoder.cls_token", (False,)))


def _encoder(prefix: str) -> tuple[Rule, ...]:
    """The rows of VideoMAEModel, whose keys start with `prefix`.

    Its position tables are computed, not stored. `layernorm` is there only with use_mean_pooling=False, as in the weights of
    VideoMAE's authors: our `final_norm`.
    """
    return (
        Rule(f"{prefix}embeddings.patch_embeddings.projection.weight", "encoder/embed/kernel", "conv"),
        Rule(f"{prefix}embeddings.patch_embeddings.projection.bias", "encoder/embed/bias"),
        *in_blocks(f"{prefix}encoder.layer.{{i}}", "encoder", _BLOCK),
        Rule(f"{prefix}layernorm.weight", "encoder/norm/scale"),
        Rule(f"{prefix}layernorm.bias", "encoder/norm/bias"),
    )


# VideoMAEForPreTraining, for an autoencoder; of a VideoMAEForVideoClassification the encoder alone.
HF_VIDEOMAE = KeyMap(
    kind="hf-videomae",
    prefixes=("videomae.embeddings.", "videomae.encoder."),
    rules=(
        *_encoder("videomae."),
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
    settings=(*_ENCODER_SETTINGS, ("decoder.spec.positions", ("sincos1d",)), ("decoder.spec.cls", ("none",))),
)

# VideoMAEModel, the encoder by itself.
HF_VIDEOMAE_ENCODER = KeyMap(
    kind="hf-videomae-encoder",
    prefixes=("embeddings.patch_embeddings.", "encoder.layer."),
    rules=_encoder(""),
    settings=_ENCODER_SETTINGS,
)

# VideoMAEForVideoClassification, for a `Classifier`; `fc_norm` is there only with use_mean_pooling=True.
HF_VIDEOMAE_CLASSIFIER = KeyMap(
    kind="hf-videomae-classifier",
    prefixes=("videomae.embeddings.", "videomae.encoder.", "classifier."),
    rules=(
        *_encoder("videomae."),
        Rule("fc_norm.weight", "norm/scale"),
        Rule("fc_norm.bias", "norm/bias"),
        Rule("classifier.weight", "head/kernel", "linear"),
        Rule("classifier.bias", "head/bias"),
    ),
    settings=_ENCODER_SETTINGS,
)
