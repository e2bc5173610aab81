"""Reads a file of someone else's weights, by the key map of its kind, into our terms."""

import os
import pathlib

from cvmae.interop.arrays import find_file, non_finite, read_arrays
from cvmae.interop.convert import to_ours
from cvmae.interop.describe import Hints, describe
from cvmae.interop.hf_folder import read_config, read_pixels
from cvmae.interop.kinds import find_key_map
from cvmae.interop.pretrained import Pretrained, WeightsError, differences


def read_file(path, kind: str = "auto", hints: Hints = Hints()) -> Pretrained:
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
        about = describe(key_map, arrays, found, said, hints)
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
