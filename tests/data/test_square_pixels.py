"""Pixels that are not square: a circle in the displayed picture is one in the clip, in every container and way to read."""

import json
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from cvmae.data import clips, decode
from cvmae.data.pipeline import clip_spec, cut_clip
from cvmae.data.prepare.transcode import transcode
from cvmae.data.sources import Record
from cvmae.data.windows import open_windows
from cvmae.evaluation.embed import _open_video
from cvmae.evaluation.feature_identity import encoder_identity
from cvmae.evaluation.features import FeatureSpec
from cvmae.tasks import _keep_begun
from tests.tiny_configs import config

PAL = Fraction(64, 45)  # 720x576 as 16:9


def circle(path, height, width, aspect, codec="libx264", rotation=None, count=4):
    """Writes a video whose stored pixels have this aspect, and whose picture is a bright disc, round where it is displayed."""
    y, x = np.mgrid[:height, :width]
    radius = 0.3 * min(height, width * float(aspect))
    inside = ((x - (width - 1) / 2) * float(aspect)) ** 2 + (y - (height - 1) / 2) ** 2 <= radius**2
    image = np.repeat(np.where(inside, 230, 20).astype(np.uint8)[..., None], 3, -1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.sample_aspect_ratio = aspect
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for _ in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        file.mux(stream.encode())
    return str(path)


def roundness(image):
    """Returns width over height of the disc in uint8 [H, W, 3]."""
    inside = image[..., 0] > 120
    return np.ptp(np.flatnonzero(inside.any(0))) / np.ptp(np.flatnonzero(inside.any(1)))


def spec(fit, size=(128, 128), square=True):
    return clips.ClipSpec(2, 1, 0.0, *size, fit, "middle", 0, "middle", square)


def cut(path, fit, square=True, size=(128, 128), crops=1):
    record = Record(path, 0, None, None, path)
    view = clips.ClipView(crops=crops)
    return cut_clip(record, spec(fit, size, square), np.random.default_rng(0), view)


@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize(
    "name, codec, size, aspect",
    [
        ("pal.mp4", "libx264", (576, 720), PAL),
        ("pal.mkv", "libx264", (576, 720), PAL),
        ("pal.mpg", "mpeg2video", (576, 720), PAL),
        ("pal.ts", "mpeg2video", (576, 720), PAL),
        ("pal.avi", "mpeg4", (576, 720), PAL),
        ("narrow.mp4", "libx264", (480, 720), Fraction(8, 9)),
        ("tall.mp4", "libx264", (240, 200), Fraction(2)),
    ],
)
def test_a_circle_is_round(tmp_path, name, codec, size, aspect, fit):
    path = circle(tmp_path / name, *size, aspect, codec)
    assert decode.read_table(path).pixel_aspect == pytest.approx(float(aspect), rel=0.01)
    stored = decode.read_frames(path, [0])[0]
    assert stored.shape[:2] == size and roundness(stored) == pytest.approx(1 / float(aspect), rel=0.05)
    [clip] = cut(path, fit)
    assert clip.shape == (2, 128, 128, 3) and roundness(clip[0]) == pytest.approx(1, abs=0.05)
    [clip] = cut(path, fit, square=False)
    assert roundness(clip[0]) == pytest.approx(1 / float(aspect), rel=0.05)


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_turned_videos(tmp_path, degrees):
    path = circle(tmp_path / "a.mp4", 144, 180, PAL, rotation=degrees)
    expected = float(PAL) if degrees == 180 else 1 / float(PAL)
    assert decode.read_table(path).pixel_aspect == pytest.approx(expected)
    [clip] = cut(path, "crop")
    assert roundness(clip[0]) == pytest.approx(1, abs=0.06)


def test_the_picture_equals_that_of_a_player():
    """720x576 with 64:45 is 1024x576; a crop of it equals that of the frames resized to this first, as players show them."""
    rng = np.random.default_rng(0)
    stored = cv2.resize(rng.integers(0, 256, (9, 12, 3), np.uint8), (720, 576), interpolation=cv2.INTER_CUBIC)
    displayed = cv2.resize(stored, (1024, 576), interpolation=cv2.INTER_LINEAR)
    for fit in ("crop", "pad", "stretch"):
        [ours] = clips.fit_frames(stored[None], 128, 192, fit, pixel_aspect=64 / 45)
        [theirs] = clips.fit_frames(displayed[None], 128, 192, fit)
        assert np.abs(ours.astype(int) - theirs).max() <= 6 and np.abs(ours.astype(int) - theirs).mean() < 1


def test_a_frame_of_the_target_size_is_resized_where_its_pixels_are_not_square():
    frames = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert clips.fit_frames(frames, 32, 32, "crop") is frames
    assert clips.fit_frames(frames, 32, 32, "stretch", pixel_aspect=2.0) is frames
    out = clips.fit_frames(frames, 32, 32, "crop", pixel_aspect=2.0)
    np.testing.assert_array_equal(out[0], cv2.resize(frames[0, :, 8:24], (32, 32), interpolation=cv2.INTER_LINEAR))
    assert (clips.fit_frames(frames + 1, 32, 32, "pad", pixel_aspect=2.0)[:, :8] == 0).all()


def test_several_crops_reach_from_end_to_end(tmp_path):
    path = circle(tmp_path / "a.mp4", 144, 180, PAL)
    left, middle, right = cut(path, "crop", crops=3)
    assert roundness(middle[0]) == pytest.approx(1, abs=0.06)
    assert np.abs(left[0].astype(int) - right[0][:, ::-1]).mean() < 3


def test_windows_embedding_and_the_files_of_prepare(tmp_path):
    path = circle(tmp_path / "a.mp4", 288, 360, PAL)
    record = Record(path, 0, None, None, path)
    for square, expected in ((True, 1.0), (False, 45 / 64)):
        _, frames = open_windows(record, spec("crop", square=square), 0)
        assert roundness(next(frames)[0]) == pytest.approx(expected, rel=0.06)
        _, read = _open_video(path, square)
        assert roundness(read(np.array([1]))[0]) == pytest.approx(expected, rel=0.06)
    target = tmp_path / "out.mp4"
    table = transcode(path, str(target), 128, str(tmp_path / "part.mp4"))
    assert table.pixel_aspect == pytest.approx(float(PAL)) and decode.read_frames(str(target), [0]).shape[1:3] == (128, 160)
    [clip] = cut(str(target), "crop")
    assert roundness(clip[0]) == pytest.approx(1, abs=0.06)
    before = target.stat().st_mtime_ns
    transcode(path, str(target), 128, str(tmp_path / "part.mp4"))
    assert target.stat().st_mtime_ns == before


def test_old_workdirs_keep_square_pixels(tmp_path):
    c = config()
    assert c.data.square_pixels and clip_spec(c).square_pixels
    assert _keep_begun(c, tmp_path) == (c, []) and _keep_begun(c, tmp_path / "none") == (c, [])
    fields = json.loads(c.to_json_best_effort())
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert _keep_begun(c, tmp_path) == (c, [])
    del fields["data"]["square_pixels"]
    for written in (fields, fields | {"data": fields["data"] | {"square_pixels": False}}):
        (tmp_path / "config.json").write_text(json.dumps(written))
        kept, [note] = _keep_begun(c, tmp_path)
        assert not kept.data.square_pixels and c.data.square_pixels and "square_pixels=False, as this workdir was begun" in note
    with c.unlocked():
        del c.data.square_pixels
    assert not clip_spec(c).square_pixels
    assert "square_pixels" not in encoder_identity(c, {}, FeatureSpec())["clips"]  # caches of earlier versions are taken
