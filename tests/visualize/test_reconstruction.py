"""Reconstructions come back to pixels, whatever the target normalization and decoder, and pictures are written."""

import jax
import matplotlib.axes
import matplotlib.image
import numpy as np
import pytest

from cvmae.models import masking
from cvmae.models.autoencoder import Autoencoder, Decoder, DecoderSpec, make_targets
from cvmae.models.build import decoder_spec, video_grid
from cvmae.models.patches import Grid
from cvmae.models.vit import Encoder, TransformerConfig, ViTSize
from cvmae.objective.objective import Objective
from cvmae.visualize.curves import HELD_OUT, draw_curves
from cvmae.visualize.reconstruction import (
    NORMS,
    Predicted,
    draw_reconstruction,
    hide,
    rebuild,
    reconstruct,
    reconstruct_samples,
)
from cvmae.visualize.weights import Branch
from tests.interop.models import random_params
from tests.tiny_configs import config, samples


class Oracle(Objective):
    """Predicts the targets themselves, so that what is rebuilt must be the clip."""

    def forward(self, params, inputs):
        targets = self.video_targets(inputs)
        from cvmae.models.crossvideo import CrossVideoOutput

        return CrossVideoOutput(video_predictions=targets.values)


@pytest.mark.parametrize("norm", ["patch", "patch_channel", "none"])
@pytest.mark.parametrize("target_frames", [0, 2])
def test_true_targets_rebuild_the_clip(norm, target_frames):
    c = config(video_branch__target_norm=norm, video_branch__decoder__target_frames=target_frames)
    objective = Oracle(c)

    @jax.jit
    def run(samples):
        inputs = objective.make_inputs(samples)
        return inputs, reconstruct(objective, None, inputs)

    inputs, found = run(samples(c, 2))
    clip, masked, rebuilt = map(np.asarray, (found.clip, found.masked, found.rebuilt))
    frames = [0, 3] if target_frames else [0, 1, 2, 3]
    np.testing.assert_allclose(clip, np.clip(inputs.video.reshape(2, 2, 4, 32, 32, 3)[:, 0][:, frames], 0, 1), atol=1e-6)
    np.testing.assert_allclose(rebuilt, clip, atol=1e-4)
    gray = np.isclose(masked, 0.5).all(-1).mean()
    assert abs(gray - 0.5) < 0.02  # the mask ratio of runlocal
    np.testing.assert_allclose(masked[masked != 0.5], clip[masked != 0.5], atol=1e-6)


@pytest.mark.parametrize("layout", ["unshuffle", "concat"])
def test_a_picture_is_written_for_a_real_model(layout, tmp_path):
    c = config(only=("mse_video",), video_branch__decoder__layout=layout)
    objective, batch = Objective(c), samples(c, 3)
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    draw_reconstruction(tmp_path / "r.png", reconstruct_samples(objective, params, batch, 2))
    picture = matplotlib.image.imread(tmp_path / "r.png")
    assert picture.std() > 0.1 and picture.shape[0] > picture.shape[1]  # two clips of three rows


MEAN, STD = np.array([0.4, 0.5, 0.6]), np.array([0.2, 0.3, 0.4])
GRID = Grid(4, 16, 24, 2, 8)


def masked_half():
    """Clips that are not square, whose channels differ, and a mask of half of their patches."""
    pixels = np.random.default_rng(0).uniform(size=(2, 4, 16, 24, 3)).astype(np.float32) * np.float32([0.2, 0.6, 1.0])
    return pixels, jax.jit(lambda: masking.draw(jax.random.split(jax.random.key(1), 2), GRID, "random", 0.5))()


def predicted(norm="patch", layout="unshuffle", target_frames=0):
    spec = DecoderSpec(TransformerConfig(ViTSize(16, 1, 2)), layout, "sincos3d", target_frames=target_frames)
    return Predicted(spec, GRID, norm, tuple(MEAN), tuple(STD))


@pytest.mark.parametrize("target_frames", [0, 2])
@pytest.mark.parametrize("norm", NORMS)
def test_predictions_come_back_to_pixels_by_the_statistics_of_their_own_patch(norm, target_frames):
    """Patch by patch in numpy, from the definitions of the target norms; visible patches are the clip's own."""
    pixels, mask = masked_half()
    frames = [0, 3] if target_frames else [0, 1, 2, 3]
    tubelet = len(frames) // 2
    said = np.random.default_rng(1).normal(size=(2, 6, tubelet, 8, 8, 3)).astype(np.float32) * 0.3
    about = predicted(norm, target_frames=target_frames)
    found = jax.tree.map(np.asarray, jax.jit(rebuild, static_argnums=3)(pixels, mask, said.reshape(2, 6, -1), about))
    clip, order = pixels[:, frames].astype(np.float64), np.asarray(mask.masked).tolist()
    for b, time, row, column in np.ndindex(2, 2, 2, 3):
        place = (b, slice(time * tubelet, (time + 1) * tubelet), slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
        patch = expected = clip[place]
        token = (time * 2 + row) * 3 + column
        if token in order[b]:
            guess, standard = said[b, order[b].index(token)], (patch - MEAN) / STD
            expected = {
                "none": guess * STD + MEAN,
                "pixels": guess,
                "patch": (guess * np.sqrt(standard.var(ddof=1) + 1e-6) + standard.mean()) * STD + MEAN,
                "patch_channel": guess * (np.sqrt(patch.var((0, 1, 2), ddof=1)) + 1e-6) + patch.mean((0, 1, 2)),
            }[norm]
            assert (found.masked[place] == 0.5).all()
        np.testing.assert_allclose(found.rebuilt[place], np.clip(expected, 0, 1), atol=1e-5)


def test_both_layouts_of_the_decoder_rebuild_the_same():
    pixels, mask = masked_half()
    rebuilt = []
    for layout in ("unshuffle", "concat"):
        about = predicted(layout=layout)
        branch = Branch(
            {}, Encoder(TransformerConfig(ViTSize(16, 1, 2)), GRID, "sincos3d"), about.spec, "patch", about.mean, about.std
        )
        params = random_params(Autoencoder(branch.encoder, Decoder(about.spec, GRID)))
        rebuilt.append(
            jax.jit(lambda p: rebuild(pixels, mask, branch.predict(p, pixels, mask), branch.predicted))(params).rebuilt  # noqa: B023
        )
    np.testing.assert_allclose(*rebuilt, atol=1e-5)
    assert np.std(rebuilt[0]) > 0.1


def test_masked_patches_are_gray_without_a_decoder():
    pixels, mask = masked_half()
    found = jax.jit(hide, static_argnums=2)(pixels, mask, GRID)
    np.testing.assert_array_equal(found.masked, found.rebuilt)
    gray = np.asarray(found.masked == 0.5).all(-1)
    assert gray.mean() == 0.5
    np.testing.assert_array_equal(np.asarray(found.masked)[~gray], np.asarray(pixels)[~gray])


def test_targets_of_the_config_are_those_of_the_model():
    c = config()
    objective = Objective(c)

    @jax.jit
    def targets(samples):
        inputs = objective.make_inputs(samples)
        spec, pixels = decoder_spec(c, c.video_branch), objective.normalize(inputs.video)
        expected = make_targets(pixels, inputs.video_mask, spec, video_grid(c), "patch")
        return objective.video_targets(inputs).values, expected.values

    found, expected = targets(samples(c, 2))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_curves_have_a_line_for_every_metric_and_the_legend_names_dashed_ones(tmp_path, monkeypatch):
    legends = []
    original = matplotlib.axes.Axes.legend

    def legend(self, *args, **kwargs):
        drawn = original(self, *args, **kwargs)
        legends.append([(text.get_text(), line.get_linestyle()) for text, line in zip(drawn.get_texts(), drawn.get_lines())])
        return drawn

    monkeypatch.setattr(matplotlib.axes.Axes, "legend", legend)
    lines = [{"step": s, "loss/mse_video": 1 / s, "accuracy/intra_video": s / 9, "eval/loss/mse_video": 1.0} for s in (1, 2, 3)]
    draw_curves(tmp_path / "c.png", lines)
    assert matplotlib.image.imread(tmp_path / "c.png").std() > 0.05
    assert legends == [[("mse_video", "-"), (HELD_OUT, "--")], [("intra_video", "-")]]


def test_without_metrics_no_curves_are_drawn(tmp_path):
    draw_curves(tmp_path / "c.png", [{"step": 1, "time/seconds": 2.0}])
    assert not list(tmp_path.iterdir())
