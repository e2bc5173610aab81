"""The losses of single clips: their weighted mean is the loss of every term, and that of a source is over its clips alone."""

import jax
import numpy as np
import pytest

from cvmae.objective import TERMS
from cvmae.objective.objective import Objective
from tests.tiny_configs import config, samples

LAYOUTS = {
    "plain": {},
    "grid": {"video_branch__mask__ratio": 0.75, "image_branch__mask__ratio": 0.75},
    "reversed": {"contrast__time_reversed_negatives": True},
    "two frames, few valid": {"image_branch__frames": 2, "video_branch__mask__kind": "frame"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_weighted_mean_is_the_loss_of_the_term(layout):
    c = config(**LAYOUTS[layout])
    objective, batch = Objective(c), samples(c, 8)
    params = jax.jit(objective.init)(jax.random.key(0), batch)

    @jax.jit
    def losses(params, batch):
        inputs = objective.step_inputs(batch)
        output = objective.forward(params, inputs)
        _, metrics = objective.loss_and_metrics(output, inputs)
        return metrics, {term.name: term.clip_losses(output, inputs, c) for term in objective.loss_terms}

    metrics, clips = losses(params, batch)
    assert set(clips) == {term.name for term in TERMS}
    for name, (values, weights) in clips.items():
        assert values.shape == weights.shape == (8,)
        np.testing.assert_allclose((values * weights).sum() / weights.sum(), metrics[f"loss/{name}"], rtol=1e-5)


def test_a_source_has_the_mean_of_its_own_clips():
    c = config(("mse_video",), loss__mse_video=2.0)
    objective, batch = Objective(c, num_sources=3), samples(c, 8)
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    batch["source"] = np.array([0, 1, 1, 0, 1, 1, 1, 0], np.int32)  # none of the third

    @jax.jit
    def clip_losses(params, batch):
        inputs = objective.step_inputs(batch)
        return objective.loss_terms[0].clip_losses(objective.forward(params, inputs), inputs, c)[0]

    evaluate, source_losses = jax.jit(objective), jax.jit(objective.source_losses)
    loss, metrics = evaluate(params, batch)
    by_source, values = source_losses(metrics["source_sums"]), np.asarray(clip_losses(params, batch))
    expected = [2 * values[batch["source"] == number].mean() for number in (0, 1)]
    np.testing.assert_allclose(by_source, [*expected, 0.0], rtol=1e-5)
    np.testing.assert_allclose(loss, (3 * by_source[0] + 5 * by_source[1]) / 8, rtol=1e-5)
    # Micro-batches of every second clip: their mean sums give the same losses.
    halves = [evaluate(params, jax.tree.map(lambda a, n=n: a[n::2], batch))[1]["source_sums"] for n in (0, 1)]
    np.testing.assert_allclose(source_losses(np.mean(halves, 0)), by_source, rtol=1e-4)
