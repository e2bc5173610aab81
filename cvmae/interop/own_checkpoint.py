"""Reads a workdir of ours without what wrote it: its config, and the weights of a branch out of its newest complete checkpoint."""

import dataclasses
import json
import pathlib

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cvmae.interop.pretrained import Head, Pretrained, WeightsError, differences
from cvmae.models.build import build_encoder, decoder_spec, image_grid, video_grid

# Where a state holds a branch: a probe's frozen encoder, pre-training, fine-tuning; the moving average first.
HOLDERS = {
    "video": (("frozen",), ("ema", "video"), ("ema",), ("params", "video"), ("params",)),
    "image": (("ema", "image"), ("params", "image")),
}
PARTS = ("encoder", "decoder", "norm", "head")


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


def has_branch(path, branch: str) -> bool:
    """Whether the checkpoint of a workdir holds a branch. Raises: WorkdirError, see `read_workdir`; or it is damaged."""
    workdir, handler = read_workdir(path), ocp.PyTreeCheckpointHandler()
    try:
        _find(workdir, handler.metadata(epath.Path(workdir.checkpoint / "state")).tree, branch)
    except WorkdirError:
        return False
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(workdir, error) from error
    finally:
        handler.close()
    return True


def _damaged(workdir: Workdir, error: Exception) -> WorkdirError:
    return WorkdirError(
        f"checkpoint {workdir.checkpoint} is damaged ({str(error).partition(chr(10))[0]:.200}): give another step"
    )


def load_workdir(path, branch: str = "video", step: int | None = None) -> Pretrained:
    """The weights of a run of ours: an autoencoder after pre-training, a classifier after fine-tuning, else an encoder.

    The moving average is taken where there is one; nothing else is read.

    Args:
      path: see `read_workdir`.
      branch: `video` or `image`.
      step: see `read_workdir`.

    Raises:
      WorkdirError: see `read_workdir`; or the checkpoint is damaged or holds no such branch.
      WeightsError: the checkpoint is not of the model that the workdir's config describes; all that differs is listed.
    """
    workdir = read_workdir(path, step)
    holder, params = read_branch(workdir, branch)
    try:
        model = _describe(workdir, branch, holder, params)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{workdir.folder / 'config.json'} does not describe the {branch} branch: {error}") from error
    problems = differences(params, model.template())
    if problems:
        raise WeightsError(model.name, problems)
    return model


def _describe(workdir: Workdir, branch: str, holder: tuple[str, ...], params: dict) -> Pretrained:
    """The modules of a branch, but for what changes no parameter's meaning (dtype, attention, drop path)."""
    config = ml_collections.ConfigDict(workdir.config | {"attention": "auto", "dtype": "float32", "remat": "none", "scan": False})
    fields = config[f"{branch}_branch"]
    encoder = build_encoder(config, fields, video_grid(config) if branch == "video" else image_grid(config))
    # Where a classifier's norm takes the place of the last norm there is none, whatever the config says.
    encoder = encoder.clone(final_norm=fields.final_norm and "norm" in params["encoder"])
    head = None
    if "head" in params:
        head = Head(params["head"]["kernel"].shape[-1], config.head.pool, config.head.eps, _class_names(workdir))
    return Pretrained(
        f"{workdir.checkpoint}{' (moving average)' if holder[0] == 'ema' else ''}",
        encoder,
        params,
        decoder_spec(config, fields) if "decoder" in params else None,
        head,
        fields.target_norm if "decoder" in params else "",
        {name: tuple(config.augment[name]) for name in ("mean", "std")},
    )


def _class_names(workdir: Workdir) -> tuple[str, ...]:
    """What fine-tuning wrote beside its predictions; nothing before it has ended."""
    file = workdir.folder / "predictions.npz"
    if not file.is_file():
        return ()
    with np.load(file, allow_pickle=False) as found:
        return tuple(map(str, found["class_names"]))


def read_branch(workdir: Workdir, branch: str) -> tuple[tuple[str, ...], dict]:
    """Where a checkpoint holds a branch, and its arrays, numpy in nested dicts under `PARTS`.

    Shapes are those of the checkpoint: whoever fills a model compares them.

    Raises:
      WorkdirError: the checkpoint is damaged or holds no such branch.
    """
    state = epath.Path(workdir.checkpoint / "state")
    handler = ocp.PyTreeCheckpointHandler()
    try:
        tree = handler.metadata(state).tree
        holder = _find(workdir, tree, branch)
        item = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _at(tree, holder))
        if holder == ("frozen",):
            item = {"encoder": item}
        item = {part: item[part] for part in PARTS if part in item}
        nested = item["encoder"] if holder == ("frozen",) else item
        for key in reversed(holder):
            nested = {key: nested}
        restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), nested)
        args = ocp.args.PyTreeRestore(item=nested, restore_args=restore, partial_restore=True)
        found = _at(handler.restore(state, args=args), holder)
        return holder, {"encoder": found} if holder == ("frozen",) else found
    except WorkdirError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(workdir, error) from error
    finally:
        handler.close()


def _at(tree, keys):
    """What lies at a path of nested dicts, None where nothing does."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _find(workdir: Workdir, tree, branch: str) -> tuple[str, ...]:
    """The path of a branch in a checkpoint of this structure."""
    for holder in HOLDERS[branch]:
        if _at(tree, holder if holder == ("frozen",) else (*holder, "encoder")):
            return holder
    there = ", ".join(tree.get("params") or tree)
    raise WorkdirError(
        f"checkpoint {workdir.checkpoint} holds no {branch} encoder, only {there}: give the workdir of a run that has one"
    )
