"""The authors' own files (`.pth`) of MAE, mae_st and VideoMAE: torch statements of the models, saved as published ones are,
read by this package: the same states, predictions, loss and logits."""

import argparse

import jax
import numpy as np
import pytest

from cvmae.interop.hints import ModelHints
from cvmae.interop.load import read
from cvmae.models import masking
from tests.interop import hf_models, torch_mae, torch_mae_st, torch_videomae
from tests.interop.comparison import assert_close, relative
from tests.interop.parity import torch
from tests.interop.torch_blocks import EPS, Sizes, build

SIZES = Sizes(decoder_depth=2, mlp_ratio=3)
IMAGES = Sizes(size=40, frames=1, tubelet=1)
HALF_OF_FRAMES = Sizes(frames=8, target_frames=4)
GIANT = Sizes(width=88, decoder_depth=2, mlp_ratio=48 / 11, patch=14, size=28, frames=6, tubelet=3)  # in the giant's proportions
CLASSES = 7
MODELS = {
    "mae": (torch_mae.MaskedAutoencoder, IMAGES),
    "mae_st": (torch_mae_st.MaskedAutoencoder, HALF_OF_FRAMES),
    "mae_st, one table": (torch_mae_st.MaskedAutoencoder, SIZES, False),
    "mae_st, no cls": (torch_mae_st.MaskedAutoencoder, SIZES, True, False),
    "mae_st, one table, no cls": (torch_mae_st.MaskedAutoencoder, HALF_OF_FRAMES, False, False),
    "videomae": (torch_videomae.MaskedAutoencoder, SIZES),
    "videomaev2": (torch_videomae.MaskedAutoencoder, GIANT),
}
CLASSIFIERS = {
    "mae, mean": (torch_mae.Classifier, IMAGES, CLASSES, "mean"),
    "mae, first": (torch_mae.Classifier, IMAGES, CLASSES, "first"),
    "mae_st": (torch_mae_st.Classifier, SIZES, CLASSES),
    "videomae": (torch_videomae.Classifier, SIZES, CLASSES),
}


def read_back(model, folder, kind: str, hints: ModelHints):
    """A model saved as published ones are, read by this package; the file is gone afterwards, as those of real size are large."""
    file = folder / "checkpoint.pth"
    torch.save({"model": model.state_dict(), "args": argparse.Namespace(model="some", blr=1.5e-4), "epoch": 800}, file)
    try:
        return read(file, kind, hints=hints)
    finally:
        file.unlink()


def hints_for(sizes: Sizes) -> ModelHints:
    """The settings that files do not show and published widths would."""
    return ModelHints(sizes.heads, sizes.decoder_heads, sizes.frames, (sizes.size, sizes.size))


def draw(sizes: Sizes, batch: int = 2):
    """Random frames [B, T, H, W, 3] in 0..1, the same normalized, and noise [B, N]."""
    rng = np.random.default_rng(2)
    pixels = rng.uniform(size=(batch, sizes.frames, sizes.size, sizes.size, 3)).astype(np.float32)
    return pixels, (pixels - hf_models.MEAN) / hf_models.STD, rng.uniform(size=(batch, sizes.grid.tokens)).astype(np.float32)


def as_torch(clip):
    """Normalized frames as the statements take them: [B, 3, T, H, W], an image without T."""
    video = torch.from_numpy(np.moveaxis(clip, -1, 1).copy())
    return video[:, :, 0] if video.shape[2] == 1 else video


def run_reference(model, clip, noise, mask) -> hf_models.Run:
    """A statement's forward pass under the given mask."""
    video = as_torch(clip)
    with torch.no_grad():
        if isinstance(model, torch_videomae.MaskedAutoencoder):
            out = model(video, torch.from_numpy(np.array(mask.hidden)))
        else:
            out = model(video, torch.from_numpy(noise), mask.num_visible)
    hidden, predictions, everywhere = [state.numpy() for state in out.hidden], out.predictions.numpy(), None
    if predictions.shape[1] == mask.ids_shuffle.shape[1]:
        everywhere = predictions
        predictions = np.take_along_axis(everywhere, np.asarray(mask.masked)[..., None], axis=1)
    return hf_models.Run(hidden, out.encoded.numpy(), predictions, everywhere, out.loss.item(), None)


def check(name: str, model, pretrained, kept: int, batch: int = 2):
    """Both ways with the same `kept` tokens visible."""
    module, params = pretrained.take("autoencoder")
    assert module.encoder.grid == model.sizes.grid
    spec = module.decoder.spec
    assert (module.encoder.trunk.eps, spec.trunk.eps, spec.norm_eps) == (EPS, EPS, EPS)  # too small for outputs to show
    pixels, clip, noise = draw(model.sizes, batch)
    mask = masking.from_noise(noise, kept)
    by_channel = pretrained.target_norm == "patch_channel"
    if by_channel:
        mask = masking.from_hidden(mask.hidden, kept)
    reference = run_reference(model, clip, noise, mask)
    target_clip, norm = (pixels if by_channel else clip), pretrained.target_norm or "patch"
    actual = hf_models.run_module(module, params, clip, target_clip, mask, norm, reference.everywhere is not None, backward=False)
    hf_models.compare(actual, reference, name)


@pytest.mark.parametrize("name", MODELS)
def test_pretraining(name, tmp_path):
    model = build(*MODELS[name])
    pretrained = read_back(model, tmp_path, name.partition(",")[0], hints_for(model.sizes))
    check(name, model, pretrained, kept=5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier(name, tmp_path):
    model_class, sizes, *args = CLASSIFIERS[name]
    model = build(model_class, sizes, *args)
    module, params = read_back(model, tmp_path, name.partition(",")[0], hints_for(sizes)).take("classifier")
    assert module.encoder.grid == sizes.grid
    assert (module.encoder.trunk.eps, module.eps) == (EPS, EPS)
    _, clip, _ = draw(sizes)
    with torch.no_grad():
        reference = model(as_torch(clip)).numpy()
    assert_close(f"{name} logits", relative(jax.jit(module.apply)({"params": params}, clip), reference))


@pytest.mark.slow
def test_vit_b_of_mae(tmp_path):
    """The published size, which needs no hints: 49 of 196 tokens visible, decoder 512 x 8."""
    sizes = Sizes(768, 12, 12, 512, 8, 16, size=224, patch=16, frames=1, tubelet=1)
    model = build(torch_mae.MaskedAutoencoder, sizes)
    check("ViT-B of MAE", model, read_back(model, tmp_path, "auto", ModelHints()), kept=49, batch=1)


@pytest.mark.slow
def test_vit_b_of_videomae(tmp_path):
    """The published size: 160 of 1568 tokens visible, decoder 384 x 4."""
    sizes = Sizes(768, 12, 12, 384, 4, 6, size=224, patch=16, frames=16, tubelet=2)
    model = build(torch_videomae.MaskedAutoencoder, sizes)
    check("ViT-B of VideoMAE", model, read_back(model, tmp_path, "auto", ModelHints()), kept=160, batch=1)


@pytest.mark.slow
def test_vit_b_of_mae_st(tmp_path):
    """Its recipe at this size: 156 of 1568 tokens visible, eight frames predicted, decoder 512 x 4."""
    sizes = Sizes(768, 12, 12, 512, 4, 16, size=224, patch=16, frames=16, tubelet=2, target_frames=8)
    model = build(torch_mae_st.MaskedAutoencoder, sizes)
    check("ViT-B of mae_st", model, read_back(model, tmp_path, "auto", ModelHints()), kept=156, batch=1)
