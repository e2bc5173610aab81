"""ONNX models compute what the modules do, with the lines of their cards; what cannot be written so says why and leaves nothing."""

import os
import sys

import jax
import numpy as np
import pytest

from cvmae.interop import __main__ as command
from cvmae.interop import onnx_export
from cvmae.interop.native import write_archive
from cvmae.interop.pretrained import Head
from cvmae.models.patches import Grid
from cvmae.models.vit import ViTSize
from tests.commands import run_own
from tests.interop.comparison import assert_close, relative
from tests.interop.pretrained_models import pretrained, videomae
from tests.requirements import missing

try:
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401

    from tests.interop.parity import torch  # noqa: F401
except ImportError as error:
    missing("onnx", str(error))

TINY = {"size": ViTSize(32, 1, 2, 2.0), "grid": Grid(4, 16, 32, 2, 8)}
CASES = {
    "encoder": (pretrained(videomae(**TINY)), ""),
    "key biases, tanh": (pretrained(videomae(**TINY, bias="qkv", final_norm=False)), "encoder"),
    "classifier": (pretrained(videomae(**TINY, final_norm=False), head=Head(3, eps=1e-5, names=("a", "b", "c"))), ""),
}


def export(source, out, *words) -> int:
    write_archive(source, out.with_name("in"))
    return run_own(command, "export", "--to=onnx", f"--checkpoint={out.with_name('in')}", f"--out={out}", *words)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_modules(name, tmp_path, monkeypatch, capsys):
    source, part = CASES[name]
    assert export(source, tmp_path / "out", f"--part={part}") == 0, capsys.readouterr().err
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "config.json", "model.onnx", "preprocessor_config.json"]
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [onnx_export.OPSET]
    text = (tmp_path / "out" / "README.md").read_text()
    assert f"opset {onnx_export.OPSET}" in text and f"ONNX opset {onnx_export.OPSET}; onnxruntime" in capsys.readouterr().out
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    module, params = source.take(part)
    for clips in (names["pixel_values"], np.random.default_rng(5).normal(size=(5, 4, 3, 16, 32)).astype(np.float32)):
        out = jax.jit(module.apply)({"params": params}, np.moveaxis(clips, 2, -1))
        (got,) = onnxruntime.InferenceSession("model.onnx").run(None, {"pixel_values": clips})
        assert_close(name, relative(got, np.asarray(getattr(out, "tokens", out))), 1e-4)
        if len(clips) == 2:
            np.testing.assert_array_equal(names["outputs"], got)


def test_what_videomae_cannot_express(tmp_path, capsys):
    assert export(pretrained(videomae(**TINY, cls_token=True, positions="separable")), tmp_path / "out") == 2
    error = capsys.readouterr().err
    for remedy in (
        "video_branch.cls_token=False",
        "video_branch.positions=sincos1d",
        "the argument exportable",
        "--to=stablehlo",
    ):
        assert remedy in error
    assert export(CASES["encoder"][0], tmp_path / "other" / "out", "--part=classifier") == 2
    assert not (tmp_path / "out").exists() and not (tmp_path / "other" / "out").exists()


def test_a_model_that_differs_is_not_written(tmp_path, capsys, monkeypatch):
    """The comparison finds one wrong array among all."""
    source, _ = CASES["encoder"]
    convert = onnx_export._convert

    def wrong(weights, folder, file, part):
        convert(weights, folder, file, part)
        model = onnx.load(file)
        bias = [array for array in model.graph.initializer if array.name.endswith("layernorm.bias")][-1]
        bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 0.01, bias.name))
        onnx.save(model, file)

    monkeypatch.setattr(onnx_export, "_convert", wrong)
    assert export(source, tmp_path / "out") == 2
    assert "differs from this package's by" in capsys.readouterr().err and os.listdir(tmp_path) == ["in"]


def test_without_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert export(CASES["encoder"][0], tmp_path / "out") == 2
    assert "pip install 'crossvideomae[onnx]'" in capsys.readouterr().err and not (tmp_path / "out").exists()
