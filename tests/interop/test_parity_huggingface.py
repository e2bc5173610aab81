"""transformers loads every key of what is written for it, and computes the same outputs."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest

from cvmae.interop.huggingface import CLASSES, FIRST_WHOLE, write_hf_videomae
from cvmae.interop.load import read
from cvmae.interop.preprocessing import preprocessing_of
from cvmae.interop.pretrained import FrameSampling, Head
from cvmae.models import masking
from cvmae.models.autoencoder import make_targets
from cvmae.models.patches import Grid
from cvmae.models.vit import ViTSize
from cvmae.objective.losses import masked_mse
from tests.interop.comparison import assert_close, relative
from tests.interop.hf_models import MEAN, STD
from tests.interop.parity import torch, transformers
from tests.interop.pretrained_models import pretrained, videomae, videomae_decoder

ENCODER, DECODER = videomae(), videomae_decoder()
MEAN_ENCODER = videomae(final_norm=False)
WIDE = Grid(6, 16, 32, 3, 8)


def load(model_class, folder):
    """The model as transformers loads it, every key accounted for."""
    model, info = model_class.from_pretrained(folder, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()


def clips(source, seed=1):
    """Normalized pixels [2, T, H, W, 3]."""
    grid = source.encoder.grid
    return np.random.default_rng(seed).normal(size=(2, grid.num_frames, grid.height, grid.width, 3)).astype(np.float32)


def run(model, clip, **kwargs):
    with torch.no_grad():
        return model(torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 1, 4, 2, 3))), **kwargs)


def apply_module(source, part, clip, *args):
    module, params = source.take(part)
    return jax.jit(module.apply)({"params": params}, clip, *args)


ENCODERS = {
    "as VideoMAE": (ENCODER, []),
    "no last norm, an eps that shows": (videomae(final_norm=False, eps=0.03), []),
    "key biases": (videomae(bias="qkv"), ["key biases of the encoder left out: the softmax cancels what all logits of"]),
    "no biases, transformers' eps, wide frames": (
        videomae(ViTSize(32, 1, 2, 2.5), WIDE, "none", 1e-12),
        ["transformers' processor pads frames that are narrower or lower than the crop"],
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_encoder(name, tmp_path):
    encoder, about = ENCODERS[name]
    source = pretrained(encoder)
    notes = write_hf_videomae(source, tmp_path / "out", "encoder")
    assert sorted(os.listdir(tmp_path / "out")) == ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]
    assert len(notes) == len(about) and all(map(str.startswith, notes, about)), notes
    clip = clips(source)
    reference = run(load(transformers.VideoMAEModel, tmp_path / "out"), clip).last_hidden_state.numpy()
    assert_close(name, relative(apply_module(source, "encoder", clip).tokens, reference))


def test_transformers_keeps_the_sampling(tmp_path):
    sampling = FrameSampling(3, 12.5, square_pixels=False)
    notes = write_hf_videomae(pretrained(ENCODER, sampling=sampling), tmp_path / "out")
    assert f"{sampling}: README.md says it, and config.json records it under 'cvmae'" in notes[-1]
    load(transformers.VideoMAEModel, tmp_path / "out").save_pretrained(tmp_path / "again")
    assert read(tmp_path / "out").sampling == read(tmp_path / "again").sampling == sampling


AUTOENCODERS = {
    "as VideoMAE": (ENCODER, DECODER, []),
    "unshuffled, no last norm": (MEAN_ENCODER, videomae_decoder(layout="unshuffle", target_frames=4), []),
    "key biases, wide frames": (
        videomae(ViTSize(32, 1, 2), WIDE, "qkv"),
        videomae_decoder(ViTSize(16, 2, 2), "qkv"),
        ["key biases of the encoder", "key biases of the decoder", "transformers' processor pads"],
    ),
}


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_autoencoder(name, tmp_path):
    """Predictions and, given the same mask, the loss."""
    encoder, decoder, about = AUTOENCODERS[name]
    source = pretrained(encoder, decoder, target_norm="patch_channel")
    notes = write_hf_videomae(source, tmp_path, "autoencoder")
    assert len(notes) == len(about) and all(map(str.startswith, notes, about)), notes
    pixels = np.random.default_rng(2).uniform(size=clips(source).shape).astype(np.float32)
    clip, grid = (pixels - MEAN) / STD, encoder.grid

    @jax.jit
    def draw(key):
        drawn = masking.draw(jax.random.split(key, 2), grid, "random", 0.75)
        return masking.from_hidden(drawn.hidden, drawn.num_visible)

    mask = draw(jax.random.key(2))
    _, predictions = apply_module(source, "autoencoder", clip, mask)
    reference = run(
        load(transformers.VideoMAEForPreTraining, tmp_path), clip, bool_masked_pos=torch.from_numpy(np.array(mask.hidden))
    )
    assert_close(f"{name} predictions", relative(predictions, reference.logits.numpy()))

    @jax.jit
    def loss_of(predictions, pixels, mask):
        return masked_mse(predictions, make_targets(pixels, mask, decoder, grid, source.target_norm).values).mean()

    loss = float(loss_of(predictions, pixels, mask))
    assert_close(f"{name} loss", abs(loss - reference.loss.item()) / reference.loss.item())


CLASSIFIERS = {
    "mean": (MEAN_ENCODER, Head(5, "mean", 1e-5, ("zero", "one", "two", "three", "four")), []),
    "first": (ENCODER, Head(2, "first"), []),
    "mean, key biases": (videomae(bias="qkv", final_norm=False), Head(3, "mean", 1e-5), ["key biases of the encoder"]),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier(name, tmp_path):
    encoder, head, about = CLASSIFIERS[name]
    source = pretrained(encoder, head=head)
    notes = write_hf_videomae(source, tmp_path)
    assert notes[0] == "written as VideoMAEForVideoClassification"
    assert len(notes) == 1 + len(about) and all(map(str.startswith, notes[1:], about)), notes
    clip, model = clips(source), load(transformers.VideoMAEForVideoClassification, tmp_path)
    assert_close(name, relative(apply_module(source, "classifier", clip), run(model, clip).logits.numpy()))
    assert model.config.num_labels == head.classes and not model.training
    expected = head.names or tuple(f"LABEL_{i}" for i in range(head.classes))
    assert tuple(model.config.id2label[i] for i in range(head.classes)) == expected
    assert model.config.label2id == {name: i for i, name in enumerate(expected)}


def test_the_encoder_of_larger_models(tmp_path):
    """Its folder is that of VideoMAEModel, so that this class reports no unexpected key."""
    source = pretrained(ENCODER, DECODER, Head(2, "first"))
    write_hf_videomae(source, tmp_path, "encoder")
    clip = clips(source)
    reference = run(load(transformers.VideoMAEModel, tmp_path), clip).last_hidden_state.numpy()
    assert_close("encoder", relative(apply_module(source, "encoder", clip).tokens, reference))


def test_eps_that_transformers_fixes(tmp_path):
    """The outputs differ slightly, and a note says which eps differ."""
    source = pretrained(MEAN_ENCODER, head=Head(5, "mean", 0.1))
    _, note = write_hf_videomae(source, tmp_path / "classifier")
    assert note == ("head.eps is 0.1, in transformers 1e-05 whatever its config says: outputs differ slightly")
    clip = clips(source)
    logits = run(load(transformers.VideoMAEForVideoClassification, tmp_path / "classifier"), clip).logits.numpy()
    exact = dataclasses.replace(source, head=Head(5, "mean", 1e-5))
    assert_close("with transformers' eps", relative(apply_module(exact, "classifier", clip), logits))
    assert relative(apply_module(source, "classifier", clip), logits) > 1e-4

    source = pretrained(ENCODER, videomae_decoder(norm_eps=1e-6), target_norm="patch_channel")
    assert write_hf_videomae(source, tmp_path / "autoencoder")[1:] == [
        "video_branch.decoder.norm_eps is 1e-06, in transformers 1e-05 whatever its config says: outputs differ slightly"
    ]


@pytest.mark.parametrize("part", ["encoder", "autoencoder", "classifier"])
@pytest.mark.parametrize("bias", ["qv", "qkv", "none"])
def test_the_lines_of_the_readme_load_it(part, bias, tmp_path, monkeypatch):
    """Every bias of queries and values arrives: transformers 5.5.1 to 5.17.0 load zeros without an error."""
    source = pretrained(videomae(bias=bias), videomae_decoder(bias=bias), Head(2, "first"), target_norm="patch_channel")
    write_hf_videomae(source, tmp_path, part)
    text = (tmp_path / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    model = names["model"]
    assert type(model).__name__ == CLASSES[part] and (part == "autoencoder" or names["outputs"] is not None)
    queries = [
        (layer.attention.attention.query.bias, layer.attention.attention.value.bias)
        for name, layer in model.named_modules()
        if type(layer).__name__ == "VideoMAELayer"
    ]
    assert len(queries) == (3 if part == "autoencoder" else 2)
    if bias == "none":
        assert all(query is None and value is None for query, value in queries) and "any version" in text
        return
    assert all(query.abs().min() > 0 and value.abs().min() > 0 for query, value in queries)
    block = source.params["encoder"]["blocks"]["block0"]["attention"]
    np.testing.assert_array_equal(queries[0][0].detach().numpy(), block["query"]["bias"])
    np.testing.assert_array_equal(queries[0][1].detach().numpy(), block["value"]["bias"])
    assert f"{FIRST_WHOLE} and later" in text and "Versions 5.5.1 to 5.17.0 load" in text


def test_these_tests_run_with_a_version_that_is_safe():
    version = tuple(map(int, transformers.__version__.split(".")[:2]))
    assert version >= tuple(map(int, FIRST_WHOLE.split(".")[:2]))


@pytest.mark.parametrize("frames, crop", [((40, 52), (32, 32)), ((32, 32), (32, 32)), ((70, 33), (32, 32)), ((24, 60), (16, 32))])
def test_the_processor_makes_the_same_clips(frames, crop, tmp_path):
    normalization = {"mean": (0.45, 0.4, 0.5), "std": (0.225, 0.25, 0.2)}
    source = pretrained(videomae(grid=Grid(4, *crop, 2, 8)), normalization=normalization)
    write_hf_videomae(source, tmp_path)
    video = np.random.default_rng(0).integers(0, 256, (4, *frames, 3), dtype=np.uint8)
    make = preprocessing_of(source)
    processed = transformers.AutoImageProcessor.from_pretrained(tmp_path)(list(video), return_tensors="np")["pixel_values"]
    reference = np.asarray(processed, np.float32).transpose(0, 1, 3, 4, 2)
    assert reference.shape == (1, 4, *crop, 3)
    levels = np.abs(np.asarray(make(video)) - reference) * np.array(normalization["std"]) * 255
    print(f"{frames} -> {crop}: differs by up to {levels.max():.2f} gray levels, {levels.mean():.2f} in the mean")
    assert levels.max() < (1e-3 if frames == crop else 1.01)


PROCESSORS = [
    {"rescale_factor": 1},
    {"rescale_factor": 1 / 127.5},
    {"do_rescale": False},
    {"do_normalize": False},
    {"do_normalize": False, "rescale_factor": 1 / 100},
    {"do_normalize": False, "do_rescale": False, "rescale_factor": 0.5},
]


@pytest.mark.parametrize("fields", PROCESSORS, ids=str)
def test_pixels_are_scaled_as_the_processor_says(fields, tmp_path):
    write_hf_videomae(pretrained(videomae()), tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    video = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    processed = transformers.AutoImageProcessor.from_pretrained(tmp_path)(list(video), return_tensors="np")["pixel_values"]
    reference = np.asarray(processed, np.float32).transpose(0, 1, 3, 4, 2)
    np.testing.assert_allclose(preprocessing_of(read(tmp_path))(video), reference, rtol=1e-5, atol=1e-5 * np.abs(reference).max())


def test_notes_on_what_the_weights_do_not_record(tmp_path):
    source = pretrained(ENCODER, DECODER, normalization={})
    notes = write_hf_videomae(source, tmp_path)
    assert notes == [
        "written as VideoMAEForPreTraining",
        "the weights do not record VideoMAE's training: ImageNet's normalization, targets by patch and channel",
        "no preprocessor_config.json: the weights do not record their normalization",
    ]
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]


def test_which_part_is_written(tmp_path):
    both = pretrained(ENCODER, DECODER, Head(2, "first"), target_norm="patch_channel")
    parts = {"": "VideoMAEForVideoClassification", "autoencoder": "VideoMAEForPreTraining", "encoder": "VideoMAEModel"}
    for i, (part, name) in enumerate(parts.items()):
        write_hf_videomae(both, tmp_path / str(i), part)
        assert json.loads((tmp_path / str(i) / "config.json").read_text())["architectures"] == [name]
    other = pretrained(ENCODER, videomae_decoder(cls="own"), target_norm="patch_channel")
    (note,) = write_hf_videomae(other, tmp_path / "encoder")
    assert note.startswith("the encoder alone: VideoMAEForPreTraining cannot express the decoder (the decoder's cls is 'own'")
    load(transformers.VideoMAEModel, tmp_path / "encoder")
    with pytest.raises(ValueError, match="no part 'classifier', only encoder, autoencoder"):
        write_hf_videomae(other, tmp_path / "none", "classifier")
    with pytest.raises(FileExistsError, match="holds files already"):
        write_hf_videomae(other, tmp_path / "encoder")
