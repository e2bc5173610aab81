"""Cooldown of pre-training: a run that continues from a checkpoint of another, with other frames, size or mask ratio."""

import math
import os

import jax
import ml_collections
import optax

from cvmae.config import ConfigError, config_errors, require, steps
from cvmae.interop.adapt import adapt_branch, match_template
from cvmae.interop.own_checkpoint import describe_branch, read_state_arrays, read_tree
from cvmae.interop.pretrained import vit_of
from cvmae.interop.saved_run import SavedRun, read_workdir, split_path
from cvmae.models.crossvideo import CrossVideo
from cvmae.parallel import processes
from cvmae.storage.client import raise_of_store
from cvmae.tasks.schema import OF_RUN
from cvmae.training.optimizer import path_of, resolve_schedule
from cvmae.training.train_state import TrainState
from cvmae.workdir.saved_steps import read_position

FIELD = "cooldown.init_from"
SHARE = 20  # the run is this many times as long as its cooldown; V-JEPA 2 cools 240k steps down in 12k


def keep_cooldown(config, recorded: dict):
    """Returns the config with the step, and with the fields of OF_RUN, that its workdir was begun with.

    The newest checkpoint of a run that is still going on changes; that of a cooldown of it does not.

    Args:
      config: with config.cooldown.init_from.
      recorded: config.json of the workdir; empty before its first start.
    """
    start = (recorded.get("cooldown") or {}).get("init_from")
    if not start:
        return config
    (folder, step), (old_folder, _) = split_path(os.path.expanduser(config.cooldown.init_from)), split_path(start)
    if step is not None or folder != old_folder:
        return config
    recorded = ml_collections.ConfigDict(recorded)
    values = {name: _get(recorded, name) for name in OF_RUN if _get(config, name) is None}
    return _with(config, values | {FIELD: start})


def fill_cooldown(config):
    """Resolves config.cooldown.init_from to a step of the run, and sets the fields of OF_RUN that are None to what follows from it.

    The total is a twentieth of the run's, the learning rate begins at that of the run at its step (per clip of a batch), and the seed
    is another, so that batches, views and masks are.

    Returns:
      (a locked copy of the config, or the config itself if nothing was open; notes for the user).

    Raises:
      ConfigError: there is no such run, it is not of pre-training, or its learning rate is 0 there.
    """
    path = config.cooldown.init_from
    unset = [name for name in OF_RUN if _get(config, name) is None]
    require(
        bool(path.strip()) or not (path or unset),
        f"config.{FIELD} is empty: phase=cooldown continues a run; give its --workdir, or WORKDIR/checkpoints/STEP; "
        f"without one, config.{' and config.'.join(unset)} cannot be None",
    )
    if not path or (not unset and split_path(path)[1] is not None):
        return config, []
    # One process looks, since the run may save a newer step meanwhile, and all hear of it.
    values, notes, problem = processes.allgather_json(_resolve(path) if processes.is_main_process() else [{}, [], ""])[0]
    if problem:
        raise ConfigError(problem)
    rate = values["optimizer.base_lr"]
    require(
        rate > 0 or "optimizer.base_lr" not in unset,
        f"config.{FIELD}: the learning rate of {values[FIELD]} is 0 there, so nothing is left to cool down: give an earlier step of a "
        "run with optimizer.schedule=constant or wsd, or --config.optimizer.base_lr",
    )
    values = {name: value for name, value in values.items() if name in unset or name == FIELD}
    taken = ", ".join(f"{name}={value}" for name, value in values.items() if name != FIELD)
    return _with(config, values), [f"continues from {values[FIELD]}{f' with {taken}' if taken else ''}", *notes]


def _resolve(path: str) -> tuple[dict, list[str], str]:
    """Returns values of FIELD and OF_RUN, notes, and why there is no such run, which is empty where there is."""
    try:
        run = _read(path)
        config, position = ml_collections.ConfigDict(run.config), read_position(run.checkpoint)
        epoch = position["clips"] / config.batch_size
        total = steps(config.total, "total", steps_per_epoch=epoch)
        rate = float(resolve_schedule(config, total, epoch)(run.step)) / config.batch_size * 256
    except ConfigError as error:
        return {}, [], str(error)
    except (AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise_of_store(error)
        return {}, [], f"config.{FIELD}={path!r}: its config.json or position cannot be read ({error}): give another run"
    # Seven digits are those of the schedule, which computes in float32.
    values = {FIELD: str(run.checkpoint), "total": f"{max(1, math.ceil(total / SHARE))}_steps", "seed": config.seed + 1}
    values |= {"optimizer.base_lr": float(f"{rate:.7g}"), "optimizer.ema_decay": float(config.optimizer.get("ema_decay", 0.0))}
    return values, list(run.notes), ""


def _read(path: str) -> SavedRun:
    """Finds the run and its step. Raises: ConfigError, it is missing, or not of pre-training."""
    with config_errors(FIELD):
        run = read_workdir(os.path.expanduser(path))
    task = run.config.get("task") if isinstance(run.config, dict) else None
    require(task == "pretrain", f"config.{FIELD}={path!r} is the workdir of task={task}: give that of a run of pre-training")
    return run


def continue_run(state: TrainState, path: str, config, model: CrossVideo) -> TrainState:
    """Returns a new state with the parameters, the moving average and the optimizer's state of a run; steps count from 0.

    Parameters are adapted as those of `init_from` are: learned positions are interpolated to another grid. Moments are taken where
    their shapes are equal, and the count that corrects their bias with them; those of interpolated positions start at zero.

    Args:
      state: before the first step, on the mesh.
      path: WORKDIR/checkpoints/STEP of a run of pre-training.
      config: of this run.
      model: of this run.

    Raises:
      ConfigError: the run is not there, is damaged, or has another model; the message lists the flags or arrays.
    """
    run = _read(path)
    with config_errors(FIELD):
        tree = read_tree(run)
        wanted = ("params", "opt_state") if state.ema is None else ("params", "ema", "opt_state")
        names = [name for name in wanted if tree.get(name)]
        saved = read_state_arrays(run, {name: tree[name] for name in names})
        params, notes = _adapt(run, "params", saved["params"], config, model, state.params)
        if tree.get("ema") and state.ema is None:
            notes.append(f"left out: the moving average of {run.checkpoint}, as config.optimizer.ema_decay is 0")
        average = None
        if state.ema is not None:
            average = params if "ema" not in saved else _adapt(run, "ema", saved["ema"], config, model, state.ema)[0]
    opt_state, fresh = _carry(state.opt_state, saved["opt_state"])
    if fresh:
        notes.append(f"moments of {len(fresh)} arrays of other shapes start at zero: {', '.join(fresh)}")
    processes.log_once(*notes)
    ema = None if average is None else _put(average, state.ema)
    return state.replace(params=_put(params, state.params), ema=ema, opt_state=opt_state)


def _adapt(run: SavedRun, holder: str, saved: dict, config, model: CrossVideo, template) -> tuple[dict, list[str]]:
    """Returns the parameters of a run in the shapes of `template`, and notes."""
    params, notes = {}, []
    for name, value in saved.items():
        branch = getattr(model, name, None) if name in ("video", "image") else None
        if name not in template:
            notes.append(f"left out: {name} of {run.checkpoint}, which no term of this run's loss needs")
        elif branch is None:
            params[name] = value
        else:
            source = describe_branch(run, name, (holder, name), value)
            decoder = None if branch.decoder is None else branch.decoder.spec
            vit = vit_of(branch.encoder, f"config.{name}_branch")
            params[name], lines = adapt_branch(source, vit, decoder if source.decoder else None, name, config)
            notes += lines
    return match_template(params, template, str(run.checkpoint)), notes


def _carry(new, saved) -> tuple[optax.OptState, list[str]]:
    """Returns the optimizer's state with the saved arrays of the same path and shape, and the paths of moments without one."""
    arrays = {path_of(keys): array for keys, array in jax.tree_util.tree_leaves_with_path(saved)}
    fresh = []

    def carry(keys, leaf):
        path = path_of(keys)
        if path in arrays and arrays[path].shape == leaf.shape:
            return jax.device_put(arrays[path].astype(leaf.dtype), leaf.sharding)
        if "/mu/" in path:
            fresh.append(path.partition("/mu/")[2])
        return leaf

    carried = jax.tree_util.tree_map_with_path(carry, new)

    def is_schedule(node) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    # The schedule is this run's own, from its step 0 on.
    return jax.tree.map(lambda a, b: a if is_schedule(a) else b, new, carried, is_leaf=is_schedule), fresh


def _put(arrays, like):
    return jax.tree.map(lambda array, leaf: jax.device_put(array, leaf.sharding), arrays, like)


def _get(config, name: str):
    """Returns the value of a dotted field."""
    for part in name.split("."):
        config = config[part]
    return config


def _with(config, values: dict):
    """Returns a locked copy of a config with other values of dotted fields."""
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.update_from_flattened_dict(values)
    return config.lock()
