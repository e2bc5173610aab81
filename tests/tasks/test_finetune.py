"""Fine-tuning: what a step does, which config field goes where, and where the encoder comes from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae import augment
from cvmae.augment.mirror_labels import mirror_table
from cvmae.config import ConfigError
from cvmae.data.manifest import read_manifest
from cvmae.data.sources import FileSource
from cvmae.interop.own_checkpoint import load_workdir
from cvmae.tasks import run as train
from cvmae.tasks.classification import count_classes
from tests.tiny_configs import config, downstream, labeled_batch, make_task

# Nothing random but the crop, and that of the whole frame.
PLAIN = {
    "augment__scale": (1.0, 1.0), "augment__ratio": (1.0, 1.0), "augment__rand_augment__layers": 0, "augment__erasing__probability": 0.0,
    "augment__mix__mixup": 0.0, "augment__mix__cutmix": 0.0, "head__drop_path": 0.0, "optimizer__warmup": "0_steps",
}  # fmt: skip


def task(**overrides):
    c = downstream("finetune", **overrides)
    return make_task(c)


@pytest.fixture(scope="module")
def plain():
    """A task without randomness, its first state and a batch."""
    t = task(**PLAIN, optimizer__ema_decay=0.5)
    return t, t.initial_state(), labeled_batch(t.config)


def loss_of(t, params, batch):
    return t.loss(params, t.samples({name: jnp.asarray(array) for name, array in batch.items()}, 0))


def test_the_loss_is_cross_entropy_with_smoothed_targets(plain):
    t, state, batch = plain
    params = jax.tree.map(lambda a: a + 0.05, state.params)  # a fresh head says nothing
    loss, metrics = jax.jit(lambda params, batch: loss_of(t, params, batch))(params, batch)
    clips = augment.normalize(
        jax.vmap(lambda v: augment.center_crop(v / 255.0, t.config.augment.size))(batch["video"]), t.config.augment.mean, t.config.augment.std
    )  # fmt: skip
    logits = np.asarray(jax.jit(t.model.apply)({"params": params}, clips), np.float64)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = logp[np.arange(8), batch["label"]]
    assert float(loss) == pytest.approx(-(0.9 * own + 0.1 * logp.mean(-1)).mean(), rel=1e-4)
    assert float(metrics["accuracy/top1"]) == pytest.approx((logits.argmax(-1) == batch["label"]).mean())


def test_parts_of_a_batch_give_the_step_of_the_whole(plain):
    t, state, batch = plain
    halves = task(**PLAIN, accumulate=2, optimizer__ema_decay=0.5)
    one, _ = jax.jit(t.train_step)(state, t.placement.put(batch))
    two, _ = jax.jit(halves.train_step)(state, halves.placement.put(batch))
    # Adam divides by the size of a gradient, so tiny ones turn rounding into whole steps: the average gradient is compared.
    for a, b in zip(jax.tree.leaves(one.opt_state), jax.tree.leaves(two.opt_state)):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        one.ema["head"]["kernel"], (state.params["head"]["kernel"] + one.params["head"]["kernel"]) / 2, rtol=1e-6
    )


@pytest.mark.slow
def test_every_sample_has_its_own_augmentation_in_every_step():
    t = task()
    same = labeled_batch(t.config)
    same["video"] = np.repeat(same["video"][:1], 8, axis=0)
    one, two = (np.asarray(t.views(t.samples(same, step))[0]) for step in (0, 1))
    assert all(not np.array_equal(one[0], other) for other in one[1:]) and not np.array_equal(one, two)
    np.testing.assert_array_equal(one, t.views(t.samples(same, 0))[0])


def test_repeats_make_views_of_one_clip_next_to_each_other():
    t = task(**PLAIN, augment__repeats=3, augment__flip=0.0)
    batch = labeled_batch(t.config)
    clips, labels, keys = jax.jit(lambda batch: t.views(t.samples(batch, 0)))(batch)
    np.testing.assert_array_equal(labels, np.repeat(batch["label"], 3))
    np.testing.assert_allclose(clips[0], clips[2], atol=1e-5)
    assert len(np.unique(jax.random.key_data(keys), axis=0)) == 24


@pytest.mark.parametrize(
    "field, value, found",
    [
        ("augment__scale", (0.3, 0.4), lambda t: t.view_spec.crop.scale),
        ("augment__ratio", (0.9, 1.0), lambda t: t.view_spec.crop.ratio),
        ("augment__flip", 0.25, lambda t: t.view_spec.crop.flip),
        ("augment__mean", (0.1, 0.2, 0.3), lambda t: t.view_spec.mean),
        ("augment__std", (0.1, 0.2, 0.3), lambda t: t.view_spec.std),
        ("augment__rand_augment__layers", 2, lambda t: t.view_spec.rand_augment.layers),
        ("augment__rand_augment__magnitude", 3.0, lambda t: t.view_spec.rand_augment.magnitude),
        ("augment__rand_augment__deviation", 0.1, lambda t: t.view_spec.rand_augment.deviation),
        ("augment__rand_augment__probability", 0.1, lambda t: t.view_spec.rand_augment.probability),
        ("augment__erasing__probability", 0.9, lambda t: t.view_spec.erasing.probability),
        ("augment__erasing__area", (0.1, 0.2), lambda t: t.view_spec.erasing.area),
        ("augment__erasing__ratio", (0.5, 2.0), lambda t: t.view_spec.erasing.ratio),
        ("augment__mix__mixup", 0.1, lambda t: t.mix.mixup),
        ("augment__mix__cutmix", 0.1, lambda t: t.mix.cutmix),
        ("augment__mix__probability", 0.1, lambda t: t.mix.probability),
        ("augment__mix__switch", 0.1, lambda t: t.mix.switch),
        ("head__classes", 9, lambda t: t.model.classes),
        ("head__pool", "first", lambda t: t.model.pool),
        ("head__dropout", 0.3, lambda t: t.model.dropout),
        ("head__init_scale", 0.5, lambda t: t.model.init_scale),
        ("head__eps", 1e-5, lambda t: t.model.eps),
        ("head__drop_path", 0.3, lambda t: t.model.encoder.trunk.drop_path),
    ],
)
def test_a_field_reaches_what_does_it(field, value, found):
    assert found(task(**{field: value})) == value != found(task())


def test_what_is_turned_off_is_not_there():
    t = task(**PLAIN)
    assert t.view_spec.rand_augment is None and t.view_spec.erasing is None and not t.mix.active


def test_flips_can_swap_labels():
    assert task().view_spec.mirror is None
    t = task(augment__mirror_labels=True)
    assert t.view_spec.mirror == mirror_table(t.class_names)


def test_a_mean_pooled_classifier_has_its_norm_after_pooling():
    assert "norm" in task().abstract_state().params and "norm" not in task().abstract_state().params["encoder"]
    assert "norm" in task(head__pool="first").abstract_state().params["encoder"]


@pytest.mark.slow
def test_it_learns_the_clips_it_is_given(tmp_path):
    c = downstream(
        "finetune", **PLAIN, augment__flip=0.0, optimizer__base_lr=0.05, total="60_steps", eval_every="0_steps", batch_size=32
    )
    c.data.test_split, c.data.synthetic.clips = "train", 32
    assert train(c, str(tmp_path))["test/accuracy/top1"] > 0.7  # chance is 0.25


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The workdir of a pre-training run of 2 steps."""
    folder = tmp_path_factory.mktemp("pretrained")
    c = config(("mse_video",), total="2_steps", eval_every="0_steps", report__pictures=0, optimizer__ema_decay=0.5)
    train(c, str(folder))
    return folder


@pytest.mark.slow
def test_the_encoder_is_the_averaged_one_of_the_checkpoint(pretrained):
    t = task(init_from=str(pretrained))
    found, fresh = t.initial_state().params, task().initial_state().params
    expected = load_workdir(pretrained).params["encoder"]
    np.testing.assert_array_equal(found["encoder"]["embed"]["kernel"], expected["embed"]["kernel"])
    assert not np.array_equal(fresh["encoder"]["embed"]["kernel"], expected["embed"]["kernel"])
    np.testing.assert_array_equal(found["head"]["kernel"], fresh["head"]["kernel"])


def test_another_encoder_is_refused_with_the_flags_to_give(pretrained, tmp_path):
    c = downstream("finetune", init_from=str(pretrained), video_branch__qkv_bias="qv")
    with pytest.raises(ConfigError, match="config.init_from: .*--config.video_branch.qkv_bias=qkv"):
        train(c, str(tmp_path / "run"))


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"init_from": "/nowhere"}, "config.init_from='/nowhere' does not exist"),
        ({"data__test_split": "val[:1"}, "config.data.test_split=.*val"),
        ({"data__fit": "pad"}, "config.data.fit='pad' leaves nothing to crop"),
        (
            {"augment__rand_augment__magnitude": 11.0},
            "augment.rand_augment.magnitude=11.0 cannot be used: it must be from 0 to 10",
        ),
        ({"head__pool": "max"}, "head.pool='max' cannot be used"),
        ({"head__classes": 2}, "go up to 3, but there are 2 classes"),
        ({"head__init": "weights"}, "config.head.init='weights' without config.init_from has nothing to take"),
        ({"total": "0_steps"}, "config.total='0_steps' is too short: give 1_steps or more .0_steps with head.init=weights"),
    ],
)
def test_a_config_that_cannot_run_says_so_before_it_writes(overrides, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(downstream("finetune", **overrides), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


class Unlabeled:
    class_names, labels = ("a", "b"), np.array([0, -1, 1, -1])

    def key(self, index):
        return f"{index}.mp4"


def test_clips_without_a_label_are_refused():
    with pytest.raises(
        ConfigError, match="config.data.split='train' has 2 clips without a label, first 1.mp4: give every clip one, or"
    ):
        count_classes(Unlabeled(), 0, "train")


@pytest.mark.parametrize("word", ["none", "na", "NULL"])
def test_a_class_whose_name_means_no_label_is_refused_with_what_to_do(word, tmp_path):
    (tmp_path / "list.csv").write_text("path,label,split\n" + f"a.mp4,yes,train\nb.mp4,{word},train\n" * 3)
    source = FileSource(read_manifest(str(tmp_path / "list.csv"), "train"))
    message = f"has 3 clips without a label, first b.mp4: .*; .*list.csv: the label '{word}' of 3 rows means no label; a class of this name needs another"
    with pytest.raises(ConfigError, match=message) as caught:
        count_classes(source, 0, "train")
    assert "\n" not in str(caught.value)
    (tmp_path / "classes.csv").write_text(f"number,name\n0,{word}\n1,yes\n")
    assert count_classes(FileSource(read_manifest(str(tmp_path / "list.csv"), "train")), 0, "train") == (2, (word, "yes"))


def test_classes_without_names_are_numbers():
    class Numbers:
        class_names, labels = (), np.array([0, 2])

    assert count_classes(Numbers(), 0, "train") == (3, ("0", "1", "2"))
    assert count_classes(Numbers(), 5, "train")[0] == 5
