"""Reads weights from a workdir of this package: its config, and one branch of its newest complete checkpoint."""

import dataclasses
import json
import pathlib

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cvmae.interop.pretrained import FrameSampling, Head, Pretrained, WeightsError, differences
from cvmae.models.build import build_encoder, decoder_spec, image_grid, video_grid
from cvmae.workdir import CHECKPOINTS, CONFIG, PREDICTIONS, checksums
from cvmae.workdir.saved_steps import find_damage, is_step, read_position, saved_steps, try_reading

# The places of a branch in a state: a probe's frozen encoder, pre-training, fine-tuning; the moving average first.
HOLDERS = {
    "video": (("frozen",), ("ema", "video"), ("ema",), ("params", "video"), ("params",)),
    "image": (("ema", "image"), ("params", "image")),
}
PARTS = ("encoder", "decoder", "norm", "head")


class WorkdirError(ValueError):
    """A workdir that cannot be read; the message is one line that names the folder and what to give."""


class DamagedWorkdirError(WorkdirError):
    """A checkpoint whose files are damaged; the message names it and what to give.

    Attributes:
      why: the damage.
    """

    def __init__(self, checkpoint: pathlib.Path, why: str):
        super().__init__(f"checkpoint {checkpoint} is damaged ({why}): give another step")
        self.why = why


@dataclasses.dataclass(frozen=True)
class SavedRun:
    """A complete checkpoint and the config of its run.

    Attributes:
      folder: the workdir.
      config: its config.json.
      step: the checkpoint's.
      older: complete steps before it, the newest first, to take where its values are damaged; none where a step was named.
      notes: newer checkpoints that are damaged, one a line.
    """

    folder: pathlib.Path
    config: dict
    step: int
    older: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def checkpoint(self) -> pathlib.Path:
        return self.folder / CHECKPOINTS / str(self.step)


def _split(path) -> tuple[pathlib.Path, int | None]:
    """Returns the workdir of WORKDIR, WORKDIR/checkpoints or WORKDIR/checkpoints/STEP, and the step."""
    path = pathlib.Path(path).absolute()
    if is_step(path.name) and path.parent.name == CHECKPOINTS:
        return path.parent.parent, int(path.name)
    return (path.parent if path.name == CHECKPOINTS else path), None


def is_workdir(path) -> bool:
    """Returns True if `path` is, or lies in, a folder that holds checkpoints of this package."""
    return (_split(path)[0] / CHECKPOINTS).is_dir()


def read_workdir(path, step: int | None = None) -> SavedRun:
    """Reads the config of a workdir, and finds the checkpoint to read.

    Args:
      path: WORKDIR, or WORKDIR/checkpoints/STEP.
      step: None takes the path's, or the newest complete one, as a run that resumes does.

    Raises:
      WorkdirError: there is no config, no complete checkpoint, or none of that step.
    """
    folder, in_path = _split(path)
    step = in_path if step is None else step
    file = folder / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        why = f"{folder} is no workdir, it holds no readable config.json ({error.strerror})"
        raise WorkdirError(f"{why}: give a folder that was the --workdir of a run") from error
    except ValueError as error:
        raise WorkdirError(f"{file} is not JSON ({error}): give a folder that was the --workdir of a run") from error
    checkpoints = folder / CHECKPOINTS
    damage = {number: find_damage(checkpoints / str(number)) for number in reversed(saved_steps(checkpoints))}
    steps = [number for number, why in damage.items() if not why]
    why = f" ({'; '.join(f'{number}: {text}' for number, text in damage.items())})" if damage else ""
    if not steps:
        raise WorkdirError(f"{checkpoints} holds no complete checkpoint{why}: let the run save one, or give another workdir")
    if step is None:
        notes = tuple(_damage_note(folder, number, text) for number, text in damage.items() if text and number > steps[0])
        return SavedRun(folder, config, steps[0], tuple(steps[1:]), notes)
    if step not in steps:
        why = f" ({damage[step]})" if damage.get(step) else ""
        known = ", ".join(map(str, sorted(steps)))
        raise WorkdirError(f"{folder} has no complete checkpoint of step {step}{why}: take one of {known}")
    return SavedRun(folder, config, step)


def _damage_note(folder: pathlib.Path, step: int, why: str) -> str:
    return f"checkpoint {folder / CHECKPOINTS / str(step)} is damaged ({why}): an older step is taken"


def has_branch(path, branch: str) -> bool:
    """Returns True if the checkpoint of a workdir holds a branch. Raises: WorkdirError, see `read_workdir`; or it is damaged."""
    run = read_workdir(path)
    tree = _read_tree(run)
    try:
        _find(run, tree, branch)
    except WorkdirError:
        return False
    return True


def _read_tree(run: SavedRun):
    """Returns the tree of the shapes of a checkpoint. Raises: DamagedWorkdirError."""
    handler = ocp.PyTreeCheckpointHandler()
    tree, why = try_reading(lambda: handler.metadata(epath.Path(run.checkpoint / "state")).tree, run.checkpoint)
    handler.close()
    if why or not isinstance(tree, dict):
        raise DamagedWorkdirError(run.checkpoint, why or "it holds no tree of arrays")
    return tree


def load_workdir(path, branch: str = "video", step: int | None = None) -> Pretrained:
    """Reads the weights of a run: an autoencoder after pre-training, a classifier after fine-tuning, else an encoder.

    The moving average is taken if there is one; nothing else is read.

    Args:
      path: see `read_workdir`.
      branch: `video` or `image`.
      step: see `read_workdir`.

    Raises:
      WorkdirError: see `read_workdir`; or the checkpoint is damaged or holds no such branch.
      WeightsError: the checkpoint does not hold the model that the workdir's config describes; all differences are listed.
    """
    run, holder, params = _read_newest(read_workdir(path, step), branch)
    try:
        model = _describe(run, branch, holder, params)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{run.folder / CONFIG} does not describe the {branch} branch: {error}") from error
    problems = differences(params, model.template())
    if problems:
        raise WeightsError(model.name, problems)
    return model


def _describe(run: SavedRun, branch: str, holder: tuple[str, ...], params: dict) -> Pretrained:
    """Returns the modules of a branch; settings that change no parameter's meaning (dtype, attention, drop path) are defaults."""
    config = ml_collections.ConfigDict(run.config | {"attention": "auto", "dtype": "float32", "remat": "none", "scan": False})
    fields = config[f"{branch}_branch"]
    encoder = build_encoder(config, fields, video_grid(config) if branch == "video" else image_grid(config))
    # A classifier's norm takes the place of the last norm, whatever the config says.
    encoder = encoder.clone(final_norm=fields.final_norm and "norm" in params["encoder"])
    head = None
    if "head" in params:
        fields_of_head = config.head.pool, config.head.eps, _class_names(run), config.head.get("loss", "softmax")
        head = Head(params["head"]["kernel"].shape[-1], *fields_of_head)
    return Pretrained(
        f"{run.checkpoint}{' (moving average)' if holder[0] == 'ema' else ''}",
        encoder,
        params,
        decoder_spec(config, fields) if "decoder" in params else None,
        head,
        fields.target_norm if "decoder" in params else "",
        {name: tuple(config.augment[name]) for name in ("mean", "std")},
        run.notes,
        sampling=_sampling(run.config.get("data", {})),
    )


def _sampling(data: dict) -> FrameSampling | None:
    """Returns the sampling that the section `data` of a config records, None without a stride."""
    if "stride" not in data:
        return None
    # Runs of before the fields ignored frame rates, and took pixels as square.
    return FrameSampling(data["stride"], float(data.get("fps", 0.0)), data.get("square_pixels", False))


def _class_names(run: SavedRun) -> tuple[str, ...]:
    """Returns the names that fine-tuning wrote beside its predictions; none before it has ended."""
    file = run.folder / PREDICTIONS
    if not file.is_file():
        return ()
    with np.load(file, allow_pickle=False) as arrays:
        return tuple(map(str, arrays["class_names"]))


def _read_newest(run: SavedRun, branch: str) -> tuple[SavedRun, tuple[str, ...], dict]:
    """Reads a branch by `read_branch`, of an older step where the values of the newest are damaged and no step was named."""
    try:
        return run, *read_branch(run, branch)
    except DamagedWorkdirError as error:
        if not run.older:
            raise
        notes = (*run.notes, _damage_note(run.folder, run.step, error.why))
        older = dataclasses.replace(run, step=run.older[0], older=run.older[1:], notes=notes)
        return _read_newest(older, branch)


def read_branch(run: SavedRun, branch: str) -> tuple[tuple[str, ...], dict]:
    """Returns the place of a branch in a checkpoint, and its arrays, numpy in nested dicts under `PARTS`.

    Shapes are those of the checkpoint, not compared with any model's.

    Raises:
      WorkdirError: the checkpoint is damaged or holds no such branch.
    """
    tree = _read_tree(run)
    holder = _find(run, tree, branch)
    item = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), _at(tree, holder))
    if holder == ("frozen",):
        item = {"encoder": item}
    item = {part: item[part] for part in PARTS if part in item}
    nested = item["encoder"] if holder == ("frozen",) else item
    for key in reversed(holder):
        nested = {key: nested}
    restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), nested)
    args = ocp.args.PyTreeRestore(item=nested, restore_args=restore, partial_restore=True)
    handler = ocp.PyTreeCheckpointHandler()
    read, why = try_reading(lambda: handler.restore(epath.Path(run.checkpoint / "state"), args=args), run.checkpoint)
    handler.close()
    if not why:
        sums, why = checksums.read(run.checkpoint, read_position(run.checkpoint))
    if why := why or checksums.find_difference(read, sums):
        raise DamagedWorkdirError(run.checkpoint, why)
    arrays = _at(read, holder)
    return holder, {"encoder": arrays} if holder == ("frozen",) else arrays


def _at(tree, keys):
    """Returns the value at a path of nested dicts, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _find(run: SavedRun, tree, branch: str) -> tuple[str, ...]:
    """Returns the path of a branch in a checkpoint of this structure."""
    for holder in HOLDERS[branch]:
        if _at(tree, holder if holder == ("frozen",) else (*holder, "encoder")):
            return holder
    names = ", ".join(tree.get("params") or tree)
    raise WorkdirError(
        f"checkpoint {run.checkpoint} holds no {branch} encoder, only {names}: give the workdir of a run that has one"
    )
