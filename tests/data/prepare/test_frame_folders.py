"""Folders of frames, as Jester is published: made into videos with their frames, rate and colors; what is missing is named."""

import shutil

import numpy as np
import pytest
from PIL import Image

from cvmae.data import decode
from cvmae.data.manifest import read_manifest
from cvmae.data.prepare import PrepareError, prepare
from cvmae.data.prepare.transcode import transcode_frames
from tests.data import layouts, videos
from tests.data.prepare.runs import options, snapshot, table


def encode(folder, side=32):
    return transcode_frames(str(folder), str(folder.parent / "out.mp4"), side, str(folder.parent / "temporary.mp4"))


def test_a_folder_of_frames_becomes_a_video_at_12_frames_per_second(tmp_path):
    layouts.put_frames(tmp_path / "7", 3)
    written = encode(tmp_path / "7")
    read = decode.read_table(str(tmp_path / "out.mp4"))
    assert len(written) == len(read) == layouts.FRAMES and read.fps == pytest.approx(12)
    np.testing.assert_allclose(read.times, np.arange(layouts.FRAMES) / 12, atol=1e-6)
    frames = decode.read_frames(str(tmp_path / "out.mp4"), range(layouts.FRAMES))
    assert videos.numbers_of(frames) == [30 + n for n in range(layouts.FRAMES)]


def test_colors_are_those_of_the_pictures(tmp_path):
    """JPEG has the full range of values, which H.264 in MP4 usually has not."""
    colors = np.array([[[250, 10, 10], [10, 250, 10]], [[10, 10, 250], [255, 255, 255]]], np.uint8).repeat(24, 0).repeat(32, 1)
    (tmp_path / "1").mkdir()
    for number in (1, 2, 3):
        Image.fromarray(colors).save(tmp_path / "1" / f"{number:05d}.jpg", quality=95)
    encode(tmp_path / "1", side=48)
    for frame in decode.read_frames(str(tmp_path / "out.mp4"), [0, 1, 2]).astype(int):
        assert frame.shape == colors.shape
        assert np.abs(frame - colors)[8:-8, 8:-8].mean() < 6 and np.abs(frame[12, 12] - colors[12, 12]).max() <= 6


def test_frames_are_not_enlarged_and_odd_sides_lose_a_pixel(tmp_path):
    (tmp_path / "1").mkdir()
    for number in (1, 2):
        Image.fromarray(videos.numbered_frame(number, 101, 176)).save(tmp_path / "1" / f"{number:05d}.jpg")
    encode(tmp_path / "1", side=256)
    assert decode.read_frames(str(tmp_path / "out.mp4"), [0]).shape == (1, 100, 176, 3)


def test_what_is_wrong_with_a_folder_is_named(tmp_path):
    def problem(change) -> str:
        folder = tmp_path / "1"
        layouts.put_frames(folder, 0)
        change(folder)
        with pytest.raises(decode.DecodeError) as caught:
            encode(folder)
        assert not (tmp_path / "out.mp4").exists() and caught.value.name == str(folder)
        return caught.value.reason

    assert problem(lambda folder: (folder / "00003.jpg").unlink()) == "00003.jpg is missing"
    assert problem(lambda folder: (folder / "00001.jpg").unlink()) == "00001.jpg is missing"
    extra = "00001 (1).jpg is no frame, which are numbered from 00001.jpg on: move it away, or rename the frames"
    assert problem(lambda folder: shutil.copy(folder / "00001.jpg", folder / "00001 (1).jpg")) == extra
    (tmp_path / "1" / "00001 (1).jpg").unlink()
    for name in ("00004.JPG", "00099.png", "00004.jpeg"):
        shutil.copy(tmp_path / "1" / "00001.jpg", tmp_path / "1" / name)
        assert problem(lambda folder: None).startswith(f"{name} is no frame, which are")
        (tmp_path / "1" / name).unlink()
    assert problem(lambda folder: shutil.copy(folder / "00001.jpg", folder / "00000.jpg")).startswith("00000.jpg is no frame")
    shutil.rmtree(tmp_path / "1")
    assert problem(lambda folder: [path.unlink() for path in folder.iterdir()]) == "the folder has no frames"
    assert problem(lambda folder: (folder / "00002.jpg").write_bytes(b"<html>")).startswith("00002.jpg: Invalid data")
    other = Image.fromarray(videos.numbered_frame(0, 32, 80))
    assert problem(lambda folder: other.save(folder / "00004.jpg")) == "00004.jpg is 80x32, the first frame 64x32"


def test_a_set_is_prepared_once_and_a_changed_folder_again(tmp_path, capsys):
    layouts.jester(tmp_path)
    chosen = options(tmp_path, "jester", transcode=32)
    before = snapshot(tmp_path / "videos")
    (tmp_path / "videos" / "20bn-jester-v1" / "9" / "00002.jpg").rename(tmp_path / "kept.jpg")
    manifest = prepare(chosen)["manifest"]
    report = table(tmp_path / "out" / "report.csv")
    assert report[1:] == [["20bn-jester-v1/9", "undecodable", "00002.jpg is missing"]]
    assert ["manifest.csv", "train", "1", "2", "118,562"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    first = snapshot(tmp_path / "out" / "videos32")
    (tmp_path / "kept.jpg").rename(tmp_path / "videos" / "20bn-jester-v1" / "9" / "00002.jpg")
    assert prepare(chosen)["manifest"] == manifest and len(table(tmp_path / "out" / "report.csv")) == 1
    again = snapshot(tmp_path / "out" / "videos32")
    assert len(again) == 4 and first.items() <= again.items() and snapshot(tmp_path / "videos") == before
    read = read_manifest(manifest, "train")
    assert read.class_names == layouts.JESTER_CLASSES and [entry.label for entry in read.entries] == [0, 2]


def test_frames_that_were_renamed_as_the_report_says_are_looked_at_again(tmp_path):
    layouts.jester(tmp_path)
    frame, chosen = tmp_path / "videos" / "20bn-jester-v1" / "9" / "00002.jpg", options(tmp_path, "jester", transcode=32)
    frame.rename(frame.with_suffix(".JPG"))
    prepare(chosen)
    [row] = table(tmp_path / "out" / "report.csv")[1:]
    assert row[:2] == ["20bn-jester-v1/9", "undecodable"] and row[2].startswith("00002.JPG is no frame")
    frame.with_suffix(".JPG").rename(frame)
    prepare(chosen)
    assert table(tmp_path / "out" / "report.csv")[1:] == []


@pytest.mark.parametrize("is_cut", [False, True])
def test_an_empty_folder_is_not_called_a_file(tmp_path, is_cut):
    layouts.jester(tmp_path)
    for path in (tmp_path / "videos" / "20bn-jester-v1" / "9").iterdir():
        path.write_bytes(b"") if is_cut else path.unlink()
    prepare(options(tmp_path, "jester", transcode=32))
    detail = "the files in the folder have 0 bytes" if is_cut else "the folder has no frames"
    assert table(tmp_path / "out" / "report.csv")[1:] == [["20bn-jester-v1/9", "empty", detail]]


def test_folders_of_frames_need_to_be_encoded(tmp_path):
    layouts.jester(tmp_path)
    with pytest.raises(
        PrepareError, match=r"folders of frames such as 20bn-jester-v1/100/00001.jpg: --transcode=256 .*-framerate 12"
    ):
        prepare(options(tmp_path, "jester"))


def test_a_video_beside_folders_of_frames_is_not_taken_for_a_missing_folder(tmp_path):
    layouts.jester(tmp_path)
    folder = tmp_path / "videos" / "20bn-jester-v1" / "9"
    folder.rename(tmp_path / "elsewhere")
    layouts.put(folder.with_suffix(".mp4"), 9)
    prepare(options(tmp_path, "jester", transcode=32))
    missing = "--videos lacks 9/; videos are read by folders of frames, as others are there, and files beside them are not"
    assert table(tmp_path / "out" / "report.csv")[1:] == [["9", "missing", missing]]
