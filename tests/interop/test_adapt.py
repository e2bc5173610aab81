"""An encoder is filled from a workdir or a transformers folder; other grids get interpolated positions, other encoders a refusal."""

import json
import shlex

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae import config as config_lib
from cvmae.interop import WeightsError
from cvmae.interop.adapt import InitFrom, load_branch, load_encoder, match_template
from cvmae.interop.key_maps.videomae import HF_VIDEOMAE, HF_VIDEOMAE_CLASSIFIER, HF_VIDEOMAE_ENCODER
from cvmae.interop.pretrained import shapes
from cvmae.models import positions
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec
from cvmae.models.patches import Grid
from cvmae.models.vit import VIT_SIZES, Encoder, TransformerConfig, ViTSize
from tests.interop.models import random_params, save_weights
from tests.interop.test_own_checkpoint import NORMALIZATION, encoder, same, state, write_workdir
from tests.tiny_configs import CONFIGS

RUN = {"augment": NORMALIZATION}


def load(path, module: Encoder, config=RUN):
    """The parameters for `module`, and the notes but the first, which names the checkpoint and its size."""
    params, notes = load_encoder(InitFrom(str(path)), module, config)
    assert notes[0].startswith("video_branch encoder from ") and "arrays" in notes[0]
    return match_template(params, shapes(module), str(path)), notes[1:]


def features(module: Encoder, params):
    grid = module.grid
    shape = (1, grid.num_frames, grid.height, grid.width, 3)
    clip = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return np.asarray(jax.jit(module.apply)({"params": params}, clip).tokens)


def trained(folder, module: Encoder):
    """The parameters of a pre-training workdir of `module`, written into `folder`."""
    params = random_params(module, 1)
    write_workdir(folder, module, {4: state({"video": {"encoder": params}})})
    return params


@pytest.mark.parametrize("kind", ["separable", pytest.param("learned", marks=pytest.mark.slow)])
def test_other_frames_and_sizes(kind, tmp_path):
    """From 16 frames of 224 pixels to 8 and 32 frames, to 160 and 320 pixels, and to the same grid again."""
    module = encoder(16, 224, 32, positions=kind)
    params = trained(tmp_path, module)
    adapted, notes = load(tmp_path, module)
    same(adapted, params)
    assert features(module, adapted).tobytes() == features(module, params).tobytes()
    assert notes == []
    for frames, side in ((8, 224), (32, 224), (16, 160), (16, 320), (8, (96, 160))):
        other = encoder(frames, side, 32, positions=kind)
        adapted, notes = load(tmp_path, other)
        same({k: v for k, v in adapted.items() if k != "positions"}, {k: v for k, v in params.items() if k != "positions"})
        same(adapted["positions"], positions.interpolate_params(params["positions"], module.grid, other.grid))
        assert np.isfinite(features(other, adapted)).all()
        assert notes == about(kind, module.grid, other.grid)


def about(kind, old: Grid, new: Grid):
    """The expected notes on positions."""
    space = f"{old.rows}x{old.columns} -> {new.rows}x{new.columns}"
    if kind == "learned":
        return [f"positions/table {old.time_patches}x{space.replace('-> ', f'-> {new.time_patches}x')} interpolated"]
    changed = [f"positions/space {space} interpolated"] if old.shape[1:] != new.shape[1:] else []
    return changed + (
        [f"positions/time {old.time_patches} -> {new.time_patches} time patches interpolated"]
        if old.time_patches != new.time_patches
        else []
    )


@pytest.mark.parametrize("kind", ["sincos1d", "sincos3d"])
def test_fixed_positions_are_computed_or_made_learned(kind, tmp_path):
    module = encoder(positions=kind)
    params = trained(tmp_path, module)
    other = encoder(8, 48, positions=kind)
    adapted, notes = load(tmp_path, other)
    same(adapted, params)
    assert notes[0].startswith(f"positions {kind} 2x2x2 -> 4x3x3 computed for the new grid, not interpolated")
    assert load(tmp_path, module)[1] == []

    learned = encoder(8, 48, positions="learned")
    adapted, notes = load(tmp_path, learned)
    expected = positions.interpolate(positions.fixed_table(kind, module.grid, 32), (2, 2, 2), (4, 3, 3))
    same(adapted["positions"], {"cls": np.zeros(32, np.float32), "table": expected})
    assert notes == [f"positions {kind} become the start of learned ones", "positions/table 2x2x2 -> 4x3x3 interpolated"]


def test_separable_positions_made_learned_are_the_same_table(tmp_path):
    module, learned = encoder(), encoder(positions="learned")
    params = trained(tmp_path, module)
    np.testing.assert_allclose(features(learned, load(tmp_path, learned)[0]), features(module, params), rtol=1e-6, atol=1e-6)


def test_the_last_norm(tmp_path):
    params = trained(tmp_path / "with", encoder())
    del params["norm"]
    adapted, notes = load(tmp_path / "with", encoder(final_norm=False))
    same(adapted, params)
    assert any(note.startswith("norm left out") for note in notes)
    # A fine-tuned classifier that pools the mean has none, whatever its config says.
    write_workdir(tmp_path / "without", encoder(), {1: state({"encoder": params})})
    same(load(tmp_path / "without", encoder(final_norm=False))[0], params)
    with pytest.raises(ValueError, match="without/checkpoints/1 was .* these flags: --config.video_branch.final_norm=False$"):
        load(tmp_path / "without", encoder())


def flags_of(error) -> list[str]:
    return [word for word in shlex.split(str(error)) if word.startswith("--config")]


OTHERS = {
    "variant": (encoder(trunk=TransformerConfig(VIT_SIZES["mini"])), ["variant=test/16"]),
    "patch": (encoder(patch=8), ["variant=test/16"]),
    "tubelet": (encoder().clone(grid=Grid(4, 32, 32, 1, 16)), ["tubelet=2"]),
    "positions and cls": (encoder(positions="sincos3d", cls_token=False), ["positions=separable", "cls_token=True"]),
    "biases and eps": (encoder(trunk=TransformerConfig(VIT_SIZES["test"], "qv", 1e-12)), ["qkv_bias=qkv", "eps=1e-06"]),
    "activation": (encoder(trunk=TransformerConfig(VIT_SIZES["test"], mlp="gelu_tanh")), ["mlp=gelu"]),
}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trained(folder, encoder())
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_another_encoder_is_refused_with_the_flags_to_copy(name, workdir):
    module, flags = OTHERS[name]
    with pytest.raises(
        ValueError, match=f"the model in {workdir}/checkpoints/4 was trained with other settings: .*these flags"
    ) as caught:
        load(workdir, module)
    assert flags_of(caught.value)[: len(flags)] == [f"--config.video_branch.{flag}" for flag in flags]
    assert "\n" not in str(caught.value)


def test_other_pixels_give_the_same_outputs(workdir):
    """Frames normalized by this config, through the fitted embedding, as those of the training through the old one."""
    c = config_lib.load(
        f"{CONFIGS / 'ssv2.py'}:task=finetune,runlocal", {"augment.std": (0.5, 0.25, 0.4), "augment.mean": (0.1, 0.6, 0.5)}
    )
    module = encoder()
    frames = np.random.default_rng(0).uniform(size=(1, 4, 32, 32, 3)).astype(np.float32)
    apply = jax.jit(lambda params, clip: module.apply({"params": params}, clip).tokens)
    old, _ = load(workdir, module, None)
    expected = apply(old, (frames - np.float32(NORMALIZATION["mean"])) / np.float32(NORMALIZATION["std"]))
    adapted, notes = load(workdir, module, c)
    assert len(notes) == 1 and "(trained on mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)): same outputs" in notes[0]
    np.testing.assert_allclose(
        apply(adapted, (frames - np.float32(c.augment.mean)) / np.float32(c.augment.std)), expected, rtol=1e-4, atol=1e-4
    )
    same({k: v for k, v in adapted.items() if k != "embed"}, {k: v for k, v in old.items() if k != "embed"})


HF = {
    "model_type": "videomae",
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "num_frames": 4,
    "image_size": 32,
    "layer_norm_eps": 1e-6,
    "use_mean_pooling": False,
}


def videomae(frames=4, **changes) -> Encoder:
    return encoder(
        frames, **{"trunk": TransformerConfig(VIT_SIZES["test"], "qv"), "positions": "sincos1d", "cls_token": False} | changes
    )


@pytest.fixture
def folder(tmp_path):
    """A folder as transformers writes it for VideoMAEModel, and its parameters."""
    params = random_params(videomae(), 1)
    save_weights(tmp_path / "model.safetensors", {"encoder": params}, HF_VIDEOMAE_ENCODER, videomae().grid)
    describe(tmp_path)
    return tmp_path, params


def describe(folder, **changes):
    (folder / "config.json").write_text(json.dumps(HF | changes))


@pytest.mark.parametrize("key_map", [HF_VIDEOMAE, HF_VIDEOMAE_ENCODER, HF_VIDEOMAE_CLASSIFIER], ids=lambda m: m.layout)
def test_layouts_of_transformers_files(key_map, folder):
    """Arrays beside the encoder are ignored."""
    path, params = folder
    spec = DecoderSpec(TransformerConfig(ViTSize(384, 4, 6), "qv"), "concat", "sincos1d", embed_bias=False, norm_eps=1e-5)
    decoder = random_params(Autoencoder(videomae(), Decoder(spec, videomae().grid)))["decoder"]
    beside = {
        HF_VIDEOMAE.layout: {"decoder": decoder},
        HF_VIDEOMAE_CLASSIFIER.layout: {"head": {"kernel": np.zeros((32, 5), np.float32), "bias": np.zeros(5, np.float32)}},
    }
    tree = {"encoder": params} | beside.get(key_map.layout, {})
    save_weights(path / "model.safetensors", tree, key_map, videomae().grid)
    for weights in (path, path / "model.safetensors"):
        same(load(weights, videomae())[0], params)


def test_what_stands_beside_the_weights(folder):
    path, params = folder
    adapted, notes = load(path, videomae())
    same(adapted, params)
    assert notes == ["the weights do not record their normalization: taken to be augment.mean and augment.std"]
    describe(path, num_attention_heads=4, layer_norm_eps=1e-12, tubelet_size=4, patch_size=8, num_frames=8, image_size=16)
    with pytest.raises(WeightsError):  # the weights are not of this config.json
        load(path, videomae())
    describe(path, num_attention_heads=4, layer_norm_eps=1e-12)
    with pytest.raises(ValueError, match="has width 32, 2 blocks, 4 heads, MLPs of 128, the size of no variant .nearest is test"):
        load(path, videomae())
    describe(path)
    with pytest.raises(ValueError, match="the model in") as caught:
        load(path, encoder())
    assert [f.removeprefix("--config.video_branch.") for f in flags_of(caught.value)] == [
        "positions=sincos1d",
        "cls_token=False",
        "qkv_bias=qv",
    ]
    (path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.229, 0.224, 0.225]}')
    assert "trained on mean (0.5, 0.5, 0.5)" in load(path, videomae())[1][0]
    assert load(path, videomae(), None)[1] == []


def test_other_grids_of_transformers(folder):
    path, params = folder
    adapted, notes = load(path, videomae(8))
    same(adapted, params)
    assert "sincos1d 2x2x2 -> 4x2x2 computed for the new grid" in notes[1]
    table = load(path, videomae(8, positions="learned"))[0]["positions"]["table"]
    expected = positions.interpolate(positions.interleaved_sincos(8, 32), (2, 2, 2), (4, 2, 2))
    np.testing.assert_array_equal(table, expected)


def test_weights_alone(folder):
    path, params = folder
    (path / "config.json").unlink()
    target = videomae(8, final_norm=False, trunk=TransformerConfig(VIT_SIZES["test"], "qv", 1e-12))
    adapted, notes = load(path, target)
    same(adapted, {k: v for k, v in params.items() if k != "norm"})
    assert any(note.startswith("no config.json beside it") for note in notes) and any("norm left out" in note for note in notes)
    with pytest.raises(ValueError, match="positions=sincos1d --config.video_branch.cls_token=False$"):
        load(path, target.clone(positions="separable", cls_token=True))


def test_folders_that_hold_no_video_encoder(folder, tmp_path_factory):
    path, _ = folder
    describe(path, model_type="vit_mae")
    with pytest.raises(WeightsError, match="model_type is 'vit_mae' and hidden_act 'gelu', not 'videomae'"):
        load(path, videomae())
    (path / "config.json").write_text("[]")
    with pytest.raises(WeightsError, match="config.json does not fit:\n  it is not a JSON object"):
        load(path, videomae())
    with pytest.raises(FileNotFoundError, match="no weights in the folder"):
        load(tmp_path_factory.mktemp("empty"), videomae())


def test_dtypes_follow_the_template(workdir):
    module = encoder()
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.bfloat16), shapes(module))
    adapted = match_template(load_encoder(InitFrom(str(workdir)), module)[0], template, "here")
    assert {a.dtype for a in jax.tree.leaves(adapted)} == {np.dtype(jnp.bfloat16)}
    with pytest.raises(WeightsError, match="missing: nothing there for extra"):
        match_template(adapted, template | {"extra": template["cls"]}, "here")


def autoencoder(frames=4, side=32, **changes) -> Autoencoder:
    module = encoder(frames, side)
    return Autoencoder(
        module, Decoder(DecoderSpec(TransformerConfig(ViTSize(16, 1, 2)), **{"cls": "own", **changes}), module.grid)
    )


def test_a_branch_with_its_decoder(tmp_path):
    """Both parts from a workdir, for another grid too; the decoder can be left out, and one with other settings is refused."""
    module = autoencoder()
    params = random_params(module, 1)
    decoder = {"width": 16, "depth": 1, "heads": 2, "layout": "unshuffle", "positions": "separable", "cls": "own"}
    decoder |= {"embed_bias": True, "norm_eps": 1e-6, "target_frames": 0}
    write_workdir(tmp_path, module.encoder, {4: state({"video": params})}, decoder=decoder, target_norm="patch")

    def branch(wanted, take=True):
        return load_branch(InitFrom(str(tmp_path), decoder=take), wanted.encoder, wanted.decoder.spec, RUN)

    adapted, notes = branch(module)
    same(adapted, params)
    assert ["encoder" in notes[0], "decoder" in notes[1], len(notes)] == [True, True, 2]
    adapted, notes = branch(autoencoder(8, 48))
    expected = positions.interpolate_params(params["decoder"]["positions"], module.encoder.grid, autoencoder(8, 48).encoder.grid)
    same(adapted["decoder"]["positions"], expected)
    assert notes[-2:] == [
        "decoder positions/space 2x2 -> 3x3 interpolated",
        "decoder positions/time 2 -> 4 time patches interpolated",
    ]
    other = autoencoder(cls="none", target_frames=2, layout="concat")
    with pytest.raises(ValueError, match="--config.video_branch.init_decoder=False") as caught:
        branch(other)
    wanted = ["decoder.cls=own", "decoder.target_frames=4"]
    assert flags_of(caught.value)[:2] == [f"--config.video_branch.{flag}" for flag in wanted]
    assert list(branch(other, False)[0]) == ["encoder"]
