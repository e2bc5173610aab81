"""Weights that cannot be read, and what is said of those that can: one line for one cause, with the field or key and the remedy."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cvmae.interop import WeightsError
from cvmae.interop.key_maps.videomae import VIDEOMAE
from cvmae.interop.load import read
from cvmae.interop.pretrained import unreadable
from tests.interop.encoder_folders import make_vjepa2
from tests.interop.models import random_params, save_weights, videomae
from tests.interop.test_fuzz_weights import HINTS, make_folder, make_pth
from tests.requirements import missing

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def torch():
    try:
        import torch
    except ImportError as error:
        missing("parity", str(error))
    return torch


@pytest.fixture
def folder(tmp_path):
    make_folder(tmp_path / "hf")
    return tmp_path / "hf"


def problems_of(path):
    with pytest.raises(WeightsError) as caught:
        read(path, hints=HINTS)
    return caught.value.problems


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.pth", "a.bin"])
def test_a_file_that_git_did_not_fetch(tmp_path, name):
    (tmp_path / name).write_text(POINTER)
    assert problems_of(tmp_path / name) == ["it is a Git LFS pointer, not the file itself: run git lfs pull in its repository"]


def test_arrays_with_one_reason_share_a_line(torch, folder, tmp_path):
    arrays = {key: torch.from_numpy(array) for key, array in load_file(folder / "model.safetensors").items()}
    why = "it is float8_e4m3fn, whose scales are not among the weights: get them in float32 or bfloat16"
    small = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in arrays.items()}
    torch.save(small, tmp_path / "a.pth")
    assert problems_of(tmp_path / "a.pth") == [f"{len(small)} arrays cannot be read, the first is classifier.bias: {why}"]
    torch.save(arrays | {"fc_norm.bias": small["fc_norm.bias"]}, tmp_path / "a.pth")
    assert problems_of(tmp_path / "a.pth") == [f"fc_norm.bias cannot be read: {why}"]
    import safetensors.torch

    safetensors.torch.save_file(small, tmp_path / "a.safetensors")
    [problem] = problems_of(tmp_path / "a.safetensors")
    assert problem.startswith(f"{len(small)} arrays cannot be read, the first is ") and "F8_E4M3" in problem
    assert unreadable({"a": "x", "b": "y", "c": "x"}) == ["2 arrays cannot be read, the first is a: x", "b cannot be read: y"]


@pytest.mark.parametrize(
    "key, shape",
    [
        ("classifier.weight", (0, 384)),
        ("fc_norm.bias", (0,)),
        ("extra", (3, 0)),
        ("videomae.embeddings.patch_embeddings.projection.weight", (48, 3, 2, 0, 0)),
    ],
)
def test_an_array_without_values_is_named(folder, tmp_path, key, shape):
    np.savez(tmp_path / "a.npz", **(load_file(folder / "model.safetensors") | {key: np.zeros(shape, np.float32)}))
    assert problems_of(tmp_path / "a.npz") == [
        f"empty: {key} is {list(shape)}, without a value: save the model again where it was made"
    ]


def test_state_dicts_in_each_other(torch, tmp_path):
    expected = read(make_pth(tmp_path), hints=HINTS).params["encoder"]["embed"]["kernel"]
    np.testing.assert_array_equal(
        read(make_pth(tmp_path / "b", nested=True), hints=HINTS).params["encoder"]["embed"]["kernel"], expected
    )
    torch.save({"model": {"teacher": {}, "step": 3}}, tmp_path / "c.pth")
    [problem] = problems_of(tmp_path / "c.pth")
    assert problem.startswith(
        "it holds no state dict under 'model', only 'teacher', 'step': expected tensors, or a state dict under"
    )


def test_heads_that_do_not_divide_the_width_name_the_field(folder):
    edit(folder, num_attention_heads=5)
    assert problems_of(folder) == [
        "config.json: num_attention_heads is 5; expected a number that divides 48, the width of the arrays: correct it"
    ]


@pytest.mark.parametrize("heads", [16, 32])
def test_heads_too_narrow_for_rotary_positions_name_the_field(heads, tmp_path):
    make_vjepa2(tmp_path)
    edit(tmp_path, num_attention_heads=heads)
    assert problems_of(tmp_path) == [
        f"config.json: num_attention_heads is {heads}; expected a number that divides 32, the width of the arrays, into heads "
        "of 6 values or more, as rotary positions need: correct it"
    ]


def test_one_name_of_two_classes_is_said(folder):
    assert not any("id2label" in note for note in read(folder).notes)
    edit(folder, id2label={"0": "crane", "1": "x", "2": "crane"})
    weights = read(folder)
    assert (
        "config.json: id2label has one name for several classes, 'crane' (0, 2): they stay apart, by their numbers"
        in weights.notes
    )
    assert weights.head.names == ("crane", "x", "crane")


def test_an_encoder_under_its_own_name_is_said(folder, tmp_path):
    arrays = load_file(folder / "model.safetensors")
    encoder = {f"encoder.{key.removeprefix('videomae.')}": a for key, a in arrays.items() if key.startswith("videomae.")}
    save_file(encoder, tmp_path / "a.safetensors")
    assert "the prefix 'encoder.' is taken off the keys" in read(tmp_path / "a.safetensors", hints=HINTS).notes


def test_an_encoder_of_videomae_alone_is_said(tmp_path):
    module = videomae()
    params = {"encoder": random_params(module)["encoder"]}
    save_weights(tmp_path / "a.safetensors", params, VIDEOMAE, module.encoder.grid)
    weights = read(tmp_path / "a.safetensors", hints=HINTS)
    assert weights.decoder is None and any(
        "all keys begin with 'encoder.', as in a pre-trained VideoMAE" in note for note in weights.notes
    )


def test_other_weights_of_the_model_in_a_torch_file_are_said(torch, folder, tmp_path):
    arrays = {key: torch.from_numpy(array) for key, array in load_file(folder / "model.safetensors").items()}
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}, "decoder": {"weight": torch.ones(3)}}
    average = {f"module.{key}": array + 1 for key, array in arrays.items()}
    torch.save({"model_ema": average, "model": arrays, "optimizer": optimizer}, tmp_path / "a.pth")
    weights = read(tmp_path / "a.pth")
    assert weights.notes[0] == (
        "the weights under 'model' are read; the file holds others of the same model under 'model_ema': to take those, save them alone"
    )
    assert weights.notes[1:] == read(folder).notes
    torch.save({"model": arrays, "optimizer": optimizer, "other": {"weight": torch.ones(3)}}, tmp_path / "a.pth")
    assert read(tmp_path / "a.pth").notes == read(folder).notes
