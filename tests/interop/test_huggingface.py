"""Weights that transformers' VideoMAE cannot express are refused, with the config's fields to choose in training."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest
from safetensors import safe_open

from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.load import read_file
from cvmae.interop.pretrained import Head
from tests.interop.pretrained_models import pretrained, videomae, videomae_decoder


def tanh(module):
    """The module with the tanh approximation of GELU."""
    trunk = dataclasses.replace(module.trunk, mlp="gelu_tanh")
    return dataclasses.replace(module, trunk=trunk) if dataclasses.is_dataclass(module) else module.clone(trunk=trunk)


GOOD = {"encoder": videomae(), "decoder": videomae_decoder(), "target_norm": "patch_channel"}
MEAN = {"mean": (0.45,) * 3, "std": (0.225,) * 3}
AUTOENCODERS = {
    "cls token": ({"encoder": videomae(cls_token=True)}, ["video_branch.cls_token=False"]),
    "positions": (
        {"encoder": videomae(positions="separable")},
        ["positions are separable: train with video_branch.positions=sincos1d"],
    ),
    "decoder cls": ({"decoder": videomae_decoder(cls="own")}, ["video_branch.decoder.cls=none"]),
    "bias of the projection": ({"decoder": videomae_decoder(embed_bias=True)}, ["video_branch.decoder.embed_bias=False"]),
    "decoder positions": ({"decoder": videomae_decoder(positions="learned")}, ["video_branch.decoder.positions=sincos1d"]),
    "predicted frames": ({"decoder": videomae_decoder(target_frames=2)}, ["video_branch.decoder.target_frames=0"]),
    "targets": ({"target_norm": "patch"}, ["normalized by 'patch': train with video_branch.target_norm=patch_channel"]),
    "raw targets": ({"target_norm": "none"}, ["video_branch.target_norm=patch_channel"]),
    "pixels": ({"normalization": MEAN}, [r"augment.mean=\(0.485, 0.456, 0.406\) and augment.std=\(0.229, 0.224, 0.225\)"]),
    "deviation": ({"normalization": {"mean": (0.485, 0.456, 0.406), "std": MEAN["std"]}}, ["augment.std="]),
    "biases": ({"decoder": videomae_decoder(bias="none")}, ["video_branch.qkv_bias"]),
    "eps": ({"decoder": videomae_decoder(eps=1e-5)}, ["one video_branch.eps"]),
    "activations": ({"decoder": tanh(videomae_decoder())}, ["one video_branch.mlp"]),
    "mae_st": (
        {
            "encoder": videomae(cls_token=True, positions="separable"),
            "decoder": videomae_decoder(cls="own", embed_bias=True, positions="separable", target_frames=2),
            "target_norm": "patch",
            "normalization": MEAN,
        },
        [f"video_branch.{f}=" for f in ("cls_token", "positions", "decoder.cls", "decoder.embed_bias", "decoder.positions")]
        + ["video_branch.decoder.target_frames=0", "video_branch.target_norm=", "augment.mean="],
    ),
}


def refused(source, part, patterns, folder):
    """The export is refused with a line for each pattern, and nothing is written."""
    with pytest.raises(ValueError) as caught:
        write_hf_videomae(source, folder / "out", part)
    first, *problems = str(caught.value).splitlines()
    assert "cannot express random weights" in first and not list(folder.iterdir())
    assert len(problems) == len(patterns) and all(map(re.search, patterns, problems)), problems


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(name, tmp_path):
    changes, patterns = AUTOENCODERS[name]
    refused(pretrained(**GOOD | changes), "autoencoder", patterns, tmp_path)


def test_encoder(tmp_path):
    source = pretrained(videomae(cls_token=True, positions="sincos3d"), videomae_decoder(cls="own"), normalization=MEAN)
    patterns = ["video_branch.cls_token=False", "sincos3d: train with video_branch.positions=sincos1d"]
    refused(source, "encoder", patterns, tmp_path)
    refused(source, "", [*patterns, "decoder.cls=none", "augment.mean="], tmp_path)


@pytest.mark.parametrize("pool, norm", [("mean", True), ("first", False)])
def test_classifier(pool, norm, tmp_path):
    source = pretrained(videomae(final_norm=norm), head=Head(3, pool))
    pattern = f"pools '{pool}' and the encoder has {'a' if norm else 'no'} last norm: train with head.pool=first"
    refused(source, "", [pattern], tmp_path)
    refused(pretrained(videomae(cls_token=True), head=Head(3, "first")), "classifier", ["cls_token=False"], tmp_path)


@pytest.mark.parametrize("part", ["encoder", "autoencoder", "classifier"])
def test_it_is_read_back_bit_by_bit(part, tmp_path):
    source = pretrained(**GOOD | {"head": Head(3, "first", 1e-5, ("a", "b", "c"))})
    write_hf_videomae(source, tmp_path, part)
    loaded = read_file(tmp_path)
    _, params = source.take(part)
    assert (
        loaded.parts == (("encoder",) if part == "encoder" else ("encoder", part))
        and loaded.normalization == source.normalization
    )
    assert loaded.encoder == source.encoder and loaded.decoder == (source.decoder if part == "autoencoder" else None)
    assert loaded.head == (source.head if part == "classifier" else None)
    jax.tree.map(np.testing.assert_array_equal, loaded.take(part)[1], params)


def test_what_is_not_refused(tmp_path):
    """Layout and the number of predicted frames, where it is that of the clip, change nothing; other pixels no encoder."""
    decoder = videomae_decoder(layout="unshuffle", target_frames=4)
    assert write_hf_videomae(pretrained(**GOOD | {"decoder": decoder}), tmp_path / "a") == ["written as VideoMAEForPreTraining"]
    assert write_hf_videomae(pretrained(videomae(), normalization=MEAN), tmp_path / "b") == ["written as VideoMAEModel"]
    processor = json.loads((tmp_path / "b" / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == [0.45] * 3 and processor["image_std"] == [0.225] * 3
    with safe_open(tmp_path / "b" / "model.safetensors", "numpy") as opened:
        assert opened.metadata() == {"format": "pt"}
        keys = [key for key in opened.keys() if "layer.1.attention.attention" in key]  # noqa: SIM118
    assert sorted(key.rpartition("attention.")[2] for key in keys) == [
        "key.weight",
        "q_bias",
        "query.weight",
        "v_bias",
        "value.weight",
    ]


def test_the_activation_is_recorded(tmp_path):
    source = pretrained(**GOOD | {"encoder": tanh(videomae()), "decoder": tanh(videomae_decoder())})
    for name, weights, activation in (("tanh", source, "gelu_pytorch_tanh"), ("exact", pretrained(**GOOD), "gelu")):
        write_hf_videomae(weights, tmp_path / name)
        assert json.loads((tmp_path / name / "config.json").read_text())["hidden_act"] == activation
        restored = read_file(tmp_path / name)
        assert restored.vit.trunk.mlp == weights.vit.trunk.mlp and restored.decoder.trunk.mlp == weights.decoder.trunk.mlp
