"""Fills a video encoder with weights from a workdir of ours or from a folder of `transformers`, for downstream tasks."""

import shlex

import numpy as np
from flax import traverse_util

from cvmae.interop.hf_folder import HfFolder, read_hf_folder
from cvmae.interop.videomae import HF_VIDEOMAE_CLASSIFIER
from cvmae.interop.weights import WeightsError, convert, find_file, read_safetensors
from cvmae.interop.workdir import Workdir, is_workdir, read_workdir
from cvmae.models.classifier import Classifier
from cvmae.models.positions import Positions, interpolate_params
from cvmae.models.vit import SIZES, Encoder

# What must be the same for parameters to mean the same, by the config's field. The number and size of frames may differ.
SETTINGS = {
    "video_branch.variant": lambda encoder: (encoder.trunk.size, encoder.grid.patch),
    "video_branch.tubelet": lambda encoder: encoder.grid.tubelet,
    "video_branch.positions": lambda encoder: encoder.positions,
    "video_branch.cls_token": lambda encoder: encoder.cls_token,
    "video_branch.qkv_bias": lambda encoder: encoder.trunk.qkv_bias,
    "video_branch.eps": lambda encoder: encoder.trunk.eps,
}


def load_encoder(path, template, encoder: Encoder, config=None, step: int | None = None) -> tuple[dict, list[str]]:
    """A video encoder's parameters, for the grid of `encoder`.

    Learned positions of another grid are interpolated; fixed ones are computed for the new one, and `positions='learned'`
    takes a table of any kind, interpolated, as its start. The last norm is left out where `encoder` has none.

    Args:
      path: a workdir of ours (WORKDIR, or WORKDIR/checkpoints/STEP), after pre-training or fine-tuning, whose moving average
        is taken where there is one; or a folder or .safetensors file of transformers' VideoMAEModel, VideoMAEForPreTraining
        or VideoMAEForVideoClassification.
      template: the parameters of `encoder`; leaves need only shape and dtype.
      encoder: the encoder to fill.
      config: the config of the run to start; if given, its augment.mean and augment.std are compared too.
      step: of the checkpoint of a workdir; None takes the newest complete one.

    Returns:
      Nested dicts like the template, of numpy arrays of its dtypes, and what a user should know, one a line.

    Raises:
      ValueError: the encoder there was built otherwise; the message lists the fields as flags to copy. WorkdirError or
        WeightsError: what is there is damaged or does not fit.
      FileNotFoundError: there is nothing.
    """
    source = read_workdir(path, step) if is_workdir(path) else read_hf_folder(path, encoder)
    arrays = source.arrays()
    check_settings(source, "norm" in arrays, encoder, config)
    notes = [f"encoder from {source.name}"]
    if isinstance(source, HfFolder) and not source.described:
        notes.append("no config.json beside it: attention heads, eps and grid of its training are taken to be this config's")
    arrays["positions"], about_positions = fit_positions(arrays.get("positions", {}), source.encoder, encoder, source.name)
    if not encoder.final_norm and arrays.pop("norm", None) is not None:
        notes.append("norm left out: an encoder with final_norm=False has no last norm")
    return match(arrays, template, source.name), notes + about_positions


def load_classifier(path, template, classifier: Classifier, config=None) -> tuple[dict, list[str]]:
    """A whole classifier out of transformers' VideoMAEForVideoClassification: encoder, norm and head.

    Args, Returns, Raises: see `load_encoder`; `template` holds the parameters of `classifier`.
    """
    file = find_file(path)
    encoder, notes = load_encoder(file, template["encoder"], classifier.encoder, config)
    arrays = {k: v for k, v in read_safetensors(file).items() if k.startswith(("fc_norm.", "classifier."))}
    rest, problems = convert(arrays, HF_VIDEOMAE_CLASSIFIER, {k: v for k, v in template.items() if k != "encoder"})
    mean = any(key.startswith("fc_norm.") for key in arrays)
    if mean != (classifier.pool == "mean"):
        problems.append(f"pool is {classifier.pool!r}; the file's classifier has {'mean' if mean else 'first'!r}")
    if mean and classifier.eps != 1e-5:
        problems.append(f"eps is {classifier.eps}; transformers' fc_norm has 1e-05, whatever its config says of the other norms")
    if problems:
        raise WeightsError(f"{file} (as {HF_VIDEOMAE_CLASSIFIER.kind})", problems)
    return {"encoder": encoder} | rest, notes


def check_settings(source: Workdir | HfFolder, final_norm: bool, encoder: Encoder, config) -> None:
    """Raises ValueError, with the flags to copy, where an encoder was built otherwise than the one to fill.

    `final_norm`: whether there is one; a fine-tuned classifier that pools the mean has none, whatever its config says.
    """
    theirs = source.encoder
    there = {field: get(theirs) for field, get in SETTINGS.items() if get(theirs) != get(encoder)}
    if encoder.positions == "learned":
        there.pop("video_branch.positions", None)
    if encoder.final_norm and not final_norm:
        there["video_branch.final_norm"] = False
    if config is not None:
        here = {key: tuple(config["augment"][key]) for key in source.pixels}
        there |= {f"augment.{key}": value for key, value in source.pixels.items() if value != here[key]}
    if there:
        flags = " ".join(shlex.quote(f"--config.{field}={_text(field, value)}") for field, value in there.items())
        raise ValueError(f"the encoder in {source.name} was trained otherwise: give another one, or these flags: {flags}")


def _text(field: str, value) -> str:
    """A setting as it is written on the command line."""
    if field != "video_branch.variant":
        return str(value)
    size, patch = value
    names = [name for name, known in SIZES.items() if known == size]
    return f"{names[0] if names else f'<{size}, which no variant has>'}/{patch}"


def fit_positions(params: dict, theirs: Encoder, ours: Encoder, name: str) -> tuple[dict, list[str]]:
    """The parameters of `Positions` of one encoder for another one, and notes on what was changed."""
    old, new, notes = theirs.grid, ours.grid, []
    whole = ["x".join(map(str, grid.shape)) for grid in (old, new)]
    if ours.positions == "learned" and theirs.positions != "learned":
        module = Positions(theirs.positions, old, theirs.trunk.size.width, theirs.cls_token)
        table, cls = module.apply({"params": params})
        params = {"table": np.asarray(table)} | ({"cls": np.asarray(cls)} if ours.cls_token else {})
        notes.append(f"positions {theirs.positions} become the start of learned ones")
    if old.shape == new.shape:
        return params, notes
    if not params:
        changed = f"positions {theirs.positions} {whole[0]} -> {whole[1]} computed for the new grid, not interpolated"
        return params, [*notes, f"{changed} (--config.video_branch.positions=learned starts from the old ones, interpolated)"]
    try:
        fitted = interpolate_params(params, old, new)
    except ValueError as error:
        raise WeightsError(name, [f"positions: {error}"]) from error
    spans = {
        "time": (f"{old.slots} -> {new.slots} slots", old.slots != new.slots),
        "space": (f"{old.rows}x{old.columns} -> {new.rows}x{new.columns}", old.shape[1:] != new.shape[1:]),
        "table": (" -> ".join(whole), True),
    }
    changed = [(key, spans[key][0]) for key in params if key in spans and spans[key][1]]
    return fitted, notes + [f"positions/{key} {span} interpolated" for key, span in changed]


def match(arrays: dict, template, name: str) -> dict:
    """The arrays as the template has them, in its dtypes. Raises: WeightsError, which lists all that does not fit."""
    found = traverse_util.flatten_dict(arrays, sep="/")
    wanted = traverse_util.flatten_dict(template, sep="/")
    problems = [f"missing: nothing there for {path} {list(wanted[path].shape)}" for path in wanted if path not in found]
    problems += [f"left over: the model does not have {path} {list(found[path].shape)}" for path in found if path not in wanted]
    for path in wanted.keys() & found.keys():
        if found[path].shape != tuple(wanted[path].shape):
            problems.append(f"mis-shaped: {path} is {list(found[path].shape)}, the model has {list(wanted[path].shape)}")
    if problems:
        raise WeightsError(name, sorted(problems))
    return traverse_util.unflatten_dict({k: np.asarray(found[k], wanted[k].dtype) for k in wanted}, sep="/")
