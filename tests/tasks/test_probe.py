"""Probes: heads of a grid do not know of each other, the encoder does not move, and the linear probe is PyTorch's."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.synthetic import SyntheticSource
from cvmae.evaluation.features import block_tokens
from cvmae.evaluation.multi_view import flat_crops
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.tasks import run as train
from cvmae.workdir import Workdir
from tests.requirements import missing
from tests.tiny_configs import downstream, labeled_batch, make_task

PLAIN = {"augment__scale": (1.0, 1.0), "augment__ratio": (1.0, 1.0), "augment__flip": 0.0}
GRID = {"probe__rates": (1e-2, 1e-3), "probe__weight_decays": (0.0, 0.5)}


def task(name, **overrides):
    c = downstream(name, **(PLAIN | GRID | ({"probe__blocks": 1, "probe__heads": 2} if name == "attentive" else {}) | overrides))
    return make_task(c)


def stepped(t, steps=3):
    state = t.initial_state()
    first = jax.device_get(state)
    for number in range(steps):
        state, metrics = t.step(state, labeled_batch(t.config, seed=number))
    return first, jax.device_get(state), jax.device_get(metrics)


@pytest.mark.parametrize("name", ["linear", pytest.param("attentive", marks=pytest.mark.slow)])
def test_heads_of_a_grid_are_what_each_is_alone(name):
    together = task(name)
    assert together.grid == [(1e-2, 0.0), (1e-2, 0.5), (1e-3, 0.0), (1e-3, 0.5)]
    first, state, _ = stepped(together)
    alone = task(name, probe__rates=(1e-3,), probe__weight_decays=(0.5,))
    start = alone.initial_state().replace(params=jax.tree.map(lambda a: jnp.asarray(a[3:4]), first.params))
    for number in range(3):
        start, _ = alone.step(start, labeled_batch(alone.config, seed=number))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(start.params)):
        if "'key']['bias']" not in jax.tree_util.keystr(path):  # its gradient is zero but for rounding, which Adam makes steps of
            np.testing.assert_allclose(a[3], b[0], rtol=1e-3, atol=1e-4, err_msg=jax.tree_util.keystr(path))
    kernels = state.params["head"]["kernel"]
    assert all(not np.allclose(kernels[0], other) for other in kernels[1:])


def test_the_encoder_does_not_move_and_the_statistics_do():
    first, state, metrics = stepped(task("linear"))
    for a, b in zip(jax.tree.leaves(first.frozen), jax.tree.leaves(state.frozen)):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first.stats), jax.tree.leaves(state.stats)))
    assert metrics["loss"] <= metrics["loss/median_head"]


def test_the_linear_probe_is_batch_norm_and_linear_of_torch():
    """Three steps of BatchNorm1d without affine parameters, Linear and AdamW on the same features, and then its predictions."""
    try:
        import torch
    except ImportError as error:
        missing("parity", str(error))
    t = task("linear", probe__rates=(1e-2,), probe__weight_decays=(0.1,))
    state = t.initial_state()
    norm = torch.nn.BatchNorm1d(32, eps=1e-6, affine=False)
    linear = torch.nn.Linear(32, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(np.array(state.params["head"]["kernel"][0].T)))
        linear.bias.zero_()
    groups = [{"params": [linear.weight], "weight_decay": 0.1}, {"params": [linear.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.999), eps=1e-8)
    views, features_of = jax.jit(lambda batch, step: t.views(t.samples(batch, step))), jax.jit(t._features)
    for number in range(3):
        batch = labeled_batch(t.config, seed=number)
        clips, labels, _ = views(t.placement.put(batch), number)
        features = torch.tensor(np.array(features_of(state.frozen, clips)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * float(t.rate_factor(number))
        loss = torch.nn.functional.cross_entropy(linear(norm(features)), torch.tensor(np.array(labels)).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        state, metrics = t.step(state, batch)
        assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-4)
    np.testing.assert_allclose(state.params["head"]["kernel"][0], linear.weight.detach().numpy().T, rtol=1e-3, atol=1e-5)
    crops = labeled_batch(t.config)["video"][:, None]
    found = t.predict(state)({"video": jnp.asarray(crops)})[:, 0]
    norm.eval()
    centered = features_of(state.frozen, jax.jit(lambda crops: flat_crops(crops, t.config))(crops))
    expected = torch.softmax(linear(norm(torch.tensor(np.array(centered)))), -1).detach().numpy()
    # torch's running variance is the unbiased one, flax's is not: 8/7 of the newest batch's share.
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_blocks_are_read_side_by_side():
    """Each block's tokens are the output of an encoder that ends there, with the same last norm, and without its cls token."""
    encoder = Encoder(TransformerConfig(ViTSize(16, 3, 2)), Grid(4, 16, 16, 2, 8), "separable", True)
    clips = np.random.default_rng(0).normal(size=(2, 4, 16, 16, 3)).astype(np.float32)
    params = jax.jit(encoder.init)(jax.random.key(0), clips)["params"]
    params["norm"]["scale"] = jnp.linspace(0.5, 1.5, 16)
    tokens = jax.jit(lambda params: block_tokens(encoder, params, clips, (-3, 1, -1)))(params)
    assert tokens.shape == (2, 3 * 8, 16)
    for number, depth in enumerate((1, 2, 3)):
        ended = encoder.clone(trunk=dataclasses.replace(encoder.trunk, size=ViTSize(16, depth, 2)))
        blocks = {f"block{i}": params["blocks"][f"block{i}"] for i in range(depth)}
        expected = jax.jit(ended.apply)({"params": params | {"blocks": blocks}}, clips).tokens
        np.testing.assert_allclose(tokens[:, 8 * number : 8 * (number + 1)], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(block_tokens(encoder, params, clips, (-1,)), encoder.apply({"params": params}, clips).tokens)
    with pytest.raises(ValueError, match="layer 3: the encoder has 3 blocks; give -3 to 2"):
        block_tokens(encoder, params, clips, (3,))


def test_an_average_of_the_heads_is_what_is_tested():
    t = task("linear", optimizer__ema_decay=0.75)
    first, state, _ = stepped(t, steps=1)
    for mean, before, after in zip(*(jax.tree.leaves(tree) for tree in (state.ema, first.params, state.params))):
        np.testing.assert_allclose(mean, 0.75 * before + 0.25 * after, rtol=1e-5, atol=1e-7)
    batch = {"video": jnp.asarray(labeled_batch(t.config)["video"][:, None])}
    np.testing.assert_array_equal(t.predict(state)(batch), t.predict(state.replace(params=state.ema, ema=None))(batch))
    assert not np.array_equal(t.predict(state)(batch), t.predict(state.replace(ema=None))(batch))


def test_all_heads_are_reported_and_the_best_by_validation_is_tested(tmp_path):
    c = downstream(
        "linear", **PLAIN, total="20_steps", eval_every="20_steps", probe__rates=(0.3, 1e-7), probe__weight_decays=(0.0,)
    )
    metrics = train(c, str(tmp_path))
    report = json.loads((tmp_path / "report.json").read_text())
    assert [head["rate"] for head in report["details"]["heads"]] == [0.3, 1e-7]
    accuracies = [head["accuracy/top1"] for head in report["details"]["heads"]]
    assert report["details"]["best"] == report["details"]["heads"][int(np.argmax(accuracies))]
    assert metrics["test/accuracy/top1"] == report["metrics"]["accuracy/top1"]


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"probe__heads": 5}, "config.probe.heads: width=32 is not a multiple of heads=5"),
        (
            {"probe__layers": (-3, -2, -1)},
            r"config.probe.layers has -3: test/16 has 2 blocks, -2 to 1: set, .* --config.probe.layers='\(-2,-1,\)'",
        ),
        ({"probe__layers": ()}, "probe.layers=.* each a whole number"),
        ({"probe__rates": ()}, "probe.rates=.* cannot be used: it must be one number or more, each above 0"),
        ({"probe__weight_decays": (-1.0,)}, "probe.weight_decays=.* each at least 0"),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(downstream("attentive", **overrides), str(tmp_path / "run"))


class PartlyLabeled(SyntheticSource):
    """Six videos, of which the last two have no label."""

    @property
    def labels(self):
        return np.array([0, 1, 2, 3, -1, -1], np.int32)

    def __getitem__(self, index):
        return dataclasses.replace(super().__getitem__(index), label=int(self.labels[index]))


def test_videos_without_a_label_are_not_counted_as_tested(tmp_path):
    t = task("linear", probe__rates=(0.1,), probe__weight_decays=(0.0,), test__clips=1, test__crops=1)
    t.test_source = PartlyLabeled(6, 4, 8, 32, 32, "val")
    results = t.results(t.initial_state(), Workdir.create(tmp_path))
    assert results.text.startswith("4 videos of val (2 more have no label), 1 x 1 views each: top1")
    assert (results.report.details["clips"], results.report.details["unlabeled"], len(results.paths)) == (4, 2, 6)
