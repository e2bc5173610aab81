"""Loads someone else's weights into an `Autoencoder`'s parameters; every key of the file is accounted for."""

import contextlib
import operator
import os
from collections.abc import Mapping

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from cvmae.interop.keymap import TRANSFORMS, KeyMap
from cvmae.interop.mae import HF_VIT_MAE
from cvmae.interop.videomae import HF_VIDEOMAE, HF_VIDEOMAE_CLASSIFIER, HF_VIDEOMAE_ENCODER
from cvmae.models.autoencoder import Autoencoder

# `auto` takes the first that fits: a classifier's file gives an autoencoder its encoder unless its own kind is named.
KEY_MAPS = {m.kind: m for m in (HF_VIDEOMAE, HF_VIT_MAE, HF_VIDEOMAE_ENCODER, HF_VIDEOMAE_CLASSIFIER)}
KINDS = ("auto", *KEY_MAPS)
# The tables come from sines in float64 or float32; real files differ from ours by about 1e-7, another layout by 1.
TABLE_TOLERANCE = 1e-4


class WeightsError(ValueError):
    """A weights file that does not fit; `problems` lists every reason, one a line."""

    def __init__(self, source: str, problems: list[str]):
        super().__init__(f"{source} does not fit:\n" + "\n".join(f"  {p}" for p in problems))
        self.problems = problems


def load_autoencoder(path, kind: str, params_template, module: Autoencoder | None = None) -> dict:
    """Reads a weights file into the shape of `params_template`.

    Args:
      path: a `.safetensors` file, or a folder that holds model.safetensors.
      kind: one of `KINDS`; `auto` tells it from the keys.
      params_template: the parameters of an `Autoencoder`, `encoder` and `decoder` or `encoder` alone (the file's decoder is
        then left out); leaves need only shape and dtype, so `jax.eval_shape` of the initialisation serves.
      module: the module of these parameters; if given, what the parameters cannot show (the kind of positions, where cls
        comes from) is checked as well.

    Returns:
      Nested dicts like the template, of numpy arrays of its dtypes.

    Raises:
      WeightsError: keys are missing, left over, of another shape, or mean something else; all are listed.
      FileNotFoundError: there is no such file.
    """
    file = find_file(path)
    arrays = read_safetensors(file)
    key_map = find_key_map(kind, arrays, file)
    problems = [] if module is None else check_settings(key_map, module)
    params, unfit = convert(arrays, key_map, params_template)
    if problems + unfit:
        raise WeightsError(f"{file} (as {key_map.kind})", problems + unfit)
    return params


def find_file(path) -> str:
    """The safetensors file of `path`, a file or a folder.

    Raises:
      FileNotFoundError: there is none; the message says what to do about pickled weights.
    """
    path = os.fspath(path)
    file = os.path.join(path, "model.safetensors") if os.path.isdir(path) else path
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"no weights at {file}: expected a .safetensors file or a folder with model.safetensors "
            "(pickled weights such as pytorch_model.bin are not read; transformers' save_pretrained writes safetensors)"
        )
    return file


def read_safetensors(file: str) -> dict[str, np.ndarray]:
    """Every array of a safetensors file by key.

    Raises:
      WeightsError: the file is damaged or of another format.
    """
    with _opened(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}


def read_keys(file: str) -> list[str]:
    """The keys of a safetensors file, from its header alone. Raises: see `read_safetensors`."""
    with _opened(file) as opened:
        return list(opened.keys())


@contextlib.contextmanager
def _opened(file: str):
    try:
        with safe_open(file, framework="numpy") as opened:
            yield opened
    except SafetensorError as error:
        raise WeightsError(file, [f"it is not a readable safetensors file: {error}"]) from error


def find_key_map(kind: str, keys, source: str = "the file") -> KeyMap:
    """The key map of `kind`, or the one whose prefixes the keys show.

    Raises:
      ValueError: the kind is unknown.
      WeightsError: `auto` fits no kind.
    """
    if kind != "auto":
        if kind not in KEY_MAPS:
            raise ValueError(f"weights kind is {kind!r}; expected one of {', '.join(KINDS)}")
        return KEY_MAPS[kind]
    for key_map in KEY_MAPS.values():
        if all(any(key.startswith(prefix) for key in keys) for prefix in key_map.prefixes):
            return key_map
    some = ", ".join(sorted(keys)[:3])
    raise WeightsError(source, [f"its keys ({some}, ...) are of none of the known kinds: {', '.join(KEY_MAPS)}"])


def check_settings(key_map: KeyMap, module: Autoencoder) -> list[str]:
    """What differs between a module and what the weights of this kind were trained as, one problem a line."""
    problems = []
    for path, allowed in key_map.settings:
        if path.startswith("decoder") and module.decoder is None:
            continue
        value = operator.attrgetter(path)(module)
        if value not in allowed:
            problems.append(f"{path} is {value!r}; {key_map.kind} needs {' or '.join(map(repr, allowed))}")
    return problems


def convert(arrays: Mapping[str, np.ndarray], key_map: KeyMap, params_template) -> tuple[dict, list[str]]:
    """Arrays by their keys into our tree.

    Args:
      arrays: a file's arrays, or any others under the same keys (gradients, for one).
      key_map: which keys mean what.
      params_template: see `load_autoencoder`.

    Returns:
      The parameters, and every problem, one a line; the parameters are whole only if there is none.
    """
    template = traverse_util.flatten_dict(_plain(params_template), sep="/")
    branches = {path.split("/")[0] for path in template}
    problems = _check_tables(arrays, key_map, branches)
    tables = {table.theirs for table in key_map.tables}
    filled, sources = {}, {}
    for key, array in arrays.items():
        if key in tables or key_map.reason_ignored(key):
            continue
        found = key_map.find(key)
        if found is None:
            problems.append(f"left over: {key} {list(array.shape)} is not a key of {key_map.kind}")
            continue
        rule, path = found
        if path.split("/")[0] not in branches:
            continue
        if path not in template:
            problems.append(f"left over: {key} {list(array.shape)} belongs at {path}, which the model does not have")
        elif path in filled:
            problems.append(f"twice: {key} and {sources[path]} both belong at {path}")
        else:
            sources[path] = key
            filled[path] = _fit(array, rule.transform, template[path], f"{key} for {path}", problems)
    for path in template:
        if path not in filled:
            problems.append(f"missing: nothing in the file for {path} {list(template[path].shape)}")
    return traverse_util.unflatten_dict(filled, sep="/"), problems


def _fit(array, transform: str, wanted, name: str, problems: list[str]):
    """The array in our layout and dtype; a problem is noted if it has another shape."""
    try:
        ours = TRANSFORMS[transform](np.asarray(array))
    except ValueError as error:
        problems.append(f"mis-shaped: {name} is {list(array.shape)}: {error}")
        return None
    if ours.shape != tuple(wanted.shape):
        problems.append(f"mis-shaped: {name} is {list(ours.shape)} in our layout, the model has {list(wanted.shape)}")
        return None
    return np.ascontiguousarray(ours, dtype=wanted.dtype)


def _check_tables(arrays, key_map: KeyMap, branches) -> list[str]:
    """Problems with the fixed position tables that the file holds."""
    problems = []
    for table in key_map.tables:
        if table.theirs not in arrays or table.branch not in branches:
            continue
        try:
            difference = table.difference(arrays[table.theirs])
        except ValueError as error:
            problems.append(f"mis-shaped: {table.theirs}: {error}")
            continue
        if not difference <= TABLE_TOLERANCE:
            problems.append(f"other positions: {table.theirs} differs from the {table.kind} table by up to {difference:.3g}")
    return problems


def _plain(tree):
    """A tree of mappings as nested dicts."""
    return {k: _plain(v) for k, v in tree.items()} if isinstance(tree, Mapping) else tree
