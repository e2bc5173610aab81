"""Arrays by key out of files that need no torch: which file is taken, dtypes, and damage, each with an error that names it."""

import json
import struct
import sys
import zipfile

import numpy as np
import pytest
from ml_dtypes import bfloat16
from safetensors.numpy import save_file

from cvmae.interop.arrays import INDEX, find_file, known_suffix, non_finite, read_arrays
from cvmae.interop.pretrained import WeightsError

ARRAYS: dict[str, np.ndarray] = {
    "norm.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2], np.float16),
    "double": np.array(0.1, np.float64),
    "steps": np.array([3], np.int64),
}


def sharded(folder, weight_map=None):
    """Two safetensors files and their index, as transformers writes them."""
    parts = {"model-00001-of-00002.safetensors": ["norm.weight", "half"], "model-00002-of-00002.safetensors": ["double", "steps"]}
    for name, keys in parts.items():
        save_file({key: ARRAYS[key] for key in keys}, folder / name)
    weight_map = weight_map or {key: name for name, keys in parts.items() for key in keys}
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": 44}, "weight_map": weight_map}))
    return folder / INDEX


def safetensors_bytes(header: dict | bytes, data: bytes, length: int | None = None) -> bytes:
    """A file put together by hand: the header's length (or the given one), the header, the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, end, dtype="F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def problems(path) -> list[str]:
    """The problems of a file, one a line."""
    with pytest.raises(WeightsError) as error:
        read_arrays(path)
    assert str(path) in str(error.value) and not any("\n" in line for line in error.value.problems)
    return error.value.problems


def assert_same(got, wanted):
    assert got.keys() == wanted.keys()
    for key in wanted:
        assert got[key].dtype == wanted[key].dtype, key
        np.testing.assert_array_equal(got[key], wanted[key])


def save_npz(path):
    np.savez(path, **ARRAYS)


@pytest.mark.parametrize(
    "name,save", [("a.safetensors", lambda p: save_file(ARRAYS, p)), ("a.npz", save_npz), ("A.NPZ", save_npz)]
)
def test_every_array_in_its_own_dtype(tmp_path, name, save):
    save(str(tmp_path / name))
    if name == "A.NPZ":
        (tmp_path / "A.NPZ.npz").rename(tmp_path / name)
    assert_same(read_arrays(tmp_path / name), ARRAYS)


def test_shards(tmp_path):
    assert_same(read_arrays(sharded(tmp_path)), ARRAYS)
    assert_same(read_arrays(tmp_path), ARRAYS)


def test_bfloat16(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x3DCD], np.uint16)  # 1, -2 and the nearest to 0.1
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes({"b": entry([3], 0, 6, "BF16")}, bits.tobytes()))
    np.savez(tmp_path / "a.npz", b=bits.view(bfloat16))
    for name in ("a.safetensors", "a.npz"):
        got = read_arrays(tmp_path / name)["b"]
        assert got.dtype == bfloat16
        np.testing.assert_array_equal(got.astype(np.float32), np.array([1, -2, 0.10009765625], np.float32))


def test_a_folder_gives_safetensors_before_shards_before_pickles(tmp_path):
    with pytest.raises(FileNotFoundError, match="no weights in the folder .*model.safetensors, .*pytorch_model.bin"):
        find_file(tmp_path)
    for name in ("pytorch_model.bin", INDEX, "model.safetensors"):
        (tmp_path / name).touch()
        assert find_file(tmp_path) == str(tmp_path / name)
        assert find_file(str(tmp_path / name)) == str(tmp_path / name)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing.pth, there is no such file: expected a file \(.safetensors, .*\.npz"):
        read_arrays(tmp_path / "nothing.pth")


@pytest.mark.parametrize("name", ["a.h5", "a.pkl", "config.json", "weights", "a.bin.index.json"])
def test_another_suffix(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert known_suffix(name) == ""
    (problem,) = problems(tmp_path / name)
    assert f"its suffix is {'.' + name.rpartition('.')[2] if '.' in name else ''!r}" in problem and ".safetensors" in problem


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "compressed.npz"])
def test_files_cut_short(tmp_path, name, share):
    saves = {"a.safetensors": save_file, "a.npz": lambda a, p: np.savez(p, **a)}
    saves.get(name, lambda a, p: np.savez_compressed(p, **a))(ARRAYS, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    (problem,) = problems(tmp_path / name)
    assert f"it is not a readable {name.rpartition('.')[2]} file" in problem


@pytest.mark.parametrize(
    "content",
    {
        "a header longer than the file": safetensors_bytes({"a": entry([2], 0, 8)}, bytes(8), length=1 << 40),
        "a header shorter than it is": safetensors_bytes({"a": entry([2], 0, 8)}, bytes(8), length=10),
        "offsets beyond the end": safetensors_bytes({"a": entry([4], 0, 16)}, bytes(8)),
        "offsets that start late": safetensors_bytes({"a": entry([2], 8, 16)}, bytes(16)),
        "offsets that overlap": safetensors_bytes({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
        "a shape of another size": safetensors_bytes({"a": entry([3], 0, 8)}, bytes(8)),
        "a size beyond 64 bits": safetensors_bytes({"a": entry([1 << 40, 1 << 40], 0, 8)}, bytes(8)),
        "no JSON": safetensors_bytes(b"{not json", bytes(8)),
        "more data than in the header": safetensors_bytes({"a": entry([2], 0, 8)}, bytes(9)),
    }.items(),
    ids=lambda item: item[0],
)
def test_safetensors_that_lie(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content[1])
    (problem,) = problems(tmp_path / "a.safetensors")
    assert problem.startswith("it is not a readable safetensors file: ")
    assert problem.endswith(": get it again if a download or a copy was cut short, else save it again where it was made")


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
@pytest.mark.parametrize("content", [b"\n<!DOCTYPE html><html>", b"<html><body>", b'<?xml version="1.0"?>'])
def test_a_page_in_place_of_a_file(tmp_path, suffix, content):
    (tmp_path / f"a{suffix}").write_bytes(content)
    expected = "it is a page of HTML or XML, as a site gives that wants a login: get the file itself"
    assert problems(tmp_path / f"a{suffix}") == [expected]


def test_what_numpy_cannot_hold_is_named(tmp_path):
    header = {"a": entry([2], 0, 2, "F8_E4M3"), "b": entry([1], 2, 6), "c": entry([0, 1 << 62, 8], 6, 6)}
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes(header, bytes(6)))
    assert sorted(problems(tmp_path / "a.safetensors")) == [
        "a cannot be read: it is F8_E4M3, whose scales are not among the weights: get them in float32 or bfloat16",
        "c cannot be read: numpy has no F32 array of the shape [0, 4611686018427387904, 8]",
    ]


def test_pickled_arrays_in_npz_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", fine=np.ones(2), evil=np.array([{}], object))
    (problem,) = problems(tmp_path / "a.npz")
    assert problem == "evil cannot be read: it is pickled, which could run code"


def test_npz_that_are_none(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "a.npy").rename(tmp_path / "single.npz")
    assert "a single array without a key" in problems(tmp_path / "single.npz")[0]
    (tmp_path / "text.npz").write_text("weights")
    (problem,) = problems(tmp_path / "text.npz")
    assert problem.startswith("it is not a readable npz file: it is no zip archive: get it again if a download or a copy")
    with zipfile.ZipFile(tmp_path / "zip.npz", "w") as archive:
        archive.writestr("readme.txt", "none")
    assert problems(tmp_path / "zip.npz") == ["readme.txt is no array"]
    np.savez(tmp_path / "fields.npz", a=np.zeros(2, [("x", "f4"), ("y", "f4")]))
    assert problems(tmp_path / "fields.npz")[0].startswith("a is of the dtype ")


def test_changed_bytes_in_npz(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.full(100, 7, np.uint8))
    content = (tmp_path / "a.npz").read_bytes().replace(bytes([7] * 100), bytes([7] * 99 + [8]))
    (tmp_path / "a.npz").write_bytes(content)
    assert "a cannot be read: Bad CRC-32" in problems(tmp_path / "a.npz")[0]


def test_no_arrays(tmp_path):
    save_file({}, tmp_path / "a.safetensors")
    assert problems(tmp_path / "a.safetensors") == ["it holds no arrays"]


FIRST, SECOND = (f"model-0000{i}-of-00002.safetensors" for i in (1, 2))


@pytest.mark.parametrize(
    "weight_map,problem",
    [
        ({"norm.weight": "../a.safetensors"}, "its weight_map names '../a.safetensors'; expected a .safetensors file beside it"),
        ({"norm.weight": "pytorch_model.bin"}, "its weight_map names 'pytorch_model.bin'"),
        ({"norm.weight": 3}, "its weight_map names 3"),
        ({"norm.weight": FIRST, "more": FIRST, "half": FIRST}, f"{FIRST} does not hold more, which the index lists"),
        ({"norm.weight": FIRST}, f"{FIRST} holds half, which the index does not list"),
        ({"norm.weight": FIRST, "half": FIRST, "b": "b.safetensors"}, "b.safetensors is missing"),
        (["norm.weight"], "its weight_map is a list"),
    ],
)
def test_an_index_that_does_not_fit_its_shards(tmp_path, weight_map, problem):
    (message,) = problems(sharded(tmp_path, weight_map))
    assert message.startswith(problem)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_an_index_that_is_none(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    assert "it is no index of safetensors files" in problems(tmp_path / INDEX)[0]


def test_a_damaged_shard_is_named(tmp_path):
    index = sharded(tmp_path)
    (tmp_path / SECOND).write_bytes((tmp_path / SECOND).read_bytes()[:-1])
    with pytest.raises(WeightsError, match=f"{SECOND}.*\n.*not a readable safetensors file"):
        read_arrays(index)


def test_torch_files_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for name in ("a.pth", "a.pt", "pytorch_model.bin", "a.ckpt"):
        (tmp_path / name).write_bytes(b"PK")
        assert problems(tmp_path / name) == ["reading torch files needs torch: pip install 'crossvideomae[torch]'"]


def test_values_that_are_not_finite():
    arrays = {
        "fine": np.ones((2, 3), np.float32),
        "nan": np.array([[1, np.nan], [np.nan, 2]], np.float32),
        "inf": np.array([np.inf, -np.inf, 0], np.float16),
        "b": np.array([1, np.nan], bfloat16),
        "scalar": np.array(np.nan, np.float64),
        "steps": np.array([1]),
        "names": np.array(["nan"]),
        "empty": np.zeros(0, np.float32),
    }
    assert non_finite(arrays) == [
        "not finite: 2 of the 4 values of nan are NaN or infinite",
        "not finite: 2 of the 3 values of inf are NaN or infinite",
        "not finite: 1 of the 2 values of b are NaN or infinite",
        "not finite: 1 of the 1 values of scalar are NaN or infinite",
    ]
