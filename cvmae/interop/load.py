"""Reads weights from a file, a folder, a hub id, a workdir or an export of this package, as one `Pretrained`."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from cvmae.interop import hub
from cvmae.interop.arrays import all_zero, empty, find_file, non_finite, read_arrays
from cvmae.interop.convert import TABLE_TOLERANCE, Converted, cast_note, import_arrays
from cvmae.interop.file_layout import file_differences, leave_out_parts
from cvmae.interop.hints import ModelHints
from cvmae.interop.huggingface_config import class_names, read_config, read_crop, read_normalization, repeated_names
from cvmae.interop.infer_modules import InferredModules, infer_modules
from cvmae.interop.key_maps import KINDS, OWN_KIND, find_key_map, with_trained_table
from cvmae.interop.key_maps.videoprism import unstack
from cvmae.interop.keymap import KeyMap
from cvmae.interop.native import is_archive, read_archive
from cvmae.interop.own_checkpoint import load_workdir
from cvmae.interop.preprocessing import preprocessing_of
from cvmae.interop.pretrained import Normalization, Origin, Pretrained, WeightsError
from cvmae.interop.resize import as_asked, at_crop
from cvmae.interop.saved_run import is_workdir
from cvmae.interop.wrappers import unwrap
from cvmae.parallel.processes import log_once
from cvmae.storage.path import is_remote


def load(
    path, part: str = "", kind: str = "auto", *, branch: str = "video", step: int | None = None, hints: ModelHints = ModelHints()
):
    """Loads a module, its parameters, and the preprocessing of its clips, ready to use.

        module, params, preprocessing = cvmae.load("WORKDIR")
        tokens = module.apply({"params": params}, preprocessing(frames)).tokens

    The clips have the size of `hints`, else that of the frames that the image processor beside the weights makes, else that of the weights;
    lines on stderr say what became of positions of another size.

    Args:
      part: `encoder`, `autoencoder` or `classifier`; empty takes the classifier if there is a head, else the encoder.
      path, kind, branch, step, hints: see `read`.

    Returns:
      (a Flax module, its parameters as numpy arrays, a `preprocessing.Preprocessing`).

    Raises:
      ValueError: there is no such part; else see `read`.
    """
    pretrained = read_to_run(path, kind, branch=branch, step=step, hints=hints)
    module, params = pretrained.take(part)
    return module, params, preprocessing_of(pretrained)


def read_to_run(
    path, kind: str = "auto", *, branch: str = "video", step: int | None = None, hints: ModelHints = ModelHints()
) -> Pretrained:
    """Reads weights at the size that they are run at, see `load`, and logs what that changed. Args, Raises: see `read`."""
    recorded = _read_recorded(path, kind, branch, step, hints)
    pretrained = at_crop(as_asked(recorded, hints))
    log_once(*(f"note: {note}" for note in pretrained.notes[len(recorded.notes) :]))
    return pretrained


def read(
    path, kind: str = "auto", *, branch: str = "video", step: int | None = None, hints: ModelHints = ModelHints()
) -> Pretrained:
    """Reads weights of any kind.

    Args:
      path: a file (.safetensors, .npz, .pth), a folder that holds one, a hub id `owner/name` or `owner/name@revision`, a
        workdir of this package (WORKDIR, or WORKDIR/checkpoints/STEP), or an output of `python -m cvmae.interop`.
      kind: one of `key_maps.KINDS`; `auto` detects it.
      branch: `video` or `image`: the branch to take from a workdir.
      step: the checkpoint to take from a workdir; None takes the newest complete one.
      hints: settings that a file may not record, and the size to take the encoder at.

    Raises:
      FileNotFoundError: there are no such weights, or the hub cannot be reached and they are not in its cache.
      WeightsError, WorkdirError: the weights are damaged or do not fit; all problems are listed.
      ValueError: the kind is unknown. TypeError: `path` is no path.
    """
    return as_asked(_read_recorded(path, kind, branch, step, hints), hints)


def _read_recorded(path, kind: str, branch: str, step: int | None, hints: ModelHints) -> Pretrained:
    """Reads weights at the size that they record; see `read`."""
    if kind not in KINDS:
        raise ValueError(f"weights kind is {kind!r}; expected one of {', '.join(KINDS)}")
    local, origin = hub.resolve(path), Origin(hub.full_id(path))
    is_export = not is_remote(local) and is_archive(local)
    is_own = is_export or is_workdir(local)
    if is_own != (kind == OWN_KIND) and kind != "auto":
        what = "a workdir or an export of this package" if is_own else "neither a workdir nor an export of this package"
        raise WeightsError(os.fspath(path), [f"it is {what}, which kind {kind!r} does not mean: leave it at 'auto'"])
    if is_export:
        return dataclasses.replace(read_archive(local), origin=origin)
    if is_own:
        return load_workdir(local, branch, step)
    return dataclasses.replace(read_file(local, kind, hints), origin=origin)


def read_file(path, kind: str = "auto", hints: ModelHints = ModelHints()) -> Pretrained:
    """Reads the weights of a file, or of a folder that holds one.

    Args:
      path: see `arrays.find_file`.
      kind: one of `key_maps.KINDS`.
      hints: settings that neither the arrays nor config.json show.

    Raises:
      WeightsError: the file is damaged, or of another kind; keys are left over or missing, shapes differ, values are not
        finite. All are listed.
      FileNotFoundError: there is no such file.
    """
    file = find_file(path)
    of_file: list[str] = []
    arrays = unstack(read_arrays(file, of_file), os.fspath(file))
    if problems := empty(arrays):
        raise WeightsError(os.fspath(file), problems)
    unwrapped = unwrap(arrays.keys(), file)
    arrays = {key: arrays[key] for key in unwrapped.bare_keys}
    bare = {short: arrays[key] for key, short in unwrapped.bare_keys.items()}
    key_map = with_trained_table(find_key_map(kind, bare, file), bare, TABLE_TOLERANCE)
    name, folder = f"{os.fspath(file)} (as {key_map.kind}, {key_map.layout})", pathlib.Path(file).parent
    converted = import_arrays(arrays, key_map, unwrapped.bare_keys)
    converted.ignored |= unwrapped.ignored
    converted.problems += non_finite(arrays)
    notes = (
        unwrapped.notes + _encoder_alone(bare) + (() if hints.decoder else _drop_decoder(converted)) + leave_out_parts(converted)
    )
    config, normalization, crop, config_notes = _read_beside(folder, key_map)
    modules = _infer(name, key_map, arrays, converted, config, hints)
    head, grid = modules.head, modules.encoder.grid
    if head is not None:
        names, problems = class_names(config.get("id2label"), head.classes, converted.sources["head/kernel"])
        head = dataclasses.replace(head, names=names, loss=config.get("loss", "softmax"))
        converted.problems += problems
        notes += repeated_names(names)
    casts = [cast_note(converted.casts)] if converted.casts else []
    notes = (*of_file, *modules.notes, *notes, *config_notes, *casts)
    pretrained = Pretrained(
        name,
        modules.encoder,
        converted.tree,
        modules.decoder,
        head,
        config.get("target_norm", key_map.target_norm),
        normalization,
        notes,
        converted.ignored,
        converted.sources,
        config.get("sampling"),
        reconstructs=key_map.reconstructs,
        crop=None if crop == config.get("size_recorded", (grid.height, grid.width)) else crop,
    )
    template = pretrained.template()
    problems = converted.problems + file_differences(converted, template, key_map, arrays, unwrapped.bare_keys, grid)
    if problems := problems or all_zero(converted.arrays, converted.sources):
        raise WeightsError(name, problems)
    return pretrained


def _encoder_alone(bare: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns a note if all keys begin with the name of the encoder in VideoMAE's pre-trained models, which holds a decoder too."""
    if not all(key.startswith("encoder.") for key in bare):
        return ()
    return ("all keys begin with 'encoder.', as in a pre-trained VideoMAE: they are read as its encoder, without a decoder",)


def _drop_decoder(converted: Converted) -> tuple[str, ...]:
    """Removes the decoder's arrays; returns a note if there were any."""
    paths = [path for path in converted.arrays if path.startswith("decoder/")]
    for path in paths:
        del converted.arrays[path], converted.sources[path]
    return ("the file's decoder is left out",) if paths else ()


def _read_beside(folder: pathlib.Path, key_map: KeyMap) -> tuple[dict, Normalization, tuple[int, int] | None, tuple[str, ...]]:
    """Reads the files beside the weights of a transformers folder: the config's fields, the normalization, the crop, and notes."""
    if not key_map.kind.startswith("hf-"):
        return {}, key_map.normalization, None, ()
    config = read_config(folder, key_map.kind)
    missing = "no config.json beside it: attention heads, eps and grid are taken to be those of transformers' defaults"
    normalization = read_normalization(folder) or key_map.normalization
    return config, normalization, read_crop(folder), () if config else (missing,)


def _infer(
    name: str, key_map: KeyMap, arrays: Mapping[str, np.ndarray], converted: Converted, config: dict, hints: ModelHints
) -> InferredModules:
    """Calls `infer_modules`; its WeightsError is raised again with the file's name and the problems of the conversion."""
    try:
        return infer_modules(key_map, arrays, converted, config, hints)
    except WeightsError as error:
        raise WeightsError(name, list(dict.fromkeys([*converted.problems, *error.problems]))) from error
