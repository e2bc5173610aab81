"""V-JEPA 2 of transformers against this package's rotary encoder and attentive pooler: states, logits, gradients, visible tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from cvmae.interop import read
from cvmae.interop.adapt import InitFrom, load_classifier
from cvmae.interop.key_maps.vjepa2 import HF_VJEPA2, HF_VJEPA2_CLASSIFIER
from cvmae.models import masking
from tests.interop import hf_models
from tests.interop.comparison import assert_close, relative, tree_errors
from tests.interop.hf_encoders import compare, gradients, module_run, random_like, torch_run
from tests.interop.parity import torch, transformers

TINY = {
    "crop_size": 32,
    "patch_size": 8,
    "frames_per_clip": 6,
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "mlp_ratio": 2.5,
    "num_pooler_layers": 2,
    "num_labels": 5,
    "pred_hidden_size": 24,
    "pred_num_attention_heads": 2,
    "pred_num_hidden_layers": 1,
    "pred_num_mask_tokens": 2,
}
CASES = {
    "all values of a head are rotated": {"num_attention_heads": 4},
    "some values of a head are not rotated": {},
    "no biases, tubelets of a frame": {"qkv_bias": False, "tubelet_size": 1, "layer_norm_eps": 1e-5},
}


def build(model_class, **fields):
    """A model of random weights."""
    torch.manual_seed(0)
    return hf_models.shake(model_class(transformers.VJEPA2Config(**fields)), seed=1)


def clips(fields, batch: int = 2) -> np.ndarray:
    """Random clips as transformers takes them, [B, T, C, H, W]."""
    config = transformers.VJEPA2Config(**fields)
    return random_like((batch, config.frames_per_clip, 3, config.crop_size, config.crop_size), 2)


def ours(video: np.ndarray) -> np.ndarray:
    return video.transpose(0, 1, 3, 4, 2)


def check_encoder(name: str, fields, folder, batch: int = 2):
    model = build(transformers.VJEPA2Model, **fields)
    model.save_pretrained(folder)
    loaded = read(folder)
    module, params = loaded.take("encoder")
    video = clips(fields, batch)
    reference = torch_run(model, video, HF_VJEPA2, loaded.template(), skip_predictor=True)
    compare(name, module_run(module, params, ours(video)), reference)
    return model, loaded


MORE = ("all values of a head are rotated",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in MORE else []) for name in CASES])
def test_tiny(name, tmp_path):
    _, loaded = check_encoder(name, TINY | CASES[name], tmp_path)
    assert loaded.encoder.positions == "rope3d" and loaded.encoder.grid.num_frames == 6
    assert any("predictor" in line for line in loaded.summary())


def test_visible_tokens_keep_their_positions(tmp_path):
    """The same as transformers' blocks on the same tokens with their numbers; cls and registers, which it has not, are not rotated."""
    model = build(transformers.VJEPA2Model, **TINY)
    model.save_pretrained(tmp_path)
    module, params = read(tmp_path).take("encoder")
    video = clips(TINY)
    mask = jax.jit(lambda key: masking.draw(jax.random.split(key, 2), module.grid, "random", 0.6))(jax.random.key(3))
    encoded = jax.jit(module.apply)({"params": params}, ours(video), mask)
    visible = torch.from_numpy(np.array(mask.ids_keep)).long()
    with torch.no_grad():
        tokens = model.encoder.embeddings(torch.from_numpy(video))
        tokens = torch.gather(tokens, 1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
        for layer in model.encoder.layer:
            tokens = layer(tokens, visible)[0]
        expected = model.encoder.layernorm(tokens).numpy()
    assert encoded.tokens.shape[1] < module.grid.tokens
    assert_close("visible tokens", relative(encoded.tokens, expected))


def classify(classifier, params, video, labels):
    """Logits, and gradients of the cross-entropy, of this package's classifier."""

    def loss_of(params):
        logits = classifier.apply({"params": params}, ours(video))
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean(), logits

    (_, logits), gradient = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)
    return logits, gradient


@pytest.mark.parametrize("mlp_ratio", [2.5, pytest.param(4.0, marks=pytest.mark.slow)])
def test_classifier(mlp_ratio, tmp_path):
    """The pooler's MLPs are 4 times as wide as its tokens, whatever those of the encoder are."""
    fields = TINY | {"mlp_ratio": mlp_ratio}
    model = build(transformers.VJEPA2ForVideoClassification, **fields)
    model.save_pretrained(tmp_path)
    loaded = read(tmp_path)
    assert loaded.head is not None and (loaded.head.pool, loaded.head.blocks, loaded.head.heads) == ("attentive", 2, 3)
    classifier, params = loaded.take("classifier")
    video, labels = clips(fields), np.array([1, 4])
    out = model(torch.from_numpy(video))
    torch.nn.functional.cross_entropy(out.logits, torch.from_numpy(labels)).backward()
    logits, gradient = classify(classifier, params, video, labels)
    assert_close("logits", relative(logits, out.logits.detach().numpy()))
    errors = tree_errors(gradient, gradients(model, HF_VJEPA2_CLASSIFIER, loaded.template()))
    worst = max(errors, key=lambda path: errors[path])
    assert_close(f"gradients (worst: {worst} of {len(errors)})", errors[worst])
    filled, notes = load_classifier(InitFrom(str(tmp_path)), classifier)
    jax.tree.map(np.testing.assert_array_equal, filled, params)
    assert notes[0].startswith("classifier of 5 classes from ")


def authors_state(arrays, module: str) -> dict:
    """The encoder of transformers' arrays under the authors' names."""
    names = {"encoder.embeddings.patch_embeddings.": "patch_embed.", "encoder.layer.": "blocks.", "encoder.layernorm.": "norm."}
    state = {}
    for key, array in arrays.items():
        for name, other in names.items():
            if key.startswith(name):
                state[key.replace(name, other).replace("attention.proj", "attn.proj")] = torch.from_numpy(array)
    for query in [key for key in state if ".attention.query." in key]:
        parts = [state.pop(query.replace("query", part)) for part in ("query", "key", "value")]
        state[query.replace("attention.query", "attn.qkv")] = torch.cat(parts)
    return {f"{module}{key}": value for key, value in state.items()}


@pytest.mark.parametrize("module", ["module.backbone.", "backbone.", ""])
def test_files_of_the_authors(module, tmp_path):
    """The averaged encoder of a file that holds two, a predictor, and a table of positions that nothing uses."""
    build(transformers.VJEPA2Model, **TINY).save_pretrained(tmp_path / "hf")
    expected = read(tmp_path / "hf")
    state = authors_state(load_file(tmp_path / "hf" / "model.safetensors"), module)
    state[f"{module}pos_embed"] = torch.zeros(1, 48, 48)
    other = {key: value + 1 for key, value in state.items()}
    predictor = {"module.backbone.predictor_embed.weight": torch.zeros(3, 3)}
    torch.save({"encoder": other, "predictor": predictor, "target_encoder": state, "epoch": 3}, tmp_path / "vitl.pt")
    with pytest.raises(ValueError, match="give --heads"):
        read(tmp_path / "vitl.pt")
    from cvmae.interop.hints import ModelHints

    loaded = read(tmp_path / "vitl.pt", hints=ModelHints(heads=3))
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    grid = loaded.encoder.grid
    assert (grid.num_frames, grid.height, loaded.encoder.positions) == (64, 256, "rope3d")
    assert loaded.encoder.trunk == expected.encoder.trunk


@pytest.mark.slow
def test_vit_l(tmp_path):
    """The published ViT-L at 256 pixels, on 4 of its 64 frames."""
    check_encoder("ViT-L", {"frames_per_clip": 4, "pred_num_hidden_layers": 1}, tmp_path, batch=1)
