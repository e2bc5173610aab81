"""A workdir is read without what wrote it: the newest complete checkpoint, the video encoder's arrays and no others."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from cvmae.interop.hf_folder import shapes
from cvmae.interop.workdir import WorkdirError, encoder_params, is_workdir, read_workdir
from cvmae.models.patches import Grid
from cvmae.models.vit import SIZES, Encoder, Trunk
from cvmae.training.checkpoint import Checkpoints
from cvmae.training.loop import write_config
from cvmae.training.pretrain import Pretrain
from cvmae.training.sharding import make_mesh
from cvmae.training.state import TrainState
from tests.small import config

PIXELS = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def encoder(frames=4, side=32, patch=16, **changes) -> Encoder:
    grid = Grid(frames, *(side if isinstance(side, tuple) else (side, side)), 2, patch)
    return Encoder(grid=grid, **{"trunk": Trunk(SIZES["test"]), "positions": "separable", "cls_token": True} | changes)


def random_params(module: Encoder, seed: int = 0):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda a: draw.normal(size=a.shape, scale=0.3).astype(np.float32), shapes(module))


def state(params, **parts) -> TrainState:
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state={"count": np.ones(3)}, **parts)


def write_workdir(folder, module: Encoder, states: dict[int, TrainState], **branch):
    """A workdir as a run of `module` leaves it, with these states by their step; `branch` changes its config.video_branch."""
    grid = module.grid
    fields = {"variant": f"test/{grid.patch}", "tubelet": grid.tubelet, "positions": module.positions, "eps": module.trunk.eps}
    fields |= {"cls_token": module.cls_token, "qkv_bias": module.trunk.qkv_bias, "final_norm": module.final_norm} | branch
    augment = {"size": (grid.height, grid.width)} | PIXELS
    folder.mkdir(exist_ok=True)
    text = json.dumps({"data": {"num_frames": grid.num_frames}, "augment": augment, "video_branch": fields})
    (folder / "config.json").write_text(text)
    checkpoints = Checkpoints(str(folder), len(states))
    for step, saved in states.items():
        checkpoints.save(step, saved, {"step": step})
    checkpoints.close()


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert isinstance(a, np.ndarray) and a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture
def two_steps(tmp_path):
    """A pre-training workdir of steps 2 and 10, and the video encoder's parameters in each."""
    found = {step: random_params(encoder(), step) for step in (2, 10)}
    other = {"image": {"encoder": random_params(encoder(), 7)}, "video_head": {"out": np.ones(3)}}
    write_workdir(tmp_path, encoder(), {k: state(other | {"video": {"encoder": p, "decoder": other}}) for k, p in found.items()})
    return tmp_path, found


def test_the_newest_or_a_named_step(two_steps):
    folder, expected = two_steps
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
        same(encoder_params(workdir), expected[step])


def test_the_encoder_that_was_trained(two_steps):
    workdir = read_workdir(two_steps[0])
    assert workdir.encoder == encoder() and workdir.pixels == PIXELS


P = random_params(encoder(), 1)
Q = random_params(encoder(), 2)
HEAD = {"head": {"bias": np.zeros(3, np.float32)}}


@pytest.mark.parametrize(
    "parts",
    [
        dict(params={"encoder": P} | HEAD),
        dict(params={"encoder": Q} | HEAD, ema={"encoder": P} | HEAD),
        dict(params={"video": {"encoder": Q}}, ema={"video": {"encoder": P}}),
        dict(params=HEAD, frozen=P),
    ],
    ids=["fine-tuned", "its average", "average of pre-training", "probe"],
)
def test_where_other_tasks_keep_it(parts, tmp_path):
    write_workdir(tmp_path, encoder(), {3: state(**parts)})
    same(encoder_params(read_workdir(tmp_path)), P)


def test_a_real_run(tmp_path):
    """The config and the tree of parameters that pre-training writes."""
    c = config(("mse_video", "cross_video"))
    abstract = Pretrain(c, make_mesh(c.mesh), 8, 8).abstract_state()
    draw = np.random.default_rng(0)
    saved = jax.tree.map(lambda a: jnp.asarray(draw.normal(size=a.shape) * 9, a.dtype), abstract)
    checkpoints = Checkpoints(str(tmp_path), 1)
    checkpoints.save(5, saved, {"step": 5})
    checkpoints.close()
    write_config(c, tmp_path)
    workdir = read_workdir(tmp_path)
    same(encoder_params(workdir), jax.tree.map(np.asarray, saved.params["video"]["encoder"]))
    same(
        jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), shapes(workdir.encoder)), jax.tree.map(np.zeros_like, workdir.arrays())
    )


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
            same(encoder_params(workdir), expected[10])
        else:
            with pytest.raises(WorkdirError, match="checkpoints/10 is damaged .*give another step"):
                encoder_params(workdir)


def test_what_a_kill_left_is_no_checkpoint(two_steps):
    folder, expected = two_steps
    checkpoints = folder / "checkpoints"
    (checkpoints / "10").rename(checkpoints / "10.orbax-checkpoint-tmp-1")
    (checkpoints / "30" / "state").mkdir(parents=True)
    workdir = read_workdir(folder)
    assert workdir.step == 2
    same(encoder_params(workdir), expected[2])
    for step in (10, 30):
        with pytest.raises(WorkdirError, match=f"no complete checkpoint of step {step}: take one of 2$"):
            read_workdir(checkpoints / str(step))
    shutil.rmtree(checkpoints / "2")
    with pytest.raises(WorkdirError, match=f"{re.escape(str(folder))}/checkpoints holds no complete checkpoint: let the run"):
        read_workdir(folder)


def test_what_is_no_workdir(two_steps, tmp_path_factory):
    folder, _ = two_steps
    empty = tmp_path_factory.mktemp("empty")
    assert not is_workdir(empty) and not is_workdir(empty / "absent")
    with pytest.raises(WorkdirError, match="is no workdir, it holds no readable config.json .*--workdir of a run"):
        read_workdir(empty)
    for text, message in (("{", "is not JSON"), ('{"data": {}}', "does not describe a video encoder: .*video_branch")):
        (folder / "config.json").write_text(text)
        with pytest.raises(WorkdirError, match=message):
            _ = read_workdir(folder).encoder


def test_damage_and_a_run_without_the_branch(tmp_path):
    write_workdir(tmp_path, encoder(), {1: state({"image": P}), 2: state({"encoder": P})})
    with pytest.raises(WorkdirError, match="checkpoints/1 holds no video encoder, only image: give"):
        encoder_params(read_workdir(tmp_path, 1))
    (tmp_path / "checkpoints" / "2" / "state" / "_METADATA").unlink()
    with pytest.raises(WorkdirError, match="checkpoints/2 is damaged .*give another step") as caught:
        encoder_params(read_workdir(tmp_path))
    assert "\n" not in str(caught.value)
