"""DINOv2 and SigLIP's vision tower of transformers against this package's encoder with the same weights: states, output, gradients."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from cvmae.evaluation.embed import embed
from cvmae.evaluation.embed import load_encoder as load_video_encoder
from cvmae.evaluation.features import FeatureSpec, encode_tokens
from cvmae.interop import WeightsError, read
from cvmae.interop.adapt import InitFrom, load_encoder
from cvmae.interop.key_maps.dinov2 import HF_DINOV2
from cvmae.interop.key_maps.siglip import HF_SIGLIP
from cvmae.interop.preprocessing import preprocessing_of
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder
from cvmae.visualize.attention import AttentionSpec, attention_map, attention_weights
from tests.interop import hf_models
from tests.interop.hf_encoders import compare, module_run, random_like, torch_run
from tests.interop.parity import torch, transformers

TINY = {"image_size": 56, "patch_size": 14, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
DINOV2 = (transformers.Dinov2Model, transformers.Dinov2Config)
REGISTERS = (transformers.Dinov2WithRegistersModel, transformers.Dinov2WithRegistersConfig)
SIGLIP = (transformers.SiglipVisionModel, transformers.SiglipVisionConfig)
CASES = {
    "DINOv2": (*DINOV2, TINY | {"mlp_ratio": 3}),
    "DINOv2 with SwiGLU, without biases": (*DINOV2, TINY | {"use_swiglu_ffn": True, "qkv_bias": False}),
    "DINOv2 with registers": (*REGISTERS, TINY | {"num_register_tokens": 3, "layer_norm_eps": 1e-5}),
    "SigLIP": (*SIGLIP, TINY | {"intermediate_size": 80, "image_size": 64, "patch_size": 16}),
    "SigLIP, exact activation, patches that do not fill the frame": (
        *SIGLIP,
        TINY | {"intermediate_size": 96, "hidden_act": "gelu", "image_size": 60},
    ),
}


def build(model_class, config_class, fields):
    """A model of random weights, whose position table and tokens are no zeros."""
    torch.manual_seed(0)
    return hf_models.shake(model_class(config_class(**fields)), seed=1)


def clips_of(pixels: np.ndarray, grid: Grid) -> np.ndarray:
    """Pictures [B, C, H, W] as clips of a frame, without the pixels that are in no patch."""
    return pixels.transpose(0, 2, 3, 1)[:, None, : grid.height, : grid.width]


def key_map_of(model):
    return HF_SIGLIP[0] if isinstance(model, transformers.SiglipVisionModel) else HF_DINOV2[0]


def check(name: str, case, folder, backward: bool = True):
    model = build(*case)
    model.save_pretrained(folder)
    loaded = read(folder)
    module, params = loaded.take("encoder")
    assert isinstance(module, Encoder)
    side = case[2].get("image_size", 224)
    pixels = random_like((2, 3, side, side), 2)
    reference = torch_run(model, pixels, key_map_of(model), loaded.template(), module.registers, backward)
    compare(name, module_run(module, params, clips_of(pixels, module.grid), backward), reference)
    return model, loaded


MORE = ("DINOv2",)  # which with registers is the same but for its tokens


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name in MORE else []) for name in CASES])
def test_tiny(name, tmp_path):
    model, loaded = check(name, CASES[name], tmp_path)
    assert not loaded.reconstructs and loaded.parts == ("encoder",)
    in_memory = {key: value.numpy().copy() for key, value in model.state_dict().items()}
    save_file(in_memory, tmp_path / "model.safetensors")  # the names of a plain state dict
    jax.tree.map(np.testing.assert_array_equal, read(tmp_path).params, loaded.params)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DINOv2", "DINOv2 with registers", "SigLIP"])
def test_base(name, tmp_path):
    """The published base sizes: 224 pixels, patches of 14 and 16."""
    model_class, config_class, _ = CASES[name]
    check(f"{name} B", (model_class, config_class, {}), tmp_path)


@pytest.mark.parametrize("side", [42, 84])
@pytest.mark.parametrize("name", ["DINOv2", "DINOv2 with registers", "SigLIP"])
def test_positions_of_other_sizes(name, side, tmp_path):
    """Fewer and more patches than in training, as transformers interpolates the table for them."""
    model_class, config_class, fields = CASES[name]
    model = build(model_class, config_class, fields | {"image_size": 56, "patch_size": 14})
    model.save_pretrained(tmp_path)
    encoder = read(tmp_path).encoder
    encoder = encoder.clone(grid=Grid(1, side, side, 1, 14))
    params, notes = load_encoder(InitFrom(str(tmp_path), "image"), encoder)
    assert f"positions/table 1x4x4 -> 1x{side // 14}x{side // 14} interpolated" in notes
    pixels = random_like((2, 3, side, side), 2)
    options = {"interpolate_pos_encoding": True} if name == "SigLIP" else {}
    reference = torch_run(model, pixels, key_map_of(model), {}, encoder.registers, False, **options)
    compare(f"{name} at {side} pixels", module_run(encoder, params, clips_of(pixels, encoder.grid), False), reference)


@pytest.mark.parametrize("name", ["DINOv2", "DINOv2 with registers"])
def test_the_pipeline_at_the_crop_of_its_processor(name, tmp_path):
    """Published DINOv2 was trained on 518 pixels, and its processor cuts frames to 224, for which the model interpolates."""
    model = build(*CASES[name])
    model.save_pretrained(tmp_path)
    sides = {"size": {"shortest_edge": 42}, "crop_size": {"height": 28, "width": 28}}
    transformers.BitImageProcessor(**sides).save_pretrained(tmp_path)
    frame = np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, do_resize=False)  # whose rounding is to gray levels
    encoder = load_video_encoder(tmp_path)
    with torch.no_grad():
        states = model(**processor(frame, return_tensors="pt")).last_hidden_state.numpy()
    expected = states[:, encoder.module.prefix :].mean(1)
    np.testing.assert_allclose(encoder(frame[None, None]), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(embed(frame[None], tmp_path), expected[0], rtol=1e-4, atol=1e-5)


def test_what_stands_around_a_tower_is_left_out(tmp_path):
    """The text tower, heads and mask tokens, each with its reason; the tower is the same as when it is saved alone."""
    text = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48, "vocab_size": 64}
    fields = TINY | {"intermediate_size": 80}
    config = transformers.SiglipConfig(vision_config=fields, text_config=text | {"bos_token_id": 1, "eos_token_id": 2})
    whole = hf_models.shake(transformers.SiglipModel(config), seed=1)
    whole.save_pretrained(tmp_path / "whole")
    whole.vision_model.save_pretrained(tmp_path / "tower")
    whole_read, tower = (read(tmp_path / name) for name in ("whole", "tower"))
    assert whole_read.encoder == tower.encoder
    jax.tree.map(np.testing.assert_array_equal, whole_read.params, tower.params)
    assert any("of the text tower" in line for line in whole_read.summary())
    assert any("pools its tokens by attention" in line for line in tower.summary())

    classifier = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**TINY, num_labels=3))
    hf_models.shake(classifier, seed=1).save_pretrained(tmp_path / "classifier")
    classifier.dinov2.save_pretrained(tmp_path / "encoder")
    jax.tree.map(np.testing.assert_array_equal, *(read(tmp_path / name).params for name in ("classifier", "encoder")))


def test_config_of_another_activation_is_refused(tmp_path):
    build(*CASES["SigLIP"]).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(WeightsError, match="hidden_act 'relu', not 'siglip_vision_model' or 'siglip' and 'gelu'"):
        read(tmp_path)


def test_features_of_a_block_and_maps_leave_registers_out(tmp_path):
    """The tokens of patches of a block, as transformers has them, and its attention to patches alone."""
    name = "DINOv2 with registers"
    model = build(*CASES[name])
    model.save_pretrained(tmp_path)
    encoder, params = read(tmp_path).take("encoder")
    pixels = random_like((2, 3, 56, 56), 2)
    clips = clips_of(pixels, encoder.grid)
    states, _, _ = torch_run(model, pixels, key_map_of(model), {}, encoder.registers, backward=False)

    @jax.jit
    def run(params, clips):
        features = encode_tokens(encoder, params, clips, FeatureSpec(layer=1, tokens="all"))
        shown = attention_map(encoder, params, clips, AttentionSpec(query="cls"))
        return features, shown, attention_weights(encoder, params, clips)[-1]

    features, found, weights = run(params, clips)
    np.testing.assert_allclose(features, states[1][:, 4:], rtol=1e-4, atol=1e-4)
    expected = np.asarray(weights).mean(1)[:, 0, 4:] * 20
    np.testing.assert_allclose(found.reshape(2, -1), expected, rtol=1e-5)


def test_the_processor_that_is_saved_with_its_tokenizer(tmp_path):
    """transformers writes the two into one file, processor_config.json."""
    import tokenizers  # which transformers requires

    build(*CASES["SigLIP"]).save_pretrained(tmp_path)
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    pixels = transformers.SiglipImageProcessor(do_resize=False, image_mean=0.4, image_std=[0.2, 0.3, 0.4])
    transformers.SiglipProcessor(pixels, transformers.PreTrainedTokenizerFast(tokenizer_object=words)).save_pretrained(tmp_path)
    frame = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    processed = transformers.AutoImageProcessor.from_pretrained(tmp_path)(frame, return_tensors="np")["pixel_values"]
    preprocessing = preprocessing_of(read(tmp_path))
    np.testing.assert_allclose(preprocessing(frame[None])[0, 0], processed[0].transpose(1, 2, 0), rtol=0, atol=1e-5)
