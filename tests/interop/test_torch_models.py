"""The torch statements of MAE, mae_st and VideoMAE against others: transformers' classes, and a statement on this package's parameters."""

import re

import pytest
from flax import traverse_util

from cvmae.interop.huggingface import config_fields
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from tests.interop import hf_models, torch_mae, torch_mae_st, torch_videomae
from tests.interop.comparison import assert_close, relative
from tests.interop.parity import torch, transformers
from tests.interop.torch_blocks import EPS, Sizes, build
from tests.models import mae_st_torch

SIZES = Sizes(decoder_depth=2, mlp_ratio=3)
IMAGES = Sizes(decoder_depth=2, mlp_ratio=3, frames=1, tubelet=1)
CLASSES = 7
VIT = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"attn\.([qkv])\.", r"attention.\1_proj."),
    (r"attn\.proj\.", "attention.o_proj."),
    ("^cls_token", "vit.embeddings.cls_token"),
    ("^pos_embed", "vit.embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "vit.embeddings.patch_embeddings.projection"),
    ("^blocks", "vit.layers"),
    ("^norm", "vit.layernorm"),
    ("^decoder_blocks", "decoder.decoder_layers"),
    ("^(mask_token|decoder_)", r"decoder.\1"),
    ("^head", "classifier"),
)
VIDEOMAE = (
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"attn\.q\.", "attention.attention.query."),
    (r"attn\.k\.", "attention.attention.key."),
    (r"attn\.v\.", "attention.attention.value."),
    (r"attn\.proj\.", "attention.output.dense."),
    (r"mlp\.fc1\.", "intermediate.dense."),
    (r"mlp\.fc2\.", "output.dense."),
    (r"^(encoder\.)?patch_embed\.proj", "videomae.embeddings.patch_embeddings.projection"),
    (r"^(encoder\.)?blocks", "videomae.encoder.layer"),
    (r"^encoder\.norm", "videomae.layernorm"),
    (r"^decoder\.blocks", "decoder.decoder_layers"),
    ("^head", "classifier"),
)
# Of mae_st without cls and with one table: VideoMAE with another name for each part.
MAE_ST = (
    (r"^encoder\.", ""),
    (r"^decoder\.head", "decoder_pred"),
    (r"^decoder\.", "decoder_"),
    ("^encoder_to_decoder", "decoder_embed"),
)
TREE = (
    ("^mask_token", "decoder_mask_token"),
    ("^(?!decoder_)", "encoder/"),
    ("^decoder_", "decoder/"),
    ("cls_token", "cls"),
    ("pos_embed_spatial", "positions/space"),
    ("pos_embed_temporal", "positions/time"),
    ("pos_embed_class", "positions/cls"),
    (r"patch_embed\.proj", "embed"),
    (r"blocks\.", "blocks/block"),
    (r"attn\.q", "attention/query"),
    (r"attn\.k", "attention/key"),
    (r"attn\.v", "attention/value"),
    (r"attn\.proj", "attention/out"),
    (r"mlp\.fc1", "mlp_in"),
    (r"mlp\.fc2", "mlp_out"),
    (r"pred\.", "predict."),
    (r"(norm\d?)\.weight", r"\1/scale"),
    (r"\.weight", "/kernel"),
    (r"\.", "/"),
)


def renamed(model, table) -> dict:
    """A model's state with `qkv` cut in three and the keys changed by each row of a table in turn."""
    state = {}
    for key, value in model.state_dict().items():
        if ".qkv." in key:
            state.update({key.replace("qkv", name): part for name, part in zip("qkv", value.chunk(3))})
        else:
            state[re.sub(r"attn\.([qv])_bias", r"attn.\1.bias", key)] = value
    for pattern, name in table:
        state = {re.sub(pattern, name, key): value for key, value in state.items()}
    return state


def as_tree(model) -> dict:
    """The state of mae_st as the tree that `mae_st_torch` takes."""

    def laid_out(value):
        if value.ndim == 3:
            value = value[0]
            return value[0] if len(value) == 1 else value
        if value.ndim == 5:
            value = value.permute(0, 2, 3, 4, 1).flatten(1)
        return value.T if value.ndim == 2 else value

    return traverse_util.unflatten_dict({key: laid_out(value) for key, value in renamed(model, TREE).items()}, sep="/")


def pixels(sizes: Sizes, *frames: int):
    """Two random images [2, 3, H, W] or clips [2, 3, T, H, W], and noise [2, N]."""
    generator = torch.Generator().manual_seed(2)
    shape = (2, 3, *frames, sizes.size, sizes.size)
    return torch.randn(shape, generator=generator), torch.rand(2, sizes.grid.tokens, generator=generator)


def transformers_config(config_class, sizes: Sizes, **changes):
    """The config of a class of transformers with these sizes; `changes` are fields of its own."""
    encoder = ViTSize(sizes.width, sizes.depth, sizes.heads, sizes.mlp_ratio)
    decoder = ViTSize(sizes.decoder_width, sizes.decoder_depth, sizes.decoder_heads, sizes.mlp_ratio)
    fields = config_fields(
        Encoder(TransformerConfig(encoder, "qv", EPS), sizes.grid, "sincos1d"),
        DecoderSpec(TransformerConfig(decoder, "qv", EPS), "concat", "sincos1d"),
    )
    return config_class(**fields | {"num_labels": CLASSES} | changes)


def loaded(model, state):
    """A model with those weights and no others."""
    model.load_state_dict(state)
    return model.eval()


def same(name: str, actual, reference):
    assert_close(name, relative(actual.detach(), reference.detach()), 1e-5)


def same_output(actual, reference):
    """Of a statement and of a transformers model."""
    assert len(actual.hidden) == len(reference.hidden_states) - 1
    for state, other in zip(actual.hidden, reference.hidden_states[1:]):
        same("state", state, other)
    same("predictions", actual.predictions, reference.logits)
    same("loss", actual.loss, reference.loss)


def test_mae():
    model = build(torch_mae.MaskedAutoencoder, IMAGES)
    config = transformers_config(transformers.ViTMAEConfig, IMAGES, norm_pix_loss=True, mask_ratio=0.7)
    reference = loaded(transformers.ViTMAEForPreTraining(config), renamed(model, VIT))
    image, noise = pixels(IMAGES)
    actual = model(image, noise, kept=4)
    same_output(actual, reference(image, noise=noise, output_hidden_states=True))
    same("encoder output", actual.encoded, reference.vit(image, noise=noise).last_hidden_state)


def test_mae_table():
    """The halves of transformers' table, turned as published weights have them."""
    row, column = hf_models.build_2d_sinusoidal_position_embedding(5, 5, 24, cls_token=True).chunk(2, dim=1)
    same("table", torch_mae.sincos(5, 24)[0], torch.cat([column, row], dim=1))


@pytest.mark.parametrize("pool", ["first", "mean"])
def test_mae_classifier(pool):
    model = build(torch_mae.Classifier, IMAGES, CLASSES, pool)
    state = renamed(model, VIT)
    reference = transformers.ViTForImageClassification(transformers_config(transformers.ViTConfig, IMAGES))
    image, _ = pixels(IMAGES)
    if pool == "first":
        return same("logits", model(image), loaded(reference, state)(image).logits)
    reference.vit.layernorm = torch.nn.Identity()
    weight, bias = state.pop("fc_norm.weight"), state.pop("fc_norm.bias")
    features = loaded(reference, state).vit(image).last_hidden_state[:, 1:].mean(1)
    same(
        "logits",
        model(image),
        reference.classifier(torch.nn.functional.layer_norm(features, features.shape[1:], weight, bias, EPS)),
    )


def test_videomae():
    model = build(torch_videomae.MaskedAutoencoder, SIZES)
    reference = transformers.VideoMAEForPreTraining(
        transformers_config(transformers.VideoMAEConfig, SIZES, use_mean_pooling=False)
    )
    loaded(reference, renamed(model, VIDEOMAE)).decoder.norm.eps = EPS
    video, noise = pixels(SIZES, SIZES.frames)
    hidden = noise.argsort(1) >= 5
    actual = model(video, hidden)
    frames = video.transpose(1, 2)
    same_output(actual, reference(frames, bool_masked_pos=hidden, output_hidden_states=True))
    same("encoder output", actual.encoded, reference.videomae(frames, bool_masked_pos=hidden).last_hidden_state)


def test_videomae_classifier():
    model = build(torch_videomae.Classifier, SIZES, CLASSES)
    reference = transformers.VideoMAEForVideoClassification(
        transformers_config(transformers.VideoMAEConfig, SIZES, use_mean_pooling=True)
    )
    loaded(reference, renamed(model, VIDEOMAE)).fc_norm.eps = EPS
    video, _ = pixels(SIZES, SIZES.frames)
    same("logits", model(video), reference(video.transpose(1, 2)).logits)


def test_mae_st():
    sizes = Sizes(frames=8, target_frames=4, decoder_depth=2)
    model = build(torch_mae_st.MaskedAutoencoder, sizes)
    video, noise = pixels(sizes, sizes.frames)
    kept = 9
    actual, tree = model(video, noise, kept), as_tree(model)
    latent, restore = mae_st_torch.encode(tree["encoder"], video, noise, sizes.tubelet, sizes.patch, kept, sizes.heads)
    everywhere = mae_st_torch.decode(tree["decoder"], latent, restore, sizes.decoder_heads)
    same("encoder output", actual.encoded[:, 1:], latent)
    same("predictions", actual.predictions, everywhere)
    same("loss", actual.loss, mae_st_torch.loss(video, everywhere, restore, kept, 4, sizes.tubelet, sizes.patch))


def test_mae_st_with_one_table():
    """That table holds the sums of the separable ones, after the row of cls."""
    separable, model = build(torch_mae_st.MaskedAutoencoder, SIZES), torch_mae_st.MaskedAutoencoder(SIZES, separable=False)
    state = {key: value for key, value in separable.state_dict().items() if "pos_embed" not in key}
    for prefix in ("", "decoder_"):
        cls = separable.get_parameter(f"{prefix}pos_embed_class")
        state[f"{prefix}pos_embed"] = torch.cat([cls, torch_mae_st.positions(separable, prefix)[0]], dim=1)
    video, noise = pixels(SIZES, SIZES.frames)
    actual, reference = loaded(model, state)(video, noise, 5), separable(video, noise, 5)
    same("encoder output", actual.encoded, reference.encoded)
    same("predictions", actual.predictions, reference.predictions)


def test_mae_st_without_cls():
    """With VideoMAE's tables and without biases that VideoMAE lacks it predicts what VideoMAE predicts."""
    videomae = build(torch_videomae.MaskedAutoencoder, SIZES)
    state = renamed(videomae, MAE_ST)
    state.update({key.replace(".q.", ".k."): torch.zeros_like(state[key]) for key in list(state) if key.endswith(".q.bias")})
    state["decoder_embed.bias"] = torch.zeros(SIZES.decoder_width)
    for prefix, width in (("", SIZES.width), ("decoder_", SIZES.decoder_width)):
        state[f"{prefix}pos_embed"] = torch_videomae.sinusoid(SIZES.grid.tokens, width)[None]
    model = loaded(torch_mae_st.MaskedAutoencoder(SIZES, separable=False, cls=False), state)
    video, noise = pixels(SIZES, SIZES.frames)
    hidden = noise.argsort(1) >= 5
    actual, reference = model(video, hidden + torch.arange(SIZES.grid.tokens) / 1000, 5), videomae(video, hidden)
    same("encoder output", actual.encoded, reference.encoded)
    same("predictions", torch_videomae.pick(actual.predictions, hidden), reference.predictions)


def test_mae_st_classifier():
    """Its features are those of the encoder that sees everything, pooled before the norm."""
    model, encoder = build(torch_mae_st.Classifier, SIZES, CLASSES), torch_mae_st.MaskedAutoencoder(SIZES)
    encoder.load_state_dict(model.state_dict(), strict=False)
    video, noise = pixels(SIZES, SIZES.frames)
    features = encoder(video, noise, SIZES.grid.tokens).hidden[-1][:, 1:].mean(1)
    same("logits", model(video), model.head(encoder.norm(features)))
