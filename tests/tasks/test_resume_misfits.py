"""A run that resumes with a field that changes the shapes of its state is told which field, in every task."""

import jax
import jax.numpy as jnp
import pytest

from cvmae.config import ConfigError
from cvmae.tasks import run
from cvmae.training import identity
from cvmae.training.checkpoint import Checkpoints
from cvmae.workdir import Workdir
from tests.tiny_configs import config, downstream, make_task


def make_config(task, **fields):
    if task == "pretrain":
        return config(total="4_steps", **fields)
    return downstream(task, total="4_steps", init_from="untrained", **fields)


def begin(folder, c):
    """Writes what a run of the config leaves in its workdir, without the steps."""
    task = make_task(c)
    state = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), task.abstract_state())
    checkpoints = Checkpoints(folder, 2)
    checkpoints.save(2, state, {"step": 2} | identity.describe(c, task.source))
    checkpoints.close()
    Workdir(folder).write_config(c)


def refusal(folder, c):
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(ConfigError) as refused:
        run(c, folder)
    assert "\n" not in str(refused.value) and sorted(path.name for path in folder.rglob("*")) == before
    return str(refused.value)


def files(folder):
    """Returns fields of a manifest of videos that are not there: a refused run reads none."""
    rows = [f"{split}{number}.mp4,{number % 4},{split}" for number in range(16) for split in ("train", "val")]
    (folder / "manifest.csv").write_text("\n".join(["path,label,split", *rows]))
    return {"data__source": "files", "data__manifest": str(folder / "manifest.csv"), "data__eval_split": "val"}


@pytest.mark.parametrize(
    ("task", "field", "before", "now", "array"),
    [
        ("pretrain", "optimizer.ema_decay", 0.0, 0.9, "/ema/frame_head/hidden/bias is absent there and (32,) here"),
        ("linear", "probe.rates", (0.1, 0.01), (0.1,), "/head/bias is (6, 4) there and (3, 4) here"),
        ("linear", "video_branch.variant", "test/16", "mini/16", "/head/kernel is (15, 32, 4) there"),
        ("attentive", "probe.blocks", 1, 2, "/blocks/block1/attention/key/bias is absent there"),
        ("finetune", "optimizer.layer_decay", 0.75, 1.0, "/opt_state/"),
    ],
)
def test_the_field_that_changes_the_shapes_is_named(tmp_path, task, field, before, now, array):
    key = field.replace(".", "__")
    begin(tmp_path, make_config(task, **{key: before}))
    message = refusal(tmp_path, make_config(task, **{key: now}))
    assert message.startswith(f"checkpoint {tmp_path / 'checkpoints' / '2'} does not fit this config ({array}")
    assert f"config.{field} {before!r} -> {now!r}: give the old value back, or give another --workdir" in message


@pytest.mark.parametrize("task", ["pretrain", "linear"])
def test_frames_of_files_are_named(tmp_path, task):
    begin(tmp_path / "run", make_config(task, **files(tmp_path), data__num_frames=4))
    message = refusal(tmp_path / "run", make_config(task, **files(tmp_path), data__num_frames=8))
    assert "/positions/time is (2, 32) there and (4, 32) here" in message
    assert "config.data.num_frames 4 -> 8: give the old value back" in message


def test_all_fields_that_changed_are_named_and_the_data_that_did(tmp_path):
    begin(tmp_path, make_config("linear"))
    rates = tuple(0.5**power for power in range(1, 12))
    message = refusal(tmp_path, make_config("linear", probe__rates=rates, optimizer__b2=0.5, optimizer__eps=1e-3))
    for change in ("config.optimizer.b2 0.999 -> 0.5", f"-> {rates}", ": give the old values back of those that change shapes"):
        assert change in message
    message = refusal(tmp_path, make_config("linear", data__num_frames=8))
    assert "the training data changed since step 2: the source" in message
    assert "(the manifest with its labels, root, split; changed: config.data.num_frames 4 -> 8)" in message


def test_a_workdir_without_a_config_names_the_arrays(tmp_path):
    begin(tmp_path, make_config("linear"))
    (tmp_path / "config.json").unlink()
    message = refusal(tmp_path, make_config("linear", probe__rates=(0.1,)))
    assert "/head/bias is (15, 4) there and (3, 4) here): give another --workdir, or the config and the classes" in message
