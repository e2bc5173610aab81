"""`cvmae.bench --decode`: every library's frames are those of a full decode, other frames are noticed, and the table names who was there."""

import json

import av
import numpy as np
import pytest

from cvmae import bench
from cvmae.data import clips
from cvmae.performance import bench_decode, bench_report, measurements
from cvmae.performance.bench_videos import CODINGS, CONTAINERS, VideoSpec, write_videos
from cvmae.performance.timing import Times
from tests.commands import caller

SMALL = VideoSpec(count=2, frames=40, height=64, width=96)
SPEC = clips.ClipSpec(5, 3, 0, 64, 96, "crop", "random", 0, "middle")
READERS, NOTES = bench_decode.available()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Returns {(coding, container): paths} of small videos."""
    folder = tmp_path_factory.mktemp("videos")
    written = {coding.name: write_videos(folder, coding, SMALL) for coding in CODINGS}
    return {(name, container): paths for name, by_container in written.items() for container, paths in by_container.items()}


def every_frame(path) -> np.ndarray:
    """Decodes a file by PyAV alone: uint8 [n, H, W, 3]."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


@pytest.mark.parametrize("library", READERS)
def test_frames_are_those_of_a_full_decode(files, library):
    read, rng = READERS[library], np.random.default_rng(1)
    assert len(files) == len(CODINGS) * len(CONTAINERS)
    for paths in files.values():
        for path in paths:
            frames = every_frame(path)
            assert len(frames) == SMALL.frames
            indices = np.sort(rng.choice(SMALL.frames - 1, 6, replace=False))
            difference = np.abs(read(str(path), indices).astype(int) - frames[indices])
            assert difference.max() <= (0 if library in ("cvmae", "PyAV, full decode") else bench_decode.TOLERANCE)


def test_containers_hold_the_same_frames(files):
    for coding in CODINGS:
        first, second = (files[coding.name, container][0] for container in CONTAINERS)
        np.testing.assert_array_equal(every_frame(first), every_frame(second))
    one, other = files[CODINGS[0].name, "mp4"]
    assert (every_frame(one) != every_frame(other)).any()


def keyframes(path) -> list[int]:
    with av.open(str(path)) as file:
        return [number for number, frame in enumerate(file.decode(video=0)) if frame.key_frame]


def test_keyframes_are_as_far_apart_as_the_names_say(files):
    near, far = (keyframes(files[coding.name, "mkv"][0]) for coding in CODINGS[:2])
    assert max(np.diff(near)) == 12 and far == [0]


def test_other_frames_are_noticed(files):
    def early(path, indices):
        return bench_decode.full_decode(path, np.maximum(indices - 1, 0))

    def few(path, indices):
        return bench_decode.full_decode(path, indices[1:])

    for paths in files.values():
        drawn = bench_decode.draw_clips(paths, SPEC, 2, np.random.default_rng(0))
        assert [path for path, _ in drawn] == list(map(str, paths)) and all(clip.max() < SMALL.frames - 1 for _, clip in drawn)
        expected = [every_frame(path)[indices] for path, indices in drawn]
        assert bench_decode.largest_difference(early, drawn, expected) > 10 * bench_decode.TOLERANCE
        assert bench_decode.largest_difference(few, drawn, expected) == 255
        assert bench_decode.largest_difference(READERS["cvmae"], drawn, expected) == 0


def test_every_reader_gets_the_same_clips():
    rounds = [[("a", np.arange(2))], [("b", np.arange(3)), ("c", np.arange(4))], [("d", np.arange(5))]]
    calls = {name: [] for name in "xy"}
    readers = {name: (lambda path, indices, name=name: calls[name].append((path, len(indices)))) for name in calls}
    times = bench_decode.time_readers(readers, rounds)
    assert calls["x"] == calls["y"] == [("a", 2), ("b", 3), ("c", 4), ("d", 5)]
    assert len(times["x"].wall) == 2  # the first round warms up


def test_libraries_that_cannot_be_loaded_are_named():
    def broken():
        raise RuntimeError("\n  no libavcodec here\nmore")

    def nested():
        tried = "OSError: libnvrtc.so.13: cannot open shared object file: No such file or directory"
        older = "OSError: libavutil.so.59: cannot open shared object file: No such file or directory"
        raise RuntimeError(f"Could not load libtorchcodec.\n[start of traceback]\n{tried}\n{older}\n{tried}\n[end]")

    def caused():
        try:
            raise OSError("libc10_cuda.so: cannot open shared object file: No such file or directory")
        except OSError as error:
            raise RuntimeError("Could not load this library: libtorchcodec_image.so") from error

    libraries = [
        bench_decode.Library("caused", "av", caused, "pip install it"),
        bench_decode.Library("nested", "av", nested, "pip install it"),
        bench_decode.Library("absent", "no_such_module", broken, "pip install absent"),
        bench_decode.Library("broken", "av", broken, "pip install it"),
        bench_decode.LIBRARIES[0],
    ]
    readers, notes = bench_decode.available(libraries)
    assert list(readers) == ["cvmae"]
    assert notes == [
        "caused cannot be loaded (Could not load this library: libtorchcodec_image.so Missing: libc10_cuda.so): pip install it",
        "nested cannot be loaded (Could not load libtorchcodec. Missing: libnvrtc.so.13, libavutil.so.59): pip install it",
        "absent is not installed: pip install absent",
        "broken cannot be loaded (no libavcodec here): pip install it",
    ]


def test_the_table_has_rates_ratios_and_who_decodes_other_frames():
    times = {
        "cvmae": Times((1.0, 1.0), (0.5, 0.5)),
        "other": Times((1.0, 1.0), (1.0, 0.75)),
        "wrong": Times((1.0, 1.0), (1.0, 1.0)),
    }
    measured = bench_decode.DecodeTimes("VP9", "mkv", 1.25, 4, times, {"cvmae": 0, "other": 2, "wrong": 90})
    second = bench_decode.DecodeTimes("HEVC", "mp4", 1.0, 4, times, {"cvmae": 0, "other": 2, "wrong": 255})
    third = bench_decode.DecodeTimes("H.264", "mp4", 1.0, 4, times, {"cvmae": 0, "other": 0, "wrong": 1})
    data = {
        "about": "clips",
        "missing": ["decord is not installed: pip"],
        "files": bench_report.decode_data([measured, second, third]),
    }
    lines = bench_report.decode_lines(data)
    assert "| VP9, .mkv | 1.25 | 8.0 | 4.6 (1.75) | 4.0 (2.00) |" in lines
    text = "\n".join(lines)
    assert "1.75 to 1.75 times as many clips" in text and "left out: decord is not installed" in text
    assert "frames of other: up to 2 of 255 from a full decode (VP9, .mkv; HEVC, .mp4): rounding of colors" in text
    assert "frames of wrong: up to 1 of 255 from a full decode (H.264, .mp4): rounding of colors" in text
    assert "frames of wrong: up to 255 of 255 from a full decode (VP9, .mkv; HEVC, .mp4): OTHER FRAMES" in text
    assert "frames of cvmae" not in text


def test_the_command_names_each_library(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(measurements, "VIDEOS", VideoSpec(count=1, frames=30, height=64, width=64))
    file = tmp_path / "decode.json"
    code, out, _ = caller(bench, monkeypatch, capsys)("--decode", "--steps=2", f"--json={file}")
    assert code == 0 and all(name in out for name in READERS)
    assert all(f"left out: {note}" in out for note in NOTES)
    rows = json.loads(file.read_text())["files"]
    assert {(row["coding"], row["container"]) for row in rows} == {
        (c.name, container) for c in CODINGS for container in CONTAINERS
    }
    for row in rows:
        ours = row["libraries"]["cvmae"]
        assert ours["difference"] == 0 and ours["ratio_cpu"] == 1 and ours["clips_per_cpu_second"] > 0 and row["megabits"] > 0


def test_two_measurements_at_once_are_refused(monkeypatch, capsys):
    code, _, err = caller(bench, monkeypatch, capsys)("--decode", "--latency")
    assert code == 2 and "--decode and --latency are two measurements" in err
