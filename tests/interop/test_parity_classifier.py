"""transformers' VideoMAEForVideoClassification against this package's classifier with the same weights: logits, loss, all gradients."""

import jax
import numpy as np
import optax
import pytest

from cvmae.interop import read
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE_CLASSIFIER
from cvmae.models.classifier import Classifier, Pool
from tests.interop import hf_models
from tests.interop.comparison import assert_close, relative, tree_errors
from tests.interop.parity import CLIPS, TINY, torch, transformers

CASES = {
    "mean pooling": {"use_mean_pooling": True},
    "first token": {"use_mean_pooling": False, "layer_norm_eps": 1e-6},
    "mean pooling, no qv bias, other sizes": {
        "use_mean_pooling": True,
        "qv_bias": False,
        "num_hidden_layers": 1,
        "image_size": 48,
        "patch_size": 16,
        "num_frames": 6,
        "tubelet_size": 3,
        "num_attention_heads": 2,
    },
}


def save(folder, model_class=transformers.VideoMAEForVideoClassification, **changes):
    """A transformers model of random weights, saved in a folder."""
    torch.manual_seed(0)
    model = hf_models.shake(model_class(transformers.VideoMAEConfig(**TINY | CLIPS | {"num_labels": 7} | changes)), seed=1)
    model.save_pretrained(folder)
    return model


def module_of(config) -> Classifier:
    """The classifier for a VideoMAEConfig."""
    pool: Pool = "mean" if config.use_mean_pooling else "first"
    return Classifier(hf_models.videomae_module(config).encoder, config.num_labels, pool, eps=1e-5)


def clips(grid, batch=3):
    rng = np.random.default_rng(2)
    return rng.normal(size=(batch, grid.num_frames, grid.height, grid.width, 3)).astype(np.float32)


def as_pixels(clip):
    return torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 1, 4, 2, 3)))


@pytest.mark.parametrize("name", CASES)
def test_logits_loss_and_gradients(name, tmp_path):
    model = save(tmp_path, **CASES[name])
    loaded = read(tmp_path)
    module, params = loaded.take()
    assert module == module_of(model.config) and loaded.notes == ()
    clip, labels = clips(module.encoder.grid), np.array([1, 0, 2])

    def loss_of(params):
        logits = module.apply({"params": params}, clip)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), logits

    (loss, logits), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(params)
    reference = model(as_pixels(clip), labels=torch.from_numpy(labels))
    reference.loss.backward()
    assert_close(f"{name} logits", relative(logits, reference.logits.detach().numpy()))
    assert_close(f"{name} loss", abs(float(loss) - reference.loss.item()) / reference.loss.item())
    errors = tree_errors(gradients, hf_models.tree_of(model, HF_VIDEOMAE_CLASSIFIER, loaded.template()))
    worst = max(errors, key=errors.get)
    assert_close(f"{name} gradients (worst: {worst} of {len(errors)})", errors[worst])


@pytest.mark.parametrize("model_class", [transformers.VideoMAEModel, transformers.VideoMAEForVideoClassification])
def test_features_of_the_encoder_alone(model_class, tmp_path):
    """Files with and without the prefix `videomae.` and what stands beside the encoder."""
    model = save(tmp_path, model_class, use_mean_pooling=False)
    encoder, params = read(tmp_path).take("encoder")
    assert encoder == hf_models.videomae_module(model.config).encoder
    clip = clips(encoder.grid)
    reference = getattr(model, "videomae", model)(as_pixels(clip)).last_hidden_state.detach().numpy()
    assert_close("features", relative(jax.jit(encoder.apply)({"params": params}, clip).tokens, reference))


def test_names_of_classes_in_config(tmp_path):
    names = {i: f"class {i}" for i in range(11)}  # as text, 10 would come before 2
    save(tmp_path, num_labels=11, id2label=names, label2id={v: k for k, v in names.items()})
    head = read(tmp_path).head
    assert head.names == tuple(names.values()) and head.classes == 11 and head.eps == 1e-5
