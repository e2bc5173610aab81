"""Damaged files of weights: cut, bits flipped, values of wrong types. Either they are read, or one of this package's errors says why.

Some seeds of each format; CVMAE_FUZZ_SECONDS=600 goes on with others for as long. A failure prints the seed, which repeats it.
"""

import importlib.util
import json
import pathlib
import warnings

import numpy as np
import pytest
from safetensors.numpy import load_file

from cvmae.interop import WeightsError
from cvmae.interop.arrays import INDEX
from cvmae.interop.hints import ModelHints
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.load import read
from cvmae.interop.native import write_archive
from cvmae.interop.pretrained import Head
from tests.fuzz import seeds
from tests.interop.encoder_folders import FOLDERS, make_videoprism_npz
from tests.interop.pretrained_models import pretrained, videomae
from tests.requirements import missing

COUNT = 40  # damaged files of each format
# What a reader of weights may raise: see `load.read`.
ALLOWED = (WeightsError, FileNotFoundError)
HINTS = ModelHints(heads=4, num_frames=4, size=(32, 32), recorded_first=True)
VALUES: list = [
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    5,
    7,
    1 << 15,
    1 << 31,
    1 << 63,
    1 << 70,
    0.5,
    -2.5,
    1e300,
    float("nan"),
    float("inf"),
]
VALUES += [
    "",
    "8",
    "videomae",
    "gelu",
    "params.npz",
    "../a",
    "\ud800",
    [],
    [8],
    [8, 8],
    [0.5] * 3,
    [None],
    {},
    {"0": "a"},
    {"a": 1},
    [[1]] * 2,
]


def make_folder(folder: pathlib.Path) -> pathlib.Path:
    """Writes a tiny classifier as transformers has it; returns model.safetensors."""
    names = ("a", "b", "c")
    write_hf_videomae(pretrained(videomae(final_norm=False), head=Head(3, "mean", 1e-5, names)), folder)
    return folder / "model.safetensors"


def make_npz(folder: pathlib.Path) -> pathlib.Path:
    """Writes the same as npz without a config.json."""
    arrays: dict = load_file(make_folder(folder / "hf"))
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def make_pth(folder: pathlib.Path, is_zip: bool = True, nested: bool = False) -> pathlib.Path:
    """Writes the same as `torch.save`, beside what people keep in such files."""
    if not importlib.util.find_spec("torch"):
        missing("parity", "torch comes with the extra: pip install '.[parity]'")
    import torch

    state = {key: torch.from_numpy(array) for key, array in load_file(make_folder(folder / "hf")).items()}
    beside = {"best": np.float64(0.7), "random": np.arange(4), "out": pathlib.Path("out"), "epoch": 3}
    torch.save(
        {"model": {"state_dict": state, "epoch": 3} if nested else state, **beside},
        folder / "a.pth",
        _use_new_zipfile_serialization=is_zip,
    )
    return folder / "a.pth"


def make_index(folder: pathlib.Path) -> pathlib.Path:
    """Writes the same as a single shard and its index."""
    file = make_folder(folder)
    shard = file.with_name("model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(load_file(file), shard.name)}))
    file.rename(shard)
    return folder / INDEX


def make_archive(folder: pathlib.Path) -> pathlib.Path:
    """Writes the same in this package's own format; returns cvmae.json."""
    write_archive(pretrained(videomae(), head=Head(3, "first", names=("a", "b", "c"))), folder)
    return folder / "cvmae.json"


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Cuts, or flips bits, or moves bytes, mostly near the ends, where headers and tables of contents are."""
    changed = bytearray(content)
    way = rng.integers(5)
    if way == 0:
        return bytes(changed[: rng.integers(len(changed))])
    span = len(changed) if way < 3 else min(len(changed), 2000)
    for _ in range(int(rng.integers(1, 9))):
        at = int(rng.integers(span)) if way < 4 else len(changed) - 1 - int(rng.integers(span))
        changed[at] ^= 1 << int(rng.integers(8))
    if way == 2:
        start, end = sorted(int(i) for i in rng.integers(len(changed), size=2))
        del changed[start : min(end, start + 64)]
    return bytes(changed)


def replace_a_value(value, rng: np.random.Generator):
    """Returns JSON with one of its values exchanged, dropped, or another added."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        changed = dict(value)
        key = list(changed)[rng.integers(len(changed))]
        way = rng.random()
        if way < 0.1:
            del changed[key]
        elif way < 0.2:
            changed[str(VALUES[rng.integers(len(VALUES))])] = changed[key]
        else:
            changed[key] = replace_a_value(changed[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.5:
        at = int(rng.integers(len(value)))
        return [*value[:at], replace_a_value(value[at], rng), *value[at + 1 :]]
    return VALUES[rng.integers(len(VALUES))]


def attempt(path: pathlib.Path, seed: int) -> bool:
    """Reads weights; returns True if they were read. Fails on an error of any other kind, and on a problem of several lines."""
    try:
        # A config.json has all of it, and of an image encoder another number of frames.
        read(path, hints=ModelHints() if (path.parent / "config.json").is_file() else HINTS)
        return True
    except ALLOWED as error:
        assert str(error), seed
        assert not any("\n" in problem for problem in getattr(error, "problems", [])), (seed, error)
        return False
    except BaseException as error:
        error.add_note(f"seed {seed}, {path}")
        raise


FORMATS = {
    "safetensors": make_folder,
    "npz": make_npz,
    "pth": make_pth,
    "pth before torch 1.6": lambda folder: make_pth(folder, is_zip=False),
    "pth of state dicts in each other": lambda folder: make_pth(folder, nested=True),
    "index": make_index,
    "cvmae.json": make_archive,
    "videoprism": make_videoprism_npz,
} | FOLDERS


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and numpy warn of what they find in such files
        yield


@pytest.mark.parametrize("name", FORMATS)
def test_bytes(name, tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    file = FORMATS[name](folder)
    assert attempt(file, -1)  # whole, it is read
    content, outcomes = file.read_bytes(), []
    for seed in seeds(COUNT):
        file.write_bytes(damage(content, np.random.default_rng(seed)))
        outcomes.append(attempt(file, seed))
    print(f"{name}: {len(outcomes)} files, {sum(outcomes)} read")
    assert not all(outcomes)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "cvmae.json", INDEX, *FOLDERS])
def test_values(name, tmp_path):
    folder = tmp_path / "a"
    ({"cvmae.json": make_archive, INDEX: make_index} | FOLDERS).get(name, make_folder)(folder)
    name = "config.json" if name in FOLDERS else name
    content, outcomes = json.loads((folder / name).read_text()), []
    for seed in seeds(100):
        rng, changed = np.random.default_rng(seed), content
        for _ in range(int(rng.integers(1, 4))):
            changed = replace_a_value(changed, rng)
        (folder / name).write_text(json.dumps(changed))
        outcomes.append(attempt(folder, seed))
    print(f"{name}: {len(outcomes)} files, {sum(outcomes)} read")
    assert not all(outcomes)


@pytest.mark.parametrize("name", ["hf-videomae", "videoprism"])
def test_arrays(name, tmp_path):
    """Arrays of other shapes and dtypes, and keys that are left out or renamed."""
    is_torch = name == "hf-videomae"
    arrays = load_file(make_folder(tmp_path / "hf")) if is_torch else dict(np.load(make_videoprism_npz(tmp_path)))
    outcomes = []
    dtypes = ["f2", "f8", "i4", "u1", "?", "c8", "U3", "S2", ">f4"]
    for seed in seeds(COUNT):
        rng = np.random.default_rng(seed)
        changed = dict(arrays)
        for _ in range(int(rng.integers(1, 4))):
            key = list(changed)[rng.integers(len(changed))]
            array = changed.pop(key)
            way = rng.integers(5)
            if way == 0:
                changed[key] = np.zeros(tuple(int(side) for side in rng.integers(0, 5, rng.integers(0, 7))), np.float32)
            elif way == 1:
                changed[key] = array.astype(dtypes[rng.integers(len(dtypes))])
            elif way == 2:
                at = int(rng.integers(len(key)))
                changed[key[:at] + "0.9m_"[rng.integers(5)] + key[at + int(rng.integers(2)) :]] = array
            elif way == 3:
                changed[key] = array.swapaxes(0, -1) if array.ndim else array
        np.savez(tmp_path / "a.npz", **changed)
        outcomes.append(attempt(tmp_path / "a.npz", seed))
    print(f"arrays of {name}: {len(outcomes)} files, {sum(outcomes)} read")
    assert not all(outcomes)
