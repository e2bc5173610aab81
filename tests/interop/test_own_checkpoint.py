"""A workdir is read without the code that wrote it: the newest complete checkpoint, the video encoder's arrays and no others."""

import json
import re
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cvmae.interop import WeightsError
from cvmae.interop.own_checkpoint import has_branch, load_workdir, read_branch
from cvmae.interop.pretrained import Head
from cvmae.interop.saved_run import WorkdirError, is_workdir, read_workdir
from cvmae.models.classifier import Classifier
from cvmae.models.patches import Grid
from cvmae.models.vit import VIT_SIZES, Encoder, TransformerConfig
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.train_state import TrainState
from cvmae.workdir import Workdir
from tests.interop.models import random_params
from tests.tiny_configs import config, downstream, make_task

NORMALIZATION = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def encoder(frames=4, side=32, patch=16, **changes) -> Encoder:
    height, width = side if isinstance(side, tuple) else (side, side)
    fields: dict[str, Any] = {"trunk": TransformerConfig(VIT_SIZES["test"]), "positions": "separable", "cls_token": True}
    return Encoder(grid=Grid(frames, height, width, 2, patch), **fields | changes)


def state(params, **parts) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state={"count": np.ones(3)}, **parts)


def write_workdir(folder, module: Encoder, states: dict[int, TrainState], **branch):
    """A workdir as a run of `module` leaves it, with these states by their step; `branch` changes its config.video_branch."""
    grid = module.grid
    fields = {"variant": f"test/{grid.patch}", "tubelet": grid.tubelet, "positions": module.positions, "eps": module.trunk.eps}
    fields |= {"cls_token": module.cls_token, "qkv_bias": module.trunk.qkv_bias, "final_norm": module.final_norm} | branch
    augment = {"size": (grid.height, grid.width)} | NORMALIZATION
    folder.mkdir(exist_ok=True)
    text = json.dumps({"data": {"num_frames": grid.num_frames}, "augment": augment, "video_branch": fields})
    (folder / "config.json").write_text(text)
    checkpoints = Checkpoints(str(folder), len(states))
    for step, saved in states.items():
        checkpoints.save(step, saved, {"step": step})
    checkpoints.close()


def encoder_of(workdir):
    return read_branch(workdir, "video")[1]["encoder"]


def same(loaded, expected):
    assert jax.tree.structure(loaded) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray) and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def two_steps(tmp_path):
    """A pre-training workdir of steps 2 and 10, and the video encoder's parameters in each."""
    loaded = {step: random_params(encoder(), step) for step in (2, 10)}
    other = {"image": {"encoder": random_params(encoder(), 7)}, "video_head": {"out": np.ones(3)}}
    write_workdir(tmp_path, encoder(), {k: state(other | {"video": {"encoder": p, "decoder": other}}) for k, p in loaded.items()})
    return tmp_path, loaded


def test_the_newest_or_a_named_step(two_steps):
    folder, expected = two_steps
    assert has_branch(folder, "image") and has_branch(folder, "video")
    checkpoints = folder / "checkpoints"
    cases = [
        ((folder,), 10),
        ((str(folder), 2), 2),
        ((checkpoints / "2",), 2),
        ((f"{checkpoints}/10/",), 10),
        ((checkpoints,), 10),
    ]
    for args, step in cases:
        workdir = read_workdir(*args)
        assert workdir.step == step and workdir.folder == folder and is_workdir(args[0])
        same(encoder_of(workdir), expected[step])


def test_the_encoder_that_was_trained(two_steps):
    folder, expected = two_steps
    write_workdir(folder, encoder(), {11: state({"video": {"encoder": expected[2]}})})
    loaded = load_workdir(folder)
    assert loaded.take()[0] == encoder() and loaded.normalization == NORMALIZATION and loaded.parts == ("encoder",)
    same(loaded.params, {"encoder": expected[2]})


P = random_params(encoder(), 1)
Q = random_params(encoder(), 2)
HEAD = {"head": {"bias": np.zeros(3, np.float32)}}


@pytest.mark.parametrize(
    "parts",
    [
        {"params": {"encoder": P} | HEAD},
        {"params": {"encoder": Q} | HEAD, "ema": {"encoder": P} | HEAD},
        {"params": {"video": {"encoder": Q}}, "ema": {"video": {"encoder": P}}},
        {"params": HEAD, "frozen": P},
    ],
    ids=["fine-tuned", "its average", "average of pre-training", "probe"],
)
def test_where_other_tasks_keep_it(parts, tmp_path):
    write_workdir(tmp_path, encoder(), {3: state(**parts)})
    same(encoder_of(read_workdir(tmp_path)), P)


def write_run(folder, task) -> TrainState:
    """A workdir as a task leaves it after 5 steps, and its state, random."""
    draw = np.random.default_rng(0)
    saved = jax.tree.map(lambda a: jnp.asarray(draw.normal(size=a.shape) * 9, a.dtype), task.abstract_state())
    checkpoints = Checkpoints(str(folder), 1)
    checkpoints.save(5, saved, {"step": 5})
    checkpoints.close()
    Workdir(folder).write_config(task.config)
    return saved


def test_a_real_run(tmp_path):
    """The config and the tree of parameters that pre-training writes."""
    c = config(("mse_video", "cross_video"))
    saved = write_run(tmp_path, make_task(c))
    for branch, parts in (("video", ("encoder", "autoencoder")), ("image", ("encoder",))):
        loaded = load_workdir(tmp_path, branch)
        same(loaded.params, jax.tree.map(np.asarray, saved.params[branch]))
        assert loaded.parts == parts and loaded.encoder.grid.num_frames == (4 if branch == "video" else 1)
    assert load_workdir(tmp_path).target_norm == "patch"


@pytest.mark.parametrize("pool, eps", [("mean", 1e-6), ("first", 1e-5)])
def test_a_fine_tuned_run(pool, eps, tmp_path):
    """The classifier, the moving average first; names of classes once the run has written them."""
    c = downstream("finetune", optimizer__ema_decay=0.9, head__pool=pool, head__eps=eps)
    saved = write_run(tmp_path, make_task(c))
    loaded = load_workdir(tmp_path)
    assert loaded.head == Head(4, pool, eps) and "moving average" in loaded.name
    assert loaded.encoder.final_norm == (pool == "first")
    module, params = loaded.take()
    same(params, jax.tree.map(np.asarray, saved.ema))
    assert module == Classifier(loaded.encoder, 4, pool, eps=eps)
    np.savez(tmp_path / "predictions.npz", class_names=np.array(["a", "b", "c", "d"]))
    assert load_workdir(tmp_path).head.names == ("a", "b", "c", "d")


def test_a_checkpoint_of_another_model_than_the_config_says(tmp_path):
    damaged = P | {"embed": {"kernel": P["embed"]["kernel"][1:]}, "extra": P["cls"]}
    write_workdir(tmp_path, encoder(), {5: state({"video": {"encoder": damaged}})})
    with pytest.raises(WeightsError) as caught:
        load_workdir(tmp_path)
    expected = (
        "left over: encoder/extra",
        "mis-shaped: encoder/embed/kernel is [1535, 32]",
        "missing: nothing there for encoder/embed/bias",
    )
    assert len(caught.value.problems) == 3
    for problem, text in zip(caught.value.problems, expected, strict=True):
        assert text in problem


def test_other_arrays_are_not_read(two_steps):
    folder, expected = two_steps
    workdir = read_workdir(folder)
    args = ocp.args.PyTreeSave({"params": {"image": {"w": np.ones(4)}, "video": {"encoder": expected[10]}}, "ema": None})
    shutil.rmtree(workdir.checkpoint / "state")
    # One folder an array, so that some can be damaged.
    ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_zarr3=False)).save(workdir.checkpoint / "state", args=args)
    for name, readable in (("params.image.w", True), ("params.video.encoder.cls", False)):
        chunks = [file for file in (workdir.checkpoint / "state" / name).iterdir() if not file.name.startswith(".")]
        assert chunks
        for chunk in chunks:
            chunk.write_bytes(b"damaged")
        if readable:
            same(encoder_of(workdir), expected[10])
        else:
            with pytest.raises(WorkdirError, match="checkpoints/10 is damaged .*give another step"):
                encoder_of(workdir)


def test_what_a_kill_left_is_no_checkpoint(two_steps):
    folder, expected = two_steps
    checkpoints = folder / "checkpoints"
    (checkpoints / "10").rename(checkpoints / "10.orbax-checkpoint-tmp-1")
    (checkpoints / "30" / "state").mkdir(parents=True)
    workdir = read_workdir(folder)
    assert workdir.step == 2
    same(encoder_of(workdir), expected[2])
    for step, why in ((10, ""), (30, " (position/metadata is missing)")):
        with pytest.raises(WorkdirError, match=re.escape(f"no complete checkpoint of step {step}{why}: take one of 2") + "$"):
            read_workdir(checkpoints / str(step))
    shutil.rmtree(checkpoints / "2")
    shutil.rmtree(checkpoints / "30")
    with pytest.raises(WorkdirError, match=f"{re.escape(str(folder))}/checkpoints holds no complete checkpoint: let the run"):
        read_workdir(folder)


def test_what_is_no_workdir(two_steps, tmp_path_factory):
    folder, _ = two_steps
    empty = tmp_path_factory.mktemp("empty")
    assert not is_workdir(empty) and not is_workdir(empty / "absent")
    with pytest.raises(WorkdirError, match="is no workdir, it holds no readable config.json .*--workdir of a run"):
        read_workdir(empty)
    with pytest.raises(WorkdirError, match="there is no folder .*absent: give a folder that was the --workdir of a run"):
        read_workdir(empty / "absent")
    for text, message in (("{", "is not JSON"), ('{"data": {}}', "does not describe the video branch: .*video_branch")):
        (folder / "config.json").write_text(text)
        with pytest.raises(WorkdirError, match=message):
            load_workdir(folder)


def test_damage_and_a_run_without_the_branch(tmp_path):
    write_workdir(tmp_path, encoder(), {1: state({"image": P}), 2: state({"encoder": P})})
    with pytest.raises(
        WorkdirError,
        match="checkpoints/1 holds no video encoder, only image: give .* or take the image encoder, by config.video_branch.inflate=mean",
    ):
        encoder_of(read_workdir(tmp_path, 1))
    assert has_branch(tmp_path, "video") and not has_branch(tmp_path, "image")
    (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").unlink()
    assert not has_branch(tmp_path, "video") and read_workdir(tmp_path).step == 1
    shutil.rmtree(tmp_path / "checkpoints" / "1")
    with pytest.raises(WorkdirError, match="holds no complete checkpoint .2: state/_METADATA is missing.: let the run") as caught:
        has_branch(tmp_path, "video")
    assert "\n" not in str(caught.value)


def change_values(checkpoint):
    """Changes a byte in the middle of every file of values, which compression need not notice."""
    for file in checkpoint.glob("state/ocdbt.process_0/d/*"):
        if file.stat().st_size > 9000:  # not the copy of the index
            data = bytearray(file.read_bytes())
            data[len(data) // 2] ^= 1
            file.write_bytes(data)


def test_an_older_step_is_taken_where_values_are_damaged(tmp_path):
    folder, expected = tmp_path, {step: random_params(encoder(), step) for step in (2, 10)}
    write_workdir(folder, encoder(), {step: state({"video": {"encoder": p}}) for step, p in expected.items()})
    change_values(folder / "checkpoints" / "10")
    assert read_workdir(folder).step == 10
    loaded = load_workdir(folder)
    same(loaded.params["encoder"], expected[2])
    assert len(loaded.notes) == 1 and "checkpoints/10 is damaged" in loaded.notes[0]
    for path, step in ((folder / "checkpoints" / "10", None), (folder, 10)):
        with pytest.raises(WorkdirError, match="checkpoints/10 is damaged .*give another step"):
            load_workdir(path, step=step)
    change_values(folder / "checkpoints" / "2")
    with pytest.raises(WorkdirError, match=r"holds no whole checkpoint: 10 \(.*\); 2 \(.*\): bring back what is missing"):
        load_workdir(folder)
