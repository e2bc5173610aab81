"""One step on one device and on eight: the same views, masks, loss and gradients, and negatives of the whole batch."""

import json
import pathlib

import numpy as np
import pytest

from tests.commands import host_devices, run

pytestmark = pytest.mark.slow  # of these properties test_meshes.py has the loss, the gradients and the parameters
HERE = pathlib.Path(__file__).parent


def on_devices(program: str, folder: pathlib.Path) -> dict[int, dict]:
    """What a program of this folder gave on 1 and on 8 devices, by name."""
    found = {}
    for devices in (1, 8):
        file = folder / f"{devices}.npz"
        done = run(str(file), program=(str(HERE / program),), env=host_devices(devices))
        assert done.returncode == 0, done.stderr
        found[devices] = dict(np.load(file))
    return found


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """A step of pre-training."""
    return on_devices("one_step.py", tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    """A step of fine-tuning, and a test of 11 videos, which no number of devices divides."""
    return on_devices("labeled_step.py", tmp_path_factory.mktemp("labeled"))


def named(step, prefix):
    chosen = {name: array for name, array in step.items() if name.startswith(prefix)}
    assert chosen
    return chosen


def test_masks_are_identical(steps):
    for name, array in named(steps[1], "mask/").items():
        np.testing.assert_array_equal(array, steps[8][name], err_msg=name)


def test_masks_differ_between_samples_and_views(steps):
    shuffle = steps[1]["mask/video/ids_shuffle"]
    assert len(np.unique(shuffle, axis=0)) > 0.9 * len(shuffle)  # two permutations of 8 tokens may be equal by chance


def test_views_are_the_same(steps):
    for name, array in named(steps[1], "view/").items():
        np.testing.assert_allclose(array, steps[8][name], rtol=0, atol=1e-5, err_msg=name)


def test_the_loss_and_every_term_are_the_same(steps):
    for name in ("loss", *named(steps[1], "loss/"), *named(steps[1], "accuracy/"), *named(steps[1], "feature_std/")):
        np.testing.assert_allclose(steps[1][name], steps[8][name], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("what", ["steps", "labeled"])
def test_gradients_are_the_same(what, request):
    found = request.getfixturevalue(what)
    one, eight = named(found[1], "gradient"), named(found[8], "gradient")
    assert one.keys() == eight.keys()
    scale = max(np.abs(array).max() for array in one.values())
    for name, array in one.items():
        # A sum over devices adds in another order: an entry that is a difference of large ones keeps fewer digits.
        np.testing.assert_allclose(array, eight[name], rtol=1e-4, atol=1e-6 * scale, err_msg=name)


def test_negatives_are_those_of_the_whole_batch(steps):
    assert steps[8]["loss"] > 1.2 * steps[1]["losses_alone"].mean()


def test_labeled_views_are_the_same(labeled):
    np.testing.assert_array_equal(labeled[1]["view/labels"], labeled[8]["view/labels"])
    np.testing.assert_allclose(labeled[1]["view/clips"], labeled[8]["view/clips"], atol=1e-4)
    assert len(np.unique(labeled[1]["view/clips"].reshape(8, -1), axis=0)) == 8


def test_the_loss_of_mixed_clips_is_the_same(labeled):
    for name in ("loss", "accuracy/top1", "optimizer/grad_norm"):
        np.testing.assert_allclose(labeled[1][name], labeled[8][name], rtol=1e-4, err_msg=name)


def test_every_video_is_tested_once_on_any_number_of_devices(labeled):
    assert labeled[8]["test/readable"].all() and len(labeled[8]["test/readable"]) == 11
    np.testing.assert_array_equal(labeled[1]["test/labels"], labeled[8]["test/labels"])
    np.testing.assert_allclose(labeled[1]["test/probabilities"], labeled[8]["test/probabilities"], atol=1e-5)
    np.testing.assert_allclose(labeled[8]["test/probabilities"].sum(-1), 1, rtol=1e-5)


def test_clips_that_are_read_together_are_those_of_one_device(labeled):
    assert labeled[1]["together/clips"].shape == (8, 8, 32, 32, 3) and labeled[1]["together/probabilities"].shape == (11, 1, 4)
    for name, array in named(labeled[1], "together/").items():
        np.testing.assert_allclose(array, labeled[8][name], rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_sharded_optimizer_state_only_adds_the_gathering_of_parameters(tmp_path):
    """Gradients are reduced as before, and no activation is moved to where the moments of its weights lie."""
    file = tmp_path / "bytes.json"
    done = run(str(file), program=(str(HERE / "sharded_collectives.py"),), env=host_devices(8))
    assert done.returncode == 0, done.stderr
    modes = json.loads(file.read_text())
    for name, replicated in modes["replicated"].items():
        sharded = modes["data"][name]
        assert sharded["all-gather"] > replicated.get("all-gather", 0)
        for kind in sharded.keys() - {"all-gather"}:
            assert sharded[kind] <= 1.01 * replicated.get(kind, 0), (name, kind)
