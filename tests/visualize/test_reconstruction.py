"""Reconstructions come back to pixels, whatever the target normalisation and decoder, and pictures are written."""

import jax
import matplotlib.image
import numpy as np
import pytest

from cvmae.models.autoencoder import make_targets
from cvmae.models.build import decoder_spec, video_grid
from cvmae.objective import Objective
from cvmae.visualize.curves import draw_curves
from cvmae.visualize.reconstruction import reconstruct, save_reconstructions
from tests.small import config, samples


class Oracle(Objective):
    """Predicts the targets themselves, so that what is rebuilt must be the clip."""

    def forward(self, params, inputs):
        targets = self.video_targets(inputs)
        from cvmae.models.crossvideo import CrossVideoOutput

        return CrossVideoOutput(video_predictions=targets.values)


@pytest.mark.parametrize("norm", ["patch", "patch_channel", "none"])
@pytest.mark.parametrize("target_frames", [0, 2])
def test_true_targets_rebuild_the_clip(norm, target_frames, quick_compilation):
    c = config(video_branch__target_norm=norm, video_branch__decoder__target_frames=target_frames)
    objective = Oracle(c)
    inputs = jax.jit(objective.make_inputs)(samples(c, 2))
    clip, masked, rebuilt = map(np.asarray, jax.jit(lambda i: reconstruct(objective, None, i))(inputs))
    frames = [0, 3] if target_frames else [0, 1, 2, 3]
    np.testing.assert_allclose(clip, np.clip(inputs.video.reshape(2, 2, 4, 32, 32, 3)[:, 0][:, frames], 0, 1), atol=1e-6)
    np.testing.assert_allclose(rebuilt, clip, atol=1e-4)
    grey = np.isclose(masked, 0.5).all(-1).mean()
    assert abs(grey - 0.5) < 0.02  # the masking ratio of runlocal
    np.testing.assert_allclose(masked[masked != 0.5], clip[masked != 0.5], atol=1e-6)


@pytest.mark.parametrize("layout", ["unshuffle", "concat"])
def test_a_picture_is_written_for_a_real_model(layout, tmp_path, quick_compilation):
    c = config(only=("mse_video",), video_branch__decoder__layout=layout)
    objective, batch = Objective(c), samples(c, 3)
    params = jax.jit(objective.init)(jax.random.key(0), batch)
    save_reconstructions(tmp_path / "r.png", objective, params, batch, 2)
    picture = matplotlib.image.imread(tmp_path / "r.png")
    assert picture.std() > 0.1 and picture.shape[0] > picture.shape[1]  # two clips of three rows


def test_targets_of_the_config_are_those_of_the_model():
    c = config()
    objective = Objective(c)
    inputs = objective.make_inputs(samples(c, 2))
    values = make_targets(
        objective.standardise(inputs.video), inputs.video_mask, decoder_spec(c, c.video_branch), video_grid(c), "patch"
    ).values
    np.testing.assert_allclose(objective.video_targets(inputs).values, values, rtol=1e-6)


def test_curves_have_a_line_for_every_metric(tmp_path):
    lines = [{"step": s, "loss/mse_video": 1 / s, "accuracy/intra_video": s / 9, "eval/loss/mse_video": 1.0} for s in (1, 2, 3)]
    draw_curves(tmp_path / "c.png", lines)
    assert matplotlib.image.imread(tmp_path / "c.png").std() > 0.05
