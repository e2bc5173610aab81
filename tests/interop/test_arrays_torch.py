"""Torch files against torch itself: the state dict wherever it lies, dtypes, and files that are damaged or would run code."""

import argparse
import functools
import importlib.util
import json
import os
import pathlib
import pickle
import re
import zipfile

import numpy as np
import pytest

from tests.requirements import missing

if not importlib.util.find_spec("torch"):
    missing("parity", "torch comes with the extra: pip install '.[parity]'")

import safetensors.torch
import torch
from ml_dtypes import bfloat16

from cvmae.interop import numpy_pickles, torch_file
from cvmae.interop.arrays import TORCH_INDEX, read_arrays
from cvmae.interop.pretrained import WeightsError

FORMATS = {"zip": True, "legacy": False}


@pytest.fixture(params=FORMATS)
def save(request):
    """`torch.save` in the format of now, and in that of files from before torch 1.6."""
    return lambda obj, path: torch.save(obj, path, _use_new_zipfile_serialization=FORMATS[request.param])


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(4, 6, generator=generator)
    return {
        "blocks.0.weight": weights,
        "blocks.0.transposed": weights.T,
        "blocks.0.part": weights[1:3, ::2],
        "half": weights.half(),
        "bfloat": weights.bfloat16().T,
        "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
        "double": weights.double(),
        "steps": torch.tensor(7),
        "mask": weights > 0,
        "parameter": torch.nn.Parameter(weights),
        "empty": torch.zeros(0, 3),
    }


def assert_read(path, wanted: dict[str, torch.Tensor]):
    """The arrays of a file are those tensors, bit for bit, and in the dtype that numpy calls the same."""
    got = read_arrays(path)
    assert list(got) == list(wanted)
    for key, tensor in wanted.items():
        assert str(got[key].dtype) == str(tensor.dtype).removeprefix("torch."), key
        np.testing.assert_array_equal(got[key].astype(np.float64), tensor.detach().double().numpy(), err_msg=key)


def problems(path) -> list[str]:
    with pytest.raises(WeightsError) as error:
        read_arrays(path)
    assert str(path) in str(error.value) and not any("\n" in line for line in error.value.problems)
    return error.value.problems


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_a_state_dict_alone(tmp_path, save, suffix):
    save(state(), tmp_path / f"a{suffix}")
    assert_read(tmp_path / f"a{suffix}", state())


@pytest.mark.parametrize("container", ["model", "model_state", "module", "state_dict"])
def test_a_state_dict_beside_other_things(tmp_path, save, container):
    args = argparse.Namespace(model="vit_base", lr=1.5e-4, betas=(0.9, 0.95), resume=None, nested=argparse.Namespace(a=[1, "b"]))
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    rest = {"optimizer": optimizer, "epoch": 799, "args": args, "scaler": {"scale": 2.0}, "loss": torch.ones(1)}
    save(rest | {container: state()}, tmp_path / "a.pth")
    assert_read(tmp_path / "a.pth", state())


def test_a_module_s_own_state_dict(tmp_path, save):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    save({"model": module.state_dict()}, tmp_path / "a.pth")
    assert_read(tmp_path / "a.pth", module.state_dict())


def test_keys_are_those_of_the_file(tmp_path, save):
    """Wrappers come off later, with a note: `test_wrappers.py`."""
    wrapped = {f"module.{key}": value for key, value in state().items()}
    save({"model": wrapped}, tmp_path / "a.pth")
    assert_read(tmp_path / "a.pth", wrapped)


NUMPY = {
    "float64": np.float64(0.71),
    "float32": np.float32(0.71),
    "float16": np.float16(0.71),
    "big-endian": np.dtype(">f8").type(3.0),
    "int64": np.int64(-7),
    "uint8": np.uint8(200),
    "bool": np.bool_(True),
    "complex": np.complex64(1 + 2j),
    "text": np.str_("accuracy"),
    "bytes": np.bytes_(b"abc"),
    "array": np.arange(6, dtype=np.int16).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big-endian array": np.arange(3, dtype=">i4"),
    "random state": np.random.RandomState(0).get_state(),
    "path": pathlib.PurePosixPath("out/run"),
    "real path": pathlib.Path("out"),
    "nested": {"best": [np.float64(1), {"top5": np.float32(2)}]},
}


@pytest.mark.parametrize("place", ["beside", "arguments"])
@pytest.mark.parametrize("name", NUMPY)
def test_numbers_of_numpy_and_paths_are_data(tmp_path, save, name, place):
    value = NUMPY[name]
    beside = {"extra": value} if place == "beside" else {"args": argparse.Namespace(extra=value)}
    save({"model": state()} | beside, tmp_path / "a.pth")
    assert_read(tmp_path / "a.pth", state())


@pytest.mark.parametrize("name", [name for name, value in NUMPY.items() if isinstance(value, np.generic | np.ndarray)])
def test_stand_ins_give_numpy_s_values(tmp_path, save, name):
    value = NUMPY[name]
    save({"value": value}, tmp_path / "a.pth")
    loaded = torch_file._load(str(tmp_path / "a.pth"))["value"]
    loaded = loaded.value if isinstance(loaded, numpy_pickles.Array) else loaded
    assert loaded.dtype == value.dtype and loaded.shape == value.shape
    np.testing.assert_array_equal(loaded, value)


def test_arrays_of_numpy_are_weights_too(tmp_path, save):
    save({"model": {"a": torch.ones(2), "b": np.arange(3, dtype=np.float32)}}, tmp_path / "a.pth")
    np.testing.assert_array_equal(read_arrays(tmp_path / "a.pth")["b"], np.arange(3, dtype=np.float32))


@pytest.mark.parametrize(
    "value, problem",
    [
        (np.array([{}], object), "dtype 'O8' is neither of numbers nor of texts"),
        (np.datetime64("2026-01-01"), "dtype 'M8' is neither of numbers nor of texts"),
        (np.zeros(2, [("x", "f4")])[0], "dtype 'V4' is neither of numbers nor of texts"),
    ],
)
def test_other_values_of_numpy_are_refused(tmp_path, save, value, problem):
    save({"model": state(), "extra": value}, tmp_path / "a.pth")
    (message,) = problems(tmp_path / "a.pth")
    assert problem in message and "bare state dict" in message


def test_safetensors_of_torch(tmp_path):
    wanted = {key: tensor.detach().contiguous().clone() for key, tensor in state().items()}
    safetensors.torch.save_file(wanted, tmp_path / "a.safetensors")
    got = read_arrays(tmp_path / "a.safetensors")
    assert got["bfloat"].dtype == bfloat16 and got["half"].dtype == np.float16
    for key, tensor in wanted.items():
        np.testing.assert_array_equal(got[key].astype(np.float64), tensor.double().numpy(), err_msg=key)


def test_arrays_outlive_the_file(tmp_path, save):
    save({"a": torch.ones(4), "b": torch.ones(4).bfloat16()}, tmp_path / "a.pth")
    arrays = read_arrays(tmp_path / "a.pth")
    with open(tmp_path / "a.pth", "r+b") as file:  # the same file, overwritten in place, as the next checkpoint may be
        file.write(bytes(os.path.getsize(tmp_path / "a.pth")))
    for array in arrays.values():
        np.testing.assert_array_equal(array.astype(np.float32), np.ones(4))
        array[:] = 0


class Evil:
    """Pickles as a call, which unpickling would make."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def evil(marker: pathlib.Path) -> dict[str, Evil]:
    """By the global that a refusal has to name."""
    code = f"open({str(marker)!r}, 'w').close()"
    return {
        f"{os.system.__module__}.system": Evil(os.system, f"touch {marker}"),
        "eval": Evil(eval, code),
        f"{pathlib.Path.__module__}.Path": Evil(pathlib.Path, "a"),  # a module of its own since Python 3.13
        "pickle.loads": Evil(pickle.loads, pickle.dumps(Evil(eval, code))),
    }


@pytest.mark.parametrize("name", evil(pathlib.Path("marker")))
@pytest.mark.parametrize("place", ["beside", "inside", "arguments", "whole"])
def test_what_would_run_code_is_refused_by_name(tmp_path, save, name, place):
    marker = tmp_path / "marker"
    bad = evil(marker)[name]
    weights = {"w": torch.ones(2)}
    contents = {
        "beside": {"model": weights, "extra": bad},
        "inside": {"model": weights | {"extra": bad}},
        "arguments": {"model": weights, "args": argparse.Namespace(out=bad)},
        "whole": bad,
    }
    save(contents[place], tmp_path / "a.pth")
    (problem,) = problems(tmp_path / "a.pth")
    assert f"would run code: it asks for {name}," in problem
    assert not marker.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert marker.exists() or name.endswith(".Path")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_plain_pickle_is_refused_by_name(tmp_path, protocol):
    for name, bad in evil(tmp_path / "marker").items():
        (tmp_path / "a.bin").write_bytes(pickle.dumps({"text": name, "again": name, "w": bad}, protocol=protocol))
        (problem,) = problems(tmp_path / "a.bin")
        named = re.search(r"would run code: it asks for (.*?), and only tensors", problem)[1].split(", ")
        modules = ("__builtin__.", "builtins.", "_")  # of eval, and of pickle.loads, which _pickle has
        assert name in [functools.reduce(str.removeprefix, modules, asked) for asked in named]
    assert not (tmp_path / "marker").exists()
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"w": 1.5}, protocol=protocol))
    assert problems(tmp_path / "a.bin")[0].startswith("it is a plain pickle, no file of torch.save; get these weights as safet")


@pytest.mark.filterwarnings("error")
def test_a_pickle_of_arrays_is_called_so(tmp_path):
    (tmp_path / "a.bin").write_bytes(pickle.dumps({"w": np.ones(3, np.float32)}, protocol=4))
    assert problems(tmp_path / "a.bin")[0].startswith("it is a plain pickle, no file of torch.save; get these weights as safet")


def test_whole_modules_and_programs_are_refused(tmp_path, save):
    save({"model": torch.nn.Linear(2, 2)}, tmp_path / "a.pth")
    assert "would run code: it asks for torch.nn.modules.linear.Linear," in problems(tmp_path / "a.pth")[0]
    save({"model": {"w": torch.ones(2)}, "best": np.random.default_rng(0)}, tmp_path / "b.pth")
    assert "would run code: it asks for numpy.random." in problems(tmp_path / "b.pth")[0]


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    assert "it is a TorchScript program, which is not run" in problems(tmp_path / "a.pt")[0]


def test_no_class_stays_allowed(tmp_path):
    torch.save({"model": {"w": torch.ones(2)}, "args": argparse.Namespace(a=1)}, tmp_path / "a.pth")
    read_arrays(tmp_path / "a.pth")
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):
        torch.load(tmp_path / "a.pth", weights_only=True)


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_files_cut_short(tmp_path, save, share):
    save({"model": state()}, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(whole[: int(len(whole) * share)])
    (problem,) = problems(tmp_path / "a.pth")
    assert problem.startswith("it is damaged, or no file of torch.save: ") and len(problem) < 200


@pytest.mark.parametrize(
    "content",
    {
        "text": b"weights",
        "the start of a zip": b"PK\x03\x04weights",
        "zeros": bytes(300),
    }.values(),
)
def test_what_torch_did_not_write(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    (problem,) = problems(tmp_path / "a.pth")
    assert re.fullmatch("it is damaged, or no file of torch.save: .*: get the file again", problem) and "operand" not in problem


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"\x10\0\0\0\0\0\0\0{}", "it is a safetensors file: give it a name that ends with .safetensors"),
        (b"\x80\x02}q\x00.", "it is a plain pickle"),
        (b"\x80\x02\x85.", "it is a plain pickle"),  # takes what it did not make
        (b"\x80\x02h\x05.", "it is a plain pickle"),  # recalls what it did not keep
        (b"\x80\x02K\x01Q.", "it is a plain pickle"),  # an address
    ],
)
def test_what_something_else_wrote(tmp_path, content, problem):
    (tmp_path / "a.pth").write_bytes(content)
    assert problems(tmp_path / "a.pth")[0].startswith(problem)


def test_an_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("readme.txt", "none")
    assert problems(tmp_path / "a.pth")[0].startswith("it is damaged, or no file of torch.save: ")


@pytest.mark.parametrize(
    "saved,problem",
    [
        (torch.ones(2), "it holds a Tensor, not a state dict"),
        ([torch.ones(2)], "it holds a list, not a state dict"),
        ({"weights": {"a": torch.ones(2)}, "epoch": 3}, "it holds no state dict, only 'weights', 'epoch': expected tensors, or"),
        ({"model": {}}, "it holds no arrays"),
        ({}, "it holds no state dict, only nothing"),
        ({"model": {"a": torch.ones(2), 3: torch.ones(2)}}, "its state dict has the key 3, which is no string"),
        ({"model": {"a": torch.ones(2), "b": 0.5}}, "b cannot be read: it is of type float, not a tensor"),
        ({"a": torch.ones(2), "epoch": 3}, "epoch cannot be read: it is of type int, not a tensor"),
        ({"a": torch.ones(2), "b": torch.ones(2, 2).to_sparse()}, "b cannot be read: it is a tensor of torch.sparse_coo"),
        ({"a": torch.ones(2, device="meta")}, "a cannot be read: it is a tensor of torch.strided on meta"),
        ({"a": torch.ones(1).expand(1 << 40)}, "a cannot be read: it claims 4398046511104 bytes of the 4 that the file holds"),
    ],
)
def test_what_is_no_state_dict_of_tensors(tmp_path, save, saved, problem):
    save(saved, tmp_path / "a.pth")
    (message,) = problems(tmp_path / "a.pth")
    assert message.startswith(problem)


def test_a_dtype_that_numpy_lacks_is_named(tmp_path):
    torch.save({"a": torch.ones(2).to(torch.float8_e4m3fn), "b": torch.ones(2)}, tmp_path / "a.pth")
    (problem,) = problems(tmp_path / "a.pth")
    assert problem.startswith("a cannot be read: ") and "float8_e4m3fn" in problem


def test_shards_of_torch(tmp_path, save):
    """As transformers writes them with safe_serialization=False."""
    tensors = state()
    halves = {"pytorch_model-00001-of-00002.bin": list(tensors)[:4], "pytorch_model-00002-of-00002.bin": list(tensors)[4:]}
    for name, keys in halves.items():
        save({key: tensors[key] for key in keys}, tmp_path / name)
    with pytest.raises(FileNotFoundError, match="is a shard, .* expected pytorch_model.bin.index.json beside it"):
        read_arrays(tmp_path)
    weight_map = {key: name for name, keys in halves.items() for key in keys}
    (tmp_path / TORCH_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert_read(tmp_path, tensors)
    assert_read(tmp_path / TORCH_INDEX, tensors)
    (problem,) = problems(tmp_path / next(iter(halves)))
    assert "one of several files" in problem and TORCH_INDEX in problem
    (tmp_path / next(iter(halves))).unlink()
    assert problems(tmp_path)[0].startswith("pytorch_model-00001-of-00002.bin is missing")
