"""VideoPrism of transformers, and the authors' npz of the same numbers, against this package's factorized encoder."""

import json

import jax
import numpy as np
import pytest

from cvmae.interop import WeightsError, read
from cvmae.interop.adapt import InitFrom, load_encoder
from cvmae.interop.convert import import_arrays
from cvmae.interop.key_maps.videoprism import HF_VIDEOPRISM
from cvmae.interop.native import read_archive, write_archive
from cvmae.interop.pretrained import differences
from cvmae.models.factorized import FactorizedEncoder
from cvmae.models.patches import Grid
from tests.interop import hf_models
from tests.interop.comparison import assert_close, relative, tree_errors
from tests.interop.encoder_folders import authors_arrays
from tests.interop.hf_encoders import random_like
from tests.interop.parity import torch, transformers

TINY = {
    "image_size": 24,
    "num_frames": 4,
    "tubelet_size": [1, 6, 6],
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_attention_heads": 3,
    "num_spatial_layers": 3,
    "num_temporal_layers": 2,
    "num_auxiliary_layers": 1,
}
CASES = {
    "published settings": {},
    "a cap that logits reach, no biases": {"attn_logit_softcapping": 0.05, "qkv_bias": False, "layer_norm_eps": 1e-5},
    "approximate activation, one temporal block": {"hidden_act": "gelu_pytorch_tanh", "num_temporal_layers": 1},
}
LARGE = 2.0**20
MODELS = {
    "VideoPrismVideoModel": "head",
    "VideoPrismForVideoClassification": "classifier",
}


def build(model_class=None, config=None, **fields):
    """A model of random weights, whose attention is computed as a CPU can."""
    torch.manual_seed(0)
    config = config or transformers.VideoPrismVisionConfig(**fields)
    config._attn_implementation = "eager"
    return hf_models.shake((model_class or transformers.VideoPrismVisionModel)(config), seed=1)


def clips(fields, batch: int = 2) -> np.ndarray:
    """Random clips in 0..1 as transformers takes them, [B, T, C, H, W]."""
    config = transformers.VideoPrismVisionConfig(**fields)
    return random_like((batch, config.num_frames, 3, config.image_size, config.image_size), 2)


def torch_run(model, video: np.ndarray, template, backward: bool = True, **options):
    """States behind each stack, the output, and the gradients as a tree of this package."""
    out = model(torch.from_numpy(video), **options)
    tokens = out.last_hidden_state
    states = [out.last_spatial_hidden_state.detach().numpy(), out.last_temporal_hidden_state.detach().numpy()]
    if not backward:
        return states, tokens.detach().numpy(), None
    (tokens * torch.from_numpy(random_like(tokens.shape, 5))).mean().backward()
    # Scales are stored less 1, and have the gradients of what is stored; times a large number these lose little of it by 1 - 1.
    gradients = {name: LARGE * p.grad.numpy() for name, p in model.named_parameters()}
    found = import_arrays(gradients, HF_VIDEOPRISM[0])
    shift = import_arrays({name: np.zeros_like(array) for name, array in gradients.items()}, HF_VIDEOPRISM[0])
    tree = jax.tree.map(lambda a, b: (a - b) / LARGE, found.tree, shift.tree)
    assert not found.problems and not differences(tree, template)
    return states, tokens.detach().numpy(), tree


def module_run(module, params, video: np.ndarray, backward: bool = True):
    """The same of an encoder."""
    video = video.transpose(0, 1, 3, 4, 2)

    def loss_of(params):
        encoded, state = module.apply({"params": params}, video, mutable=["intermediates"])
        states = [state["intermediates"][name]["hidden"][-1] for name in ("blocks", "temporal")]
        return (encoded.tokens * random_like(encoded.tokens.shape, 5)).mean(), (states, encoded.tokens)

    run = jax.value_and_grad(loss_of, has_aux=True) if backward else lambda params: (loss_of(params), None)
    (_, (states, tokens)), gradient = jax.jit(run)(params)
    return states, tokens, {"encoder": gradient} if backward else None


def compare(name: str, actual, reference) -> None:
    """Compares two runs."""
    for stack, found, expected in zip(("spatial", "temporal"), actual[0], reference[0], strict=True):
        assert_close(f"{name} {stack} states", relative(found, expected))
    assert_close(f"{name} output", relative(actual[1], reference[1]))
    if reference[2] is not None:
        errors = tree_errors(actual[2], reference[2])
        worst = max(errors, key=lambda path: errors[path])
        assert_close(f"{name} gradients (worst: {worst} of {len(errors)})", errors[worst])


@pytest.mark.parametrize("name", CASES)
def test_tiny(name, tmp_path):
    fields = TINY | CASES[name]
    model = build(**fields)
    model.save_pretrained(tmp_path)
    loaded = read(tmp_path)
    module, params = loaded.take("encoder")
    assert isinstance(module, FactorizedEncoder) and module.grid == Grid(4, 24, 24, 1, 6)
    assert loaded.normalization == {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} and not loaded.reconstructs
    video = clips(fields)
    compare(name, module_run(module, params, video), torch_run(model, video, loaded.template()))


@pytest.mark.parametrize("size", [(2, 24), (8, 24), (4, 12), (6, 36)])
def test_positions_of_other_clips(size, tmp_path):
    """Fewer and more frames and patches than in training, as transformers interpolates the tables for them."""
    frames, side = size
    model = build(**TINY)
    model.save_pretrained(tmp_path)
    encoder = read(tmp_path).encoder.clone(grid=Grid(frames, side, side, 1, 6))
    params, _ = load_encoder(InitFrom(str(tmp_path)), encoder)
    video = clips(TINY | {"num_frames": frames, "image_size": side})
    reference = torch_run(model, video, {}, backward=False, interpolate_pos_encoding=True)
    compare(f"{frames} frames of {side} pixels", module_run(encoder, params, video, backward=False), reference)


@pytest.mark.parametrize("name", MODELS)
def test_what_stands_on_an_encoder_is_left_out(name, tmp_path):
    """Pooling, auxiliary blocks and classifier, each with its reason; the encoder is the same as when it is saved alone."""
    model = build(getattr(transformers, name), **TINY)
    model.save_pretrained(tmp_path / "whole")
    model.vision_model.save_pretrained(tmp_path / "encoder")
    whole, alone = (read(tmp_path / folder) for folder in ("whole", "encoder"))
    assert name in whole.name and whole.encoder == alone.encoder and whole.parts == ("encoder",)
    jax.tree.map(np.testing.assert_array_equal, whole.params, alone.params)
    assert any(f"left out: {MODELS[name]}." in line for line in whole.summary())


def test_the_text_tower_is_left_out(tmp_path):
    text = {"vocab_size": 32, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 1, "num_attention_heads": 3}
    config = transformers.VideoPrismConfig(vision_config=dict(TINY), text_config=text)
    model = build(transformers.VideoPrismClipModel, config)
    model.save_pretrained(tmp_path / "whole")
    model.video_model.vision_model.save_pretrained(tmp_path / "encoder")
    whole, alone = (read(tmp_path / folder) for folder in ("whole", "encoder"))
    assert whole.encoder == alone.encoder
    jax.tree.map(np.testing.assert_array_equal, whole.params, alone.params)
    assert any("of the text tower" in line for line in whole.summary())


@pytest.mark.parametrize("prefix", ["params/", "params/vision_encoder/"])
def test_files_of_the_authors(prefix, tmp_path):
    """Scanned layers, heads on an axis of their own, kernels the other way around: the same parameters as transformers' file."""
    build(**TINY).save_pretrained(tmp_path / "hf")
    expected = read(tmp_path / "hf")
    arrays: dict = authors_arrays(hf_models.stored(tmp_path / "hf"), heads=3, prefix=prefix)
    if prefix != "params/":
        arrays |= {"params/text_encoder/unimodal_ln/scale": np.ones(3, np.float32)}
    np.savez(tmp_path / "prism.npz", **arrays)
    loaded = read(tmp_path / "prism.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, expected.params)
    assert loaded.encoder == expected.encoder and loaded.normalization == expected.normalization
    assert not loaded.reconstructs
    key = f"{prefix}temporal_encoder/transformers_stack/x_layers/layer_norm/scale"
    assert loaded.sources["encoder/temporal/block1/norm1/scale"] == f"{key}[1]"


def test_layers_that_are_not_as_many_as_the_others_are_one_line(tmp_path):
    build(**TINY).save_pretrained(tmp_path / "hf")
    arrays: dict = authors_arrays(hf_models.stored(tmp_path / "hf"), heads=3)
    key = "params/spatial_encoder/transformers_stack/x_layers/ff_layer/ffn_layer1/linear/kernel"
    arrays[key] = arrays[key].swapaxes(0, 2)
    np.savez(tmp_path / "prism.npz", **arrays)
    with pytest.raises(WeightsError) as caught:
        read(tmp_path / "prism.npz")
    expected = (
        f"mis-shaped: {key} is [80, 48, 3], expected a first axis of 3, the layers of most arrays beside it: get the file again"
    )
    assert caught.value.problems == [expected]


def test_an_export_of_this_package_is_read_again(tmp_path):
    build(**TINY | {"attn_logit_softcapping": 7.0}).save_pretrained(tmp_path / "hf")
    loaded = read(tmp_path / "hf")
    write_archive(loaded, tmp_path / "out")
    again = read_archive(tmp_path / "out")
    assert again.encoder == loaded.encoder and not again.reconstructs
    jax.tree.map(np.testing.assert_array_equal, again.params, loaded.params)
    assert "3 blocks over space and 2 over time" in (tmp_path / "out" / "README.md").read_text()


def test_a_processor_that_does_not_normalize(tmp_path):
    """Its mean and standard deviation are then of no use, and pixels stay in 0..1."""
    build(**TINY).save_pretrained(tmp_path)
    processor = {"do_normalize": False, "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}
    for normalizes, mean in ((False, 0.0), (True, 0.48)):
        text = json.dumps(processor | {"do_normalize": normalizes})
        (tmp_path / "video_preprocessor_config.json").write_text(text)
        assert read(tmp_path).normalization["mean"][0] == mean


@pytest.mark.parametrize("fields", [{"tubelet_size": [2, 6, 6]}, {"num_spatial_layers": 4}, {"num_temporal_layers": 9}])
def test_config_of_another_model_is_refused(fields, tmp_path):
    """One line names the field of config.json, as it is called there, and what was expected."""
    build(**TINY).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    with pytest.raises(WeightsError, match=f"{next(iter(fields))} is .*; expected ") as caught:
        read(tmp_path)
    assert len(caught.value.problems) == 1


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16}])
def test_published_sizes(fields, tmp_path):
    """Base, and large with its 24 blocks, at 288 pixels on 2 frames."""
    fields = fields and fields | {"num_spatial_layers": 24}
    fields = fields | {"num_frames": 2}
    model = build(**fields)
    model.save_pretrained(tmp_path)
    module, params = read(tmp_path).take("encoder")
    video = clips(fields, batch=1)
    compare("published", module_run(module, params, video, backward=False), torch_run(model, video, {}, backward=False))
