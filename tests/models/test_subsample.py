"""Predicting a fraction of the masked tokens: which ones, the cost, and a loss whose mean does not change."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec, Layout, make_targets
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.objective.losses import masked_mse
from tests.objective.test_objective import flops
from tests.tiny_configs import config

GRID = Grid(8, 32, 32, 2, 8)  # 4 time patches of 4 x 4


draw = jax.jit(masking.draw, static_argnums=(1, 2, 3))
subsample = jax.jit(masking.subsample, static_argnums=(2, 3, 4))


def keys(count, seed=0):
    return jax.random.split(jax.random.key(seed), count)


@pytest.mark.parametrize("mask_kind", ["random", "tube", "frame"])
@pytest.mark.parametrize("kind", masking.SUBSAMPLES)
def test_a_share_of_the_hidden_tokens_of_each_sample(kind, mask_kind):
    mask = draw(keys(6), GRID, mask_kind, 0.75)
    some = subsample(mask, keys(6, 1), GRID, kind, 0.5)
    assert some.subsampled and not mask.subsampled and some.masked.shape == (6, 24)
    np.testing.assert_array_equal(some.ids_keep, mask.ids_keep)
    np.testing.assert_array_equal(some.hidden, mask.hidden)
    np.testing.assert_array_equal(np.take_along_axis(some.ids_restore, some.ids_shuffle, 1), np.tile(np.arange(64), (6, 1)))
    for chosen, every in zip(np.asarray(some.masked), np.asarray(mask.masked)):
        assert len(set(chosen)) == 24 and set(chosen) <= set(every)
    different = len({tuple(sorted(row)) for row in np.asarray(some.masked)})
    assert different == 6 if kind == "random" else different > 1  # a cell leaves nothing to chance but ties
    assert masking.subsample(mask, keys(6, 1), GRID, kind, 1.0) is mask
    assert subsample(mask, keys(6, 1), GRID, kind, 0.001).masked.shape == (6, 1)


def test_random_takes_every_masked_token_alike():
    hidden = np.broadcast_to(np.arange(64) >= 16, (4000, 64))
    mask = jax.jit(masking.from_hidden, static_argnums=1)(hidden, 16)
    chosen = np.bincount(np.asarray(subsample(mask, keys(4000), GRID, "random", 0.25).masked).ravel(), minlength=64)
    assert (chosen[:16] == 0).all()
    np.testing.assert_allclose(chosen[16:] / 4000, 0.25, atol=0.03)


def test_a_running_cell_asks_for_every_position_in_turn():
    turns = np.asarray(jax.jit(lambda: masking.running_cell(GRID))())
    turn = turns.reshape(4, 4, 4)
    for time_patch in turn:
        assert (
            np.sort(time_patch.reshape(2, 2, 2, 2).transpose(0, 2, 1, 3).reshape(4, 4)) == np.arange(4)
        ).all()  # each cell has each turn
    assert (np.sort(turn, axis=0) == np.arange(4)[:, None, None]).all()  # and each position too, over time
    mask = draw(keys(3), GRID, "tube", 0.75)
    chosen = subsample(mask, keys(3, 1), GRID, "cell", 0.5).masked
    for row, every in zip(np.asarray(chosen), np.asarray(mask.masked)):
        left = np.setdiff1d(every, row)
        assert turns[row].max() <= turns[left].min()
    with pytest.raises(ValueError, match="decoder.subsample is 'cells'; expected one of random, cell"):
        masking.subsample(mask, keys(3), GRID, "cells", 0.5)


def autoencoder(layout: Layout, depth: int) -> Autoencoder:
    encoder = Encoder(TransformerConfig(ViTSize(16, 1, 2)), GRID, "separable", cls_token=True)
    return Autoencoder(encoder, Decoder(DecoderSpec(TransformerConfig(ViTSize(8, depth, 2)), layout, cls="own"), GRID))


@pytest.mark.parametrize("layout", ["unshuffle", "concat"])
def test_the_loss_of_a_fraction_is_that_of_all_on_average(layout):
    """With a decoder in which tokens do not see each other, so that predictions are the same."""
    model, clip = autoencoder(layout, 0), np.random.default_rng(0).normal(size=(1, 8, 32, 32, 3)).astype(np.float32)
    mask = draw(keys(1), GRID, "random", 0.75)
    params = jax.jit(model.init)(jax.random.key(0), clip, mask)

    @jax.jit
    def losses(mask):
        _, predictions = model.apply(params, clip, mask)
        return masked_mse(predictions, make_targets(clip, mask, model.decoder.spec, GRID, "patch").values)

    @jax.jit
    def subsampled(keys):
        some = masking.subsample(mask, keys, GRID, "random", 0.25)
        return some.masked, losses(some)

    errors = dict(zip(np.asarray(mask.masked)[0].tolist(), np.asarray(losses(mask))[0].tolist()))
    means = []
    for seed in range(200):
        [masked], [values] = map(np.asarray, subsampled(keys(1, seed)))
        np.testing.assert_allclose(values, [errors[token] for token in masked.tolist()], rtol=1e-4)
        means.append(values.mean())
    error = np.std(means) / np.sqrt(len(means))
    assert abs(np.mean(means) - np.mean(list(errors.values()))) < 4 * error


def test_every_masked_token_needs_a_mask_that_has_them():
    model, clip = autoencoder("unshuffle", 1), jnp.zeros((1, 8, 32, 32, 3))

    def decoded(clip):
        mask = masking.subsample(masking.draw(keys(1), GRID, "random", 0.75), keys(1), GRID, "random", 0.5)
        params = model.init(jax.random.key(0), clip, mask)
        return model.apply(params, model.apply(params, clip, mask, method="encode"), mask, True, method="decode")

    with pytest.raises(ValueError, match="predict_all needs every masked token, and this mask is subsampled"):
        jax.eval_shape(decoded, clip)


@pytest.mark.slow
def test_the_step_costs_less():
    """Half the masked tokens: the decoder's work falls, and the fields do it."""
    only = ("mse_video",)
    counts = [flops(config(only, video_branch__decoder__share=share)) for share in (1.0, 0.5, 0.25)]
    assert counts[0] > 1.1 * counts[1] > 1.1 * counts[2]
    one, two = (
        config(only, video_branch__decoder__share=0.5, video_branch__decoder__subsample=kind) for kind in masking.SUBSAMPLES
    )
    assert flops(one) != flops(two)


def test_the_compiled_decoder_takes_less_work_and_memory():
    grid = Grid(8, 64, 64, 2, 8)  # 256 tokens, of which 64 are visible
    encoder = Encoder(TransformerConfig(ViTSize(16, 1, 2)), grid, "separable")
    model = Autoencoder(encoder, Decoder(DecoderSpec(TransformerConfig(ViTSize(32, 2, 2), attention="einsum"), cls="own"), grid))
    clip = jax.ShapeDtypeStruct((2, 8, 64, 64, 3), jnp.float32)

    def compiled(share):
        def mask():
            return masking.subsample(masking.draw(keys(2), grid, "random", 0.75), keys(2), grid, "random", share)

        def loss(params, clip):
            return (model.apply(params, clip, mask())[1] ** 2).mean()

        params = jax.eval_shape(lambda clip: model.init(jax.random.key(0), clip, mask()), clip)
        program = jax.jit(jax.grad(loss)).lower(params, clip).compile()
        return program.cost_analysis()["flops"], program.memory_analysis().temp_size_in_bytes

    full, half = compiled(1.0), compiled(0.5)
    assert half[0] < 0.65 * full[0] and half[1] < 0.75 * full[1]
