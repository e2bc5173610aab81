"""This package's own format: the same bits come back, the folder is written all or nothing, and every field is checked."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors.numpy import load_file, save_file

from cvmae.evaluation.embed import load_encoder
from cvmae.interop.native import is_archive, read_archive, write_archive, write_arrays
from cvmae.interop.pretrained import FrameSampling, Head, WeightsError
from cvmae.models.autoencoder import DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.version import __version__
from tests.interop.pretrained_models import pretrained

GRID = Grid(4, 16, 24, 2, 8)
ENCODER = Encoder(TransformerConfig(ViTSize(16, 2, 2, 3.0), "qkv", 3e-6), GRID, "separable", cls_token=True)
DECODER = DecoderSpec(TransformerConfig(ViTSize(8, 1, 2), "qkv"), "unshuffle", "separable", "own", norm_eps=2e-5, target_frames=2)
MEAN = ENCODER.clone(cls_token=False, positions="sincos1d", final_norm=False)
FEATURES = ENCODER.clone(
    trunk=dataclasses.replace(ENCODER.trunk, mlp="swiglu", layer_scale=True), positions="learned", registers=3
)
ROTARY = ENCODER.clone(cls_token=False, positions="rope3d")
CASES = {
    "encoder": pretrained(ENCODER, normalization={}),
    "autoencoder": pretrained(ENCODER, DECODER, target_norm="patch", notes=("a note", "another one")),
    "classifier": pretrained(
        MEAN, head=Head(3, "mean", 1e-5, ("a", "ö", "c c")), normalization={"mean": (0.5,) * 3, "std": (0.1, 1, 2)}
    ),
    "both": pretrained(ENCODER, DECODER, Head(2, "first")),
    "features": pretrained(FEATURES, reconstructs=False),
    "attentive": pretrained(ROTARY, head=Head(3, "attentive", blocks=1, heads=2)),
    "sampled": pretrained(ENCODER, sampling=FrameSampling(3, 12.5, square_pixels=False)),
}


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
@pytest.mark.parametrize("name", CASES)
def test_the_same_comes_back(name, kind, tmp_path):
    source, folder = CASES[name], tmp_path / "new" / "folder"
    write_archive(source, folder, kind)
    assert sorted(os.listdir(folder)) == ["README.md", "cvmae.json", f"params.{kind}"] and os.listdir(tmp_path / "new") == [
        "folder"
    ]
    for path in (folder, str(folder), folder / "cvmae.json", folder / f"params.{kind}"):
        assert is_archive(path)
    restored = read_archive(folder if name != "encoder" else folder / f"params.{kind}")
    assert restored.name == f"{folder} (exported by this package)"
    assert dataclasses.replace(restored, params=None) == dataclasses.replace(source, params=None, name=restored.name)
    assert jax.tree.structure(restored.params) == jax.tree.structure(source.params)
    for a, b in zip(jax.tree.leaves(restored.params), jax.tree.leaves(source.params), strict=True):
        assert type(a) is np.ndarray and a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_the_files_without_this_package(tmp_path):
    """People read these without this package."""
    source = CASES["classifier"]
    write_archive(source, tmp_path, "safetensors")
    text = json.loads((tmp_path / "cvmae.json").read_text())
    assert text["format"] == 1 and text["version"] == __version__ and text["arrays"] == "params.safetensors"
    assert text["encoder"]["trunk"] == {
        "size": {"width": 16, "depth": 2, "heads": 2, "mlp_ratio": 3.0},
        "qkv_bias": "qkv",
        "eps": 3e-6,
    }
    assert text["head"] == {"classes": 3, "pool": "mean", "eps": 1e-5, "names": ["a", "ö", "c c"]} and text["decoder"] is None
    arrays = load_file(tmp_path / "params.safetensors")
    np.testing.assert_array_equal(
        arrays["encoder/blocks/block0/norm1/scale"], source.params["encoder"]["blocks"]["block0"]["norm1"]["scale"]
    )
    assert set(arrays) == set(traverse_util.flatten_dict(source.params, sep="/"))


def test_how_it_is_computed_is_not_stored(tmp_path):
    trunk = dataclasses.replace(ENCODER.trunk, attention="xla", drop_path=0.1)
    write_archive(dataclasses.replace(CASES["encoder"], encoder=ENCODER.clone(trunk=trunk)), tmp_path)
    assert read_archive(tmp_path).encoder == ENCODER


def test_the_activation_is_stored_where_it_is_not_the_exact_one(tmp_path):
    """Exports of before the field have none: exact GELU. Versions of before it refuse an export that has it."""
    source = CASES["encoder"]
    tanh = ENCODER.clone(trunk=dataclasses.replace(ENCODER.trunk, mlp="gelu_tanh"))
    write_archive(dataclasses.replace(source, encoder=tanh), tmp_path / "tanh")
    file = tmp_path / "tanh" / "cvmae.json"
    assert read_archive(tmp_path / "tanh").encoder == tanh
    text = json.loads(file.read_text())
    assert text["encoder"]["trunk"].pop("mlp") == "gelu_tanh"
    file.write_text(json.dumps(text))
    assert read_archive(tmp_path / "tanh").encoder == ENCODER
    text["encoder"]["trunk"]["mlp"] = "relu"
    file.write_text(json.dumps(text))
    with pytest.raises(WeightsError, match="encoder.trunk.mlp is 'relu'; expected one of 'gelu', 'gelu_tanh'"):
        read_archive(tmp_path / "tanh")


def test_where_to_write(tmp_path):
    (tmp_path / "kept").write_text("kept")
    for place, message in ((tmp_path, "holds files already: give a folder that is empty"), (tmp_path / "kept", "is a file")):
        with pytest.raises(FileExistsError, match=message):
            write_archive(CASES["encoder"], place)
    assert (tmp_path / "kept").read_text() == "kept" and os.listdir(tmp_path) == ["kept"]
    (tmp_path / "empty").mkdir()
    write_archive(CASES["encoder"], tmp_path / "empty")
    assert is_archive(tmp_path / "empty")
    with pytest.raises(ValueError, match="kind is 'pth'; expected one of safetensors, npz"):
        write_archive(CASES["encoder"], tmp_path / "other", "pth")


def test_parameters_of_other_modules_are_not_written(tmp_path):
    params = dict(CASES["encoder"].params["encoder"], cls=np.zeros(16, np.float16))
    params["embed"] = {"kernel": params["embed"]["kernel"]}
    with pytest.raises(
        WeightsError, match=r"(?s)nothing there for encoder/embed/bias \[16\].*encoder/cls is float16; expected float32"
    ):
        write_archive(dataclasses.replace(CASES["encoder"], params={"encoder": params}), tmp_path / "out")
    assert not os.listdir(tmp_path)


def test_a_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    for error in (OSError("disk full"), KeyboardInterrupt()):

        def fail(*args, error=error):
            raise error

        monkeypatch.setattr("cvmae.interop.native.write_json", fail)
        with pytest.raises(type(error)):
            write_archive(CASES["encoder"], tmp_path / "out")
        assert not os.listdir(tmp_path)


KILLED = """
    import os, signal, sys
    from cvmae.interop import native
    from tests.interop.test_native import CASES

    native.write_json = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    native.write_archive(CASES["encoder"], sys.argv[1])
"""


def test_a_kill_while_writing_leaves_no_folder(tmp_path):
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path / "out")], cwd=os.getcwd())
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists() and os.listdir(tmp_path)
    write_archive(CASES["encoder"], tmp_path / "out")
    assert is_archive(tmp_path / "out")


def test_what_is_no_archive(tmp_path):
    (tmp_path / "model.safetensors").write_text("")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "model.safetensors"):
        assert not is_archive(path)
        with pytest.raises(FileNotFoundError, match="is not an export of this package: it holds no cvmae.json"):
            read_archive(path)
    write_archive(CASES["encoder"], tmp_path / "a")
    (tmp_path / "a" / "model.safetensors").write_text("")
    assert not is_archive(tmp_path / "a" / "model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "both"
    sampling = FrameSampling(2)
    write_archive(pretrained(ENCODER, DECODER, Head(2, "first", names=("a", "b")), sampling=sampling), folder)
    return folder


ABSENT = object()
# Field, what stands there, what the message says of it.
FIELDS = [
    ("format", 2, r"format is 2; cvmae \S+ reads 1: take the version that wrote it"),
    ("format", ABSENT, "format is None; cvmae"),
    ("format", True, "format is True; cvmae"),
    ("version", ABSENT, "version is missing"),
    ("sizes", 1, "sizes is not a field of format 1"),
    ("arrays", "../params.npz", r"arrays is '../params.npz'; expected one of 'params.safetensors', 'params.npz'"),
    ("arrays", "params.npz", "does not fit.*params.npz is missing, which cvmae.json names"),
    ("encoder", None, "encoder is None; expected {trunk, grid, positions, cls_token, final_norm}"),
    ("encoder", ABSENT, "encoder is missing"),
    ("encoder.trunk.eps", "small", "encoder.trunk.eps is 'small'; expected a number above 0"),
    ("encoder.trunk.eps", float("nan"), "encoder.trunk.eps is nan; expected a number above 0"),
    ("encoder.trunk.eps", 0, "encoder.trunk.eps is 0; expected a number above 0"),
    ("encoder.trunk.eps", True, "encoder.trunk.eps is True; expected a number above 0"),
    ("encoder.trunk.qkv_bias", "kv", "encoder.trunk.qkv_bias is 'kv'; expected one of 'qkv', 'qv', 'none'"),
    ("encoder.trunk.size.heads", 3, "encoder.trunk.size: width=16 is not a multiple of heads=3"),
    ("encoder.trunk.size.heads", 0, "encoder.trunk.size.heads is 0; expected a whole number of at least 1"),
    ("encoder.trunk.size.depth", 2.5, "encoder.trunk.size.depth is 2.5; expected a whole number of at least 1"),
    ("encoder.trunk.size.depth", ABSENT, "encoder.trunk.size.depth is missing"),
    ("encoder.trunk.size.layers", 2, "encoder.trunk.size.layers is not a field of format 1"),
    ("encoder.grid.height", 20, "encoder.grid: height=20 is not a multiple of the patch size 8"),
    ("encoder.positions", "sincos4d", "encoder.positions is 'sincos4d'; expected one of 'separable', 'learned'"),
    ("encoder.positions", ["learned"], r"encoder.positions is \['learned'\]; expected one of"),
    ("encoder.positions", "sincos2d", "cvmae.json does not fit.*positions='sincos2d' has no time axis"),
    ("encoder.cls_token", 1, "encoder.cls_token is 1; expected true or false"),
    ("decoder", [], r"decoder is \[\]; expected {trunk, layout"),
    ("decoder.cls", "mine", "decoder.cls is 'mine'; expected one of 'none', 'own', 'encoder'"),
    ("decoder.layout", 3, "decoder.layout is 3; expected one of 'unshuffle', 'concat'"),
    ("decoder.target_frames", -1, "decoder.target_frames is -1; expected a whole number of at least 0"),
    ("decoder.target_frames", 3, "cvmae.json does not fit.*decoder.target_frames=3 must be a multiple of the 2"),
    ("head.pool", "max", "head.pool is 'max'; expected one of 'mean', 'first'"),
    ("head.names", ["a"], "head.names has 1 names; head.classes is 2"),
    ("head.names", ["a", 1], r"head.names is \['a', 1\]; expected a list of texts"),
    ("target_norm", "batch", "target_norm is 'batch'; expected one of '', 'patch', 'patch_channel', 'none'"),
    ("pixels", {"mean": [1, 2, 3]}, "pixels is .*; expected {} or mean and std"),
    ("pixels.mean", [0.5, 0.5], r"pixels.mean is \[0.5, 0.5\]; expected three numbers"),
    ("pixels.std", [0.5, 0.5, 0], r"pixels.std is \[0.5, 0.5, 0\]; expected three numbers above 0"),
    ("pixels.std", [0.5, 0.5, "0"], "pixels.std is .*; expected three numbers above 0"),
    ("sampling", 4, "sampling is 4; expected {stride, fps, square_pixels}"),
    ("sampling.stride", 0, "sampling.stride is 0; expected a whole number of at least 1"),
    ("sampling.fps", -1.0, "sampling.fps is -1.0; expected a number of at least 0"),
    ("sampling.square_pixels", ABSENT, "sampling.square_pixels is missing"),
    ("notes", "a note", "notes is 'a note'; expected a list of texts"),
    # What no field is wrong in, but the arrays do not agree with.
    ("encoder.final_norm", False, r"params.safetensors does not fit.*left over: encoder/norm/scale \[16\]"),
    ("encoder.trunk.size.depth", 3, r"missing: nothing there for encoder/blocks/block2/norm1/scale \[16\]"),
    (
        "encoder.trunk.size.mlp_ratio",
        2.0,
        r"mis-shaped: encoder/blocks/block0/mlp_in/kernel is \[16, 48\] in this package's layout, the model has \[16, 32\]",
    ),
    ("head", None, r"left over: head/kernel \[16, 2\], which the model does not have"),
]


def change(file, field, value):
    text = json.loads(file.read_text())
    *path, last = field.split(".")
    inner = text
    for name in path:
        inner = inner[name]
    if value is ABSENT:
        del inner[last]
    else:
        inner[last] = value
    file.write_text(json.dumps(text))


@pytest.mark.parametrize("field, value, message", FIELDS, ids=lambda v: v if isinstance(v, str) and len(v) < 30 else None)
def test_every_field_is_checked(field, value, message, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    change(copy / "cvmae.json", field, value)
    with pytest.raises(WeightsError, match="(?s)" + message) as caught:
        read_archive(copy)
    assert str(tmp_path) in str(caught.value)


def test_all_problems_at_once(tmp_path):
    write_archive(CASES["encoder"], tmp_path)
    arrays = load_file(tmp_path / "params.safetensors")
    arrays["encoder/norms/scale"] = arrays.pop("encoder/norm/scale")
    arrays["encoder/norm/bias"] = arrays["encoder/norm/bias"][None]
    arrays["encoder/cls"] = arrays["encoder/cls"].astype(np.int64)
    arrays["encoder/embed/bias"][3] = np.nan
    save_file(arrays, tmp_path / "params.safetensors")
    with pytest.raises(WeightsError) as caught:
        read_archive(tmp_path)
    assert sorted(caught.value.problems) == [
        "left over: encoder/norms/scale [16], which the model does not have",
        "mis-shaped: encoder/norm/bias is [1, 16] in this package's layout, the model has [16]",
        "missing: nothing there for encoder/norm/scale [16]",
        "not finite: 1 of the 16 values of encoder/embed/bias are NaN or infinite",
        "of another dtype: encoder/cls is int64; expected float32",
    ]
    change(tmp_path / "cvmae.json", "notes", 3)
    change(tmp_path / "cvmae.json", "encoder.cls_token", 3)
    with pytest.raises(WeightsError) as caught:
        read_archive(tmp_path)
    assert len(caught.value.problems) == 2


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_damage(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_archive(CASES["encoder"], tmp_path / "a", kind)
    file = tmp_path / "a" / f"params.{kind}"
    written = file.read_bytes()
    for content in (written[: len(written) // 2], written[:4], b"", b"not this"):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=f"params.{kind} does not fit:\n"):
            read_archive(tmp_path / "a")
    if kind == "npz":
        np.savez(file, **{"encoder/cls": np.array([Bomb()], dtype=object)})
        with pytest.raises(WeightsError, match="params.npz does not fit:\n"):
            read_archive(tmp_path / "a")
        assert not os.path.exists("ran")
    (tmp_path / "a" / "cvmae.json").write_text("{")
    with pytest.raises(WeightsError, match="cvmae.json does not fit:\n  it is not readable JSON"):
        read_archive(tmp_path / "a")


@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_arrays_that_an_interrupted_download_left_at_zero_are_named(kind, tmp_path):
    source = CASES["features"]
    arrays = traverse_util.flatten_dict(source.params, sep="/")
    lost = ["encoder/blocks/block1/mlp_out/kernel", "encoder/norm/scale", "encoder/embed/kernel"]
    kept = [path for path in arrays if path.endswith(("bias", "layer_scale1/scale"))]  # may be zero
    assert set(lost) <= set(arrays) and len(kept) > 4
    params = arrays | {path: np.zeros_like(arrays[path]) for path in [*lost, *kept]}
    write_archive(dataclasses.replace(source, params=traverse_util.unflatten_dict(arrays, sep="/")), tmp_path / "out", kind)
    write_arrays(tmp_path / "out" / f"params.{kind}", params)
    with pytest.raises(WeightsError) as refused:
        read_archive(tmp_path / "out")
    problems = [line.partition(": ")[2] for line in str(refused.value).splitlines() if "all zero" in line]
    assert sorted(line.split(" values of ")[1].split(",")[0] for line in problems) == sorted(lost)
    assert all(line.endswith("as an interrupted download leaves it: get the file again") for line in problems)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "foo.bar.", "model/"])
def test_a_prefix_of_all_keys_is_taken_off_and_named(prefix, tmp_path):
    source = CASES["both"]
    write_archive(source, tmp_path / "out")
    file = tmp_path / "out" / "params.safetensors"
    arrays = load_file(file)
    write_arrays(file, {prefix + path: array for path, array in arrays.items()})
    restored = read_archive(tmp_path / "out")
    assert restored.notes[-1] == f"the prefix {prefix!r} is taken off the keys of params.safetensors"
    assert jax.tree.all(jax.tree.map(np.array_equal, restored.params, source.params))
    first, *others = arrays
    write_arrays(file, {first: arrays[first], **{prefix + path: arrays[path] for path in others}})
    with pytest.raises(WeightsError, match="missing"):
        read_archive(tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["safetensors", "npz"])
def test_arrays_of_another_precision_are_cast_and_named(kind, dtype, tmp_path):
    source = CASES["classifier"]
    write_archive(source, tmp_path / "out", kind)
    arrays = traverse_util.flatten_dict(source.params, sep="/")
    dtype = jnp.dtype(dtype)
    first = next(iter(arrays))
    for some in ({first}, set(arrays)):
        converted = {path: array.astype(dtype) if path in some else array for path, array in arrays.items()}
        write_arrays(tmp_path / "out" / f"params.{kind}", converted)
        restored = read_archive(tmp_path / "out")
        assert restored.notes == (*source.notes, f"weights of {dtype.name} are cast to float32")
        for path, array in traverse_util.flatten_dict(restored.params, sep="/").items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, converted[path].astype(np.float32))
    assert load_encoder(tmp_path / "out")(np.zeros((1, 4, 16, 24, 3), np.uint8)).dtype == np.float32


@pytest.mark.parametrize(
    "value, said", [(1e300, "has float64 values beyond the range of float32"), (np.inf, "are NaN or infinite")]
)
def test_a_value_that_float32_lacks_is_refused(value, said, tmp_path):
    write_archive(CASES["encoder"], tmp_path / "out", "npz")
    arrays = {
        path: array.astype(np.float64) for path, array in traverse_util.flatten_dict(CASES["encoder"].params, sep="/").items()
    }
    arrays["encoder/norm/bias"][3] = value
    write_arrays(tmp_path / "out" / "params.npz", arrays)
    with pytest.raises(WeightsError, match=f"not finite: .*encoder/norm/bias {said}"):
        read_archive(tmp_path / "out")


@pytest.mark.parametrize("dtype", [np.int32, np.complex64, np.bool_])
def test_other_numbers_are_refused(dtype, tmp_path):
    write_archive(CASES["encoder"], tmp_path / "out", "npz")
    arrays = traverse_util.flatten_dict(CASES["encoder"].params, sep="/")
    write_arrays(tmp_path / "out" / "params.npz", arrays | {"encoder/norm/bias": arrays["encoder/norm/bias"].astype(dtype)})
    with pytest.raises(WeightsError, match=f"of another dtype: encoder/norm/bias is {np.dtype(dtype)}; expected float32"):
        read_archive(tmp_path / "out")
