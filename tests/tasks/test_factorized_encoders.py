"""VideoPrism in tasks: the linear probe and fine-tuning from its folder and its authors' file, and the refusals of other uses."""

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError, load
from cvmae.interop import read
from cvmae.models.build import build_encoder, video_grid
from cvmae.models.trained_part import layer_of
from cvmae.tasks import run
from cvmae.tasks.model_fields import UNTRAINED_ENCODER, fill_fields
from cvmae.tasks.validate import validate
from cvmae.training.optimizer import path_of
from tests.interop.encoder_folders import make_videoprism, make_videoprism_npz
from tests.tiny_configs import CONFIGS, config, downstream, labeled_batch, make_task

FIELDS = {
    "backbone": "factorized",
    "variant": "test/8",
    "tubelet": 1,
    "positions": "separable",
    "cls_token": False,
    "softcap": 50.0,
    "temporal_blocks": 1,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder of transformers."""
    return make_videoprism(tmp_path_factory.mktemp("hf-videoprism")).parent


@pytest.fixture(scope="module", params=["hf-videoprism", "videoprism"])
def either(request, weights, tmp_path_factory):
    """That folder, or a file of the authors with the same numbers."""
    return weights if request.param == "hf-videoprism" else make_videoprism_npz(tmp_path_factory.mktemp("videoprism"))


def factorized(task, **fields):
    return downstream(task, **{f"video_branch__{name}": value for name, value in FIELDS.items()} | fields)


def test_the_config_of_motion_takes_all_fields_from_the_weights(either):
    filled, _ = fill_fields(load(f"{CONFIGS / 'motion.py'}:task=linear,variant=test/8", {"init_from": str(either)}))
    expected = UNTRAINED_ENCODER | FIELDS
    assert {name: filled.video_branch[name] for name in UNTRAINED_ENCODER} == expected
    encoder = build_encoder(filled, filled.video_branch, video_grid(filled))
    assert encoder.depth == 3 and encoder.grid.num_frames == 8


@pytest.mark.parametrize("either", ["hf-videoprism", pytest.param("videoprism", marks=pytest.mark.slow)], indirect=True)
def test_the_linear_probe_runs_on_the_weights(either, tmp_path):
    c = downstream("linear", init_from=str(either))
    with c.unlocked():
        for name in UNTRAINED_ENCODER:
            c.video_branch[name] = None
    results = run(c, tmp_path / "linear")
    assert any("top1" in name for name in results)


def moved(c) -> tuple[dict[str, float], dict]:
    """The largest change of each parameter in the second step of fine-tuning, and all of them at first."""
    task = make_task(c)
    state = task.initial_state()
    first = jax.tree.map(np.asarray, {"params": state.params, "frozen": state.frozen})
    for _ in range(2):  # the learning rate of the first step is 0
        state, metrics = task.step(state, labeled_batch(c))
    assert np.isfinite(metrics["loss"])
    changes = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), state.params, first["params"])
    return {path_of(path): change for path, change in jax.tree_util.tree_leaves_with_path(changes)}, first


def test_fine_tuning_moves_the_last_layers_most(weights):
    c = factorized("finetune", init_from=str(weights), optimizer__layer_decay=0.1, optimizer__base_lr=10.0)
    changes, first = moved(c)
    np.testing.assert_array_equal(
        first["params"]["encoder"]["temporal"]["block0"]["mlp_in"]["kernel"],
        read(weights).params["encoder"]["temporal"]["block0"]["mlp_in"]["kernel"],
    )
    layers = ("blocks/block0", "blocks/block1", "temporal/block0")
    kernels = [changes[f"/encoder/{layer}/mlp_in/kernel"] for layer in layers]
    assert 0 < changes["/encoder/embed/kernel"] < kernels[0] < kernels[1] < kernels[2]
    assert (
        layer_of("/encoder/space_norm/bias", 3, temporal=1) == layer_of("/encoder/blocks/block1/norm1/bias", 3, temporal=1) == 2
    )
    assert layer_of("/encoder/temporal/block0/norm1/bias", 3, temporal=1) == 3 and layer_of("/encoder/norm/bias", 3, 1) == 4


PARTS = [
    pytest.param("last:1", {"temporal"}, marks=pytest.mark.slow),
    ("last:2", {"temporal", "blocks/block1", "space_norm"}),
]


@pytest.mark.parametrize(("part", "trained"), PARTS)
def test_the_last_blocks_are_the_temporal_ones(weights, part, trained):
    changes, _ = moved(factorized("finetune", init_from=str(weights), finetune__train=part))
    inside = [path.removeprefix("/encoder/") for path in changes if path.startswith("/encoder/")]
    assert inside and {next((t for t in trained if path.startswith(f"{t}/")), path) for path in inside} == trained
    with pytest.raises(ConfigError, match="'last:4'.*, of 3, must be from 1 to 3"):
        validate(factorized("finetune", finetune__train="last:4"))


REFUSED = {
    "its number of temporal blocks": ({"temporal_blocks": 0}, "temporal_blocks=0: a factorized encoder has 1 or more"),
    "a cls token": ({"cls_token": True}, "cls_token=True with backbone='factorized', which has cls_token=False: set that"),
    "other positions": ({"positions": "sincos3d"}, "positions=sincos3d with backbone='factorized'"),
    "temporal blocks of a ViT": ({"backbone": "vit"}, "temporal_blocks=1 with backbone='vit', which has none"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_fields_that_do_not_fit_are_refused(name):
    fields, message = REFUSED[name]
    c = factorized("finetune", **{f"video_branch__{field}": value for field, value in fields.items()})
    with pytest.raises(ConfigError, match=message):
        validate(c)


def test_it_is_not_pretrained():
    c = config(("mse_video",), **{f"video_branch__{name}": value for name, value in FIELDS.items()})
    with pytest.raises(ConfigError, match="config.video_branch: backbone='factorized': .* needs every token of a clip"):
        validate(c)


def test_attention_without_a_soft_cap_is_refused():
    with pytest.raises(ConfigError, match="attention='xla' has no soft cap of logits, and softcap is 50"):
        validate(factorized("finetune", attention="xla"))


NO_BLOCKS = [
    ("extract", {"extract__layer": 1}, "config.extract.layer=1 .* set --config.extract.layer=-1"),
    ("knn", {"features__layer": 0}, "config.features.layer=0 .* set --config.features.layer=-1"),
    ("attentive", {"probe__layers": (-2, -1)}, r"config.probe.layers=\(-2, -1\) .* set --config.probe.layers='\(-1,\)'"),
    ("visualize", {}, "config.task='visualize' draws .*'factorized': .*task=extract"),
]


@pytest.mark.parametrize(("task", "fields", "message"), NO_BLOCKS)
def test_its_blocks_are_not_read_one_by_one(weights, task, fields, message):
    with pytest.raises(ConfigError, match=message):
        run(factorized(task, init_from=str(weights), **fields), "unused")


@pytest.mark.slow
def test_a_fine_tuned_classifier_is_read_from_its_workdir(weights, tmp_path):
    run(factorized("finetune", init_from=str(weights), total="1_steps"), tmp_path / "run")
    again = read(tmp_path / "run")
    assert again.head is not None and again.encoder.depth == 3
    logits = again.module("classifier").apply({"params": again.params}, np.zeros((1, 4, 32, 32, 3), np.float32))
    assert np.isfinite(logits).all()
