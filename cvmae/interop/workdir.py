"""Reads a workdir of ours without what wrote it: its config, and the video encoder out of its newest complete checkpoint."""

import dataclasses
import json
import pathlib

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cvmae.models.build import video_grid
from cvmae.models.vit import Encoder, Trunk, decode_variant

# Where a state holds the video encoder: that of a probe, after pre-training, after fine-tuning; the moving average first.
ENCODERS = (
    ("frozen",),
    ("ema", "video", "encoder"),
    ("ema", "encoder"),
    ("params", "video", "encoder"),
    ("params", "encoder"),
)


class WorkdirError(ValueError):
    """A workdir that cannot be read; the message is one line that names the folder and what to give."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """A complete checkpoint and the config it was made with.

    Attributes:
      folder: the workdir.
      config: its config.json.
      step: of the checkpoint.
    """

    folder: pathlib.Path
    config: dict
    step: int

    @property
    def checkpoint(self) -> pathlib.Path:
        return self.folder / "checkpoints" / str(self.step)

    @property
    def encoder(self) -> Encoder:
        """The video encoder that was trained here, but for what changes no parameter's meaning (dtype, attention, drop path).

        A fine-tuned one lacks the last norm, whatever the config says, where the classifier's norm takes its place.
        """
        try:
            branch = ml_collections.ConfigDict(self.config["video_branch"])
            trunk = Trunk(decode_variant(branch.variant)[0], branch.qkv_bias, branch.eps)
            grid = video_grid(ml_collections.ConfigDict(self.config))
            return Encoder(trunk, grid, branch.positions, branch.cls_token, branch.final_norm)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise WorkdirError(f"{self.folder / 'config.json'} does not describe a video encoder: {error}") from error

    @property
    def pixels(self) -> dict[str, tuple[float, ...]]:
        """What clips were standardised with, `mean` and `std`."""
        return {name: tuple(self.config["augment"][name]) for name in ("mean", "std")}

    @property
    def name(self) -> str:
        return str(self.checkpoint)

    def arrays(self) -> dict:
        """See `encoder_params`."""
        return encoder_params(self)


def _split(path) -> tuple[pathlib.Path, int | None]:
    """The workdir of WORKDIR, WORKDIR/checkpoints or WORKDIR/checkpoints/STEP, and the step."""
    path = pathlib.Path(path).absolute()
    if path.name.isdigit() and path.parent.name == "checkpoints":
        return path.parent.parent, int(path.name)
    return (path.parent if path.name == "checkpoints" else path), None


def is_workdir(path) -> bool:
    """Whether `path` is, or lies in, a folder that holds checkpoints of ours."""
    return (_split(path)[0] / "checkpoints").is_dir()


def complete_steps(folder: pathlib.Path) -> list[int]:
    """The steps of the complete checkpoints of a workdir, in order; what a kill left half-written is none."""
    there = (folder / "checkpoints").glob("*")
    # Orbax renames a checkpoint to its number once everything in it is written, this file last.
    return sorted(int(p.name) for p in there if p.name.isdigit() and (p / "_CHECKPOINT_METADATA").is_file())


def read_workdir(path, step: int | None = None) -> Workdir:
    """The config of a workdir, and which of its checkpoints to read.

    Args:
      path: WORKDIR, or WORKDIR/checkpoints/STEP.
      step: None takes that of the path, or the newest complete one.

    Raises:
      WorkdirError: there is no config, no complete checkpoint, or none of that step.
    """
    folder, in_path = _split(path)
    step = in_path if step is None else step
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"{folder} is no workdir, it holds no readable config.json ({error.strerror})"
        raise WorkdirError(f"{why}: give a folder that was the --workdir of a run") from error
    except ValueError as error:
        raise WorkdirError(f"{file} is not JSON ({error}): give a folder that was the --workdir of a run") from error
    steps = complete_steps(folder)
    if not steps:
        raise WorkdirError(f"{folder}/checkpoints holds no complete checkpoint: let the run save one, or give another workdir")
    if step is not None and step not in steps:
        raise WorkdirError(f"{folder} has no complete checkpoint of step {step}: take one of {', '.join(map(str, steps))}")
    return Workdir(folder, config, steps[-1] if step is None else step)


def encoder_params(workdir: Workdir) -> dict:
    """The video encoder's arrays, numpy in nested dicts, the moving average where there is one; nothing else is read.

    Shapes are those of the checkpoint: whoever fills a model compares them.

    Raises:
      WorkdirError: the checkpoint is damaged or holds no video encoder.
    """
    state = epath.Path(workdir.checkpoint / "state")
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(state).tree
        keys = _find(workdir, tree)
        item = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _at(tree, keys))
        for key in reversed(keys):
            item = {key: item}
        restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        args = ocp.args.PyTreeRestore(item=item, restore_args=restore, partial_restore=True)
        return _at(handler.restore(state, args=args), keys)
    except WorkdirError:
        raise
    except (OSError, ValueError, KeyError) as error:
        why = str(error).partition("\n")[0]
        raise WorkdirError(f"checkpoint {workdir.checkpoint} is damaged ({why:.200}): give another step") from error
    finally:
        handler.close()


def _at(tree, keys):
    """What lies at a path of nested dicts, None where nothing does."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _find(workdir: Workdir, tree) -> tuple[str, ...]:
    """The path of the video encoder in a checkpoint of this structure."""
    for keys in ENCODERS:
        if _at(tree, keys):
            return keys
    there = ", ".join(tree.get("params") or tree)
    raise WorkdirError(
        f"checkpoint {workdir.checkpoint} holds no video encoder, only {there}: give the workdir of a run that has one"
    )
