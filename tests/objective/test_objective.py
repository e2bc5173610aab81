"""The objective: its terms and their cost, its inputs, and the compiled program."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.models.autoencoder import Autoencoder
from cvmae.models.build import image_grid, video_grid
from cvmae.models.patches import patchify
from cvmae.objective.objective import Objective, build_model
from cvmae.objective.terms import active_terms
from tests.tiny_configs import TERMS, config, samples


def lowered(c):
    """Returns the lowered gradient of the objective, the shapes of its parameters, and its metrics."""
    objective, batch = Objective(c), samples(c)
    params = jax.eval_shape(objective.init, jax.random.key(0), batch)

    def gradient(params, batch):
        return jax.grad(objective, has_aux=True)(params, batch, jnp.int32(0))

    program = jax.jit(gradient).lower(params, batch)
    return program, params, program.out_info[1]


def flops(c):
    """FLOPs of the lowered program: what the compiler would remove still counts."""
    return lowered(c)[0].cost_analysis()["flops"]


@pytest.fixture(scope="module")
def everything():
    return lowered(config(contrast__time_reversed_negatives=True))


def test_the_step_holds_no_scatter(everything):
    """Before XLA, which on CPU turns scatters into loops."""
    text = everything[0].as_text()
    assert "stablehlo.gather" in text and "scatter" not in text


def test_a_scatter_would_be_found():
    def naive(x, index):
        return jnp.take_along_axis(x, index[..., None], axis=1).sum()

    text = jax.jit(jax.grad(naive)).lower(jnp.ones((2, 8, 4)), jnp.zeros((2, 4), jnp.int32)).as_text()
    assert "stablehlo.scatter" in text


def test_every_term_is_logged_with_its_accuracy(everything):
    metrics = everything[2]
    assert {f"loss/{term}" for term in TERMS} <= set(metrics)
    assert {f"accuracy/{term}" for term in TERMS if not term.startswith("mse")} <= set(metrics)
    assert {"loss", "feature_std/video", "feature_std/image"} <= set(metrics)


def test_terms_switched_off_cost_nothing(everything):
    """FLOPs and parameters fall with every term that is removed, down to those of a plain video MAE."""
    all_terms = everything[0].cost_analysis()["flops"]
    paper = flops(config())
    video_only = flops(config(only=("mse_video", "intra_video", "intra_frame")))
    mae, params, metrics = lowered(config(only=("mse_video",)))
    mae_flops = mae.cost_analysis()["flops"]
    assert all_terms > paper > video_only > 1.5 * mae_flops  # reversed clip; image branch; second view
    assert set(params) == {"video"}
    assert [name for name in metrics if name.startswith("loss/")] == ["loss/mse_video"]
    image = lowered(config(only=("mse_image",)))[1]
    assert set(image) == {"image"}
    contrast = lowered(config(only=("intra_video",)))[1]
    assert set(contrast) == {"video", "video_head"} and set(contrast["video"]) == {"encoder"}


@pytest.mark.parametrize(
    "active, views, video, image",
    [
        (("mse_video",), 1, True, False),
        (("mse_image",), 1, False, True),
        (("mse_video", "intra_frame"), 2, True, False),
        (("cross_video",), 2, True, True),
        (TERMS, 2, True, True),
    ],
)
def test_what_terms_need(active, views, video, image):
    terms = active_terms(config(only=active))
    assert (terms.views, terms.video_branch, terms.image_branch) == (views, video, image)


def test_reversed_negatives_need_a_third_view_only_for_intra_modal_terms():
    for term, views in (("intra_video", 3), ("intra_frame", 3), ("cross_video", 2), ("mse_video", 1)):
        assert active_terms(config(only=(term,), contrast__time_reversed_negatives=True)).views == views, term


@pytest.fixture(scope="module")
def run():
    c = config(image_branch__frames=2)
    objective, batch = Objective(c, {"cross_video": 10}), samples(c)
    params = jax.jit(objective.init)(jax.random.key(1), batch)
    inputs = jax.jit(objective.make_inputs)(batch)
    return objective, params, batch, inputs


@pytest.fixture(scope="module")
def gradient(run):
    """The loss with its metrics, and its gradient, compiled once."""
    return jax.jit(jax.value_and_grad(run[0], has_aux=True))


def test_the_loss_is_the_weighted_sum_and_weights_may_rise(run, gradient):
    _, params, batch, _ = run
    for step, fraction in ((0, 0.0), (5, 0.5), (10, 1.0), (50, 1.0)):
        (total, metrics), _ = gradient(params, batch, np.int32(step))
        expected = sum(float(metrics[f"loss/{t}"]) * (fraction if t == "cross_video" else 1.0) for t in TERMS)
        np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_every_view_has_its_own_mask_and_no_sample_depends_on_the_others(run):
    objective, _, batch, inputs = run
    shuffle = np.asarray(inputs.video_mask.ids_shuffle)
    assert shuffle.shape[0] == 4 * 2 and len({tuple(row) for row in shuffle}) == 8
    assert inputs.image.shape[:2] == (4 * 2, 1) and inputs.video.shape[:2] == (8, 4)
    one = {name: value[1:2] for name, value in batch.items()}
    alone = jax.jit(objective.make_inputs)(one)
    np.testing.assert_array_equal(alone.video_mask.ids_shuffle, shuffle[2:4])
    np.testing.assert_allclose(alone.video, inputs.video[2:4], atol=1e-5)


def test_inputs_are_cut_into_patches_of_the_same_pixels(run):
    objective, *_, inputs = run
    for name, grid in (("video", video_grid(objective.config)), ("image", image_grid(objective.config))):
        expected = patchify(getattr(inputs, name), grid.tubelet, grid.patch)
        np.testing.assert_allclose(getattr(inputs, f"{name}_patches"), expected, atol=1e-6)


@pytest.mark.parametrize("ratio", [0.9, pytest.param(0.5, marks=pytest.mark.slow)])
def test_the_loss_in_grid_order_is_that_of_the_masked_patches(ratio, monkeypatch):
    """At high ratios all patches are predicted, and the loss is masked; values and gradients are those of the masked ones alone."""
    c = config(only=("mse_video", "mse_image"), video_branch__mask__ratio=ratio, image_branch__mask__ratio=ratio)
    objective, batch = Objective(c), samples(c)
    params = jax.jit(objective.init)(jax.random.key(1), batch)
    output = jax.eval_shape(lambda *args: objective.forward(args[0], objective.make_inputs(args[1])), params, batch)
    assert (output.video_grid_predictions is None) == (output.image_grid_predictions is None) == (ratio == 0.5)

    def evaluate():
        return jax.jit(jax.value_and_grad(objective, has_aux=True))(params, batch)

    (loss, _), gradients = evaluate()
    monkeypatch.setattr(Autoencoder, "decodes_grid", lambda self, mask: False)
    (expected, _), expected_gradients = evaluate()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients, expected_gradients)


def test_pixels_are_multiplied_in_the_dtype_of_the_config():
    """Float32 products of pixels at the highest precision cost accelerators more than the encoder's embedding."""
    for dtype in ("bfloat16", "float32"):
        c = config(dtype=dtype)
        text = jax.jit(Objective(c).make_inputs).lower(samples(c)).as_text()
        products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
        operand = {"bfloat16": "bf16", "float32": "f32"}[dtype]
        assert products and all(
            re.search(rf": \(tensor<[\dx]+x{operand}>, tensor<[\dx]+x{operand}>\)", line) for line in products
        )


def test_temporal_positions_count_from_the_end_in_the_reversed_clip():
    c = config(contrast__time_reversed_negatives=True, image_branch__frames=2)
    slots = jax.jit(Objective(c).make_inputs.slots)(samples(c)["views"][:1], np.array([[0, 3]], np.int32))
    np.testing.assert_array_equal(slots, [[[0, 1], [0, 1], [1, 0]]])


def test_frames_that_a_shifted_view_does_not_hold_are_no_pairs():
    """Every frame has a gray level of its own: a pair counts if v⁺ holds the frame that the image branch sees, and is at its place."""
    whole = {
        "augment__scale": (1.0, 1.0),
        "augment__plus_scale": (1.0, 1.0),
        "augment__color_probability": 0.0,
        "augment__flip": 0.0,
    }
    fields = {"augment__plus_shift": 4, "video_branch__tubelet": 1, "video_branch__mask__ratio": 0.1}
    c = config(only=("intra_frame", "cross_frame"), **fields, **whole)
    batch = samples(c, batch=64)
    batch["video"] = np.broadcast_to(10 * np.arange(8, dtype=np.uint8)[:, None, None, None], (64, 8, *c.data.frame_size, 3))
    objective = Objective(c)
    inputs = jax.jit(objective.make_inputs)(batch)
    numbers = np.rint(np.asarray(inputs.video.reshape(64, 2, 4, -1)[..., 0]) * 25.5).astype(int)
    seen = np.take_along_axis(numbers[:, 0], batch["frame_index"], axis=1)
    places = [np.flatnonzero(row == frame) for row, frame in zip(numbers[:, 1], seen[:, 0])]
    slots = np.asarray(inputs.slots)
    np.testing.assert_array_equal(slots[:, 0], batch["frame_index"])
    for slot, place in zip(slots[:, 1, 0], places):
        assert slot == place[0] if len(place) else not 0 <= slot < 4
    params = jax.jit(objective.init)(jax.random.key(1), batch)
    output = jax.jit(objective.forward)(params, inputs)
    np.testing.assert_array_equal(output.f_valid[:, 0], [len(place) > 0 for place in places])
    assert 0 < output.f_valid.sum() < 64
    np.testing.assert_allclose(output.f_valid.mean(), objective.expected_valid, atol=0.15)


def test_a_frozen_image_encoder_gets_no_gradient():
    c = config(only=("mse_image", "cross_video", "cross_frame"), image_branch__train="frozen")
    objective, batch = Objective(c), samples(c)
    params = jax.jit(objective.init)(jax.random.key(1), batch)
    gradient = jax.jit(jax.grad(lambda p: objective(p, batch, 0)[0]))(params)["image"]
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradient["encoder"]))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(gradient["decoder"]))


def test_a_constant_clip_gives_finite_gradients(run, gradient):
    """The variance of its patches, by which target normalization divides, is 0."""
    _, params, batch, _ = run
    constant = batch | {"video": np.full_like(batch["video"], 127)}
    _, gradients = gradient(params, constant, np.int32(10))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"augment__size": (32, 33)}, "config.video_branch: width=33 is not a multiple of the patch size 16"),
        ({"data__num_frames": 3}, "num_frames=3 is not a multiple of the tubelet size 2"),
        ({"video_branch__variant": "Q/16"}, "variant is 'Q/16'"),
        ({"video_branch__mask__ratio": 1.0}, "leaves 0 of 8 tokens"),
        ({"image_branch__positions": "sincos"}, "config.image_branch: positions is 'sincos'"),
        ({"video_branch__target_norm": "channel"}, "target_norm is 'channel'"),
        ({"video_branch__decoder__heads": 5}, "decoder.width=32 is not a multiple of decoder.heads=5"),
    ],
)
def test_errors_name_the_field(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_model(config(**change))
