"""`init_from` in pre-training: other weights start the branches, the log says which went where, and a frozen teacher stays as it is."""

import jax
import numpy as np
import pytest

import cvmae
from cvmae.config import ConfigError, load
from cvmae.interop.key_maps.mae import HF_VIT_MAE, MAE
from cvmae.interop.own_checkpoint import load_workdir
from cvmae.parallel.mesh import HOST
from cvmae.tasks import run
from cvmae.tasks.validate import validate
from cvmae.tasks.visualize import Visualize
from cvmae.training.optimizer import path_of
from tests.interop.models import random_params, rewrite, save_weights
from tests.tiny_configs import CONFIGS, config, downstream, make_task, samples
from tests.tiny_configs import TERMS as ALL_TERMS


def load_branches(config):
    """What task=visualize draws from."""
    return Visualize(config, {}, HOST).load()


TERMS = ("mse_video", "mse_image", "cross_video")
ONE = ("mse_image",)  # compiles the branch alone


def task(path, only=TERMS, **overrides):
    # What files of transformers have without a config.json beside them.
    eps = {"image_branch__eps": 1e-12, "image_branch__decoder__norm_eps": 1e-12}
    c = config(only, image_branch__init_from=str(path), **(eps | overrides))
    return make_task(c)


def flat(tree):
    return {path_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def drop(arrays, start):
    for key in [key for key in arrays if key.startswith(start)]:
        del arrays[key]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random parameters of the image branch, and a folder with them under the keys of transformers' ViTMAEForPreTraining."""
    fresh = task("")
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda a: draw.normal(size=a.shape).astype(a.dtype), fresh.abstract_state().params["image"])
    folder = tmp_path_factory.mktemp("weights")
    for name in ("model", "encoder", "damaged"):
        save_weights(folder / f"{name}.safetensors", params, HF_VIT_MAE, fresh.objective.model.image.encoder.grid)
    rewrite(folder / "encoder.safetensors", lambda arrays: drop(arrays, "decoder."))
    rewrite(folder / "damaged.safetensors", lambda arrays: drop(arrays, "vit.layernorm"))
    return folder, flat(params)


def test_the_branch_starts_from_the_file_and_the_average_with_it(weights):
    folder, expected = weights
    state = task(folder, ONE, optimizer__ema_decay=0.9).initial_state()
    for params in (state.params, state.ema):
        found = flat(params["image"])
        assert all((found[name] == array).all() for name, array in expected.items())


def test_an_encoder_alone_leaves_the_decoder_fresh(weights):
    folder, expected = weights
    found, fresh = (flat(task(path, ONE).initial_state().params["image"]) for path in (folder / "encoder.safetensors", ""))
    for name, array in found.items():
        np.testing.assert_array_equal(array, (expected if name.startswith("/encoder") else fresh)[name])


def test_without_reconstruction_the_file_gives_the_encoder(weights):
    folder, expected = weights
    found = flat(task(folder, ("cross_video",)).initial_state().params["image"])
    assert found and all((array == expected[name]).all() for name, array in found.items())


@pytest.mark.slow
def test_a_frozen_teacher_keeps_its_bits_and_everything_else_moves(weights):
    folder, expected = weights
    frozen = task(folder, image_branch__train="frozen", optimizer__warmup="0_steps")
    drawn, before = samples(frozen.config, 8), flat(frozen.initial_state().params)
    after = flat(frozen.step(frozen.initial_state(), {name: drawn[name] for name in ("video", "frame_index")})[0].params)
    for name, array in after.items():
        teacher = name.startswith("/image/encoder/")
        if teacher:
            np.testing.assert_array_equal(array, expected[name.removeprefix("/image")])
        elif not name.endswith("/key/bias"):  # softmax does not see what is added to every key
            assert (array != before[name]).any(), name


def test_a_file_that_does_not_fit_is_named_with_the_field(weights):
    folder, _ = weights
    with pytest.raises(ConfigError, match="config.image_branch.init_from: .*damaged.safetensors"):
        task(folder / "damaged.safetensors").initial_state()
    with pytest.raises(
        ConfigError, match="config.image_branch.init_from: .*these flags: --config.image_branch.positions=sincos2d$"
    ):
        task(folder, image_branch__positions="separable").initial_state()
    with pytest.raises(ConfigError, match="config.image_branch.init_from: .*no weights at"):
        task(folder / "absent").initial_state()


@pytest.fixture(scope="module")
def image_mae(tmp_path_factory):
    """A file of MAE's own keys that fits the image branch of a small config, and its parameters."""
    fresh = task("", image_branch__eps=1e-6, image_branch__decoder__norm_eps=1e-6)
    params = random_params(fresh.objective.model.image, 3)
    file = tmp_path_factory.mktemp("mae") / "mae.safetensors"
    save_weights(file, params, MAE, fresh.objective.model.image.encoder.grid)
    return file, params


@pytest.mark.slow
def test_a_run_that_starts_from_an_imported_mae_says_what_went_where(image_mae, tmp_path, capsys):
    """The image branch with its decoder, the video branch inflated; then it trains, and resumes without reading them again."""
    file, _ = image_mae
    c = config(
        image_branch__init_from=str(file), video_branch__init_from=str(file), video_branch__inflate="mean", total="2_steps"
    )
    metrics = run(c, str(tmp_path))
    assert np.isfinite(metrics["loss"])
    log = capsys.readouterr().err
    for line in (
        f"image_branch encoder from {file} (as mae, pre-training): ",
        "image_branch decoder from the same: ",
        "left out: pos_embed, the fixed sincos2d table, which is computed",
        f"video_branch encoder from {file} (as mae, pre-training), inflated: ",
        "image encoder inflated (mean) over tubelets of 2 frames and 2 time patches",
        "video_branch decoder starts untrained",
    ):
        assert line in log, line
    file.rename(file.with_name("moved"))
    try:
        c = config(image_branch__init_from="", total="3_steps")
        with pytest.raises(ConfigError, match="made with image_branch.init_from="):
            run(c, str(tmp_path))
    finally:
        file.with_name("moved").rename(file)


def test_the_video_branch_starts_from_the_inflated_encoder(image_mae):
    file, params = image_mae
    c = config(("mse_video",), video_branch__init_from=str(file), video_branch__inflate="center")
    found = make_task(c).initial_state().params["video"]["encoder"]
    np.testing.assert_array_equal(
        found["blocks"]["block1"]["mlp_in"]["kernel"], params["encoder"]["blocks"]["block1"]["mlp_in"]["kernel"]
    )
    kernel = np.asarray(found["embed"]["kernel"]).reshape(2, -1, 32)
    np.testing.assert_array_equal(kernel[1], params["encoder"]["embed"]["kernel"])
    assert not kernel[0].any() and not np.asarray(found["positions"]["time"]).any()


def test_a_decoder_can_be_left_to_start_anew(image_mae):
    file, params = image_mae
    taken, fresh = (
        flat(
            task(file, ONE, image_branch__eps=1e-6, image_branch__decoder__norm_eps=1e-6, image_branch__init_decoder=take)
            .initial_state()
            .params["image"]
        )
        for take in (True, False)
    )
    expected = flat(params)
    for name, array in fresh.items():
        assert (taken[name] == expected[name]).all(), name
        if name.startswith("/encoder"):
            np.testing.assert_array_equal(array, expected[name])
    assert not np.array_equal(fresh["/decoder/embed/kernel"], expected["/decoder/embed/kernel"])


@pytest.mark.slow
def test_a_workdir_gives_each_branch_its_own(image_mae, tmp_path):
    """Pre-training goes on from another run's two branches."""
    c = config(total="1_steps")
    run(c, str(tmp_path))
    again = config(video_branch__init_from=str(tmp_path), image_branch__init_from=str(tmp_path), seed=1)
    found = flat(make_task(again).initial_state().params)
    for branch in ("video", "image"):
        for name, array in flat(load_workdir(tmp_path, branch).params).items():
            np.testing.assert_array_equal(found[f"/{branch}{name}"], array)
    assert cvmae.load(tmp_path, branch="image")[0].grid.num_frames == 1
    pictured = load_branches(downstream("visualize", init_from=str(tmp_path)))
    for branch in ("video", "image"):
        expected = load_workdir(tmp_path, branch).params
        expected = expected if branch == "video" else {"encoder": expected["encoder"]}
        jax.tree.map(np.testing.assert_array_equal, getattr(pictured, branch).params, expected)
    assert pictured.video.norm == "patch" and pictured.image.encoder.grid.shape == (1, 2, 2)


@pytest.fixture(scope="module")
def stage_0(tmp_path_factory):
    """The workdir of an image MAE that `stage=image` has trained for two steps on the config of a labeled set."""
    folder = tmp_path_factory.mktemp("stage0")
    fields = {"total": "2_steps", "log_every": "1_steps", "eval_every": "0_steps", "report.pictures": 0}
    c = load(f"{CONFIGS / 'metaworld.py'}:stage=image,runlocal", fields)
    assert run(c, str(folder)).keys() >= {"loss", "loss/mse_image"}
    return folder


@pytest.mark.parametrize("train", [pytest.param("full", marks=pytest.mark.slow), "frozen"])
def test_stage_1_starts_from_the_image_mae_of_stage_0(stage_0, train, tmp_path):
    """Encoder and decoder have its bits at the start; after two steps a frozen encoder still has them, and another has not."""
    expected = flat(load_workdir(stage_0, "image").params)
    assert any(name.startswith("/decoder/") for name in expected)
    fields = {"image_branch.init_from": str(stage_0), "image_branch.train": train, "report.labelled": 0, "total": "2_steps"}
    fields |= {"eval_every": "0_steps", "report.pictures": 0}
    c = load(f"{CONFIGS / 'metaworld.py'}:runlocal", fields | {"optimizer.warmup": "0_steps"})
    c.loss.update(dict.fromkeys(("intra_video", "intra_frame", "cross_frame"), 0.0))
    state = make_task(c).initial_state()
    for name, array in flat(state.params["image"]).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
    fresh = c.copy_and_resolve_references()
    fresh.image_branch.init_from = ""
    other = flat(make_task(fresh).initial_state().params["image"])
    assert any((other[name] != array).any() for name, array in expected.items() if name.startswith("/encoder/"))
    run(c, str(tmp_path))
    trained = flat(load_workdir(tmp_path, "image").params)
    same = [(trained[name] == array).all() for name, array in expected.items() if name.startswith("/encoder/")]
    assert all(same) if train == "frozen" else not all(same)


def test_the_video_branch_starts_from_the_image_mae_of_stage_0(stage_0):
    expected = flat(load_workdir(stage_0, "image").params)
    fields = {"video_branch.init_from": str(stage_0), "video_branch.eps": 1e-6, "data.source": "synthetic", "report.labelled": 0}
    c = load(f"{CONFIGS / 'adapt.py'}:start=mae,runlocal", fields)
    params = flat(make_task(c).initial_state().params["video"])
    same = [name for name, array in params.items() if name in expected and np.array_equal(array, expected[name])]
    assert any(name.startswith("/encoder/blocks/") for name in same) and not any(name.startswith("/decoder/") for name in same)
    c.video_branch.inflate = "none"
    with pytest.raises(ConfigError, match="holds no video encoder, only image: .*config.video_branch.inflate=mean"):
        make_task(c).initial_state()


def test_fine_tuning_starts_from_an_inflated_encoder(image_mae):
    file, params = image_mae
    c = downstream("finetune", init_from=str(file), video_branch__inflate="center")
    found = make_task(c).initial_state().params["encoder"]
    kernel = np.asarray(found["embed"]["kernel"]).reshape(2, -1, 32)
    np.testing.assert_array_equal(kernel[1], params["encoder"]["embed"]["kernel"])


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"video_branch__init_from": " "}, "config.video_branch.init_from=' ' is blank: give a workdir, a weights file"),
        ({"image_branch__init_from": "\t"}, r"config.image_branch.init_from='\t' is blank: give a workdir"),
        ({"video_branch__init_from": "absent"}, "config.video_branch.init_from='absent' does not exist: give a workdir"),
        (
            {"report__labelled": 8} | {f"loss__{term}": 0.0 for term in ALL_TERMS if term != "mse_image"},
            "config.report.labelled=8 probes the video encoder, but every term of the video branch has weight 0",
        ),
        ({"video_branch__inflate": "mean"}, "config.video_branch.inflate='mean' without init_from has nothing to inflate"),
        (
            {"video_branch__inflate": "3d"},
            "config.video_branch.inflate='3d' cannot be used: it must be one of none, mean, center",
        ),
    ],
)
def test_what_is_wrong_is_known_before_anything_is_read(fields, message):
    with pytest.raises(ConfigError) as caught:
        validate(config(**fields))
    assert message in str(caught.value)
