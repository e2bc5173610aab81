"""Fine-tuning of a part: the last blocks, or low-rank updates (LoRA): what learns, what it costs, and what comes out of the workdir."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cvmae.config import ConfigError
from cvmae.interop import __main__ as interop
from cvmae.interop import read
from cvmae.interop.own_checkpoint import load_workdir
from cvmae.tasks import run as train
from cvmae.training.optimizer import path_of
from tests.commands import assert_same_state, metric_lines, run_own, saved_state, without_times
from tests.properties.test_resume_tasks import Interrupted, interrupt
from tests.tasks.test_finetune import PLAIN
from tests.tiny_configs import downstream, labeled_batch, make_task

DEPTH = 2  # blocks of the variant `test`


def task(train="all", **overrides):
    return make_task(downstream("finetune", finetune__train=train, **overrides))


def paths(tree) -> set[str]:
    return {"/" + name for name in traverse_util.flatten_dict(tree or {}, sep="/")}


def shaken(t, state, seed=1):
    """The state with random numbers in the updates, which start at zero."""
    draw = np.random.default_rng(seed)
    moved = [
        jnp.asarray(0.1 * draw.normal(size=leaf.shape), jnp.float32) if "lora" in path_of(keys) else leaf
        for keys, leaf in jax.tree_util.tree_leaves_with_path(state.params)
    ]
    return state.replace(params=jax.tree.unflatten(jax.tree.structure(state.params), moved))


def logits(t, state, clips):
    return np.asarray(jax.jit(t.model.apply)({"params": t.classifier_params(state.params, state.frozen)}, clips))


def random_clips(t, count=3):
    shape = (count, t.config.data.num_frames, *t.config.augment.size, 3)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_the_last_blocks_are_those_and_all_that_follows():
    state = task("last:1").abstract_state()
    assert paths(state.params) == {
        name for name in paths(task().abstract_state().params) if "block1/" in name or "encoder" not in name
    }
    assert paths(state.frozen) | paths(state.params) == paths(task().abstract_state().params)
    assert not paths(state.frozen) & paths(state.params)


def test_low_rank_updates_stand_at_queries_and_values_of_every_block():
    state = task("lora:4").abstract_state()
    updates = {name for name in paths(state.params) if "lora" in name}
    assert updates == {
        f"/encoder/blocks/block{i}/attention/{name}/lora_{letter}"
        for i in range(DEPTH)
        for name in ("query", "value")
        for letter in "ab"
    }
    assert paths(state.params) - updates == {"/norm/scale", "/norm/bias", "/head/kernel", "/head/bias"}
    attention = state.params["encoder"]["blocks"]["block0"]["attention"]["query"]
    assert (attention["lora_a"].shape, attention["lora_b"].shape) == ((32, 4), (4, 32))
    assert paths(state.frozen) == {name for name in paths(task().abstract_state().params) if name.startswith("/encoder/")}


@pytest.mark.parametrize("train", ["last:1", "lora:4"])
def test_what_is_frozen_has_neither_moments_nor_an_average(train):
    state = task(train, optimizer__ema_decay=0.5).abstract_state()
    size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * size
    assert paths(state.ema) == paths(state.params)
    whole = sum(leaf.size for leaf in jax.tree.leaves(task().abstract_state().params))
    assert size < 0.6 * whole


@pytest.mark.parametrize("train", ["last:1", "lora:4"])
def test_it_starts_as_the_classifier_that_it_starts_from(train):
    whole, t = task(), task(train)
    clips = random_clips(t)
    np.testing.assert_array_equal(logits(t, t.initial_state(), clips), logits(whole, whole.initial_state(), clips))


def test_merged_weights_give_what_base_and_updates_give_side_by_side():
    """The explicit formula: x W + b + alpha / rank · (x A) B, in each attention of a classifier that is not merged."""
    from cvmae.models import vit

    t = task("lora:4", finetune__lora_alpha=6.0, head__init_scale=100.0)
    state, clips = shaken(t, t.initial_state()), random_clips(t)
    seen = []

    def beside(next_call, args, kwargs, context):
        result, path = next_call(*args, **kwargs), context.module.path
        if isinstance(context.module, vit.nn.Dense) and path[-1] in ("query", "value"):
            node = state.params["encoder"]
            for name in path[1:]:
                node = node[name]
            seen.append(path)
            return result + 6.0 / 4 * (args[0] @ node["lora_a"]) @ node["lora_b"]
        return result

    base = {"encoder": state.frozen["encoder"]} | {part: state.params[part] for part in ("norm", "head")}
    with vit.nn.intercept_methods(beside):
        expected = jax.jit(lambda params: t.model.apply(params, clips))({"params": base})
    assert len(seen) == 2 * DEPTH
    merged = logits(t, state, clips)
    np.testing.assert_allclose(merged, expected, atol=1e-5)
    assert np.abs(merged - logits(t, t.initial_state(), clips)).max() > 1e-3


@pytest.mark.parametrize("train", ["last:1", "lora:4"])
def test_a_step_moves_all_that_learns_and_nothing_else(train):
    t = task(train, **PLAIN, optimizer__ema_decay=0.5)
    first, batch = jax.device_get(t.initial_state()), labeled_batch(t.config)
    state = t.initial_state()
    for _ in range(3):
        state, metrics = t.step(state, batch)
    for keys, before in jax.tree_util.tree_leaves_with_path(first.frozen):
        after = state.frozen
        for key in keys:
            after = after[key.key]
        np.testing.assert_array_equal(before, after)
    still = [
        path_of(keys)
        for (keys, before), after in zip(jax.tree_util.tree_leaves_with_path(first.params), jax.tree.leaves(state.params))
        if np.array_equal(before, after)
    ]
    assert [name for name in still if "/key/bias" not in name] == [] and np.isfinite(metrics["loss"])
    assert paths(state.ema) == paths(state.params)


def test_the_last_blocks_get_the_gradients_of_full_fine_tuning():
    """Step, layer decay and all: the parameters of the last block after a step are those of a run that trains everything."""
    fields = PLAIN | {"optimizer__layer_decay": 0.5, "accumulate": 2}
    some, every = task("last:1", **fields), task(**fields)
    batch = labeled_batch(some.config)
    part, _ = some.step(some.initial_state(), batch)
    whole, _ = every.step(every.initial_state(), batch)
    for name in ("head", "norm"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), part.params[name], whole.params[name])
    one, two = (state.params["encoder"]["blocks"]["block1"]["mlp_in"]["kernel"] for state in (part, whole))
    np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize(
    "value, message",
    [
        ("some", "finetune.train: 'some' is no part to train: give all, last:BLOCKS such as last:4, or lora:RANK such as lora:8"),
        ("last:3", "finetune.train: 'last:3': the number of its blocks, of 2, must be from 1 to 2"),
        ("lora:0", "finetune.train: 'lora:0': the rank of updates of 32 x 32 must be from 1 to 32"),
        ("last:", "'last:' is no part to train"),
        ("all:2", "'all:2' is no part to train"),
    ],
)
def test_a_part_that_is_not_there_is_refused(value, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(downstream("finetune", finetune__train=value), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


FAST = PLAIN | {"test__clips": 1, "test__crops": 1, "total": "6_steps", "eval_every": "0_steps", "optimizer__ema_decay": 0.5}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """The workdir of fine-tuning by LoRA, its config and its numbers."""
    folder = tmp_path_factory.mktemp("tuned")
    c = downstream(
        "finetune", finetune__train="lora:4", finetune__lora_alpha=20.0, **FAST, augment__flip=0.0, optimizer__base_lr=1.0
    )
    return folder, c, train(c, str(folder))


def test_a_resumed_run_is_bit_equal(tuned, tmp_path, monkeypatch):
    whole, c, numbers = tuned
    with monkeypatch.context() as patched:
        interrupt(patched, 5)
        with pytest.raises(Interrupted):
            train(c, str(tmp_path))
    again = train(c, str(tmp_path))
    assert without_times(again) == without_times(numbers)
    assert_same_state(saved_state(whole, 6), saved_state(tmp_path, 6))
    assert metric_lines(whole) == metric_lines(tmp_path)


def test_another_part_or_strength_does_not_go_on(tuned, tmp_path):
    folder, c, _ = tuned
    for field, value in (("train", "lora:2"), ("lora_alpha", 8.0)):
        other = c.copy_and_resolve_references()
        other.finetune[field] = value
        with pytest.raises(ConfigError, match=f"the checkpoint was made with finetune.{field}=.*so it cannot resume"):
            train(other, str(folder))


def test_a_workdir_gives_the_merged_classifier(tuned, tmp_path):
    folder, c, _ = tuned
    pretrained = load_workdir(folder)
    assert not [name for name in paths(pretrained.params) if "lora" in name] and "moving average" in pretrained.name
    module, params = pretrained.take()
    t = make_task(c)
    saved = saved_state(folder, 6)
    state = t.initial_state()
    ema = jax.tree_util.tree_map_with_path(
        lambda keys, _: jnp.asarray(saved[f"['ema']{jax.tree_util.keystr(keys)}"]), state.params
    )
    clips = random_clips(t)
    found = jax.jit(module.apply)({"params": params}, clips)
    np.testing.assert_allclose(found, logits(t, state.replace(params=ema), clips), atol=1e-5)
    assert np.abs(np.asarray(ema["encoder"]["blocks"]["block1"]["attention"]["query"]["lora_b"])).max() > 1e-4


def test_exports_and_init_from_take_a_plain_encoder(tuned, tmp_path):
    folder, _, _ = tuned
    out = tmp_path / "out"
    assert run_own(interop, "export", "--to=safetensors", f"--checkpoint={folder}", f"--out={out}") == 0
    expected, exported = load_workdir(folder).params, read(out).params
    jax.tree.map(np.testing.assert_array_equal, exported, expected)
    t = make_task(downstream("linear", init_from=str(folder), video_branch__final_norm=False))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(t.initial_state().frozen), expected["encoder"])


def test_the_last_blocks_of_a_workdir_come_with_the_frozen_ones(tmp_path):
    c = downstream("finetune", finetune__train="last:1", **FAST | {"total": "2_steps"})
    train(c, str(tmp_path))
    params, start = load_workdir(tmp_path).params, make_task(c).initial_state()
    jax.tree.map(np.testing.assert_array_equal, params["encoder"]["embed"], jax.device_get(start.frozen["encoder"]["embed"]))
    assert paths(params) == paths(task().abstract_state().params)
