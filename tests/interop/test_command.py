"""`python -m cvmae.interop`: every kind comes in, every format goes out, and errors are one line without a traceback."""

import csv
import dataclasses
import json
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cvmae
from cvmae.interop import __main__ as command
from cvmae.interop import read
from cvmae.interop.key_maps.mae import HF_VIT_MAE, MAE, MAE_CLASSIFIER
from cvmae.interop.key_maps.mae_st import MAE_ST
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE, HF_VIDEOMAE_ENCODER, VIDEOMAE, VIDEOMAE_CLASSIFIER
from cvmae.interop.native import write_archive
from cvmae.interop.pretrained import Pretrained, vit_of
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.classifier import Classifier
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from tests.commands import run_own
from tests.interop.models import image_mae, random_params, save_weights, videomae

SIZES = ("--heads=2", "--decoder_heads=2", "--num_frames=4", "--image_size=16")


def run(*words) -> int:
    """The exit code of the command, in this process."""
    return run_own(command, *words)


def mae_st() -> Autoencoder:
    grid = Grid(4, 16, 16, 2, 8)
    encoder = Encoder(TransformerConfig(ViTSize(16, 2, 2)), grid, "separable", True)
    return Autoencoder(encoder, Decoder(DecoderSpec(TransformerConfig(ViTSize(8, 1, 2)), cls="own", target_frames=2), grid))


def with_eps(module: Autoencoder) -> Autoencoder:
    """The same module with the eps of `.pth` files."""
    encoder, decoder = vit_of(module.encoder, "test"), module.decoder
    assert decoder is not None
    encoder = encoder.clone(trunk=dataclasses.replace(encoder.trunk, eps=1e-6))
    spec = dataclasses.replace(decoder.spec, trunk=dataclasses.replace(decoder.spec.trunk, eps=1e-6), norm_eps=1e-6)
    return Autoencoder(encoder, Decoder(spec, encoder.grid))


def classifier(module: Autoencoder, **changes) -> Classifier:
    return Classifier(module.encoder.clone(final_norm=False, **changes), 5)


INCOMING = {
    "mae": (MAE, with_eps(image_mae())),
    "mae fine-tuned": (MAE_CLASSIFIER, classifier(with_eps(image_mae(positions="learned")))),
    "hf-vit-mae": (HF_VIT_MAE, image_mae()),
    "mae_st": (MAE_ST[0], mae_st()),
    "mae_st fine-tuned": (MAE_ST[3], classifier(mae_st())),
    "videomae": (VIDEOMAE, with_eps(videomae())),
    "videomae fine-tuned": (VIDEOMAE_CLASSIFIER, classifier(with_eps(videomae()))),
    "videomaev2": (VIDEOMAE, with_eps(videomae())),
    "hf-videomae": (HF_VIDEOMAE, videomae()),
    "hf-videomae encoder": (HF_VIDEOMAE_ENCODER, videomae().encoder),
}


@pytest.mark.parametrize("auto", [True, False], ids=["auto", "named"])
@pytest.mark.parametrize("name", INCOMING)
def test_import(name, auto, tmp_path, capsys):
    """Kinds by their keys, from safetensors so that torch is not needed; torch's files have tests of their own."""
    key_map, module = INCOMING[name]
    params = random_params(module)
    tree = {"encoder": params} if isinstance(module, Encoder) else params
    grid = module.grid if isinstance(module, Encoder) else module.encoder.grid
    save_weights(tmp_path / "file.safetensors", tree, key_map, grid)
    kind = "auto" if auto else name.split()[0]
    words = ("--heads=2", "--decoder_heads=2", f"--num_frames={grid.num_frames}", f"--image_size={grid.height}")
    assert run("import", f"--from={kind}", f"--weights={tmp_path / 'file.safetensors'}", f"--out={tmp_path / 'out'}", *words) == 0
    loaded = read(tmp_path / "out")
    part = {Autoencoder: "autoencoder", Classifier: "classifier", Encoder: "encoder"}[type(module)]
    assert loaded.take(part)[0] == module
    jax.tree.map(np.testing.assert_array_equal, loaded.take(part)[1], params)
    printed = capsys.readouterr().out
    assert (
        f"as {key_map.kind}, {key_map.layout}" in printed
        and "written: README.md, cvmae.json, keys.csv, params.safetensors" in printed
    )
    with open(tmp_path / "out" / "keys.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["key"] for row in rows} == set(load_file(tmp_path / "file.safetensors"))
    assert all(row["parameter"] or row["left_out_because"] for row in rows)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Exports of this package: VideoMAE's autoencoder, a classifier on it, and mae_st's."""
    folder = tmp_path_factory.mktemp("exports")
    normalization = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    for name, key in (("videomae", "videomae"), ("classifier", "videomae fine-tuned"), ("mae_st", "mae_st")):
        module = INCOMING[key][1]
        head = {"head": cvmae.interop.pretrained.Head(5)} if name == "classifier" else {}
        spec = {} if name == "classifier" else {"decoder": module.decoder.spec, "target_norm": "patch_channel"}
        write_archive(
            Pretrained(name, module.encoder, random_params(module), normalization=normalization, **head, **spec), folder / name
        )
    return folder


OUTGOING = {
    ("videomae", "hf-videomae", ""): ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"],
    ("classifier", "hf-videomae", ""): ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"],
    ("videomae", "safetensors", "encoder"): ["README.md", "cvmae.json", "params.safetensors"],
    ("mae_st", "npz", ""): ["README.md", "cvmae.json", "params.npz"],
    ("classifier", "stablehlo", ""): ["README.md", "config.json", "model.jax_export", "params.npz"],
    ("mae_st", "stablehlo", "encoder"): ["README.md", "config.json", "model.jax_export", "params.npz"],
}


@pytest.mark.parametrize("name, to, part", OUTGOING)
def test_export(name, to, part, exports, tmp_path):
    out = tmp_path / "out"
    assert run("export", f"--to={to}", f"--checkpoint={exports / name}", f"--out={out}", f"--part={part}") == 0
    assert sorted(file.name for file in out.iterdir()) == OUTGOING[name, to, part]
    if to in ("safetensors", "npz"):
        there, here = read(exports / name), read(out)
        assert here.parts == (("encoder",) if part else there.parts)
        assert here.target_norm == ("" if part else there.target_norm)
        jax.tree.map(np.testing.assert_array_equal, here.params, {key: there.params[key] for key in here.params})


def test_what_transformers_cannot_express_names_the_fields(exports, tmp_path, capsys):
    assert run("export", "--to=hf-videomae", f"--checkpoint={exports / 'mae_st'}", f"--out={tmp_path / 'out'}") == 2
    error = capsys.readouterr().err
    for field in ("video_branch.cls_token=False", "video_branch.positions=sincos1d", "video_branch.decoder.cls=none"):
        assert field in error
    assert not (tmp_path / "out").exists()


WRONG = {
    "nothing to do": ((), "give what to do: import or export or push"),
    "something else": (("convert",), "give what to do: import or export or push"),
    "no weights": (("import", "--out=x"), "--weights is missing"),
    "no format": (("export", "--checkpoint=x", "--out=x"), "--to is missing"),
    "no such format": (("export", "--checkpoint=x", "--out=x", "--to=hf-videoma"), "hf-videomae"),
    "a kind that is read alone": (
        ("export", "--checkpoint=x", "--out=x", "--to=hf-vjepa2"),
        "--to=hf-vjepa2: expected one of hf-videomae, safetensors, npz, stablehlo, onnx; hf-vjepa2 is read and not written: --to=stablehlo",
    ),
    "nothing like a format": (
        ("export", "--checkpoint=x", "--out=x", "--to=zip"),
        "one of hf-videomae, safetensors, npz, stableh",
    ),
    "too many words": (("export", "x", "--checkpoint=x", "--out=x", "--to=npz"), "give what to do"),
    "no folder": (("push", "--to=hf:a/b"), "push takes one folder"),
    "no place": (("push", "x"), "--to is missing"),
    "unknown kind": (("import", "--from=mvd", "--weights=x", "--out=x"), "should be one of"),
    "no such file": (("import", "--weights=absent.pth", "--out=x"), "no weights at absent.pth"),
    "image size": (("import", "--weights=x.pth", "--out=x", "--image_size=1,2,3"), "expected one number or HEIGHT,WIDTH"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_commands(name, capsys):
    words, message = WRONG[name]
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error


def test_help_names_the_flags(capsys):
    assert run("--help") == 0
    printed = capsys.readouterr().out
    assert "--checkpoint" in printed and "python -m cvmae.interop import" in printed


def test_damage_leaves_nothing_behind(tmp_path, capsys):
    save_file(
        {"encoder.patch_embed.proj.weight": np.zeros((4, 3, 2, 8, 8), np.float32), "encoder.blocks.0.x": np.zeros(1)},
        tmp_path / "a.safetensors",
    )
    assert run("import", f"--weights={tmp_path / 'a.safetensors'}", f"--out={tmp_path / 'out'}", "--heads=2") == 2
    assert "left over: encoder.blocks.0.x" in capsys.readouterr().err and not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "kept.txt").write_text("kept")
    module = videomae()
    save_weights(tmp_path / "good.safetensors", random_params(module), HF_VIDEOMAE, module.encoder.grid)
    assert run("import", f"--weights={tmp_path / 'good.safetensors'}", f"--out={tmp_path / 'full'}", *SIZES) == 2
    assert "holds files already" in capsys.readouterr().err and (tmp_path / "full" / "kept.txt").read_text() == "kept"


def test_inflation(tmp_path):
    module = with_eps(image_mae())
    save_weights(tmp_path / "mae.safetensors", random_params(module), MAE, module.encoder.grid)
    words = (f"--weights={tmp_path / 'mae.safetensors'}", f"--out={tmp_path / 'out'}", "--heads=2", "--decoder_heads=2")
    assert run("import", *words, "--inflate=mean", "--num_frames=6", "--tubelet=3") == 0
    assert read(tmp_path / "out").encoder.grid == Grid(6, 24, 24, 3, 8)


def test_load_in_one_line(exports):
    module, params, preprocessing = cvmae.load(exports / "classifier")
    frames = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), dtype=np.uint8)
    assert jax.jit(module.apply)({"params": params}, preprocessing(frames)).shape == (1, 5)
    module, params, _ = cvmae.load(exports / "classifier", "encoder")
    assert jax.jit(module.apply)({"params": params}, preprocessing(frames)).tokens.shape == (1, 8, 16)


def test_a_kind_that_is_not_there(exports):
    with pytest.raises(
        cvmae.interop.WeightsError, match="it is a workdir or an export of this package, which kind 'mae' does not mean"
    ):
        read(exports / "videomae", "mae")
    with pytest.raises(ValueError, match="weights kind is 'mvd'; expected one of auto, cvmae"):
        read(exports / "videomae", "mvd")
    assert json.loads((exports / "videomae" / "cvmae.json").read_text())["format"] == 1


def test_torch_is_not_needed(exports, tmp_path, monkeypatch):
    for name in ("torch", "transformers", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, name, None)
    assert run("export", "--to=hf-videomae", f"--checkpoint={exports / 'videomae'}", f"--out={tmp_path / 'out'}") == 0
    (tmp_path / "a.pth").write_bytes(b"x")
    with pytest.raises(cvmae.interop.WeightsError, match=r"pip install 'crossvideomae\[torch\]'"):
        read(tmp_path / "a.pth")
