"""The autoencoder: layouts agree, no scatter is lowered, gradients equal those of naive gathers, bfloat16 stays sane."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec, make_targets
from cvmae.models.patches import Grid, patchify, unpatchify
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.objective.losses import masked_mse

GRID = Grid(4, 32, 32, 2, 8)
IMAGE = Grid(1, 32, 32, 1, 8)
ENCODER, DECODER = ViTSize(32, 1, 2), ViTSize(16, 1, 2)


def build(grid=GRID, positions="separable", cls_token=True, attention="auto", dtype=jnp.float32, **decoder) -> Autoencoder:
    encoder = Encoder(TransformerConfig(ENCODER, attention=attention, dtype=dtype), grid, positions, cls_token)
    spec = DecoderSpec(TransformerConfig(DECODER, attention=attention, dtype=dtype), positions=positions, **decoder)
    return Autoencoder(encoder, Decoder(spec, grid))


def inputs(grid=GRID, batch=2, ratio=0.75):
    clip = np.random.default_rng(1).normal(size=(batch, grid.num_frames, grid.height, grid.width, 3)).astype(np.float32)
    return clip, jax.jit(lambda keys: masking.draw(keys, grid, "random", ratio))(sample_keys(batch))


def sample_keys(batch=2):
    return jax.random.split(jax.random.key(2), batch)


def masked_rows(values, mask):
    return np.take_along_axis(np.asarray(values), np.asarray(mask.masked)[..., None], axis=1)


def make_params(model, clip, mask):
    """Random float32 parameters, none of them at an initial 0 or 1; drawn by numpy, which compiles nothing."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip, mask)

    def make(path, leaf):
        center = 1.0 if path[-1].key == "scale" else 0.0
        return (center + 0.2 * rng.normal(size=leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(make, shapes)


def loss_of(model, params, clip, mask, norm="patch"):
    _, predictions = model.apply(params, clip, mask)
    return masked_mse(predictions, make_targets(clip, mask, model.decoder.spec, model.encoder.grid, norm).values).mean()


KINDS = {
    "mae_st": {"cls": "own", "target_frames": 2},
    "VideoMAE": {"positions": "sincos1d", "cls_token": False, "layout": "concat", "embed_bias": False},
    "MAE": {"grid": IMAGE, "positions": "sincos2d", "cls": "encoder"},
    "learned positions": {"positions": "learned", "layout": "concat", "cls": "own"},
}


def use_naive_gathers(monkeypatch):
    """Replaces the gathers by indexing, whose gradients are scatters."""

    def naive(pick):
        return lambda x, m: jnp.take_along_axis(x, pick(m)[..., None], axis=1)

    monkeypatch.setattr(masking, "take_visible", naive(lambda m: m.ids_keep))
    monkeypatch.setattr(masking, "take_masked", naive(lambda m: m.masked))
    monkeypatch.setattr(masking, "restore", naive(lambda m: m.ids_restore))
    monkeypatch.setattr(masking, "gather_visible_rows", lambda table, m: table[m.ids_keep])
    monkeypatch.setattr(masking, "gather_masked_rows", lambda table, m: table[m.masked])


@pytest.mark.parametrize("name", KINDS)
def test_no_scatter_is_lowered_and_gradients_equal_those_of_naive_gathers(name, monkeypatch):
    """From drawing the mask to the gradient, before XLA, which on CPU turns scatters into loops; the naive one shows that one is seen."""
    model = build(**KINDS[name])
    grid = model.encoder.grid
    clip, mask = inputs(grid)
    params = make_params(model, clip, mask)

    def lowered():
        def step(params, clip, keys):
            mask = masking.draw(keys, grid, "random", 0.75)
            return jax.value_and_grad(lambda p: loss_of(model, p, clip, mask))(params)

        program = jax.jit(step).lower(params, clip, sample_keys())
        return program.compile()(params, clip, sample_keys()), re.findall(r"stablehlo\.(gather|scatter)\b", program.as_text())

    outputs, operations = lowered()
    use_naive_gathers(monkeypatch)
    naive_outputs, naive_operations = lowered()
    assert set(operations) == {"gather"}
    if name != "VideoMAE":  # fixed positions and no way back to grid order: no gradient passes through a gather
        assert set(naive_operations) == {"gather", "scatter"}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), outputs, naive_outputs)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(outputs[1]))


@pytest.mark.parametrize("cls", ["none", "own", "encoder"])
def test_both_layouts_are_one_function(cls):
    clip, mask = inputs()
    models = [build(layout=layout, cls=cls) for layout in ("unshuffle", "concat")]
    params = make_params(models[0], clip, mask)
    results = []
    for model in models:

        @jax.jit
        def run(params, model=model):
            encoded, hidden = model.apply(params, clip, mask)
            return hidden, model.apply(params, encoded, mask, True, method="decode")

        results.append(run(params))
        hidden, everywhere = results[-1]
        assert hidden.shape == (2, GRID.tokens - mask.num_visible, GRID.patch_dim())
        assert everywhere.shape == (2, GRID.tokens, GRID.patch_dim())
        np.testing.assert_allclose(masked_rows(everywhere, mask), hidden, atol=1e-5)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-5)


def test_predictions_depend_on_visible_pixels_of_the_same_sample_alone():
    model = build(cls="own")
    clip, mask = inputs(batch=3)
    params = make_params(model, clip, mask)
    predict = jax.jit(lambda clip: model.apply(params, clip, mask)[1])
    reference = predict(clip)

    @jax.jit
    def changed(where):
        return unpatchify(jnp.where(where[..., None], -3.0, patchify(clip, GRID.tubelet, GRID.patch)), GRID)

    hidden = np.asarray(mask.hidden)
    hidden_changed, visible_changed = changed(hidden), changed(~hidden)
    np.testing.assert_array_equal(predict(hidden_changed), reference)
    assert np.abs(predict(visible_changed) - reference).max() > 0.1
    np.testing.assert_array_equal(predict(clip * np.float32([1, 0, 1])[:, None, None, None, None])[::2], reference[::2])


@pytest.fixture(scope="module")
def reference():
    """Inputs, parameters, and the results of einsum attention in float32."""
    clip, mask = inputs()
    model = build(cls="own", attention="einsum")
    params = make_params(model, clip, mask)
    return clip, mask, params, run_with_aux(model, params, clip, mask)


def run_with_aux(model, params, clip, mask):
    """((loss, (encoded, predictions)), gradients)."""

    def loss(params):
        encoded, predictions = model.apply(params, clip, mask)
        targets = make_targets(clip, mask, model.decoder.spec, GRID, "patch").values
        return masked_mse(predictions, targets).mean(), (encoded, predictions)

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def relative(a, b) -> float:
    """The norm of the difference of two trees over that of the second."""
    a, b = (np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(t)]) for t in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_xla_and_einsum_attention_agree(reference):
    clip, mask, params, (exact, exact_gradients) = reference
    value, gradients = run_with_aux(build(cls="own", attention="xla"), params, clip, mask)
    assert relative(value, exact) < 1e-5 and relative(gradients, exact_gradients) < 1e-5


@pytest.mark.parametrize("attention", ["einsum", "xla"])
def test_bfloat16(attention, reference):
    """Parameters, predictions, loss and gradients stay float32; the result stays near float32's."""
    clip, mask, params, ((exact_loss, (_, exact)), exact_gradients) = reference
    model = build(cls="own", attention=attention, dtype=jnp.bfloat16)
    shapes = jax.eval_shape(model.init, jax.random.key(0), clip, mask)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    (loss, (encoded, predictions)), gradients = run_with_aux(model, params, clip, mask)
    assert encoded.tokens.dtype == encoded.cls.dtype == jnp.bfloat16
    assert predictions.dtype == loss.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(gradients)} == {jnp.dtype("float32")}
    assert relative(predictions, exact) < 0.03 and relative(loss, exact_loss) < 0.01
    assert relative(gradients, exact_gradients) < 0.05


def test_no_decoder_no_parameters():
    model = Autoencoder(build().encoder)
    clip, mask = inputs()
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), clip, mask, method="encode"))["params"]
    assert set(params) == {"encoder"}
    with pytest.raises(ValueError, match="has no decoder"):
        jax.eval_shape(model.init, jax.random.key(0), clip, mask)


@pytest.mark.parametrize("norm", ["patch", "patch_channel", "none"])
def test_targets_stand_in_the_order_of_predictions_and_can_be_undone(norm):
    clip, mask = inputs()
    spec = build().decoder.spec

    @jax.jit
    def targets(clip, mask):
        hidden, everywhere = (make_targets(clip, m, spec, GRID, norm) for m in (mask, None))
        return hidden.values, everywhere.values, unpatchify(everywhere.values * everywhere.std + everywhere.mean, GRID)

    hidden, everywhere, pixels = targets(clip, mask)
    np.testing.assert_allclose(hidden, masked_rows(everywhere, mask), atol=1e-6)
    np.testing.assert_allclose(pixels, clip, atol=1e-4)


def test_refusals():
    trunk = TransformerConfig(DECODER)
    with pytest.raises(ValueError, match="decoder.layout is 'append'; expected one of unshuffle, concat"):
        DecoderSpec(trunk, "append")
    with pytest.raises(ValueError, match="decoder.cls is 'both'"):
        DecoderSpec(trunk, cls="both")
    for frames in (3, 8):
        with pytest.raises(
            ValueError, match=f"decoder.target_frames={frames} must be a multiple of the 2 time patches and at most 4"
        ):
            DecoderSpec(trunk, target_frames=frames).target_tubelet(GRID)
    clip, mask = inputs()
    with pytest.raises(ValueError, match="decoder.cls='encoder' needs an encoder with cls_token=True"):
        jax.eval_shape(build(cls_token=False, cls="encoder").init, jax.random.key(0), clip, mask)
