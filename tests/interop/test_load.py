"""Files of other people's weights: every key is used, checked or ignored with a reason, and every problem is named at once."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import cvmae
from cvmae.interop import WeightsError
from cvmae.interop.hints import ModelHints
from cvmae.interop.key_maps import KEY_MAPS
from cvmae.interop.key_maps.mae import HF_VIT_MAE
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE, VIDEOMAE_CLASSIFIER
from cvmae.interop.load import read_file
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from tests.interop.models import image_mae, random_params, rewrite, save_weights, videomae

HINTS = ModelHints(heads=2, decoder_heads=2, num_frames=4, size=(16, 16))


@pytest.fixture
def video_file(tmp_path):
    module, file = videomae(), tmp_path / "model.safetensors"
    params = random_params(module)
    save_weights(file, params, HF_VIDEOMAE, module.encoder.grid)
    return module, params, file


@pytest.fixture
def image_file(tmp_path):
    module, file = image_mae(), tmp_path / "model.safetensors"
    params = random_params(module)
    save_weights(file, params, HF_VIT_MAE, module.encoder.grid)
    return module, params, file


@pytest.mark.parametrize("fixture", ["video_file", "image_file"])
@pytest.mark.parametrize("as_folder", [True, False])
def test_module_and_arrays(fixture, as_folder, request):
    module, params, file = request.getfixturevalue(fixture)
    loaded = read_file(file.parent if as_folder else str(file), hints=HINTS)
    assert loaded.take("autoencoder")[0] == module and loaded.parts == ("encoder", "autoencoder")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, params)
    assert loaded.take()[0] == module.encoder and loaded.take()[1] is loaded.params["encoder"]
    with pytest.raises(ValueError, match="no part 'classifier', only encoder, autoencoder"):
        loaded.take("classifier")


def test_every_array_names_the_key_it_came_from(image_file):
    _, _, file = image_file
    loaded, keys = read_file(file, hints=HINTS), set(load_file(file))
    assert keys == set(loaded.sources.values()) | set(loaded.ignored)
    assert loaded.sources["encoder/cls"] == "vit.embeddings.cls_token"
    assert sorted(loaded.ignored) == ["decoder.decoder_pos_embed", "vit.embeddings.position_embeddings"]


def test_assumptions_are_noted(video_file):
    loaded = read_file(video_file[2], hints=ModelHints(2, 2))
    assert (loaded.encoder.grid.num_frames, loaded.encoder.grid.height) == (16, 224)
    assert any("frames is not in the file: taken to be 16" in note for note in loaded.notes)
    assert any("size of frames is not in the file: taken to be 224" in note for note in loaded.notes)
    assert any("heads of width 16 are not in the file: taken to be 2" in note for note in loaded.notes)
    remedy = r"give --heads to `python -m cvmae.interop import`, or to cvmae.load hints=cvmae.interop.ModelHints\(heads=...\)"
    for load in (read_file, cvmae.load, cvmae.load_encoder):
        with pytest.raises(WeightsError, match=f"how many heads attend over width 16: {remedy}"):
            load(video_file[2])
    hints = cvmae.interop.ModelHints(heads=2, num_frames=4, size=(16, 16), decoder=False)
    assert cvmae.load_encoder(video_file[2], hints=hints).module == cvmae.load(video_file[2], hints=hints)[0]
    with pytest.raises(WeightsError, match="--heads is 3; expected a number that divides 16"):
        read_file(video_file[2], hints=ModelHints(3, 2))
    with pytest.raises(WeightsError, match="height=20 is not a multiple .*--image_size"):
        read_file(video_file[2], hints=ModelHints(2, 2, 4, (20, 16)))


def test_heads_that_are_asked_for_come_before_the_published_ones(tmp_path):
    """transformers' VideoMAE-S has 16 heads where its authors' has 6."""
    trunk = TransformerConfig(ViTSize(384, 1, 6, 1.0), "qv", 1e-6)
    encoder = Encoder(trunk, Grid(2, 16, 16, 2, 16), "sincos1d", final_norm=False)
    head = {"kernel": np.zeros((384, 3), np.float32), "bias": np.zeros(3, np.float32)}
    norm = {"scale": np.ones(384, np.float32), "bias": np.zeros(384, np.float32)}
    params = {"encoder": random_params(encoder), "norm": norm, "head": head}
    save_weights(tmp_path / "s.safetensors", params, VIDEOMAE_CLASSIFIER, encoder.grid)
    for heads, expected in ((0, 6), (16, 16)):
        assert read_file(tmp_path / "s.safetensors", hints=ModelHints(heads)).encoder.trunk.size.heads == expected


def test_a_last_norm_that_config_names_must_be_there(video_file):
    _, _, file = video_file
    stacks = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    decoder = {
        "decoder_hidden_size": 8,
        "decoder_num_hidden_layers": 1,
        "decoder_num_attention_heads": 2,
        "decoder_intermediate_size": 32,
    }
    grid = {"num_frames": 4, "image_size": 16, "patch_size": 8}
    config = {"model_type": "videomae", "use_mean_pooling": False} | stacks | decoder | grid
    (file.parent / "config.json").write_text(json.dumps(config))
    assert read_file(file).encoder.final_norm
    rewrite(file, lambda arrays: [arrays.pop(f"videomae.layernorm.{name}") for name in ("weight", "bias")])
    with pytest.raises(WeightsError, match="(?s)missing: nothing there for encoder/norm/bias.*encoder/norm/scale"):
        read_file(file)


def test_an_encoder_alone(image_file):
    _, params, file = image_file
    rewrite(file, lambda arrays: [arrays.pop(key) for key in list(arrays) if key.startswith("decoder.")])
    loaded = read_file(file, hints=HINTS)
    assert loaded.parts == ("encoder",)
    jax.tree.map(np.testing.assert_array_equal, loaded.params, {"encoder": params["encoder"]})


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_cast_and_noted(dtype, video_file):
    import ml_dtypes

    _, params, file = video_file
    half = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    rewrite(file, lambda arrays: arrays.update({k: a.astype(half) for k, a in arrays.items()}))
    loaded = read_file(file, hints=HINTS)
    assert {a.dtype for a in jax.tree.leaves(loaded.params)} == {np.dtype(np.float32)}
    assert f"weights of {dtype} are cast to float32" in loaded.notes
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(half).astype(np.float32)), loaded.params, params)


def test_every_problem_is_listed_at_once(video_file):
    _, _, file = video_file

    def damage(arrays):
        del arrays["decoder.head.bias"]
        del arrays["videomae.encoder.layer.1.attention.attention.q_bias"]
        arrays["mask_token"] = np.zeros((1, 1, 9), np.float32)
        arrays["encoder_to_decoder.weight"] = np.zeros((1, 8, 16), np.float32)
        arrays["something.else"] = np.zeros(1, np.float32)
        key = "videomae.encoder.layer.0.attention.attention"
        arrays[f"{key}.query.bias"] = arrays[f"{key}.q_bias"]
        arrays[f"{key}.v_bias"] = arrays[f"{key}.v_bias"].copy()
        arrays[f"{key}.v_bias"][3] = np.nan

    rewrite(file, damage)
    with pytest.raises(WeightsError) as caught:
        read_file(file, "hf-videomae", HINTS)
    expected = (
        "missing: nothing there for decoder/predict/bias",
        "missing: nothing there for encoder/blocks/block1/attention/query/bias",
        "mis-shaped: encoder_to_decoder.weight",
        "left over: something.else",
        "twice: videomae.encoder.layer.0.attention.attention.query.bias",
        "videomae.encoder.layer.0.attention.attention.v_bias",
    )
    for text in expected:
        assert any(text in problem for problem in caught.value.problems), text
        assert text in str(caught.value)
    assert str(caught.value).startswith(f"{file} (as hf-videomae, VideoMAEForPreTraining) does not fit")


def test_a_renamed_key_is_left_over_and_missing(image_file):
    _, _, file = image_file
    rewrite(file, lambda arrays: arrays.update({"vit.embeddings.class_token": arrays.pop("vit.embeddings.cls_token")}))
    with pytest.raises(WeightsError, match="left over: vit.embeddings.class_token"):
        read_file(file, hints=HINTS)
    rewrite(file, lambda arrays: arrays.pop("vit.embeddings.patch_embeddings.projection.weight"))
    with pytest.raises(WeightsError, match="(?s)class_token.*missing: the patch embedding"):
        read_file(file, hints=HINTS)


def test_a_wrong_shape_is_named_as_the_file_has_it(image_file):
    _, _, file = image_file
    key = "decoder.decoder_layers.0.output.dense.weight"
    rewrite(file, lambda arrays: arrays.update({key: arrays[key][:, :-1].copy()}))
    with pytest.raises(WeightsError) as caught:
        read_file(file, hints=HINTS)
    assert caught.value.problems == [f"mis-shaped: {key} is [8, 31], expected [8, 32]"]


@pytest.mark.parametrize("key", ["vit.embeddings.position_embeddings", "decoder.decoder_pos_embed"])
def test_fixed_tables_are_checked(image_file, key):
    _, _, file = image_file
    good = load_file(file)[key]
    wrong = {
        "zeros": np.zeros_like(good),
        "halves swapped": np.roll(good, good.shape[-1] // 2, axis=-1),
        "cls row": good + np.eye(good.shape[1], 1, dtype=np.float32)[None],
        "not a number": np.full_like(good, np.nan),
    }
    for name, table in wrong.items():
        rewrite(file, lambda arrays: arrays.update({key: np.ascontiguousarray(table)}))  # noqa: B023
        what = "is zero, where the sincos2d table belongs: give trained" if name == "zeros" else "differs from the sincos2d table"
        with pytest.raises(WeightsError, match=f"other positions: {key} {what}"):
            read_file(file, hints=HINTS)
            pytest.fail(name)
    rewrite(file, lambda arrays: arrays.update({key: np.ascontiguousarray(good[:, :-1])}))
    with pytest.raises(WeightsError, match=f"mis-shaped: {key}"):
        read_file(file, hints=HINTS)
    rewrite(file, lambda arrays: arrays.update({key: good + np.float32(1e-6)}))
    read_file(file, hints=HINTS)


def test_wrong_or_unknown_kind(video_file, tmp_path):
    _, _, file = video_file
    with pytest.raises(ValueError, match="expected one of auto, cvmae, mae, hf-vit-mae, mae_st"):
        read_file(file, "video-mae", HINTS)
    with pytest.raises(WeightsError, match="is not a key of hf-vit-mae"):
        read_file(file, "hf-vit-mae", HINTS)
    with pytest.raises(WeightsError, match="kind 'cvmae' is a workdir or an export of this package"):
        read_file(file, "cvmae", HINTS)
    save_file({"a": np.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="none of the known kinds"):
        read_file(tmp_path / "other.safetensors")


def test_maps_are_complete():
    """Every ignored key has a reason, and no key is named twice."""
    for key_map in KEY_MAPS:
        assert all(len(reason) > 20 for reason in key_map.ignored.values())
        names = [rule.source for rule in key_map.rules]
        assert len(names) == len(set(names)), key_map.kind
