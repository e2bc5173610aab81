"""Recordings that begin anywhere, and files whose only picture is a cover: the table holds what a full decode gives."""

import pathlib

import av
import numpy as np
import pytest

from cvmae.data import decode
from cvmae.data.prepare import prepare
from tests.data import videos
from tests.data.prepare.runs import options, table

CLOSED = {"codec": "libx264", "options": {"g": "12", "bf": "2", "x264-params": "scenecut=0:keyint=12:open-gop=0"}}
# name -> arguments of write_video
STREAMS = {
    "h264.ts": CLOSED,
    "h264_open_gop.ts": {"options": {"x264-params": "open-gop=1:keyint=12:bframes=3:b-adapt=0:b-pyramid=normal:scenecut=0"}},
    "h264_intra_refresh.ts": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "hevc.ts": {"codec": "libx265", "options": {"x265-params": "keyint=12:bframes=3:b-adapt=0:log-level=none:open-gop=0"}},
    "hevc_open_gop.ts": {
        "codec": "libx265",
        "options": {"x265-params": "keyint=12:bframes=3:b-adapt=0:log-level=none:open-gop=1"},
    },
    "mpeg2.ts": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2"}},
    "mpeg4.ts": {"codec": "mpeg4", "options": {"g": "12"}},
}


def cut_packets(source, target, first, form):
    """Copies the packets of a file from the one numbered `first` on, without a look at keyframes."""
    with av.open(source) as old, av.open(str(target), "w", format=form) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size and number >= first:
                packet.stream = stream
                new.mux(packet)
    return str(target)


def cut_transport_stream(source, target, fraction):
    """Cuts the beginning off a transport stream, but for its two tables, as a recorder does that joins a broadcast."""
    data = pathlib.Path(source).read_bytes()
    packets = [data[i : i + 188] for i in range(0, len(data), 188)]
    tables = [p for p in packets if ((p[1] & 0x1F) << 8 | p[2]) in (0, 0x1000)][:2]
    target.write_bytes(b"".join(tables + packets[int(fraction * len(packets)) :]))
    return str(target)


def decode_all(path):
    """Decodes a file as FFmpeg does, which drops packets that fail: {pts: image}."""
    images = {}
    with av.open(path) as file:
        for packet in file.demux(video=0):
            try:
                images |= {frame.pts: frame.to_ndarray(format="rgb24") for frame in packet.decode()}
            except av.error.InvalidDataError:
                assert not images  # only at the beginning
    return images


def assert_equals_full_decode(path, least=10):
    truth = decode_all(path)
    assert len(truth) >= least
    frames = decode.read_table(path)
    assert frames.pts.tolist() == list(truth) and frames.times[0] == 0
    np.testing.assert_array_equal(decode.read_frames(path, range(len(frames))), np.stack(list(truth.values())))
    for index in (0, 1, len(frames) // 2, len(frames) - 1):
        np.testing.assert_array_equal(decode.read_frames(path, [index])[0], truth[int(frames.pts[index])])
    assert len(list(decode.each_frame(path))) == len(truth)


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.3, 0.5])
@pytest.mark.parametrize("kind", STREAMS)
def test_a_transport_stream_that_begins_anywhere(tmp_path, kind, fraction):
    source = videos.write_video(tmp_path / kind, 60, **{"size": (64, 96)} | STREAMS[kind])
    assert_equals_full_decode(cut_transport_stream(source, tmp_path / "cut.mts", fraction))


@pytest.mark.parametrize("first", [1, 5, 11])
@pytest.mark.parametrize("form", ["matroska", "mp4"])
@pytest.mark.parametrize("kind", ["h264.ts", "h264_open_gop.ts"])
def test_other_containers_that_begin_anywhere(tmp_path, kind, form, first):
    source = videos.write_video(tmp_path / "whole.mp4", 60, **STREAMS[kind])
    assert_equals_full_decode(cut_packets(source, tmp_path / "cut", first, form))


def test_prepare_takes_such_recordings(tmp_path):
    (tmp_path / "videos" / "walk").mkdir(parents=True)
    source = videos.write_video(tmp_path / "whole.ts", 60, **CLOSED)
    path = cut_transport_stream(source, tmp_path / "videos" / "walk" / "a.ts", 0.1)
    for changes in ({"check": "full"}, {"transcode": 32}):
        [row] = table(prepare(options(tmp_path, "folder", **changes))["manifest"])[1:]
        frames = decode.read_table(str(tmp_path / "out" / row[0]))
        assert len(frames) == len(decode_all(path)) and len(table(tmp_path / "out" / "report.csv")) == 1


def song(path, form, codec="aac", cover="mjpeg", moving=False):
    """Writes a second of silence with a cover picture, and with `moving` also a video of 5 frames after it."""
    with av.open(str(path), "w", format=form) as file:
        picture = file.add_stream(cover, rate=1)
        picture.width, picture.height, picture.pix_fmt = 640, 640, "yuvj420p" if cover == "mjpeg" else "rgb24"
        picture.disposition = av.stream.Disposition.attached_pic
        sound = file.add_stream(codec, rate=44100)
        video = file.add_stream("libx264", rate=5) if moving else None
        if video:
            video.height, video.width, video.pix_fmt = 32, 64, "yuv420p"
            for number in range(5):
                file.mux(video.encode(av.VideoFrame.from_ndarray(videos.numbered_frame(number), "rgb24")))
            file.mux(video.encode())
        frame = av.VideoFrame.from_ndarray(np.full((640, 640, 3), 99, np.uint8), "rgb24")
        file.mux(picture.encode(frame))
        file.mux(picture.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.rate = 44100
        file.mux(sound.encode(silence))
        file.mux(sound.encode())
    return str(path)


@pytest.mark.parametrize("form, codec, cover", [("mp4", "aac", "mjpeg"), ("mp4", "aac", "png")])
def test_a_cover_picture_is_no_video(tmp_path, form, codec, cover):
    path = song(tmp_path / "song.mp4", form, codec, cover)
    for read in (decode.read_table, lambda path: decode.read_frames(path, [0])):
        with pytest.raises(decode.DecodeError, match="no video stream, only a picture, such as the cover of a song"):
            read(path)


def test_a_video_with_a_cover_is_read_without_it(tmp_path):
    path = song(tmp_path / "clip.mp4", "mp4", moving=True)
    assert videos.numbers_of(decode.read_frames(path, range(len(decode.read_table(path))))) == [0, 1, 2, 3, 4]


# name -> arguments of write_video, of files whose end is missing
CUT = {
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2"}},
    "mpeg1.mpg": {"codec": "mpeg1video", "fps": 25, "options": {"g": "12", "bf": "2"}},
    "mpeg2.vob": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "0"}},
    "mpeg2.m2v": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2"}},
    "h264.ts": {},
    "h264.h264": {},
    "mpeg2.ts": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2"}},
    "h264.mkv": {},
    "h264.flv": {},
    "wmv2.wmv": {"codec": "wmv2"},
}


@pytest.mark.parametrize("name", CUT)
def test_a_file_that_is_cut_at_its_end_has_the_frames_that_decode(tmp_path, name):
    """Each frame of the table is read, those that the whole file has, and none is lost but the one that is cut and what it carries."""
    source = videos.write_video(tmp_path / name, 40, **{"size": (64, 96)} | CUT[name])
    whole = {bytes(frame) for frame in decode.read_frames(source, range(40))}
    content, draw, counts = pathlib.Path(source).read_bytes(), np.random.default_rng(0), []
    for _ in range(8):
        end = int(draw.integers(len(content) // 2, len(content)))
        (tmp_path / f"cut{name}").write_bytes(content[:end])
        path = str(tmp_path / f"cut{name}")
        frames = decode.read_frames(path, range(len(decode.read_table(path))))
        known = sum(bytes(frame) in whole for frame in frames)
        assert known >= len(frames) - 1  # the decoder does not notice each cut
        with av.open(path) as file:
            packets = sum(1 for packet in file.demux(video=0) if packet.size)
        assert packets - 9 <= len(frames) <= packets
        counts.append(packets - len(frames))
    assert min(counts) <= 1


def test_damage_in_the_middle_is_no_end(tmp_path):
    source = videos.write_video(tmp_path / "a.mpg", 60, **{"size": (64, 96)} | CUT["mpeg2.mpg"])
    content = bytearray(pathlib.Path(source).read_bytes())
    at = len(content) // 3
    content[at : at + 600] = np.random.default_rng(0).bytes(600)
    (tmp_path / "damaged.mpg").write_bytes(content)
    with pytest.raises(decode.DecodeError):
        decode.read_frames(str(tmp_path / "damaged.mpg"), range(len(decode.read_table(str(tmp_path / "damaged.mpg")))))
