"""The training step as it is compiled and run."""

import jax
import numpy as np
import pytest

from tests.tiny_configs import TERMS, config, make_task, samples


def task(only=TERMS, **overrides):
    c = config(only, contrast__time_reversed_negatives=True, **overrides)
    return make_task(c)


@pytest.mark.parametrize("parts, only", [(1, TERMS), (2, ("mse_video", "intra_frame"))])
def test_a_step_holds_no_scatter(parts, only):
    text = task(only, accumulate=parts).lower().as_text()
    assert "stablehlo.gather" in text and "scatter" not in text


@pytest.fixture(scope="module")
def stepped():
    t = task(optimizer__ema_decay=0.5)
    batch = samples(t.config, 8)
    batch = {name: np.asarray(batch[name]) for name in ("video", "frame_index")}
    first = jax.device_get(t.initial_state())
    state, metrics = t.step(t.initial_state(), batch)
    return t, first, *t.step(state, batch), metrics


def test_a_step_moves_every_parameter_and_counts(stepped):
    _t, first, state, *_ = stepped
    assert int(state.step) == 2
    still = [
        jax.tree_util.keystr(path)
        for (path, before), after in zip(jax.tree_util.tree_leaves_with_path(first.params), jax.tree.leaves(state.params))
        if np.array_equal(before, after)
    ]
    # Softmax does not see what is added to every key, so the gradient of its bias is zero but for rounding.
    assert [name for name in still if "'key']['bias']" not in name] == []


def test_views_and_masks_differ_from_step_to_step(stepped):
    *_, later, first = stepped
    assert later["loss/mse_image"] != first["loss/mse_image"]


def test_what_a_step_logs(stepped):
    *_, metrics, _ = stepped
    assert {"optimizer/learning_rate", "optimizer/grad_norm", "optimizer/param_norm", "loss", "feature_std/video"} <= set(metrics)


def test_evaluation_uses_the_moving_average(stepped):
    _, first, state, *_ = stepped
    average = state.evaluated["video"]["encoder"]["embed"]["kernel"]
    kernel, start = state.params["video"]["encoder"]["embed"]["kernel"], first.params["video"]["encoder"]["embed"]["kernel"]
    # The first step has the rate 0, so the average is half-way from the start.
    np.testing.assert_allclose(average, (np.asarray(kernel) + start) / 2, atol=1e-7)


def test_the_state_has_the_shapes_it_says(stepped):
    t, _, state, *_ = stepped
    shapes = jax.tree.map(lambda a: (a.shape, a.dtype), state)
    assert shapes == jax.tree.map(lambda a: (a.shape, a.dtype), t.abstract_state())
