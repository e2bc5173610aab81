"""Files that hold a part of a model: read as what they are, with a note on what is left out, or the message says what to do."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cvmae.interop import WeightsError
from cvmae.interop.arrays import INDEX
from cvmae.interop.key_maps.mae import HF_VIT_MAE, MAE, MAE_CLASSIFIER
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE, HF_VIDEOMAE_CLASSIFIER, VIDEOMAE, VIDEOMAE_CLASSIFIER
from cvmae.interop.load import read_file
from cvmae.interop.native import read_archive, write_archive
from cvmae.models.classifier import Classifier
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from tests.interop.models import image_mae, random_params, rewrite, save_weights, videomae
from tests.interop.test_wrappers import CLASSIFIER, HINTS, same

IMAGE_GRID = Grid(1, 24, 24, 1, 8)
IMAGE_CLASSIFIER = Classifier(
    Encoder(TransformerConfig(ViTSize(16, 2, 2)), IMAGE_GRID, "learned", cls_token=True, final_norm=False), 5
)


def saved(tmp_path, module, key_map, keep, rename=lambda key: key):
    """Writes the arrays whose keys `keep` takes; returns the parameters and the file."""
    file, params = tmp_path / "model.safetensors", random_params(module)
    save_weights(file, params, key_map, module.encoder.grid)
    save_file({rename(key): array for key, array in load_file(file).items() if keep(key)}, file)
    return params, file


HEADLESS = {
    "videomae": (CLASSIFIER, VIDEOMAE_CLASSIFIER, "head."),
    "hf-videomae": (CLASSIFIER, HF_VIDEOMAE_CLASSIFIER, "classifier."),
    "mae": (IMAGE_CLASSIFIER, MAE_CLASSIFIER, "head."),
}


@pytest.mark.parametrize("kind", HEADLESS)
@pytest.mark.parametrize("asked", ["auto", "its kind"])
def test_a_classifier_without_its_head(kind, asked, tmp_path):
    module, key_map, head = HEADLESS[kind]
    params, file = saved(tmp_path, module, key_map, lambda key: not key.startswith(head))
    loaded = read_file(file, "auto" if asked == "auto" else kind, HINTS)
    same(loaded, {"encoder": params["encoder"]})
    assert loaded.parts == ("encoder",) and loaded.encoder.positions == module.encoder.positions
    assert set(loaded.ignored) == {"fc_norm.weight", "fc_norm.bias"}
    assert "the norm of pooled features is left out: the head that it belongs to is not in the file" in loaded.notes
    write_archive(loaded, tmp_path / "out")
    same(read_archive(tmp_path / "out"), {"encoder": params["encoder"]})


BARE = {
    "VideoMAE's encoder": (videomae(), VIDEOMAE, "encoder.", ""),
    "VideoMAE's encoder without its prefix": (videomae(), VIDEOMAE, "encoder.", "encoder."),
    "the same without a last norm": (videomae(final_norm=False), VIDEOMAE, "encoder.", "encoder."),
    "VideoMAEModel": (videomae(), HF_VIDEOMAE, "videomae.", "videomae."),
    "VideoMAEModel inside": (videomae(), HF_VIDEOMAE, "videomae.", ""),
    "ViTMAEModel": (image_mae(), HF_VIT_MAE, "vit.", "vit."),
    "ViTMAEModel inside": (image_mae(), HF_VIT_MAE, "vit.", ""),
}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("name", BARE)
def test_an_encoder_alone(name, prefix, tmp_path):
    module, key_map, start, off = BARE[name]
    params, file = saved(tmp_path, module, key_map, lambda key: key.startswith(start), lambda key: prefix + key.removeprefix(off))
    loaded = read_file(file, hints=HINTS)
    same(loaded, {"encoder": params["encoder"]})
    assert loaded.parts == ("encoder",) and loaded.encoder == module.encoder.clone(
        trunk=TransformerConfig(module.encoder.trunk.size, module.encoder.trunk.qkv_bias, loaded.encoder.trunk.eps)
    )


def test_a_classifier_on_the_first_token(tmp_path):
    """The authors' use_mean_pooling=False: the encoder's last norm, and no fc_norm."""
    module = Classifier(Encoder(TransformerConfig(ViTSize(16, 2, 2), "qv"), Grid(4, 16, 16, 2, 8), "sincos1d"), 5, "first")
    params, file = saved(tmp_path, CLASSIFIER, VIDEOMAE_CLASSIFIER, lambda key: True, lambda key: key.replace("fc_norm", "norm"))
    loaded = read_file(file, hints=HINTS)
    assert loaded.take()[0] == module and loaded.head.pool == "first"
    np.testing.assert_array_equal(loaded.params["encoder"]["norm"]["scale"], params["norm"]["scale"])


@pytest.mark.parametrize("ends", ["mask_token", "encoder_to_decoder.weight", "decoder.head.bias", "decoder.norm.weight"])
def test_the_ends_of_a_decoder_without_its_blocks(ends, tmp_path):
    params, file = saved(tmp_path, videomae(), VIDEOMAE, lambda key: key.startswith("encoder.") or key == ends)
    loaded = read_file(file, hints=HINTS)
    same(loaded, {"encoder": params["encoder"]})
    assert (
        set(loaded.ignored) == {ends} and "the ends of the decoder are left out: its blocks are not in the file" in loaded.notes
    )


def test_an_image_encoder_whose_positions_were_trained(tmp_path):
    """Without fc_norm only the values tell it from the pre-trained encoder."""
    _, file = saved(tmp_path, image_mae(), MAE, lambda key: not key.startswith(("decoder_", "mask_token")))
    assert read_file(file, hints=HINTS).encoder.positions == "sincos2d"
    table = load_file(file)["pos_embed"]
    trained = np.random.default_rng(0).normal(size=table.shape).astype(np.float32)
    rewrite(file, lambda arrays: arrays.update(pos_embed=trained))
    loaded = read_file(file, hints=HINTS)
    assert loaded.encoder.positions == "learned" and "encoder with trained positions" in loaded.name
    np.testing.assert_array_equal(loaded.params["encoder"]["positions"]["table"], trained[0, 1:])
    for damaged in (np.zeros_like(table), np.full_like(table, np.nan)):
        rewrite(file, lambda arrays, damaged=damaged: arrays.update(pos_embed=damaged))
        with pytest.raises(WeightsError, match="other positions: pos_embed"):
            read_file(file, hints=HINTS)


@pytest.mark.parametrize(
    "keep, message",
    [
        (lambda key: key.startswith("decoder."), "none of the known kinds.* give the file of the whole model"),
        (lambda key: "patch_embed" not in key, "none starts with encoder.patch_embed.proj."),
        (
            lambda key: key != "encoder.patch_embed.proj.weight",
            "missing: the patch embedding encoder.patch_embed.proj.weight, .*whole",
        ),
        (lambda key: "encoder.blocks.0" not in key, r"the file has no encoder.blocks.0.norm1.weight \[16\]"),
        (lambda key: key != "decoder.norm.bias", r"the file has no decoder.norm.bias \[8\]"),
    ],
    ids=["decoder alone", "no patch embedding", "half of it", "no first block", "no decoder norm"],
)
def test_parts_that_are_no_model(keep, message, tmp_path):
    _, file = saved(tmp_path, videomae(), VIDEOMAE, keep)
    with pytest.raises(WeightsError, match=message):
        read_file(file, hints=HINTS)


def test_one_shard_of_several(tmp_path):
    params, file = saved(tmp_path, videomae(), HF_VIDEOMAE, lambda key: True)
    arrays, weight_map = load_file(file), {}
    file.unlink()
    for number in (1, 2):
        name = f"model-0000{number}-of-00002.safetensors"
        keys = sorted(arrays)[number - 1 :: 2]
        save_file({key: arrays[key] for key in keys}, tmp_path / name)
        weight_map |= dict.fromkeys(keys, name)
    with pytest.raises(FileNotFoundError, match="is a shard, .*expected model.safetensors.index.json beside it"):
        read_file(tmp_path, hints=HINTS)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    same(read_file(tmp_path, hints=HINTS), params)
    with pytest.raises(
        WeightsError, match="model-00001-of-00002.safetensors is a shard.* give the folder or model.safetensors.index"
    ):
        read_file(tmp_path / "model-00001-of-00002.safetensors", hints=HINTS)


@pytest.mark.parametrize("channels", [1, 2, 4])
@pytest.mark.parametrize("layout", ["videomae", "hf-videomae", "mae", "classifier"])
def test_other_channels_are_said_in_words(layout, channels, tmp_path):
    module, key_map = {
        "videomae": (videomae(), VIDEOMAE),
        "hf-videomae": (videomae(), HF_VIDEOMAE),
        "mae": (image_mae(), MAE),
        "classifier": (CLASSIFIER, VIDEOMAE_CLASSIFIER),
    }[layout]
    _, file = saved(tmp_path, module, key_map, lambda key: True)
    arrays = load_file(file)
    (key,) = (key for key in arrays if key.endswith(("proj.weight", "projection.weight")) and "patch_embed" in key)
    shape = list(arrays[key].shape)
    array = np.zeros([shape[0], channels, *shape[2:]], np.float32)
    rewrite(file, lambda arrays: arrays.update({key: array}))
    with pytest.raises(WeightsError) as caught:
        read_file(file, hints=HINTS)
    (problem,) = caught.value.problems
    many = "channel" if channels == 1 else "channels"
    assert problem.startswith(f"mis-shaped: {key} is {list(array.shape)}, expected {shape}: it has {channels} input {many}, ")
    assert "this model takes 3" in problem


@pytest.mark.parametrize("layout", [VIDEOMAE, pytest.param(HF_VIDEOMAE, marks=pytest.mark.slow)])
def test_every_wrong_shape_is_given_as_the_file_has_it(layout, tmp_path):
    """For each key in turn, one more value along the last axis."""
    _, file = saved(tmp_path, videomae(1), layout, lambda key: True)
    good = load_file(file)
    for key, array in good.items():
        wrong = np.zeros((*array.shape[:-1], array.shape[-1] + 1), np.float32)
        save_file(good | {key: wrong}, file)
        with pytest.raises(WeightsError) as caught:
            read_file(file, hints=HINTS)
        problems = caught.value.problems
        assert any(f"{key} is {list(wrong.shape)}, expected" in problem for problem in problems), (
            key,
            problems,
        )
        assert all("layout" not in problem for problem in problems)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_, np.uint8])
def test_weights_of_whole_numbers_are_refused(dtype, tmp_path):
    _, file = saved(tmp_path, videomae(), VIDEOMAE, lambda key: True)
    rewrite(file, lambda arrays: arrays.update({"encoder.norm.bias": np.zeros(16, dtype)}))
    with pytest.raises(WeightsError, match=rf"other numbers: encoder.norm.bias \[16\] is {np.dtype(dtype)}; expected floating"):
        read_file(file, hints=HINTS)


def test_values_beyond_float32(tmp_path):
    _, file = saved(tmp_path, videomae(), VIDEOMAE, lambda key: True)
    rewrite(file, lambda arrays: arrays.update({"encoder.norm.bias": np.full(16, 1e300)}))
    with pytest.raises(WeightsError, match="not finite: encoder.norm.bias has float64 values beyond the range of float32"):
        read_file(file, hints=HINTS)
