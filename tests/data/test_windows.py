import dataclasses
import threading
import time
import tracemalloc

import numpy as np
import pytest

from cvmae.data import clips, decode, frame_table, open_video, sources, windows
from tests.data import videos
from tests.data.configs import small_config

SPEC = clips.ClipSpec(4, 2, 0.0, 32, 64, "crop", "random", 0, "middle")  # a window spans 7 frames
TIMES = np.arange(60) / 10


def plan(count=40, stride=0, start=None, end=None, **changes):
    return windows.plan_windows(dataclasses.replace(SPEC, **changes), TIMES[:count], stride, start, end)


@pytest.mark.parametrize(
    "count, stride, starts",
    [
        (7, 0, [0]),
        (8, 0, [0, 1]),
        (15, 0, [0, 8]),
        (16, 0, [0, 8, 9]),
        (40, 0, [0, 8, 16, 24, 32, 33]),
        (12, 1, [0, 2, 4, 5]),
        (13, 1, [0, 2, 4, 6]),
        (40, 9, [0, 18, 33]),
    ],
)
def test_windows_start_at_the_stride_and_the_last_ends_with_the_video(count, stride, starts):
    planned = plan(count, stride)
    assert planned.frames[:, 0].tolist() == starts and planned.frames[-1, -1] == count - 1
    assert (np.diff(planned.frames, axis=1) == 2).all()
    np.testing.assert_allclose(planned.start_s, np.array(starts) / 10)
    np.testing.assert_allclose(planned.end_s, (np.array(starts) + 6) / 10)


@pytest.mark.parametrize("fps", [0.0, 10.0])
def test_a_short_video_gives_one_window_that_repeats_the_last_frame(fps):
    planned = plan(4, fps=fps)
    assert planned.frames.tolist() == [[0, 2, 3, 3]] and planned.end_s.tolist() == [0.3]


@pytest.mark.parametrize("stride", [0, 1, 3])
@pytest.mark.parametrize("count", [8, 40, 55])  # 55: the last start is a multiple of the stride, but for rounding
def test_fps_at_the_rate_of_the_file_counts_its_frames(stride, count):
    assert plan(count, stride, fps=10.0).frames.tolist() == plan(count, stride).frames.tolist()


def test_fps_counts_time():
    faster = windows.plan_windows(dataclasses.replace(SPEC, fps=10.0), np.arange(80) / 20, 0)
    assert faster.frames[:, 0].tolist() == [0, 16, 32, 48, 64, 67] and (np.diff(faster.frames, axis=1) == 4).all()
    times = np.array([0, 0.1, 0.2, 0.3, 0.4, 1.4, 2.4, 3.4, 4.4])
    planned = windows.plan_windows(dataclasses.replace(SPEC, num_frames=2, fps=1.0, stride=1), times, 0)
    # Starts at 0, 2 and 3.4 s; at 1 s the frame of 0.4 s is still on show, at 2 s that of 1.4 s, at 3 s that of 2.4 s.
    assert planned.frames.tolist() == [[0, 4], [5, 6], [7, 8]]
    assert planned.start_s.tolist() == [0, 1.4, 3.4] and planned.end_s.tolist() == [0.4, 2.4, 4.4]


def test_windows_stay_between_start_and_end():
    planned = plan(40, 0, start=1.0, end=2.5)
    assert planned.frames.min() == 10 and planned.frames.max() == 24 and planned.start_s.tolist() == [1.0, 1.8]
    with pytest.raises(clips.ClipError, match="no frame from 9 s"):
        plan(40, 0, start=9.0)


def test_a_negative_stride():
    with pytest.raises(ValueError, match="window_stride must be 0 .windows do not overlap. or more, got -1"):
        plan(40, -1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Videos of 30, 5 and 50 frames that begin with frame number 0, 40 and 80; a file that is no video; and a manifest."""
    folder = tmp_path_factory.mktemp("videos")
    for name, count, first in (("a", 30, 0), ("b", 5, 40), ("c", 50, 80)):
        videos.write_video(folder / f"{name}.mp4", count, first=first)
    (folder / "text.mp4").write_text("no video")
    lines = ["path,label,split,start,end", "a.mp4,3,train,,", "gone.mp4,1,train,,", "b.mp4,,train,,", "c.mp4,2,train,1,2.5"]
    lines += ["text.mp4,1,train,,", "a.mp4,0,train,99,"]
    (folder / "list.csv").write_text("\n".join(lines))
    return folder


def record(folder, name, **changes):
    path = str(folder / name)
    return dataclasses.replace(sources.Record(path, 0, None, None, path), **changes)


@pytest.mark.parametrize("stride", [0, 1, 3, 7])
def test_windows_are_read_in_one_pass(folder, stride, monkeypatch):
    decoded, tables = [], []
    upright, table = open_video.upright_rgb, open_video.OpenVideo.table
    monkeypatch.setattr(open_video, "upright_rgb", lambda frame: decoded.append(0) or upright(frame))
    monkeypatch.setattr(open_video.OpenVideo, "table", lambda self: tables.append(0) or table(self))
    planned, read = windows.open_windows(record(folder, "a.mp4"), SPEC, stride)
    assert planned.frames.tolist() == plan(30, stride).frames.tolist()
    assert [videos.numbers_of(video) for video in read] == planned.frames.tolist()
    assert len(decoded) == len(np.unique(planned.frames)) and len(tables) == 1


def test_arrays_and_bytes_have_windows_too(folder):
    frames = decode.read_frames(str(folder / "a.mp4"), range(30))
    content = (folder / "a.mp4").read_bytes()
    expected = list(windows.open_windows(record(folder, "a.mp4"), SPEC, 1)[1])
    for payload in (frames, content):
        planned, read = windows.open_windows(record(folder, "a", payload=payload), SPEC, 1)
        np.testing.assert_array_equal(np.stack(list(read)), expected)
        assert planned.start_s[1] == pytest.approx(2 / (25 if payload is frames else 12))


def peak_memory(count, monkeypatch):
    def stream(source, choose):
        for number in choose(frame_table.FrameTable(None, np.arange(count) / 25, None, 25.0, True)).tolist():
            yield number, np.full((64, 128, 3), number % 256, np.uint8)

    monkeypatch.setattr(decode, "stream_chosen", stream)
    tracemalloc.start()
    planned, read = windows.open_windows(sources.Record("", 0, None, None, ""), SPEC, 1)
    assert sum(1 for _ in read) == len(planned) > count // 3
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_the_video(monkeypatch):
    short, long = (peak_memory(count, monkeypatch) for count in (100, 2000))
    assert long - short < 1900 * 200  # the plan's numbers; a frame has 24,576 bytes, and its fitted copy 6,144


def load(folder, **changes):
    changes = {"data__source": "files", "data__manifest": str(folder / "list.csv"), "data__frame_size": (32, 64)} | changes
    config = small_config(**{"data__stride": 2} | changes)
    source = sources.make_source(config.data, "train")
    with windows.WindowLoader(config, source, range(len(source)), 2, 0) as loader:
        return list(loader)


@pytest.mark.parametrize("changes", [{}, {"data__workers": 3, "data__threads": 2}])
def test_the_loader_yields_all_events_of_a_record_in_order(folder, changes):
    events = load(folder, **changes)
    by_number = [[event for event in events if event.number == number] for number in range(6)]
    for number, label, first, parts in ((0, 3, 0, plan(30)), (2, -1, 40, plan(5)), (3, 2, 80, None)):
        opened, *read = by_number[number]
        assert isinstance(opened, windows.Opened) and opened.label == label and len(opened.windows) == len(read)
        numbers = [videos.numbers_of(window.video) for window in read]
        assert (np.array(numbers) - first == opened.windows.frames).all()
        assert parts is None or opened.windows.frames.tolist() == parts.frames.tolist()
    assert by_number[3][0].windows.frames[:, 0].tolist() == [12, 20, 23]  # 1 to 2.5 s are frames 12 to 29
    failures = [(event.name, event.reason) for [event] in (by_number[1], by_number[4], by_number[5])]
    assert failures[0][0] == f"{folder}/gone.mp4" and failures[0][1].startswith("No such file or directory (")
    assert "Invalid data" in failures[1][1] and "no frame from 99 s" in failures[2][1]


def test_a_failure_on_the_way_is_reported_after_the_windows_before_it(folder, monkeypatch):
    stream = decode.stream_chosen

    def breaking(source, choose):
        for number, frame in stream(source, choose):
            if number > 20:
                raise decode.DecodeError(source, "damaged")
            yield number, frame

    monkeypatch.setattr(decode, "stream_chosen", breaking)
    events = [event for event in load(folder) if event.number == 0]
    assert [type(event) for event in events] == [windows.Opened, windows.Window, windows.Window, windows.Failed]
    assert events[-1].reason.startswith("damaged (") and events[-1].reason.endswith("list.csv:2)")


def test_a_video_that_hangs_is_abandoned(folder, monkeypatch):
    stream, hang = decode.stream_chosen, threading.Event()

    def hanging(source, choose):
        if source.endswith("b.mp4"):
            hang.wait()
        yield from stream(source, choose)

    monkeypatch.setattr(decode, "stream_chosen", hanging)
    events = load(folder, data__timeout_s=1.0)
    hang.set()
    [failed] = [event for event in events if event.number == 2]
    assert failed.reason.startswith("no answer within 1 s (data.timeout_s) (") and failed.reason.endswith("list.csv:4)")
    assert {event.number for event in events} == set(range(6))


class Endless:
    """Source of records with 400 small frames, which counts those that are opened."""

    class_names, opened, error = (), 0, RuntimeError("no video feature")

    def __len__(self):
        return 10**6

    def __getitem__(self, index):
        self.opened += 1
        if index == 13:
            raise self.error
        return sources.Record(str(index), 0, None, None, np.zeros((400, 4, 4, 3), np.uint8))


def test_the_loader_reads_only_prefetch_ahead_and_ends_when_closed():
    config, source = small_config(data__workers=2, data__prefetch=2), Endless()
    with windows.WindowLoader(config, source, range(len(source)), 4, 0) as loader:
        next(loader)
        while loader._events.qsize() < 8:
            time.sleep(0.01)
        time.sleep(0.1)
        assert loader._events.qsize() == 8 and source.opened == 2
    for thread in loader._threads:
        thread.join(20)
        assert not thread.is_alive()
    assert source.opened == 2


@pytest.mark.parametrize("error", [RuntimeError("no video feature"), SystemExit("no video feature")])
def test_other_errors_reach_the_caller(error):
    """An exit of a library, too: it would end the thread alone, and the caller would wait for good."""
    source = Endless()
    source.error = error
    with windows.WindowLoader(small_config(), source, iter([13]), 4, 0) as loader:  # noqa: SIM117
        with pytest.raises(type(error), match="no video feature"):
            next(loader)
