"""Reads weights from a workdir of this package: one branch of a checkpoint, as the model that the run's config describes."""

import dataclasses

import jax
import ml_collections
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from cvmae.interop.arrays import read_arrays
from cvmae.interop.pretrained import FrameSampling, Head, Origin, Pretrained, WeightsError, differences
from cvmae.interop.saved_run import DamagedWorkdirError, SavedRun, WorkdirError, read_workdir
from cvmae.models.autoencoder import without_latent_head
from cvmae.models.build import build_encoder, decoder_spec, image_grid, video_grid
from cvmae.models.trained_part import join, merge_lora
from cvmae.workdir import CHECKPOINTS, CONFIG, PREDICTIONS, checksums
from cvmae.workdir.saved_steps import read_position, try_reading

# The places of a branch in a state: a probe's frozen encoder, pre-training, fine-tuning; the moving average first.
HOLDERS = {
    "video": (("frozen",), ("ema", "video"), ("ema",), ("params", "video"), ("params",)),
    "image": (("ema", "image"), ("params", "image")),
}
PARTS = ("encoder", "decoder", "norm", "pooler", "head")


def has_branch(path, branch: str) -> bool:
    """Returns True if the checkpoint of a workdir holds a branch. Raises: WorkdirError, see `read_workdir`; or it is damaged."""
    run = read_workdir(path)
    tree = read_tree(run)
    try:
        _find(run, tree, branch)
    except WorkdirError:
        return False
    return True


def read_tree(run: SavedRun):
    """Returns the tree of the shapes and dtypes of a checkpoint. Raises: DamagedWorkdirError."""
    handler = ocp.PyTreeCheckpointHandler()
    tree, why = try_reading(lambda: handler.metadata(epath.Path(run.local) / "state").tree, run.checkpoint, "state")
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
    params, left_out = without_latent_head(params)
    try:
        model = dataclasses.replace(describe_branch(run, branch, holder, params), ignored=left_out)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WorkdirError(f"{run.folder / CONFIG} does not describe the {branch} branch: {error}") from error
    problems = differences(params, model.template())
    if problems:
        raise WeightsError(model.name, problems)
    return model


def describe_branch(run: SavedRun, branch: str, holder: tuple[str, ...], params: dict) -> Pretrained:
    """Returns a branch of a run with its modules; settings that change no parameter's meaning (dtype, attention, drop path) are defaults."""
    config = ml_collections.ConfigDict(run.config | {"attention": "auto", "dtype": "float32", "remat": "none", "scan": False})
    fields = config[f"{branch}_branch"]
    encoder = build_encoder(config, fields, video_grid(config) if branch == "video" else image_grid(config))
    # A classifier's norm takes the place of the last norm, whatever the config says.
    encoder = encoder.clone(final_norm=fields.final_norm and "norm" in params["encoder"])
    head: Head | None = None
    name_notes: tuple[str, ...] = ()
    if "head" in params:
        c = config.head  # of before some fields, which it lacks
        names, name_notes = _class_names(run)
        pooler = (c.get("blocks", 0), c.get("heads", 0)) if c.pool == "attentive" else ()
        head = Head(params["head"]["kernel"].shape[-1], c.pool, c.eps, names, c.get("loss", "softmax"), *pooler)
    return Pretrained(
        f"{run.checkpoint}{' (moving average)' if holder[0] == 'ema' else ''}",
        encoder,
        params,
        decoder_spec(config, fields) if "decoder" in params else None,
        head,
        fields.target_norm if "decoder" in params else "",
        {name: tuple(config.augment[name]) for name in ("mean", "std")},
        run.notes + name_notes,
        sampling=_sampling(run.config.get("data", {})),
        origin=Origin("", run.checkpoint, branch, averaged=holder[0] == "ema"),
    )


def _sampling(data: dict) -> FrameSampling | None:
    """Returns the sampling that the section `data` of a config records, None without a stride."""
    if "stride" not in data:
        return None
    # Runs of before the fields ignored frame rates, and took pixels as square.
    return FrameSampling(data["stride"], float(data.get("fps", 0.0)), data.get("square_pixels", False))


def _class_names(run: SavedRun) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names that fine-tuning wrote beside its predictions, none before it has ended; and a note if they cannot be read."""
    file = run.local.parent.parent / PREDICTIONS
    if not file.is_file():
        return (), ()
    try:
        return tuple(map(str, read_arrays(file)["class_names"])), ()
    except (WeightsError, KeyError) as error:
        why = error.problems[0] if isinstance(error, WeightsError) else "it has no class_names"
        return (), (f"{file}: {why}: the names of the classes are left out",)


def _read_newest(run: SavedRun, branch: str) -> tuple[SavedRun, tuple[str, ...], dict]:
    """Reads a branch by `read_branch`, of an older step where the values of the newest are damaged and no step was named."""
    try:
        return run, *read_branch(run, branch)
    except DamagedWorkdirError as error:
        damaged = {**run.damaged, run.step: error.why}
        if not run.older and len(damaged) == 1:
            raise
        if not run.older:
            reasons = "; ".join(f"{step} ({why})" for step, why in damaged.items())
            raise WorkdirError(
                f"{run.folder / CHECKPOINTS} holds no whole checkpoint: {reasons}: bring back what is missing, or give another workdir"
            ) from error
        older = dataclasses.replace(run, step=run.older[0], older=run.older[1:], damaged=damaged)
        return _read_newest(older, branch)


def read_branch(run: SavedRun, branch: str) -> tuple[tuple[str, ...], dict]:
    """Returns the place of a branch in a checkpoint, and its arrays, numpy in nested dicts under `PARTS`.

    The arrays of a fine-tuned part of a model come with the frozen ones, its updates (LoRA) merged. Shapes are those of the
    checkpoint, not compared with any model's.

    Raises:
      WorkdirError: the checkpoint is damaged or holds no such branch.
    """
    tree = read_tree(run)
    holder = _find(run, tree, branch)
    if holder == ("frozen",):
        return holder, {"encoder": read_state_arrays(run, {"frozen": tree["frozen"]})["frozen"]}
    nested = {part: value for part, value in _at(tree, holder).items() if part in PARTS}
    for key in reversed(holder):
        nested = {key: nested}
    rest = tree["frozen"] if _at(tree, ("frozen", "encoder")) else None
    read = read_state_arrays(run, nested if rest is None else nested | {"frozen": rest})
    arrays = _at(read, holder)
    return holder, arrays if rest is None else _whole(run, arrays, read["frozen"])


def _whole(run: SavedRun, trained: dict, frozen: dict) -> dict:
    """Returns the arrays of a classifier of whose encoder a part was trained."""
    try:
        alpha = float(run.config["finetune"]["lora_alpha"])
    except (KeyError, TypeError, ValueError) as error:
        raise WorkdirError(
            f"{run.folder / CONFIG} has no number finetune.lora_alpha: give a workdir with its own config"
        ) from error
    return merge_lora(join(trained, frozen), alpha)


def read_state_arrays(run: SavedRun, tree: dict) -> dict:
    """Returns arrays of a checkpoint, numpy, for the leaves of `tree`, a part of the state with shapes and dtypes.

    Raises:
      DamagedWorkdirError: they cannot be read, or their checksums differ.
    """
    nested = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)
    restore = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), nested)
    args = ocp.args.PyTreeRestore(item=nested, restore_args=restore, partial_restore=True)
    handler = ocp.PyTreeCheckpointHandler()
    read, why = try_reading(lambda: handler.restore(epath.Path(run.local) / "state", args=args), run.checkpoint, "state")
    handler.close()
    if not why:
        sums, why = checksums.read(run.local, read_position(run.local))
    if why := why or checksums.find_difference(read, sums):
        raise DamagedWorkdirError(run.checkpoint, why)
    return read


def _at(tree, keys):
    """Returns the value at a path of nested dicts, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _find(run: SavedRun, tree, branch: str) -> tuple[str, ...]:
    """Returns the path of a branch in a checkpoint of this structure."""
    for holder in HOLDERS[branch]:
        # What is frozen in fine-tuning has the parts of a classifier, in pre-training the teacher, under a probe it is the encoder itself.
        if holder == ("frozen",) and any(_at(tree, ("frozen", part)) for part in ("encoder", "teacher")):
            continue
        if _at(tree, holder if holder == ("frozen",) else (*holder, "encoder")):
            return holder
    branches = tree.get("params") or tree
    of_images = branch == "video" and "image" in branches
    example = (
        ", such as one with config.image_branch.init_from of this workdir; or take the image encoder, by config.video_branch.inflate=mean, "
        "or --branch=image of the command that exports"
        if of_images
        else ""
    )
    raise WorkdirError(
        f"checkpoint {run.checkpoint} holds no {branch} encoder, only {', '.join(branches)}: give the workdir of a run that has one"
        f"{example}"
    )
