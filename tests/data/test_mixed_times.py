"""Joined files, restarted recorders and damaged time stamps: the frames are those of a full decode, in its order."""

import pathlib
from fractions import Fraction

import av
import numpy as np
import pytest

from cvmae.data import decode, frame_table, open_video, records, windows
from cvmae.data.prepare import prepare, work
from tests.data import videos
from tests.data.prepare.runs import options, table
from tests.data.test_windows import SPEC

OPEN = {"options": {"x264-params": "open-gop=1:keyint=10:bframes=3:b-adapt=0:b-pyramid=normal"}}
ONE_GROUP = {"options": {"x264-params": "keyint=250:bframes=3:b-adapt=0:b-pyramid=none:scenecut=0"}}  # I P B B B P B B B ...
GROUPS = {"options": {"x264-params": "keyint=10:bframes=0:scenecut=0"}}
LATER = [5000 + 83 * number for number in range(24)]  # ms


def decode_all(path):
    with av.open(path) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def assert_counted(path, count):
    """Every way to read a video gives the frames of a plain decode, by their number."""
    truth, frames = decode_all(path), decode.read_table(path)
    assert len(truth) == len(frames) == count and not frames.reliable
    np.testing.assert_array_equal(decode.read_frames(path, range(count)), truth)
    np.testing.assert_array_equal(decode.read_frames(path, [count - 1, 2], table=frames), truth[[count - 1, 2]])
    planned, read = windows.open_windows(records.Record("v", 0, None, None, path), SPEC, 0)
    for indices, window in zip(planned.frames, read, strict=True):
        np.testing.assert_array_equal(window, truth[indices])


FASTER = {"pts": [37 + 41 * number for number in range(24)]}
# suffix, arguments of write_video for both parts, for the first, and for the second
JOINED = {
    "another rate": ("ts", {}, {"fps": 12}, FASTER),
    "open groups": ("ts", OPEN, {"fps": 12}, FASTER),
    "no B-frames": ("ts", {"options": {"g": "12", "bf": "0"}}, {"fps": 12}, FASTER),
    "a part that is earlier": ("ts", {}, {"pts": LATER}, {}),
    "a short part": ("ts", {}, {"count": 5, "fps": 12}, FASTER),
    "Matroska": ("mkv", {}, {"pts": LATER}, {}),
    "a codec without reordering": ("webm", {"codec": "libvpx"}, {"fps": 25}, {"pts": [203 + 40 * n for n in range(24)]}),
}


def join(folder, suffix, both, first, second):
    """Writes two videos into one file, with the numbers 0, 1, ... and 100, 101, ...; returns its path and the numbers."""
    first, second = {"count": 24} | both | first, {"count": 24, "first": 100} | both | second
    parts = [videos.write_video(folder / f"part{at}.{suffix}", **part) for at, part in enumerate((first, second))]
    path = folder / f"joined.{suffix}"
    path.write_bytes(b"".join(pathlib.Path(part).read_bytes() for part in parts))
    return str(path), [*range(first["count"]), *range(100, 124)]


@pytest.mark.parametrize("case", JOINED)
def test_joined_files_whose_times_overlap(tmp_path, case):
    path, numbers = join(tmp_path, *JOINED[case])
    with av.open(path) as file:
        assert len({packet.pts for packet in file.demux(video=0) if packet.size}) == len(numbers)  # which a count would settle
    assert_counted(path, len(numbers))
    assert videos.numbers_of(decode.read_frames(path, range(len(numbers)))) == numbers


@pytest.mark.parametrize("case", ["another rate", "a part that is earlier"])
def test_prepare_takes_joined_files(tmp_path, case):
    (tmp_path / "videos" / "walk").mkdir(parents=True)
    path, numbers = join(tmp_path, *JOINED[case])
    pathlib.Path(path).rename(tmp_path / "videos" / "walk" / "joined.ts")
    for changes in ({"check": "quick"}, {"check": "full"}, {"transcode": 32}):
        [row] = table(prepare(options(tmp_path, "folder", **changes))["manifest"])[1:]
        assert len(table(tmp_path / "out" / "report.csv")) == 1
        video = str(tmp_path / "out" / row[0])
        assert videos.numbers_of(decode.read_frames(video, range(48))) == numbers


def video_tags(data):
    """Returns the places of the tags of the video in the bytes of a Flash video; the first describes the codec, but for Sorenson's."""
    at, places = 13, []
    while at < len(data):
        places += [at] if data[at] == 9 else []
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    return places


@pytest.mark.parametrize(
    "encoding, tag, place, value",
    [
        ({"codec": "flv"}, 12, 4, 1049576),  # frame 12 would be the last one, after 1000 s
        ({"codec": "flv"}, 12, 4, 600),
        (ONE_GROUP, 21, 4, 2200),
        (ONE_GROUP, 21, 13, -290),  # displayed before it is decoded
    ],
)
def test_a_damaged_time_in_flash_video(tmp_path, encoding, tag, place, value):
    """Of three bytes: at 4 of a tag the time of decoding, at 13 that of display less this, in ms."""
    path = videos.write_video(tmp_path / "v.flv", **encoding)
    before = decode.read_table(path).pts
    data = bytearray(pathlib.Path(path).read_bytes())
    at = video_tags(data)[tag] + place
    data[at : at + 3] = value.to_bytes(3, "big", signed=value < 0)
    pathlib.Path(path).write_bytes(data)
    with av.open(path) as file:
        assert sorted(p.pts for p in file.demux(video=0) if p.size) != before.tolist()
    assert_counted(path, 40)


def with_times(source, target, changes):
    """Copies a video to Matroska with other pts, {place of the packet: ms}; returns the path."""
    with av.open(source) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(packet for packet in old.demux(video=0) if packet.size):
            pts = changes.get(place, round(1000 * packet.pts * packet.time_base))
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts, packet.dts = pts, place - 1000  # which Matroska does not store
            new.mux(packet)
    return str(target)


@pytest.mark.parametrize(
    "encoding, changes",
    [
        (ONE_GROUP, {30: 1000_000}),  # far behind all others
        (ONE_GROUP | {"count": 100}, {9: 7040}),  # 75 places too late
        (GROUPS, {18: 1700}),  # behind the keyframe that follows
        (GROUPS, {23: 1600}),  # before the keyframe, after a frame that follows it
        (GROUPS, {21: 800, 22: 900}),  # before the keyframe, as first frames of an open group, and before others that are decoded
        (GROUPS, {31: 800}),  # before two keyframes
    ],
)
def test_a_damaged_time_in_matroska(tmp_path, encoding, changes):
    source = videos.write_video(tmp_path / "v.mp4", **encoding)
    assert decode.read_table(with_times(source, tmp_path / "same.mkv", {})).reliable
    assert_counted(with_times(source, tmp_path / "v.mkv", changes), encoding.get("count", 40))


WRAP = round(2**33 / 90)  # ms, where the clock of a transport stream begins again
REGULAR = {
    "open.ts": OPEN,
    "open.mkv": OPEN,
    "open.flv": OPEN,
    "b16.mkv": {"options": {"x264-params": "bframes=16:b-adapt=0:b-pyramid=normal:ref=16:keyint=48:scenecut=0"}},
    "hevc.ts": {"codec": "libx265", "options": {"x265-params": "keyint=12:bframes=4:b-adapt=0:log-level=none:open-gop=1"}},
    "intra.mkv": {"options": {"g": "1"}},
    "mpeg2.ts": {"codec": "mpeg2video", "fps": 25, "options": {"g": "12", "bf": "2"}},
    "alternate.webm": {"codec": "libvpx-vp9", "options": {"g": "15", "auto-alt-ref": "6", "lag-in-frames": "25"}},
    "pauses.mp4": {"pts": [40 * n + 90_000 * (n > 10) + 700_000 * (n > 25) for n in range(40)]},
    "pauses.flv": {"codec": "flv", "pts": [40 * n + 90_000 * (n > 10) + 700_000 * (n > 38) for n in range(40)]},
    "last_pause.mp4": {"pts": [40 * n + 700_000 * (n > 38) for n in range(40)]},
    "last_pause.mkv": {"options": {"bf": "0"}, "pts": [40 * n + 700_000 * (n > 38) for n in range(40)]},
    "wrapped.ts": {"pts": [WRAP - 1000 + 40 * n for n in range(40)]},
    "wrapped_late.ts": {"pts": [WRAP - 80_000 + 4000 * n for n in range(40)]},
    "negative.mkv": {"pts": [40 * n - 400 for n in range(40)]},
}


@pytest.mark.parametrize("name", REGULAR)
def test_other_streams_are_not_decoded_for_their_tables(tmp_path, monkeypatch, name):
    monkeypatch.setattr(frame_table, "ascend", None)
    path = videos.write_video(tmp_path / name, **REGULAR[name])
    frames = decode.read_table(path)
    assert frames.reliable and videos.numbers_of(decode.read_frames(path, range(40))) == list(range(40))
    pts = np.array(REGULAR[name].get("pts", frames.times * 1000))
    np.testing.assert_allclose(frames.times, (pts - pts[0]) / 1000, atol=2e-3)


@pytest.mark.parametrize("name", ["open.ts", "hevc.ts", "mpeg2.ts"])
def test_a_transport_stream_that_stores_no_dts_is_not_decoded_for_its_table(tmp_path, monkeypatch, name):
    monkeypatch.setattr(frame_table, "ascend", None)
    path = videos.write_video(tmp_path / name, **REGULAR[name])
    data, at = bytearray(pathlib.Path(path).read_bytes()), -1
    while (at := data.find(b"\0\0\1\xe0", at + 1)) >= 0:
        if data[at + 7] == 0xC0:  # both times follow
            data[at + 7], data[at + 9], data[at + 14 : at + 19] = 0x80, data[at + 9] & ~0x10, b"\xff" * 5
    assert data != pathlib.Path(path).read_bytes()
    pathlib.Path(path).write_bytes(data)
    assert decode.read_table(path).reliable and videos.numbers_of(decode.read_frames(path, range(40))) == list(range(40))


def test_a_last_frame_after_many_b_frames_and_a_pause_keeps_its_time(tmp_path, monkeypatch):
    decided, original = [], frame_table.ascend
    monkeypatch.setattr(frame_table, "ascend", lambda frames: decided.append(original(frames)) or decided[-1])
    pts = [40 * number + 600_000 * (number == 34) for number in range(35)]
    frames = decode.read_table(videos.write_video(tmp_path / "v.mkv", 35, **REGULAR["b16.mkv"], pts=pts))
    assert decided == [True] and frames.reliable and frames.times[-1] == pytest.approx(pts[-1] / 1000)


def test_a_full_check_finds_times_of_neighbors_that_are_exchanged(tmp_path):
    """No packet tells these from a video's own."""
    source = videos.write_video(tmp_path / "v.mp4", **ONE_GROUP)
    with av.open(source) as file:
        times = [round(1000 * packet.pts * packet.time_base) for packet in file.demux(video=0) if packet.size]
    path = with_times(source, tmp_path / "v.mkv", {18: times[19], 19: times[18]})
    assert decode.read_table(path).reliable
    answer = work.process(work.make_job(path, "full"))
    assert answer["problem"] == "undecodable" and "is not the one that its packets announce" in answer["detail"]


def test_frames_out_of_order_are_a_bad_video_for_windows(tmp_path, monkeypatch):
    original = open_video.OpenVideo._decode_wanted

    def with_last_first(*args, **named):
        items = list(original(*args, **named))
        return iter([items[0], items[-1], *items[1:-1]])

    path = videos.write_video(tmp_path / "v.mp4")
    monkeypatch.setattr(open_video.OpenVideo, "_decode_wanted", with_last_first)
    _, read = windows.open_windows(records.Record("v", 0, None, None, path), SPEC, 0)
    with pytest.raises(decode.DecodeError, match="the frame at pts .* comes out of order"):
        list(read)
