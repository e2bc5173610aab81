"""Re-encoded videos beside their sources: frames, times, turn, colours, size, groups of pictures."""

import itertools
import os
import subprocess
import sys
from fractions import Fraction

import av
import einops
import numpy as np
import pytest

from cvmae.data import decode
from cvmae.data.prepare import transcode as module
from cvmae.data.prepare import work
from cvmae.data.prepare.transcode import GOP, fitted, transcode
from cvmae.data.worker_pool import StopRun
from tests.data import videos

JITTERED = [int(t) for t in np.cumsum(np.random.default_rng(0).integers(7, 90, 40))]  # ms
KINDS = {
    "b-frames.mp4": {},
    "variable.mkv": {"pts": JITTERED},
    "late.mp4": {"pts": [5000 + 40 * i for i in range(40)]},
    "turned.mp4": {"rotation": 90},
    "upside-down.mp4": {"rotation": 180},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"b:v": "1M", "deadline": "realtime", "cpu-used": "8"}},
    "29.97.avi": {"codec": "mpeg4", "options": {"q:v": "3"}, "fps": Fraction(30000, 1001)},
    "b-frames.avi": {},  # whose packets cannot tell the order
}

FULL_DISK = """
import resource, sys
from cvmae.data.prepare import transcode as module
from cvmae.data.prepare import work
from cvmae.data.prepare.transcode import transcode
from cvmae.data.worker_pool import StopRun
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    transcode(*sys.argv[1:3], 32, sys.argv[3])
except StopRun as error:
    print(error)
"""


def run(tmp_path, source, side=32):
    target = str(tmp_path / "out" / "video.mp4")
    return target, transcode(str(source), target, side, str(tmp_path / "part.mp4"))


def stored(path):
    """Frames as they are stored, not turned."""
    with av.open(path) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def blocks(frames):
    """Means of blocks of 16 x 16 pixels, which coding leaves as they are."""
    return einops.reduce(frames.astype(float), "t (h a) (w b) c -> t h w c", "mean", a=16, b=16)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_frames_at_the_same_times(tmp_path, kind):
    source = videos.write_video(tmp_path / kind, 40, **KINDS[kind])
    target, table = run(tmp_path, source)
    before, after = decode.read_table(source), decode.read_table(target)
    assert len(after) == len(before) == 40
    np.testing.assert_allclose(after.times, before.times, atol=1e-4)  # far below a tick of any of these files
    np.testing.assert_array_equal(after.times, table.times)
    assert videos.numbers_of(stored(target)) == list(range(40))
    np.testing.assert_allclose(
        blocks(decode.read_frames(target, range(40))), blocks(decode.read_frames(source, range(40))), atol=10
    )


def test_a_mirrored_picture_stays_mirrored(tmp_path):
    with av.open(str(tmp_path / "v.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        for number in range(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(videos.numbered_frame(number), "rgb24")))
        file.mux(stream.encode())
    target, _ = run(tmp_path, tmp_path / "v.mp4")
    assert videos.numbers_of(decode.read_frames(target, range(4))[:, :, ::-1]) == [0, 1, 2, 3]


def test_frames_that_are_never_shown_are_left_out(tmp_path):
    """An edit list cuts the beginning off, as cameras and `ffmpeg -ss -c copy` write it."""
    source = videos.write_video(tmp_path / "v.mp4", 40, container={"use_editlist": "1"})
    with av.open(source) as file, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        stream = cut.add_stream_from_template(file.streams.video[0])
        base = file.streams.video[0].time_base
        for packet in file.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - int(1 / base), packet.dts - int(1 / base), stream
                cut.mux(packet)
    table = decode.read_table(str(tmp_path / "cut.mp4"))
    assert len(table) == 28  # of 40, without the first second of 12 frames
    target, _ = run(tmp_path, tmp_path / "cut.mp4")
    assert videos.numbers_of(decode.read_frames(target, range(28))) == list(range(12, 40))


@pytest.mark.parametrize(
    "pixels, tags",
    [
        ("yuv420p", {}),
        ("yuv420p", {"colorspace": 1}),  # BT.709
        ("yuvj420p", {"color_range": 2}),  # 0 to 255
        ("yuv444p", {}),
        ("yuv420p10le", {}),
    ],
)
def test_colours_stay(tmp_path, pixels, tags):
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :32], picture[:, 32:64], picture[:, 64:], picture[48:] = (220, 30, 40), (20, 200, 60), (250, 250, 250), (9, 9, 130)
    with av.open(str(tmp_path / "v.mp4"), "w") as file:
        stream = file.add_stream("libx264", rate=10, options={"crf": "4"})
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        converted = {f"dst_{name}": value for name, value in tags.items()}
        for _ in range(3):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format=pixels, **converted)))
        file.mux(stream.encode())
    target, _ = run(tmp_path, tmp_path / "v.mp4", side=32)
    (frame,) = decode.read_frames(target, [1])
    for y, x in ((10, 8), (10, 24), (10, 40), (28, 24)):  # middles of the patches, at half the size
        np.testing.assert_allclose(frame[y, x], picture[2 * y, 2 * x], atol=8)


def test_sizes():
    assert fitted(1280, 720, 256) == (456, 256) and fitted(720, 1280, 256) == (256, 456)
    assert fitted(320, 240, 256) == (320, 240)  # never larger
    assert fitted(427, 240, 256) == (426, 240) and fitted(97, 65, 256) == (96, 64)  # even
    assert fitted(340, 256, 256) == (340, 256)
    assert fitted(4000, 40, 20) == (2000, 20)


def test_keyframes_are_near_and_sound_is_gone(tmp_path):
    source = videos.write_video(tmp_path / "v.mp4", 40, size=(64, 96))
    with av.open(source) as file, av.open(str(tmp_path / "loud.mp4"), "w") as loud:
        picture, sound = loud.add_stream_from_template(file.streams.video[0]), loud.add_stream("aac", rate=8000, layout="mono")
        for packet in file.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                loud.mux(packet)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.rate = 8000
        loud.mux([*sound.encode(samples), *sound.encode(None)])
    target, table = run(tmp_path, tmp_path / "loud.mp4")
    assert np.diff(np.flatnonzero([*table.keyframe, True])).max() <= GOP
    with av.open(target) as file:
        assert [stream.type for stream in file.streams] == ["video"]
        assert (file.streams.video[0].width, file.streams.video[0].height) == (48, 32)
        assert file.streams.video[0].codec_context.name == "h264"


def test_what_is_made_already_is_left_until_its_source_or_the_side_changes(tmp_path):
    source = videos.write_video(tmp_path / "v.mp4", 6)
    target, first = run(tmp_path, source)
    made = os.stat(target)
    _, again = run(tmp_path, source)
    np.testing.assert_array_equal(again.times, first.times)
    assert os.stat(target).st_ino == made.st_ino and os.stat(target).st_mtime_ns == made.st_mtime_ns
    run(tmp_path, source, side=16)
    assert decode.read_frames(target, [0]).shape == (1, 16, 32, 3)
    videos.write_video(source, 7)
    _, changed = run(tmp_path, source, side=16)
    assert len(changed) == 7


@pytest.mark.parametrize("harm", ["cut off", "overwritten"])
def test_a_source_that_cannot_be_read_to_its_end_leaves_nothing(tmp_path, harm):
    source = tmp_path / "v.mp4"
    videos.write_video(source, 20, size=(64, 96), container={"movflags": "+faststart"})
    whole = source.read_bytes()
    assert len(whole) > 15_000
    source.write_bytes(whole[:-3000] if harm == "cut off" else whole[:-9000] + bytes(5000) + whole[-4000:])
    with pytest.raises(decode.DecodeError) as error:
        run(tmp_path, source)
    assert error.value.name == str(source)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [source]


@pytest.mark.parametrize(
    "part, message", [(slice(15), "5 of 20 frames are missing"), (slice(3, 20), "3 of 20 frames are missing at the beginning")]
)
def test_a_decoder_that_is_silent_about_lost_frames_is_not_believed(tmp_path, monkeypatch, part, message):
    source = videos.write_video(tmp_path / "v.mp4", 20)
    monkeypatch.setattr(
        module, "each_frame", lambda path, table: itertools.islice(decode.each_frame(path, table), part.start, part.stop)
    )
    with pytest.raises(decode.DecodeError, match=message):
        run(tmp_path, source)


def test_a_packet_without_a_picture_shows_the_one_before(tmp_path):
    source = tmp_path / "v.avi"
    videos.write_video(source, 11, codec="mpeg4", options={"q:v": "3", "g": "6"})
    videos.without_picture(source, 4)
    videos.without_picture(source, 5)
    full = work.process(work.make_job(str(source), "full"))
    assert (full["problem"], full["detail"]) == (
        "undecodable",
        "9 frames of 11 have a picture; --transcode repeats the ones before",
    )
    target, table = run(tmp_path, source)
    assert videos.numbers_of(decode.read_frames(target, range(11))) == [0, 1, 2, 3, 3, 3, 6, 7, 8, 9, 10]
    np.testing.assert_allclose(table.times, np.arange(11) / 12, atol=1e-4)


def test_a_place_that_cannot_be_written_stops_the_run(tmp_path):
    source = videos.write_video(tmp_path / "v.mp4", 6)
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(StopRun, match="video.mp4 cannot be written"):
        run(tmp_path, source)


def test_a_full_disk_stops_the_run_and_leaves_nothing(tmp_path):
    source = videos.write_video(tmp_path / "v.mp4", 40)
    args = [source, str(tmp_path / "out" / "v.mp4"), str(tmp_path / "part.mp4")]
    done = subprocess.run([sys.executable, "-c", FULL_DISK, *args], capture_output=True, text=True)
    assert "v.mp4 cannot be written: File too large" in done.stdout, done
    assert not any((tmp_path / "out").iterdir()) and not (tmp_path / "part.mp4").exists()
