"""The table of loss terms: what is derived from it, and terms that are registered from outside the package."""

import pathlib
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae import config as config_lib
from cvmae import main, objective
from cvmae.config import ConfigError
from cvmae.evaluation.pretraining_report import report_rows
from cvmae.objective import LossTerm
from cvmae.objective.objective import Objective
from cvmae.objective.terms import active_terms, weighted_terms
from cvmae.tasks.validate import is_contrastive, validate
from cvmae.training.metric_writer import read_metrics
from tests.commands import arguments, run_here
from tests.tiny_configs import PLAIN, TERMS, config, samples

README = pathlib.Path(objective.__file__).parent / "README.md"


@pytest.fixture
def registry():
    """Removes the terms that a test registers."""
    before = {term.name for term in objective.registered_terms()}
    yield
    for term in objective.registered_terms():
        if term.name not in before:
            objective.unregister(term.name)


@pytest.fixture
def example(tmp_path, registry):
    """The config file of the README, outside the repository."""
    [block] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "variance.py"
    path.write_text(block, encoding="utf-8")
    return path


def mean_feature(output, inputs, config):
    return output.video_features.mean(), {}


def term(function=mean_feature, needs=("video_features",), **fields):
    return LossTerm("mean_feature", level="video", needs=needs, function=function, **fields)


def test_the_config_has_every_built_in_term_and_only_those_of_the_method_are_active():
    c, names = config(), [*TERMS, "latent_video"]
    assert dict(c.loss) == dict.fromkeys(names, 1.0) and dict(c.loss_warmup) == dict.fromkeys(names, "0_steps")
    assert [term.name for term in weighted_terms(c)] == list(TERMS)


def test_branches_follow_from_what_a_term_needs():
    branches = {term.name: term.branches for term in objective.TERMS}
    assert branches["mse_video"] == branches["intra_frame"] == ("video",)
    assert branches["mse_image"] == ("image",) and branches["cross_video"] == ("video", "image")


def test_the_report_has_a_row_for_every_accuracy(registry):
    titles = {name: title for name, title, _ in report_rows()}
    assert [name for name in titles if name.startswith("accuracy/")] == [
        f"accuracy/{kind}_{level}" for kind in ("intra", "cross") for level in ("video", "frame")
    ]
    assert titles["accuracy/cross_frame"] == "cross-modal accuracy, frame level"
    objective.register(term(title="accuracy of the mean"))
    assert ("accuracy/mean_feature", "accuracy of the mean", True) in report_rows()


@pytest.mark.parametrize("only, expected", [(("mse_video", "mse_image"), False), (("mse_video", "cross_frame"), True)])
def test_contrastive_terms_need_negatives(only, expected):
    assert is_contrastive(config(only=only)) is expected


@pytest.mark.parametrize(
    "section, name, message",
    [
        ("loss", "intra_vido", "config.loss.intra_vido is no loss term: did you mean 'intra_video'?"),
        ("loss", "order", "config.loss.order is no loss term: known: "),
        ("loss_warmup", "cross_fram", "config.loss_warmup.cross_fram is no loss term: did you mean 'cross_frame'?"),
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_an_unknown_term_is_refused_with_the_nearest_known_one(section, name, message, zero):
    c = config()
    with c.unlocked():
        c[section][name] = {"loss": 0.0 if zero else 1.0, "loss_warmup": "0_steps" if zero else "1_steps"}[section]
    with pytest.raises(ConfigError, match=re.escape(message)):
        validate(c)
    with pytest.raises(ConfigError, match=re.escape(message)):
        Objective(c)


def test_a_config_file_outside_the_repository_trains_its_own_term(example, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    overrides = PLAIN | {"total": "2_steps", "eval_every": "0_steps", "checkpoint_every": "0_steps", "loss__variance": 0.25}
    command = types.SimpleNamespace(__name__=main.__name__, parse=main.parse, main=lambda argv: sys.exit(main.main(argv) or 0))
    assert run_here(command, arguments(workdir, f"{example}:runlocal", **overrides), monkeypatch) == 0
    metrics = read_metrics(workdir)
    assert len(metrics) == 2
    for line in metrics:
        assert 0 < line["loss/variance"] < 1 and line["std/variance"] > 0
        assert {name for name in line if name.startswith("loss/")} == {"loss/mse_video", "loss/variance"}
    # The weight rises over 5 percent of 2 steps, which is 1 step.
    for line, weight in zip(metrics, (0.0, 0.25)):
        assert line["loss"] == pytest.approx(line["loss/mse_video"] + weight * line["loss/variance"], rel=1e-5)


def test_a_config_file_may_be_executed_again(example):
    for _ in range(2):
        c = config_lib.load(f"{example}:runlocal", {name.replace("__", "."): value for name, value in PLAIN.items()})
        [mse, variance] = weighted_terms(c)
        assert (mse.name, variance.name) == ("mse_video", "variance")
    assert (active_terms(c).outputs, active_terms(c).views) == ({"video_predictions", "z"}, 2)


def test_a_registered_term_without_weight_costs_nothing(example):
    c = config_lib.load(f"{example}:runlocal", {"loss.variance": 0.0} | {f"loss.{name}": 0.0 for name in TERMS[1:]})
    shapes = jax.eval_shape(Objective(c).init, jax.random.key(0), samples(c))
    assert set(shapes) == {"video"}
    assert active_terms(c) == active_terms(config(only=("mse_video",)))


def test_a_term_gets_outputs_inputs_and_config_and_joins_the_sum(registry):
    seen = {}

    def function(output, inputs, config):
        seen.update(z=output.z, features=output.video_features.shape, video=inputs.video.shape, config=config)
        return jnp.float32(3), {"accuracy": jnp.float32(0.5), "other": jnp.float32(7)}

    objective.register(term(function))
    c = config(only=())
    with c.unlocked():
        c.loss.mean_feature = 1.0
    made, batch = Objective(c, {"mean_feature": 4}), samples(c)
    params = jax.jit(made.init)(jax.random.key(0), batch)
    total, metrics = jax.jit(made)(params, batch, jnp.int32(2))
    assert total == 1.5 and metrics["loss/mean_feature"] == 3
    assert metrics["accuracy/mean_feature"] == 0.5 and metrics["other/mean_feature"] == 7
    assert seen["config"] is c and seen["z"] is None
    assert seen["features"] == (4, 32) and seen["video"] == (4, 4, 32, 32, 3)
    total, _ = jax.jit(made)(params, batch)
    assert total == 3


def test_a_term_whose_name_is_taken_is_refused(registry):
    first = objective.register(term())
    assert objective.register(first) is first and objective.register(term()) == first
    with pytest.raises(ValueError, match="'mean_feature' is already registered, by mean_feature of .*test_terms.py"):
        objective.register(term(lambda output, inputs, config: (output.z.mean(), {})))
    with pytest.raises(ValueError, match="'mse_video' is already registered"):
        objective.register(LossTerm("mse_video", "patch", ("video_predictions",), mean_feature))
    with pytest.raises(ValueError, match="'mse_video' is no registered loss term: registered are mean_feature"):
        objective.unregister("mse_video")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"name": "my term"}, "name is 'my term'"),
        ({"level": "clip"}, "level is 'clip'; expected one of patch, video, frame"),
        ({"needs": "z"}, "needs is 'z'; expected a tuple"),
        ({"needs": ("video_feature",)}, "which is no output of the model: did you mean 'video_features'"),
        ({"views": 3}, "views is 3"),
    ],
)
def test_a_term_that_does_not_fit_is_refused(fields, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        LossTerm(**{"name": "mean_feature", "level": "video", "needs": ("z",), "function": mean_feature} | fields)


@pytest.mark.parametrize(
    "returned, message",
    [
        (np.float32(1), "its function returned float32; expected (loss, {metric: value})"),
        ((np.ones(2), {}), "loss has shape (2,); expected a scalar"),
        ((np.float32(1), {"accuracy": np.ones(3)}), "accuracy has shape (3,); expected a scalar"),
    ],
)
def test_a_function_that_returns_something_else_is_named(returned, message):
    with pytest.raises(ValueError, match=re.escape(f"loss term mean_feature: {message}")):
        term(lambda output, inputs, config: returned)(None, None, None)
