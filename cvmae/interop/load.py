"""The one way in: weights from a file, a folder, a hub id, a workdir or an export of ours, as `Pretrained`."""

import os
import pathlib

from cvmae.interop import hub
from cvmae.interop.arrays import find_file, non_finite, read_arrays
from cvmae.interop.convert import to_ours
from cvmae.interop.huggingface import read_config, read_pixels
from cvmae.interop.infer_modules import ModelHints, infer_modules
from cvmae.interop.key_maps import KINDS, OURS, find_key_map
from cvmae.interop.native import is_archive, read_archive
from cvmae.interop.own_checkpoint import is_workdir, load_workdir
from cvmae.interop.preprocessing import preprocessing_of
from cvmae.interop.pretrained import Pretrained, WeightsError, differences


def read(
    path, kind: str = "auto", *, branch: str = "video", step: int | None = None, hints: ModelHints = ModelHints()
) -> Pretrained:
    """Weights from anywhere.

    Args:
      path: a file (.safetensors, .npz, .pth), a folder that holds one, a hub id `owner/name` or `owner/name@revision`, a
        workdir of ours (WORKDIR, or WORKDIR/checkpoints/STEP), or what `python -m cvmae.interop` wrote.
      kind: one of `kinds.KINDS`; `auto` tells it from what is there.
      branch: `video` or `image`, of a workdir.
      step: of a workdir's checkpoint; None takes the newest complete one.
      hints: what a file may leave open.

    Raises:
      FileNotFoundError: there is nothing, or the hub cannot be reached and nothing is cached.
      WeightsError, WorkdirError: what is there is damaged or does not fit; all problems are listed.
      ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"weights kind is {kind!r}; expected one of {', '.join(KINDS)}")
    path = os.path.expanduser(os.fspath(path))
    local = hub.fetch(path) if hub.is_hub_id(path) else path
    ours = is_archive(local) or is_workdir(local)
    if ours != (kind == OURS) and kind != "auto" and os.path.exists(local):
        what = "weights of ours" if ours else "no workdir and no export of ours"
        raise WeightsError(path, [f"it is {what}, which kind {kind!r} is not"])
    if is_archive(local):
        return read_archive(local)
    return load_workdir(local, branch, step) if is_workdir(local) else read_file(local, kind, hints)


def load(
    path, part: str = "", kind: str = "auto", *, branch: str = "video", step: int | None = None, hints: ModelHints = ModelHints()
):
    """A module, its parameters, and what makes clips for it, ready to use.

        module, params, preprocessing = cvmae.load("WORKDIR")
        tokens = module.apply({"params": params}, preprocessing(frames)).tokens

    Args:
      part: `encoder`, `autoencoder` or `classifier`; empty takes the classifier where there is a head, else the encoder.
      path, kind, branch, step, hints: see `read`.

    Returns:
      (a Flax module, its parameters as numpy arrays, a `preprocessing.Preprocessing`).

    Raises:
      ValueError: there is no such part; else see `read`.
    """
    found = read(path, kind, branch=branch, step=step, hints=hints)
    module, params = found.take(part)
    return module, params, preprocessing_of(found)


def read_file(path, kind: str = "auto", hints: ModelHints = ModelHints()) -> Pretrained:
    """The weights in a file, or in a folder that holds one.

    Args:
      path: see `arrays.find_file`.
      kind: one of `kinds.KINDS`.
      hints: what neither arrays nor config.json show.

    Raises:
      WeightsError: the file is damaged, or of another kind; keys are left over or missing, shapes differ, values are not
        finite. All are listed.
      FileNotFoundError: there is none.
    """
    file = find_file(path)
    arrays = read_arrays(file)
    key_map = find_key_map(kind, arrays, file)
    name, folder = f"{os.fspath(file)} (as {key_map.kind}, {key_map.layout})", pathlib.Path(file).parent
    found = to_ours(arrays, key_map)
    found.problems += non_finite(arrays)
    left = [path for path in found.arrays if path.startswith("decoder/") and not hints.decoder]
    for path in left:
        del found.arrays[path], found.sources[path]
    said = read_config(folder, key_map.kind) if key_map.kind.startswith("hf-") else {}
    try:
        about = infer_modules(key_map, arrays, found, said, hints)
    except WeightsError as error:
        raise WeightsError(name, list(dict.fromkeys([*found.problems, *error.problems]))) from error
    notes = about.notes + (("the file's decoder is left out",) if left else ())
    if key_map.kind.startswith("hf-") and not said:
        notes = (
            *notes,
            "no config.json beside it: attention heads, eps and grid are taken to be those of transformers' defaults",
        )
    if found.casts:
        notes = (*notes, f"weights of {', '.join(sorted(found.casts))} are cast to float32")
    pixels = read_pixels(folder) if key_map.kind.startswith("hf-") else key_map.pixels
    target_norm = said.get("target_norm", key_map.target_norm)
    model = Pretrained(
        name, about.encoder, found.tree, about.decoder, about.head, target_norm, pixels, notes, found.ignored, found.sources
    )
    problems = found.problems + differences(model.params, model.template(), found.sources)
    if problems:
        raise WeightsError(name, problems)
    return model
