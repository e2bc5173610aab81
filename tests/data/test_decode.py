import io
import os
import pathlib
import pickle
import shutil
import socket
import unicodedata

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from cvmae.data import decode, open_video
from cvmae.data.prepare import work
from cvmae.data.probe import no_video
from cvmae.data.video_files import VideoFiles
from cvmae.storage.cache import open_binary
from tests.data import videos

COUNT = 40
CHOICES = [25, 27, 31, 31, 26, 3]

# name -> arguments of write_video. h264 everywhere with three B-frames between references, unless it says otherwise.
KINDS = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264_faststart.mp4": {"container": {"movflags": "faststart"}},
    "h264_fragmented.mp4": {"container": {"movflags": "frag_keyframe+empty_moov"}},
    "h264_open_gop.mp4": {"options": {"x264-params": "open-gop=1:keyint=10:bframes=3:b-adapt=0:b-pyramid=normal"}},
    "h264_intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}},
    "h264_b_frames.avi": {},
    "h264.ts": {},
    "h264_bare.264": {},
    "h264_vfr.mp4": {"pts": [40 * i + 11 * (i % 3) for i in range(COUNT)]},
    "h264_odd.mp4": {"size": (33, 65)},
    "h264_portrait.mp4": {"size": (96, 64)},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "keyint=15:bframes=3:b-adapt=0:log-level=none"}},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "15"}},
    "vp9_vfr.webm": {"codec": "libvpx-vp9", "pts": [40 * i + 11 * (i % 3) for i in range(COUNT)]},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12"}},
    "mpeg4_b_frames.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "mpeg2.mpg": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2"}},
}


def decode_all(path):
    """Decodes all frames of a file, without a seek, a table or a skip: uint8 [n, H, W, 3]."""
    with av.open(path) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


@pytest.fixture(scope="module")
def h264(tmp_path_factory):
    return videos.write_video(tmp_path_factory.mktemp("decode") / "video.mp4")


@pytest.mark.parametrize("kind", KINDS)
def test_frames_equal_those_of_a_full_decode(tmp_path, kind):
    path = videos.write_video(tmp_path / kind, COUNT, **KINDS[kind])
    truth = decode_all(path)
    assert videos.numbers_of(truth) == list(range(COUNT))
    assert len(decode.read_table(path)) == COUNT
    got = decode.read_frames(path, CHOICES)
    assert videos.numbers_of(got) == CHOICES
    np.testing.assert_array_equal(got, truth[CHOICES])
    chosen = sorted(set(CHOICES))
    numbers, frames = zip(*decode.stream_chosen(path, lambda table: chosen))
    assert list(numbers) == chosen
    np.testing.assert_array_equal(np.stack(frames), truth[chosen])
    # The comparison can tell neighbors apart.
    assert np.abs(got.astype(int) - truth[np.array(CHOICES) + 1]).max() > 100


def test_a_file_without_non_reference_frames_skipped_is_the_same(h264, monkeypatch):
    skipped = decode.read_frames(h264, CHOICES)
    monkeypatch.setattr(open_video, "_SKIPPING", frozenset())
    np.testing.assert_array_equal(decode.read_frames(h264, CHOICES), skipped)


def test_decoding_starts_at_the_keyframe_and_stops_at_the_last_wanted_frame(h264, monkeypatch):
    seen = []
    original = open_video.OpenVideo._decode_wanted

    def spy(self, *args, **kwargs):
        for item in original(self, *args, **kwargs):
            seen.append(item)
            yield item

    monkeypatch.setattr(open_video.OpenVideo, "_decode_wanted", spy)
    decode.read_frames(h264, [22])
    assert 0 < len(seen) <= 5


@pytest.mark.parametrize("kind", ["h264.mp4", "h264_open_gop.mp4", "h264_intra_refresh.mp4", "hevc.mp4"])
def test_nothing_is_decoded_after_the_last_wanted_frame(tmp_path, monkeypatch, kind):
    """The decoder holds frames back to sort them: they are flushed, with the bits of a full decode."""
    path = videos.write_video(tmp_path / kind, COUNT, **KINDS[kind])
    truth, table, decoded = decode_all(path), decode.read_table(path), []
    original = open_video.OpenVideo._decode
    monkeypatch.setattr(
        open_video.OpenVideo, "_decode", lambda self, packet: (decoded.append(packet.pts), original(self, packet))[1]
    )
    for index in range(0, COUNT, 3):
        wanted = [index, min(index + 2, COUNT - 1)]
        np.testing.assert_array_equal(decode.read_frames(path, wanted, table=table), truth[wanted])
        assert decoded[-1] in table.pts[wanted]


def test_a_stream_whose_seek_fails_on_the_way_restarts_from_the_beginning(h264, monkeypatch):
    original, starts = open_video.OpenVideo._decode_wanted, []

    def failing(self, wanted, until=None):
        starts.append(until)
        for index, item in enumerate(original(self, wanted, until)):
            if until is not None and index == 8:
                raise decode.DecodeError("video", "broken here")
            yield item

    monkeypatch.setattr(open_video.OpenVideo, "_decode_wanted", failing)
    numbers, frames = zip(*decode.stream_chosen(h264, lambda table: np.arange(22, 35)))
    assert numbers == tuple(range(22, 35)) == tuple(videos.numbers_of(np.stack(frames)))
    assert len(starts) == 2 and starts[0] is not None and starts[1] is None


def test_a_stream_is_refused_where_frames_come_out_of_order(h264, monkeypatch):
    original = open_video.OpenVideo._decode_wanted
    monkeypatch.setattr(open_video.OpenVideo, "_decode_wanted", lambda *args, **named: reversed(list(original(*args, **named))))
    with pytest.raises(decode.DecodeError, match="the frame at pts .* comes out of order"):
        list(decode.stream_chosen(h264, lambda table: np.arange(22, 35)))


class UndatedPacket:
    """A packet whose decoder leaves the frame at one pts without a pts."""

    def __init__(self, packet, pts: int):
        self._packet, self._pts = packet, pts

    def __getattr__(self, name):
        return getattr(self._packet, name)

    def decode(self):
        for frame in self._packet.decode():
            if frame.pts == self._pts:
                frame.pts = None
            yield frame


@pytest.mark.parametrize("kind, problem", [("h264.mp4", "ends early: 1 of 2"), ("mpeg4.avi", "a decoded frame has no pts")])
def test_a_wanted_frame_that_is_decoded_without_pts_is_an_error(tmp_path, monkeypatch, kind, problem):
    path = videos.write_video(tmp_path / kind, 8, **KINDS[kind])
    table = decode.read_table(path)
    packets_of = open_video.packets_of
    monkeypatch.setattr(open_video, "packets_of", lambda *args: (UndatedPacket(p, int(table.pts[3])) for p in packets_of(*args)))
    with pytest.raises(decode.DecodeError, match=problem):
        decode.read_frames(path, [3, 7], table=table)  # frame 3 leaves the decoder before it is flushed
    assert videos.numbers_of(decode.read_frames(path, [1, 2], table=table)) == [1, 2]


def test_bytes_read_like_a_path(h264):
    with open(h264, "rb") as file:
        data = file.read()
    np.testing.assert_array_equal(decode.read_frames(data, CHOICES), decode.read_frames(h264, CHOICES))


def test_a_known_table_and_a_choice_from_the_table(h264):
    table = decode.read_table(h264)
    assert videos.numbers_of(decode.read_frames(h264, [7], table=table)) == [7]
    assert videos.numbers_of(decode.read_chosen(h264, lambda t: [len(t) - 1, 0])) == [COUNT - 1, 0]


@pytest.mark.parametrize("index", [-1, COUNT])
def test_frame_indices_out_of_range_are_a_value_error(h264, index):
    with pytest.raises(ValueError, match=rf"must lie in \[0, {COUNT}\)"):
        decode.read_frames(h264, [index])


def test_times_follow_a_variable_frame_rate(tmp_path):
    pts = [0, 40, 51, 300, 340, 1000]
    table = decode.read_table(videos.write_video(tmp_path / "v.mp4", 6, pts=pts))
    np.testing.assert_allclose(table.times, np.array(pts) / 1000, atol=1e-3)
    assert table.fps == pytest.approx(5, rel=1e-3) and table.reliable


def test_h264_in_avi_is_counted_not_timed(tmp_path):
    table = decode.read_table(videos.write_video(tmp_path / "v.avi"))
    assert not table.reliable and len(table) == COUNT
    np.testing.assert_allclose(table.times, np.arange(COUNT) / 12)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_is_applied(tmp_path, degrees):
    path = videos.write_video(tmp_path / "v.mp4", 10, rotation=degrees)
    got = decode.read_frames(path, [4, 9])
    # A display matrix of d degrees is a turn against the clock, as np.rot90 turns.
    expected = np.rot90(decode_all(path)[[4, 9]], degrees // 90, axes=(1, 2))
    np.testing.assert_array_equal(got, expected)


def test_mirrors_are_applied(tmp_path):
    path = str(tmp_path / "v.mp4")
    with av.open(path, "w") as file:
        stream = file.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        stream.set_display_rotation(0, hflip=True)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(videos.numbered_frame(0b1011), "rgb24")))
        file.mux(stream.encode())
    assert videos.number_of(decode.read_frames(path, [0])[0, :, ::-1]) == 0b1011


def test_an_edit_list_excludes_frames(h264, tmp_path):
    """A cut without re-encoding keeps frames before the cut in the file, marked as not displayed."""
    path = str(tmp_path / "cut.mp4")
    with av.open(h264) as source, av.open(path, "w") as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old)
        cut = 24 * 1024  # 24 frames; the keyframe before is at 20 or earlier
        source.seek(cut, stream=old)
        for packet in source.demux(old):
            if packet.size:
                packet.pts -= cut
                packet.dts -= cut
                packet.stream = new
                target.mux(packet)
    truth = videos.numbers_of(decode_all(path))
    assert truth[-1] == COUNT - 1 and len(truth) < COUNT
    assert len(decode.read_table(path)) == len(truth)
    assert videos.numbers_of(decode.read_frames(path, range(len(truth)))) == truth


def test_a_wrong_frame_count_in_the_header_is_ignored(tmp_path):
    path = videos.write_video(tmp_path / "v.avi", **KINDS["mpeg4.avi"])
    with open(path, "rb") as file:
        data = bytearray(file.read())
    at = data.find(b"strh") + 8 + 32  # dwLength of the stream header
    data[at : at + 4] = (999).to_bytes(4, "little")
    with av.open(io.BytesIO(data)) as file:
        assert file.streams.video[0].frames == 999
    assert len(decode.read_table(bytes(data))) == COUNT
    assert videos.numbers_of(decode.read_frames(bytes(data), CHOICES)) == CHOICES


def test_webm_has_no_count_in_its_header(tmp_path):
    path = videos.write_video(tmp_path / "v.webm", codec="libvpx-vp9")
    with av.open(path) as file:
        assert file.streams.video[0].frames == 0
    assert len(decode.read_table(path)) == COUNT


def test_a_title_that_is_not_unicode(tmp_path):
    path = str(tmp_path / "v.mkv")
    with av.open(path, "w") as file:
        file.metadata["title"] = "TITLE"
        stream = file.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(videos.numbered_frame(5), "rgb24")))
        file.mux(stream.encode())
    with open(path, "rb") as file:
        data = file.read().replace(b"TITLE", b"T\xcfTLE")
    assert videos.numbers_of(decode.read_frames(data, [0])) == [5]


def audio_only(path):
    with av.open(path, "w") as file:
        stream = file.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        frame.rate = 44100
        file.mux(stream.encode(frame))
        file.mux(stream.encode())


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "the file has 0 bytes"),
        (b"not a video\n" * 99, "Invalid data"),
        (None, "No such file"),
        ("audio", "no video stream"),
    ],
)
def test_files_that_are_not_videos(tmp_path, content, reason):
    path = str(tmp_path / "bad.mp4")
    if content == "audio":
        audio_only(path)
    elif content is not None:
        (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(decode.DecodeError, match=reason) as caught:
        decode.read_frames(path, [0])
    assert caught.value.name == path and str(caught.value).startswith(path)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_a_file_cut_short_is_good_up_to_the_cut(tmp_path):
    path = videos.write_video(tmp_path / "v.mp4", container={"movflags": "faststart"})
    with open(path, "rb") as file:
        data = file.read()
    cut = data[: int(len(data) * 0.9)]
    assert videos.numbers_of(decode.read_frames(cut, [1, 18])) == [1, 18]
    with pytest.raises(decode.DecodeError, match="damaged|ends early|Invalid data"):
        decode.read_frames(cut, range(len(decode.read_table(cut))))
    with pytest.raises(decode.DecodeError):
        decode.read_frames(data[: int(len(data) * 0.2)], [0])


def test_flipped_bits_are_reported_where_the_decoder_sees_them(tmp_path):
    path = videos.write_video(tmp_path / "v.mp4", size=(64, 64), options={"bf": "2", "g": "40", "crf": "10"})
    with open(path, "rb") as file:
        data = np.frombuffer(file.read(), np.uint8).copy()
    middle = slice(len(data) // 4, len(data) * 3 // 4)
    data[middle] ^= np.random.default_rng(0).choice(np.array([0, 64], np.uint8), data[middle].size, p=[0.99, 0.01])
    with pytest.raises(decode.DecodeError, match="damaged frame"):
        decode.read_frames(data.tobytes(), range(COUNT))
    assert videos.numbers_of(decode.read_frames(data.tobytes(), [0])) == [0]


@pytest.mark.parametrize("kind", ["h264.mp4", "h264.ts", "h264_b_frames.avi", "vp9.webm", "mpeg2.mpg"])
def test_damage_of_any_kind_is_a_decode_error_or_nothing(tmp_path, kind):
    """Random bytes at random positions, in half of the cases also a random end, never raise another exception."""
    with open(videos.write_video(tmp_path / kind, **KINDS[kind]), "rb") as file:
        full = np.frombuffer(file.read(), np.uint8)
    rng = np.random.default_rng(0)
    outcomes = set()
    for attempt in range(100):
        data = full[: rng.integers(1, len(full)) if attempt % 2 else None].copy()
        places = rng.integers(0, len(data), rng.integers(1, 20))
        data[places] = rng.integers(0, 256, len(places))
        try:
            frames = decode.read_chosen(data.tobytes(), lambda table: np.minimum(np.arange(8), len(table) - 1))
            outcomes.add(frames.shape[0])
        except decode.DecodeError as error:
            outcomes.add(bool(error.reason))
    assert outcomes == {8, True}


DIVX = {"codec": "mpeg4", "options": {"q:v": "3", "g": "6"}}


@pytest.mark.parametrize("wanted", [[10], [9, 10, 11], [3, 10], [10, 11], range(20)])
def test_a_packet_without_a_picture_shows_the_frame_before(tmp_path, wanted):
    source = tmp_path / "divx.avi"
    videos.write_video(source, 20, **DIVX)
    full = decode.read_frames(str(source), range(20))
    videos.without_picture(source, 10)
    frames = decode.read_frames(str(source), wanted)
    for index, frame in zip(wanted, frames):
        if index <= 10:
            np.testing.assert_array_equal(frame, full[min(index, 9)])
        else:
            assert not np.array_equal(frame, full[9])


def test_a_frame_that_is_missing_in_another_codec_is_an_error(tmp_path, monkeypatch):
    source = tmp_path / "divx.avi"
    videos.write_video(source, 20, **DIVX)
    videos.without_picture(source, 10)
    monkeypatch.setattr(open_video, "_HOLDING", frozenset())
    with pytest.raises(decode.DecodeError, match="1 of 2 frames are missing"):
        decode.read_frames(str(source), [9, 10])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(orientation, tmp_path):
    """PyAV 18 raises ValueError for frames with EXIF, which pictures and the Motion JPEG videos of cameras have."""
    pixels = np.zeros((48, 64, 3), np.uint8)
    pixels[:24, :32], pixels[24:, 32:] = (255, 0, 0), (0, 255, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.jpg")), np.int32)
    [frame] = decode.read_frames(str(tmp_path / "a.jpg"), [0])
    assert frame.shape == expected.shape and np.abs(frame - expected).mean() < 3  # two decoders' chroma at the edges


@pytest.mark.parametrize("suffix, gop", [("mpg", 12), ("vob", 12), ("mpg", 5)])
def test_frames_of_a_program_stream_are_those_of_a_full_decode(suffix, gop, tmp_path):
    """After a seek FFmpeg gives its packets the pts of their neighbors."""
    path = str(tmp_path / f"a.{suffix}")
    videos.write_video(path, 60, codec="mpeg1video", fps=25, options={"g": str(gop), "bf": "0"})
    expected = np.stack([open_video.upright_rgb(frame) for frame in decode.each_frame(path)])
    for indices in ([25, 27, 29, 31], [49], [25, 26, 49], list(range(59, -1, -7))[::-1]):
        np.testing.assert_array_equal(decode.read_frames(path, indices), expected[indices])


@pytest.fixture
def no_files(tmp_path, monkeypatch):
    """A folder with what is no file, and the endings of what is said of each."""
    monkeypatch.chdir(tmp_path)  # a path of a socket has to be short
    (tmp_path / "folder.mp4").mkdir()
    os.mkfifo("pipe.mp4")
    (tmp_path / "link.mp4").symlink_to("pipe.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind("socket.mp4")
        yield {
            "pipe.mp4": "a named pipe",
            "link.mp4": "a named pipe",
            "socket.mp4": "a socket",
            "device.mp4": "a device",
            "folder.mp4": "a folder",
        }


def test_what_is_no_file_is_not_opened(no_files, tmp_path):
    for name, kind in no_files.items():
        for path in (name, str(tmp_path / name)):
            for read in (decode.read_table, decode.stored_pixel_aspect, lambda path: next(decode.each_frame(path))):
                with pytest.raises(decode.DecodeError) as caught:
                    read(path)
                assert str(caught.value) == f"{path}: no file but {kind}"
        assert no_video(name) == f"no video: no file but {kind}"
        with pytest.raises(OSError, match=f"no file but {kind}"):
            open_binary(name)


def test_an_empty_file_is_called_so(tmp_path):
    path = tmp_path / "a.mp4"
    path.touch()
    for source, name in ((str(path), path), (b"", "<0 bytes>")):
        for read in (
            decode.read_table,
            lambda source: decode.read_frames(source, [0]),
            lambda source: next(decode.each_frame(source)),
        ):
            with pytest.raises(decode.DecodeError) as caught:
                read(source)
            assert str(caught.value) == f"{name}: the file has 0 bytes: copy it again, or leave it out"


def test_prepare_does_not_open_what_is_no_file(no_files, tmp_path):
    left_out = dict(VideoFiles(str(tmp_path)).left_out)
    assert left_out == {name: f"no file but {kind}" for name, kind in no_files.items() if kind != "a folder"} | {
        "folder.mp4/": "an empty folder"
    }
    for name in left_out.keys() - {"folder.mp4/"}:
        answer = work.process(work.make_job(name, "full"))
        assert (answer["problem"], answer["detail"]) == ("unreadable", left_out[name])


@pytest.mark.parametrize("name", ["pipe:0", "concat:a.mp4", "file:a.mp4", "12:30.mp4"])
def test_a_name_with_a_colon_is_no_protocol(name, h264, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(decode.DecodeError, match=f"{name}: No such file or directory"):
        decode.read_table(name)
    (tmp_path / name).write_bytes(pathlib.Path(h264).read_bytes())
    assert len(decode.read_table(name)) == len(decode.read_table(str(tmp_path / name))) and not no_video(name)


def test_a_playlist_is_not_followed(tmp_path):
    videos.write_video(tmp_path / "a.mp4", 5)
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile 'a.mp4'\n")
    with pytest.raises(decode.DecodeError, match="a playlist, which names other files"):
        decode.read_table(str(tmp_path / "list.mp4"))


@pytest.mark.parametrize("asked", ["caf\u00e9.mp4", "dossier\u0301/a.mp4"])
def test_a_file_that_differs_by_its_normal_form_alone_is_named_and_not_opened(asked, h264, tmp_path):
    there = tmp_path / unicodedata.normalize("NFC" if "/" in asked else "NFD", asked)
    there.parent.mkdir(exist_ok=True)
    shutil.copy(h264, there)
    name = ascii(os.path.relpath(there, tmp_path).split("/")[0])
    with pytest.raises(decode.DecodeError, match="No such file or directory; .* is there, and .* look alike") as refused:
        decode.read_table(str(tmp_path / asked))
    assert name in refused.value.reason
    decode.read_table(str(there))
