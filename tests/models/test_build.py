"""Modules are built of a config: with the encoder that it names, and with the mesh's rules in every part that computes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.evaluation.embed import load_encoder
from cvmae.evaluation.features import make_encode
from cvmae.models import build, masking
from cvmae.models.backbone import EncoderOutput
from cvmae.models.patches import Grid, patchify
from cvmae.models.probes import AttentiveProbe
from cvmae.models.vit import Encoder, TransformerConfig
from cvmae.objective.objective import build_model
from cvmae.parallel.mesh import local_mesh, make_rules
from cvmae.tasks import fields, run
from cvmae.training.checkpoint import Checkpoints
from cvmae.workdir import Workdir
from tests.tiny_configs import config, downstream, labeled_batch, make_task, samples


def rules_within(part) -> list:
    """Returns the rules of every TransformerConfig and probe within a module."""
    if isinstance(part, (TransformerConfig, AttentiveProbe)):
        return [part.rules]
    if not dataclasses.is_dataclass(part):
        return []
    names = [field.name for field in dataclasses.fields(part) if field.name not in ("parent", "name")]
    return [rules for name in names for rules in rules_within(getattr(part, name))]


BUILDERS = {
    "model": (lambda rules: build_model(config(), rules), 4),
    "classifier": (lambda rules: build.build_classifier(downstream("finetune"), 2, rules), 1),
    "probe": (lambda rules: build.build_probe(downstream("attentive"), 2, rules), 1),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_rules_reach_every_stack_of_blocks(name):
    builder, count = BUILDERS[name]
    c = config()
    rules = make_rules(local_mesh(), c.sharding)
    module = builder(rules)
    assert isinstance(module, nn.Module)
    assert rules_within(module) == [rules] * count and rules_within(builder(None)) == [None] * count
    assert hash(module) == hash(builder(make_rules(local_mesh(), c.sharding)))  # static under jit


POOLED = {
    "attentive": (lambda c: build.build_probe(c, 2), lambda c: (16, 32), {"probe.blocks": 2}, 2),
    "finetune": (
        lambda c: build.build_classifier(c, 2),
        lambda c: (c.data.num_frames, *c.augment.size, 3),
        {"head.pool": "attentive", "head.blocks": 2},
        2 + 2,
    ),
}


@pytest.mark.parametrize("task", POOLED)
def test_blocks_of_a_pooler_are_computed_again_too(task):
    """With remat=full the gradient, which is as without, computes the pooler's blocks and the encoder's again."""
    build_head, input_shape, changes, blocks = POOLED[task]
    results = {}
    for remat in ("none", "full"):
        c = downstream(task, **changes, remat=remat)
        module = build_head(c)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *input_shape(c))), jnp.float32)
        params = jax.jit(module.init)(jax.random.key(0), x)["params"]
        gradient = jax.grad(lambda params, module=module, x=x: module.apply({"params": params}, x).sum())
        results[remat] = jax.jit(gradient)(params)
        again = [eqn for eqn in jax.make_jaxpr(gradient)(params).eqns if eqn.primitive.name.startswith(("remat", "checkpoint"))]
        assert len(again) == (blocks if remat == "full" else 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), results["full"], results["none"])


class Linear(nn.Module):
    """A backbone of one linear layer."""

    grid: Grid
    cls_token: bool = False
    final_norm: bool = True
    depth: int = 0

    @nn.compact
    def __call__(self, video, mask=None, drop_keys=None) -> EncoderOutput:
        patches = patchify(video, self.grid.tubelet, self.grid.patch)
        if mask is not None:
            patches = masking.take_visible(patches, mask)
        return EncoderOutput(nn.Dense(32, name="embed")(patches), None)


def build_linear(config, branch, grid, drop_path, rules) -> Linear:
    return Linear(grid)


@pytest.fixture
def linear(monkeypatch):
    monkeypatch.setitem(build.BACKBONES, "linear", build_linear)


def test_another_backbone_is_pretrained(linear):
    c = config(("mse_video", "cross_frame"))
    c.video_branch.backbone = "linear"
    task = make_task(c)
    assert isinstance(task.objective.model.video.encoder, Linear) and isinstance(task.objective.model.image.encoder, Encoder)
    state = task.initial_state()
    assert set(state.params["video"]["encoder"]) == {"embed"}
    before = np.asarray(state.params["video"]["encoder"]["embed"]["kernel"])
    for _ in range(2):  # the learning rate of the first step is 0
        state, metrics = task.step(state, {name: samples(c, 8)[name] for name in ("video", "frame_index")})
    assert np.isfinite(metrics["loss"]) and np.isfinite(metrics["loss/cross_frame"])
    assert (np.asarray(state.params["video"]["encoder"]["embed"]["kernel"]) != before).any()


def test_another_backbone_is_finetuned(linear):
    c = downstream("finetune")
    c.video_branch.backbone = "linear"
    task = make_task(c)
    assert task.model.encoder == Linear(task.model.encoder.grid, final_norm=False)
    _, metrics = task.step(task.initial_state(), labeled_batch(c))
    assert np.isfinite(metrics["loss"])


def test_another_backbone_makes_features(linear):
    c = downstream("knn")
    c.video_branch.backbone = "linear"
    video = labeled_batch(c, 2)["video"][:, None]
    params = jax.jit(Linear(build.video_grid(c)).init)(jax.random.key(0), np.zeros((1, 4, 32, 32, 3), np.float32))["params"]
    assert make_encode(c)(params, video).shape == (2, 32)


def test_another_backbone_embeds_from_its_workdir(linear, tmp_path):
    c = config(("mse_video",))
    c.video_branch.backbone = "linear"
    checkpoints = Checkpoints(str(tmp_path), 1)
    checkpoints.save(1, make_task(c).initial_state(), {"step": 1})
    checkpoints.close()
    Workdir(tmp_path).write_config(c)
    assert load_encoder(tmp_path)(np.zeros((1, 4, 40, 50, 3), np.uint8)).shape == (1, 32)


@pytest.mark.slow
def test_a_run_of_another_backbone_embeds_from_its_workdir(linear, monkeypatch, tmp_path):
    monkeypatch.setitem(fields.CHECKS, "*_branch.backbone", fields.one_of("vit", "linear"))  # made of `BACKBONES` at import
    c = config(("mse_video",), total="1_steps", report__pictures=0)
    c.video_branch.backbone = "linear"
    run(c, tmp_path)
    assert load_encoder(tmp_path)(np.zeros((1, 4, 40, 50, 3), np.uint8)).shape == (1, 32)


def test_an_unknown_backbone_is_named():
    c = config()
    c.video_branch.backbone = "cnn"
    with pytest.raises(ValueError, match="config.video_branch: backbone is 'cnn'; expected one of vit"):
        build_model(c)


def test_a_config_without_the_field_is_of_a_vit():
    c, old = config(), config()
    with old.unlocked():
        del old.video_branch.backbone
    assert build_model(old) == build_model(c)
