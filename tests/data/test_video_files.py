"""Files of a folder: every one is taken for a video, or left out with a reason."""

import dataclasses
import wave

import av
import numpy as np
import pytest

from cvmae.data import decode
from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.prepare import PrepareError, prepare
from cvmae.data.sources import FileSource
from cvmae.data.subset import Subset
from cvmae.data.video_files import VideoFiles
from cvmae.tasks.notes import source_notes
from tests.data import videos
from tests.data.prepare.runs import options, table

# name -> (codec, format, pixel format, size)
TAKEN = {
    "a.ts": ("libx264", "mpegts", "yuv420p"),
    "a.gif": ("gif", "gif", "rgb8"),
    "a.mxf": ("mpeg2video", "mxf", "yuv420p"),
    "a.m2v": ("mpeg2video", "mpeg2video", "yuv420p"),
    "a.divx": ("mpeg4", "avi", "yuv420p"),
    "a.asf": ("wmv2", "asf", "yuv420p"),
    "a.f4v": ("libx264", "f4v", "yuv420p"),
    "a.3g2": ("mpeg4", "3g2", "yuv420p"),
    "a.y4m": ("rawvideo", "yuv4mpegpipe", "yuv420p"),
    "a.ogg": ("libvpx", "ogg", "yuv420p"),
    "a.nut": ("libx264", "nut", "yuv420p"),
    "a.264": ("libx264", "h264", "yuv420p"),
    "a.dat": ("mpeg2video", "vob", "yuv420p"),
    "no suffix": ("libx264", "matroska", "yuv420p"),
    "A.TS": ("libx264", "mpegts", "yuv420p"),
}


def write(path, codec, form, pixels, count=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, pixels
        for t in range(count):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((144, 176, 3), 20 * t, np.uint8), format="rgb24")))
        file.mux(stream.encode(None))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of videos with odd suffixes, and of other files."""
    folder = tmp_path_factory.mktemp("files")
    for name, form in TAKEN.items():
        write(folder / "taken" / name, *form)
    others = folder / "others"
    write(others / "still.gif", "gif", "gif", "rgb8", count=1)
    write(others / "still.webp", "mjpeg", "mjpeg", "yuvj420p", count=1)
    with wave.open(str(others / "sound"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    (others / "code.ts").write_text("export const answer: number = 42;\n" * 20)
    (others / "read me").write_text("no video\n" * 99)
    (others / "list.m3u8").write_text("#EXTM3U\n#EXTINF:1,\n../taken/a.ts\n")
    for name in ("notes.txt", "labels.json", "a.jpg", "empty.ts", "unfinished.mp4.part"):
        (others / name).write_bytes(b"")
    (others / "nowhere.ts").symlink_to("nothing")
    return folder


def test_the_content_decides(folder):
    files = VideoFiles(str(folder))
    assert set(files.paths) == {f"taken/{name}" for name in TAKEN}
    for path in files.paths:
        assert len(decode.read_table(str(folder / path))) == 6, path
    names = {path.name for path in (folder / "others").iterdir()}
    assert {path.removeprefix("others/") for path, _ in files.left_out} == names
    reasons = {path.removeprefix("others/"): reason for path, reason in files.left_out}
    assert reasons["still.gif"] == "a picture" and reasons["a.jpg"] == ".jpg is a picture"
    assert reasons["sound"] == "no video stream" and reasons["list.m3u8"] == ".m3u8 is a playlist"
    assert reasons["unfinished.mp4.part"] == ".part is an unfinished download"
    assert "broken link" in reasons["nowhere.ts"] and all(reasons.values())


def test_prepare_names_what_is_left_out(folder, tmp_path, capsys):
    chosen = dataclasses.replace(options(tmp_path, "folder"), videos=str(folder))
    manifest = prepare(chosen)["manifest"]
    assert len(table(manifest)) == 1 + len(TAKEN)
    rows = table(tmp_path / "out" / "report.csv")[1:]
    assert len(rows) == len(list((folder / "others").iterdir())) and {problem for _, problem, _ in rows} == {"left out"}
    assert f"{len(rows)} left out" in capsys.readouterr().out
    with pytest.raises(PrepareError, match=r"no video file in it; expected .*; 12 left out: a.jpg \(.jpg is a picture\); "):
        prepare(dataclasses.replace(chosen, videos=str(folder / "others")))


def test_a_run_names_what_is_left_out(folder):
    manifest = read_manifest(str(folder), "train")
    assert len(manifest.entries) == len(TAKEN)
    source = FileSource(manifest)
    [note] = source_notes(source, Subset(source, np.arange(3)))
    assert note.startswith(f"note: {folder}: {len(TAKEN)} videos, 12 left out: others/a.jpg (.jpg is a picture); ")
    assert note.endswith("; ...") and "\n" not in note
    with pytest.raises(ManifestError, match=r"no video file below this folder \(12 left out: a.jpg"):
        read_manifest(str(folder / "others"), "train")


def test_a_link_that_leads_back_to_itself_is_left_out(tmp_path):
    videos.write_video(tmp_path / "a.mp4", 2)
    for name, target in {"self": "self", "b.mp4": "b.mp4", ".c.mp4": ".c.mp4", "d": "e", "e": "d", ".f": ".f"}.items():
        (tmp_path / name).symlink_to(target)
    files = VideoFiles(str(tmp_path))
    looped = "a link that leads back to itself"
    assert files.paths == ["a.mp4"]
    assert files.left_out == [
        (".c.mp4", "hidden, its name begins with a dot"),
        *((name, looped) for name in ("b.mp4", "d", "e", "self")),
    ]
    assert "5 left out" in read_manifest(str(tmp_path), "train").notes[0]


def test_an_empty_class_folder_is_named(tmp_path):
    for name in ("full", "empty", "others/.cache"):
        (tmp_path / name).mkdir(parents=True)
    videos.write_video(tmp_path / "full" / "a.mp4", 2)
    files = VideoFiles(str(tmp_path))
    assert files.paths == ["full/a.mp4"]
    assert files.left_out == [("empty/", "an empty folder"), ("others/", "an empty folder")]


def test_a_folder_of_common_videos_has_no_note(tmp_path):
    videos.write_video(tmp_path / "a.mp4", 2)
    (tmp_path / ".cache").mkdir()
    assert source_notes(FileSource(read_manifest(str(tmp_path), "train"))) == []
    (tmp_path / ".b.mp4").write_bytes(b"")
    (tmp_path / "._a.mp4").write_bytes(b"")
    [note] = source_notes(FileSource(read_manifest(str(tmp_path), "train")))
    assert note.endswith("1 videos, 1 left out: .b.mp4 (hidden, its name begins with a dot)")


def test_a_still_beside_a_video_does_not_take_its_place(tmp_path):
    write(tmp_path / "x.gif", "gif", "gif", "rgb8")
    write(tmp_path / "x.mp4", "libx264", "mp4", "yuv420p")

    class Wanted:
        stems, hints, name = ("x",), (), "x"

    assert VideoFiles(str(tmp_path)).find(Wanted) == ["x.mp4"]
