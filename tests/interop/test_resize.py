"""Weights at another number of frames or another size than they record: by hints, and by the image processor beside them."""

import json

import jax
import numpy as np
import pytest

import cvmae
from cvmae.interop import ModelHints, WeightsError, read
from cvmae.interop import __main__ as command
from cvmae.interop.adapt import InitFrom, load_encoder
from cvmae.interop.key_maps.mae_st import MAE_ST
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE
from cvmae.interop.native import write_archive
from cvmae.models.autoencoder import Autoencoder
from cvmae.models.patches import Grid
from tests.commands import run_own
from tests.interop.encoder_folders import PROCESSOR, make_dinov2, make_siglip, make_videoprism, make_vjepa2
from tests.interop.models import random_params, save_weights, videomae
from tests.interop.test_command import mae_st

VIDEO = {"hf-vjepa2": make_vjepa2, "hf-videoprism": make_videoprism}
IMAGE = {"hf-dinov2": make_dinov2, "hf-siglip": make_siglip}
STACK = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
DECODER = {f"decoder_{name}": value for name, value in zip(STACK, (8, 1, 2, 32), strict=True)}


def make_videomae(folder, **config):
    """Writes a VideoMAE of 4 frames of 16x16 with its config.json; None takes a field out."""
    folder.mkdir(exist_ok=True)
    module = videomae()
    save_weights(folder / "model.safetensors", random_params(module), HF_VIDEOMAE, module.encoder.grid)
    grid = {"num_frames": 4, "image_size": 16, "patch_size": 8, "tubelet_size": 2}
    fields = {"model_type": "videomae", "use_mean_pooling": False} | STACK | DECODER | grid | config
    (folder / "config.json").write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    return folder


def set_processor(folder, **fields):
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR | fields))


def apply(module, params, shape):
    return jax.jit(module.apply)({"params": params}, np.random.default_rng(0).normal(size=(1, *shape, 3)).astype(np.float32))


@pytest.mark.parametrize("kind", [*VIDEO, "hf-videomae"])
def test_hints_of_frames_and_size_hold_beside_a_config(kind, tmp_path, capsys):
    if kind == "hf-videomae":
        make_videomae(tmp_path)
    else:
        VIDEO[kind](tmp_path)
    hints = ModelHints(num_frames=8, size=(24, 16))
    module, params, preprocessing = cvmae.load(tmp_path, "encoder", hints=hints)
    assert (preprocessing.num_frames, preprocessing.height, preprocessing.width) == (8, 24, 16)
    assert "note: for 8 frames of 24x16 pixels: positions" in capsys.readouterr().err
    recorded = read(tmp_path).encoder
    assert module == recorded.clone(grid=Grid(8, 24, 16, recorded.grid.tubelet, 8))
    expected, _ = load_encoder(InitFrom(str(tmp_path)), module)  # as a run adapts them
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    assert apply(module, params, (8, 24, 16)).tokens.shape[1] == module.grid.tokens
    words = ("import", f"--weights={tmp_path}", f"--out={tmp_path / 'out'}", "--num_frames=8", "--image_size=24,16")
    assert run_own(command, *words) == 0
    assert "for 8 frames of 24x16 pixels: " in capsys.readouterr().out
    assert read(tmp_path / "out").encoder == module
    again, _, _ = cvmae.load(tmp_path / "out", "encoder", hints=ModelHints(num_frames=4, size=16))  # an export of this package
    assert again == recorded


@pytest.mark.parametrize("kind", IMAGE)
def test_an_image_encoder_takes_the_size_and_no_frames(kind, tmp_path, capsys):
    IMAGE[kind](tmp_path)
    module, params, _ = cvmae.load(tmp_path, hints=ModelHints(size=32))
    assert module.grid == Grid(1, 32, 32, 1, 8)
    expected, _ = load_encoder(InitFrom(str(tmp_path), "image"), module)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    with pytest.raises(WeightsError, match="an encoder of single frames, which takes no clips of 4: .*--inflate=mean"):
        cvmae.load(tmp_path, hints=ModelHints(num_frames=4))
    words = (
        "import",
        f"--weights={tmp_path}",
        f"--out={tmp_path / 'out'}",
        "--num_frames=4",
        "--inflate=mean",
        "--image_size=32",
    )
    assert run_own(command, *words) == 0
    assert read(tmp_path / "out").encoder.grid == Grid(4, 32, 32, 2, 8)


def test_a_decoder_goes_along_with_its_encoder(tmp_path):
    """mae_st predicts one frame of each token of two: at twice the frames it predicts twice as many."""
    module = mae_st()
    save_weights(tmp_path / "a.safetensors", random_params(module), MAE_ST[0], module.encoder.grid)
    hints = ModelHints(heads=2, decoder_heads=2, num_frames=8, size=(24, 16))
    larger, params, _ = cvmae.load(tmp_path / "a.safetensors", "autoencoder", hints=hints)
    assert isinstance(larger, Autoencoder) and larger.decoder is not None
    assert larger.decoder.spec.target_frames == 4 and larger.decoder.grid == Grid(8, 24, 16, 2, 8)
    assert params["decoder"]["positions"]["space"].shape[0] == 6 and params["decoder"]["positions"]["time"].shape[0] == 4
    with pytest.raises(WeightsError, match="height=20 is not a multiple of the patch size 8: take height=16 or 24"):
        cvmae.load(tmp_path / "a.safetensors", hints=ModelHints(heads=2, decoder_heads=2, size=20))
    with pytest.raises(WeightsError, match="more than fit in memory"):
        cvmae.load(tmp_path / "a.safetensors", hints=ModelHints(heads=2, decoder_heads=2, size=1 << 20))


def test_other_heads_than_the_recorded_ones_are_refused(tmp_path, capsys):
    make_videomae(tmp_path)
    assert cvmae.load(tmp_path, hints=ModelHints(heads=2, decoder_heads=2))[0].trunk.size.heads == 2
    for hints in (ModelHints(heads=4), ModelHints(decoder_heads=4)):
        with pytest.raises(
            WeightsError, match="heads is 4, and the weights record 2: leave --.*heads, or .*heads of ModelHints, out"
        ):
            cvmae.load_encoder(tmp_path, hints=hints)
    cvmae.load_encoder(tmp_path, hints=ModelHints(heads=2, decoder_heads=4, decoder=False))
    assert run_own(command, "import", f"--weights={tmp_path}", f"--out={tmp_path / 'out'}", "--heads=4") == 2
    assert "heads is 4, and the weights record 2" in capsys.readouterr().err and not (tmp_path / "out").exists()
    write_archive(read(tmp_path), tmp_path / "own")
    with pytest.raises(WeightsError, match="heads is 4, and the weights record 2"):
        read(tmp_path / "own", hints=ModelHints(heads=4))


def test_heads_by_a_default_are_called_that_and_can_be_given(tmp_path):
    make_videomae(tmp_path, num_attention_heads=None)
    why = "config.json: num_attention_heads is absent, where the default of transformers is 12; expected a number that divides 16"
    with pytest.raises(WeightsError, match=f"{why}, the width of the arrays: add it, or give --heads"):
        read(tmp_path)
    assert read(tmp_path, hints=ModelHints(heads=2)).block_encoder.trunk.size.heads == 2
    with pytest.raises(WeightsError, match=why):
        read(tmp_path, hints=ModelHints(heads=2, recorded_first=True))
    make_videomae(tmp_path, num_hidden_layers=None)
    with pytest.raises(WeightsError, match="num_hidden_layers is absent, where the default of transformers is 12; expected 2"):
        read(tmp_path)


@pytest.mark.parametrize("field, value, hints", [("image_size", 20, {"size": 16}), ("num_frames", 5, {"num_frames": 4})])
def test_the_remedy_of_an_impossible_clip_helps(field, value, hints, tmp_path):
    make_videomae(tmp_path, **{field: value})
    with pytest.raises(
        WeightsError, match="is not a multiple of the .* size .: take .*; give others by --num_frames and --image"
    ):
        read(tmp_path)
    loaded = read(tmp_path, hints=ModelHints(**hints))
    assert loaded.encoder.grid == Grid(4, 16, 16, 2, 8)
    assert any(f"{value}" in note and "of config.json is no multiple of its patches" in note for note in loaded.notes)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, read(make_videomae(tmp_path)).params)


@pytest.mark.parametrize("hints", [{"size": (16, 0)}, {"size": (1, 2, 3)}, {"size": "16"}, {"heads": -1}, {"num_frames": 2.5}])
def test_impossible_hints_are_refused(hints):
    with pytest.raises(ValueError, match=f"ModelHints: {next(iter(hints))} is .*; expected"):
        ModelHints(**hints)


@pytest.mark.parametrize("kind", [*VIDEO, "hf-videomae"])
def test_clips_of_another_size_are_refused_with_the_way_to_load_it_for_them(kind, tmp_path):
    module, params, _ = cvmae.load(make_videomae(tmp_path) if kind == "hf-videomae" else VIDEO[kind](tmp_path), "encoder")
    message = (
        r"clips are of 8 frames of 24x16 pixels; this encoder takes 4 frames of 16x16 pixels: .*num_frames=8, size=\(24, 16\)"
    )
    with pytest.raises(ValueError, match=message):
        apply(module, params, (8, 24, 16))
    with pytest.raises(ValueError, match="16x16 pixels"):  # of as many patches as the encoder's own
        apply(module, params, (4, 32, 8))


PROCESSED = {
    "cut": {"size": {"shortest_edge": 20}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True},
    "cut, of an earlier version": {"size": 20, "crop_size": 16},
    "resized": {"size": {"height": 16, "width": 16}, "crop_size": None, "do_center_crop": None},
    "not filled": {"crop_size": {"height": 23, "width": 17}},
}


@pytest.mark.parametrize("name", PROCESSED)
def test_the_size_of_the_processor_is_taken(name, tmp_path, capsys):
    make_dinov2(tmp_path)
    set_processor(tmp_path, **PROCESSED[name])
    encoder = cvmae.load_encoder(tmp_path)
    expected = cvmae.load_encoder(tmp_path, hints=ModelHints(size=16))
    assert encoder.module == expected.module and encoder.preprocessing == expected.preprocessing
    jax.tree.map(np.testing.assert_array_equal, encoder.params, expected.params)
    error = capsys.readouterr().err
    assert "note: the image processor beside the weights makes frames of" in error and "the encoder, of 24x24, is taken" in error
    assert ("23x17 pixels, of which patches of 8 fill 16x16" in error) == (name == "not filled")
    assert read(tmp_path).encoder.grid == Grid(1, 24, 24, 1, 8)  # as a run starts from it, which has augment.size
    assert cvmae.load_encoder(tmp_path, hints=ModelHints(size=24)).module == read(tmp_path).encoder


def test_an_export_keeps_the_size_of_the_processor(tmp_path):
    make_dinov2(tmp_path / "hf")
    set_processor(tmp_path / "hf", crop_size=16)
    write_archive(read(tmp_path / "hf"), tmp_path / "own")
    frames = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(cvmae.embed(frames, tmp_path / "own"), cvmae.embed(frames, tmp_path / "hf"))
    assert read(tmp_path / "own").encoder.grid == Grid(1, 24, 24, 1, 8)
    file = tmp_path / "own" / "cvmae.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"crop": [16]}))
    with pytest.raises(WeightsError, match=r"crop is \[16\]; expected \[height, width\] in pixels"):
        read(tmp_path / "own")


@pytest.mark.parametrize("fields", [{"do_resize": False, "size": {"height": 16, "width": 16}}, {"size": {"shortest_edge": 16}}])
def test_a_processor_that_fixes_no_size_changes_nothing(fields, tmp_path, capsys):
    make_dinov2(tmp_path)
    set_processor(tmp_path, **fields)
    assert cvmae.load(tmp_path)[0].grid.height == 24 and not capsys.readouterr().err


def test_sizes_that_positions_cannot_follow_are_not_taken(tmp_path, capsys):
    """A row of VideoMAE's table counts tokens: at another size it would be that of another place."""
    make_videomae(tmp_path)
    set_processor(tmp_path, crop_size=32)
    assert cvmae.load(tmp_path)[0].grid == Grid(4, 16, 16, 2, 8)
    assert "frames of 32x32 pixels; positions sincos1d are those of 16x16, which is taken" in capsys.readouterr().err
    make_dinov2(tmp_path / "dinov2")
    set_processor(tmp_path / "dinov2", crop_size=4)
    assert cvmae.load(tmp_path / "dinov2")[0].grid.height == 24
    assert "patches are of 8, and the encoder is that of 24x24, which is taken" in capsys.readouterr().err


def test_sizes_that_are_none_name_the_file(tmp_path):
    make_dinov2(tmp_path)
    set_processor(tmp_path, crop_size={"height": 16, "width": "x"})
    with pytest.raises(WeightsError, match="preprocessor_config.json.*\n  crop_size is .*; expected a whole number from 1"):
        read(tmp_path)


def test_an_encoder_is_shown_without_its_arrays(tmp_path):
    shown = repr(cvmae.load_encoder(make_dinov2(tmp_path)))
    assert "array(" not in shown and "stride=4" in shown
