import dataclasses

import numpy as np
import pytest

from cvmae.data import clips

SPEC = clips.ClipSpec(4, 2, 0.0, 16, 24, "crop", "middle", 1, "middle")
TIMES = np.arange(20) / 10


def rng(seed=0):
    return np.random.default_rng(seed)


def spec(**changes):
    return dataclasses.replace(SPEC, **changes)


def test_middle_clip_is_centered_at_the_stride():
    assert clips.clip_indices(spec(), TIMES, rng()).tolist() == [6, 8, 10, 12]
    assert clips.clip_indices(spec(stride=5), TIMES, rng()).tolist() == [2, 7, 12, 17]


def test_random_start_covers_every_start_and_nothing_else():
    starts = {clips.clip_indices(spec(sampling="random"), TIMES, rng(s))[0] for s in range(300)}
    assert starts == set(range(20 - 6))


def test_uniform_takes_segment_centers_without_stride():
    assert clips.clip_indices(spec(sampling="uniform", stride=9), TIMES, rng()).tolist() == [2, 7, 12, 17]
    assert clips.clip_indices(spec(sampling="uniform"), TIMES[:2], rng()).tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("sampling", ["random", "middle"])
@pytest.mark.parametrize("fps", [0.0, 10.0])
def test_short_clips_repeat_the_last_frame(sampling, fps):
    got = clips.clip_indices(spec(sampling=sampling, fps=fps), TIMES[:4], rng())
    assert got.tolist() == [0, 2, 3, 3]


def test_fps_samples_by_time_in_variable_frame_rate():
    times = np.array([0, 0.1, 0.2, 0.3, 0.4, 1.4, 2.4, 3.4, 4.4])
    got = clips.clip_indices(spec(num_frames=5, fps=1.0, stride=1), times, rng())
    # Centerd in 4.4 s: 0.2, 1.2, 2.2, 3.2, 4.2 s. At 1.2 s the frame of 0.4 s is still on show.
    assert got.tolist() == [2, 4, 5, 6, 7]
    assert clips.clip_indices(spec(num_frames=5, fps=4.0, stride=4), times, rng()).tolist() == got.tolist()
    starts = {clips.clip_indices(spec(num_frames=2, fps=0.5, sampling="random"), times, rng(s))[0] for s in range(99)}
    assert starts == {0, 1, 2, 3, 4}


def test_clips_stay_between_start_and_end():
    for seed in range(50):
        got = clips.clip_indices(spec(sampling="random", stride=1), TIMES, rng(seed), start=0.5, end=1.2)
        assert got.min() >= 5 and got.max() <= 11
    assert clips.clip_indices(spec(), TIMES, rng(), end=0.1).tolist() == [0, 0, 0, 0]
    assert clips.clip_indices(spec(), TIMES, rng(), start=1.9).tolist() == [19] * 4
    with pytest.raises(clips.ClipError, match="no frame from 2.5 s to its end; the video lasts 1.9 s"):
        clips.clip_indices(spec(), TIMES, rng(), start=2.5)


def test_deterministic_replaces_only_random_choices():
    assert spec(sampling="random", frame_sampling="random").deterministic() == spec()
    assert spec(sampling="uniform", frame_sampling="first").deterministic() == spec(sampling="uniform", frame_sampling="first")


@pytest.mark.parametrize(
    "changes",
    [{"fit": "zoom"}, {"sampling": "x"}, {"frame_sampling": "x"}, {"stride": 0}, {"fps": -1.0}, {"num_sampled": 5}],
)
def test_invalid_specs_are_refused(changes):
    with pytest.raises(ValueError, match="|".join(changes) + "|cannot sample 5 frames"):
        spec(**changes)


def test_sampled_frames_are_indices_into_the_clip():
    def take(count, how, frames=16, seed=0):
        got = clips.sample_frame_index(count, how, frames, rng(seed))
        assert got.dtype == np.int32
        return got.tolist()

    assert take(2, "first") == [0, 1]
    assert take(1, "middle") == [7] and take(2, "middle") == [7, 8]
    assert take(1, "uniform") == [8] and take(4, "uniform") == [2, 6, 10, 14]
    assert take(0, "random") == []
    assert take(16, "random") == list(range(16))
    assert {take(1, "random", 4, s)[0] for s in range(60)} == {0, 1, 2, 3}
    assert all(a < b for s in range(20) for a, b in [take(2, "random", 4, s)])


def picture(height, width):
    """Draws a frame [1, h, w, 3]: red is the column and green the row, from 0 to 255; blue is 255."""
    frame = np.full((1, height, width, 3), 255, np.uint8)
    frame[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    frame[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    return frame


def test_crop_keeps_the_center_and_the_aspect_ratio():
    out = clips.fit_frames(picture(32, 128), 16, 16, "crop")[0]
    assert out.shape == (16, 16, 3)
    # The middle quarter of the columns, all of the rows.
    assert abs(int(out[0, 0, 0]) - 96) < 6 and abs(int(out[0, -1, 0]) - 159) < 6
    assert out[0, 0, 1] < 10 and out[-1, 0, 1] > 245


def test_stretch_keeps_everything():
    out = clips.fit_frames(picture(32, 128), 16, 16, "stretch")[0]
    assert out[0, 0, 0] < 10 and out[0, -1, 0] > 245 and out[0, 0, 1] < 10 and out[-1, 0, 1] > 245


def test_pad_puts_zeros_around_the_picture():
    out = clips.fit_frames(picture(32, 128), 16, 16, "pad")[0]
    assert (out[:6] == 0).all() and (out[10:] == 0).all() and (out[6:10, :, 2] == 255).all()


@pytest.mark.parametrize("fit", clips.FITS)
@pytest.mark.parametrize("size", [(15, 7), (16, 24), (5, 300), (300, 5), (90, 160)])
def test_any_size_gets_the_fixed_shape(fit, size):
    out = clips.fit_frames(np.zeros((2, *size, 3), np.uint8), 16, 24, fit)
    assert out.shape == (2, 16, 24, 3) and out.dtype == np.uint8 and out.flags.c_contiguous


def test_frames_of_the_right_size_are_returned_as_they_are():
    frames = rng().integers(0, 256, (2, 16, 24, 3), np.uint8)
    assert clips.fit_frames(frames, 16, 24, "crop") is frames


def test_shrinking_averages():
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    out = clips.fit_frames(np.repeat(checks[None, ..., None], 3, -1), 16, 16, "crop")
    assert abs(out.astype(int) - 128).max() <= 1
