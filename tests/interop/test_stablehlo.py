"""The exported program runs where this package, flax and einops cannot be imported, for any batch, as the module does."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import export

import cvmae
from cvmae.interop.preprocessing import preprocessing_of
from cvmae.interop.pretrained import FrameSampling, Head
from cvmae.interop.stablehlo import export_program, export_stablehlo
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from tests.interop.comparison import assert_close, relative
from tests.interop.pretrained_models import pretrained

NORMALIZATION = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
ENCODER = Encoder(
    TransformerConfig(ViTSize(16, 2, 2), attention="xla", dtype=jnp.bfloat16), Grid(4, 16, 24, 2, 8), "separable", True
)
MEAN = ENCODER.clone(positions="sincos1d", cls_token=False, final_norm=False)
CASES = {
    "encoder": (pretrained(ENCODER, normalization=NORMALIZATION), ""),
    "classifier": (pretrained(MEAN, head=Head(3), normalization=NORMALIZATION), ""),
    "encoder of a classifier": (pretrained(MEAN, head=Head(3), normalization=NORMALIZATION), "encoder"),
}
# Runs the lines of each folder's README.md, then what they made on batches of 1 and 3, where nothing but jax is there.
ALONE = """
    import sys

    class Nothing:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] in ("cvmae", "flax", "einops", "optax", "orbax", "tests"):
                raise ImportError(f"{name} must not be needed")

    sys.meta_path.insert(0, Nothing())
    import os

    for folder in sys.argv[1:]:
        os.chdir(folder)
        lines = open("README.md").read().partition("```python\\n")[2].partition("```")[0].splitlines()
        assert len(lines) == 5, lines
        names = {}
        exec("\\n".join(lines), names)
        np, exported, params = names["np"], names["exported"], names["params"]
        assert names["video"].shape == (2, *np.load("batch1.npy").shape[1:])
        for batch in (1, 3):
            out = names["jax"].jit(exported.call)(params, np.load(f"batch{batch}.npy"))
            np.savez(f"out{batch}.npz", **(out if isinstance(out, dict) else {"logits": out}))
        assert ("logits" in names) != ("features" in names)
"""


def clips(source, batch):
    grid = source.encoder.grid
    return np.random.default_rng(batch).integers(0, 256, (batch, grid.num_frames, grid.height, grid.width, 3), dtype=np.uint8)


def apply_module(source, part, video):
    """The module's outputs, in float32 with plain attention."""
    module, params = source.take(part)
    encoder = getattr(module, "encoder", module)
    encoder = encoder.clone(trunk=dataclasses.replace(encoder.trunk, attention="einsum", dtype=np.float32))
    module = encoder if isinstance(module, Encoder) else module.clone(encoder=encoder)
    out = jax.jit(module.apply)({"params": params}, preprocessing_of(source)(video))
    if not isinstance(module, Encoder):
        return {"logits": out}
    return {"tokens": out.tokens, "pooled": out.tokens.mean(1)} | ({} if out.cls is None else {"cls": out.cls})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Every case, exported and run by a process of its own."""
    folders = {}
    for name, (source, part) in CASES.items():
        folders[name] = tmp_path_factory.mktemp("exported") / "out"
        export_stablehlo(source, folders[name], part)
        assert sorted(os.listdir(folders[name])) == ["README.md", "config.json", "model.jax_export", "params.npz"]
        for batch in (1, 3):
            np.save(folders[name] / f"batch{batch}.npy", clips(source, batch))
    subprocess.run([sys.executable, "-c", textwrap.dedent(ALONE), *map(str, folders.values())], check=True)
    return folders


@pytest.mark.parametrize("name", CASES)
def test_without_this_package(name, written):
    source, part = CASES[name]
    for batch in (1, 3):
        expected = apply_module(source, part, clips(source, batch))
        with np.load(written[name] / f"out{batch}.npz") as outputs:
            assert set(outputs.files) == set(expected)
            for key, value in expected.items():
                assert outputs[key].dtype == np.float32
                assert_close(f"{name} {key} of {batch}", relative(outputs[key], value), 1e-5)


def test_the_names_of_classes_and_the_sampling_are_in_the_config(written, tmp_path):
    clips = {"num_frames": 4, "image_size": [16, 24]}
    for name in ("encoder", "encoder of a classifier"):
        assert json.loads((written[name] / "config.json").read_text()) == clips
    source, _ = CASES["classifier"]
    named = dataclasses.replace(source, head=Head(2, names=("cat, sat", "dog"), loss="sigmoid"), sampling=FrameSampling(3, 25.0))
    params = named.params | {"head": {"kernel": np.zeros((16, 2), np.float32), "bias": np.zeros(2, np.float32)}}
    export_stablehlo(dataclasses.replace(named, params=params), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == clips | {
        "id2label": {"0": "cat, sat", "1": "dog"},
        "label2id": {"cat, sat": 0, "dog": 1},
        "problem_type": "multi_label_classification",
        "cvmae": {"sampling": {"stride": 3, "fps": 25.0, "square_pixels": True}},
    }
    assert "`config.json` has the names of the classes" in (tmp_path / "out" / "README.md").read_text()


def test_a_program_is_of_the_size_that_the_processor_makes(tmp_path):
    source = dataclasses.replace(CASES["encoder"][0], crop=(24, 24))
    export_stablehlo(source, tmp_path / "out")
    exported = export.deserialize(bytearray((tmp_path / "out" / "model.jax_export").read_bytes()))
    assert str(exported.in_avals[-1].shape) == "(b, 4, 24, 24, 3)"


def test_a_program_is_no_weights(written):
    folder = written["encoder"]
    for path in (folder, folder / "model.jax_export"):
        with pytest.raises(FileNotFoundError) as caught:
            cvmae.load_encoder(path)
        assert str(caught.value).startswith(
            f"no weights at {path}, but a program that --to=stablehlo wrote: run it with jax.export"
        )
        assert "README.md" in str(caught.value) and "\n" not in str(caught.value)


def test_an_onnx_model_is_no_weights(tmp_path):
    (tmp_path / "model.onnx").touch()
    with pytest.raises(FileNotFoundError, match="no weights at .*, but a program that --to=onnx wrote: run it with onnxruntime"):
        cvmae.load(tmp_path)


@pytest.mark.parametrize("name", CASES)
def test_what_the_file_holds(name, written):
    exported = export.deserialize(bytearray((written[name] / "model.jax_export").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    *params, video = exported.in_avals
    assert str(video.shape) == "(b, 4, 16, 24, 3)" and video.dtype == np.uint8
    assert all(out.shape[0] == video.shape[0] and out.dtype == np.float32 for out in exported.out_avals)
    source, part = CASES[name]
    with np.load(written[name] / "params.npz") as arrays:
        assert len(arrays.files) == len(params) == len(jax.tree.leaves(source.take(part)[1]))
    calls = [line for line in exported.mlir_module().splitlines() if "custom_call" in line]
    assert all("@shape_assertion" in line for line in calls), "a call that not every platform has"


def test_it_does_not_depend_on_how_the_module_computes():
    """The same program for every kind of attention and every dtype."""
    programs = []
    for attention, dtype in (("xla", jnp.bfloat16), ("auto", jnp.float32), ("einsum", jnp.float32)):
        source, _ = CASES["encoder"]
        encoder = source.encoder.clone(trunk=dataclasses.replace(source.encoder.trunk, attention=attention, dtype=dtype))
        params = traverse_util.flatten_dict(source.params["encoder"], sep="/")
        program = export_program(encoder, params, preprocessing_of(source)).mlir_module()
        programs.append(re.sub(r"(?m)^#loc.*$| ?loc\(.*\)", "", program))
    assert programs[0] == programs[1] == programs[2] and "bf16" not in programs[0] and "stablehlo.dot_general" in programs[0]


def test_what_is_refused(tmp_path):
    source, _ = CASES["encoder"]
    with pytest.raises(ValueError, match="random weights does not record its normalization, .*: give `normalization`"):
        export_stablehlo(dataclasses.replace(source, normalization={}), tmp_path / "out")
    with pytest.raises(ValueError, match="whose program would need masks: expected 'encoder' or 'classifier'"):
        export_stablehlo(source, tmp_path / "out", "autoencoder")
    with pytest.raises(ValueError, match="no part 'classifier', only encoder"):
        export_stablehlo(source, tmp_path / "out", "classifier")
    assert not os.listdir(tmp_path)
    (tmp_path / "kept").write_text("kept")
    with pytest.raises(FileExistsError, match="holds files already"):
        export_stablehlo(source, tmp_path)
