"""Stamps of videos: the same for the same video, another one where it was replaced, of every kind of source."""

import os
import tarfile

import numpy as np
import pytest

from cvmae.data.records import Record, UnreadableError
from cvmae.data.sources import make_source
from cvmae.data.stamps import Stamps, stamp_of_path
from cvmae.storage.cache import RemoteFile
from cvmae.storage.remote_path import RemotePath
from tests.servers import serving
from tests.tiny_configs import config


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        (tmp_path / f"{number}.mp4").write_bytes(bytes(100 + number))
    rows = [f"{number}.mp4,{number % 2},val,1,{number + 2}" for number in range(6)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label,split,start,end", *rows]))
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for number in range(6):
            tar.add(tmp_path / f"{number}.mp4", f"{number}.mp4")
    return tmp_path


@pytest.mark.parametrize("source", ["files", "webdataset"])
def test_a_slice_has_the_stamps_of_its_own_videos(folder, source):
    c = config(data__source=source, data__manifest=str(folder / "list.csv"), data__webdataset__shards=f"{folder}/{{split}}.tar")
    whole, part = (make_source(c.data, split) for split in ("val", "val[:50%]"))
    assert Stamps(whole).without_reading and Stamps(part).without_reading
    of_whole = {whole.key(index): Stamps(whole).of(index) for index in range(6)}
    assert len(set(of_whole.values())) == 6 and all(stamp.text for stamp in of_whole.values())
    assert {part.key(index): Stamps(part).of(index) for index in range(len(part))}.items() <= of_whole.items()
    if source == "files":
        assert [(stamp.start, stamp.end) for stamp in of_whole.values()] == [(1, number + 2) for number in range(6)]


def test_a_file_is_another_by_its_size_or_its_time(folder):
    path = folder / "0.mp4"
    first = stamp_of_path(str(path))
    assert stamp_of_path(str(path)) == first
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    later = stamp_of_path(str(path))
    path.write_bytes(bytes(7))
    os.utime(path, ns=(1, 1))
    assert len({first, later, stamp_of_path(str(path))}) == 3
    assert stamp_of_path(str(folder / "none")) is stamp_of_path("zero\0byte") is None


class Content:
    """A source of payloads."""

    def __init__(self, *payloads):
        self.payloads = payloads

    def __getitem__(self, index):
        if self.payloads[index] is None:
            raise UnreadableError("it", "is away")
        return Record("it", 0, 0.5, None, self.payloads[index])


def test_bytes_and_frames_by_their_content():
    frames = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    stamps = Stamps(Content(b"abc", b"abd", frames, frames[:, ::-1], frames.reshape(2, 2, 8, 3), frames.copy(), None))
    assert not stamps.without_reading
    one, other, plain, mirrored, wide, copy, away = (stamps.of(index) for index in range(7))
    assert len({one, other, plain, mirrored, wide}) == 5 and plain == copy and away is None and one.start == 0.5


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_objects_by_what_the_bucket_says(scheme):
    with serving(scheme) as bucket:
        path = RemotePath(f"{bucket}/folder/a.mp4")
        path.write_bytes(b"first")
        payloads = Content(str(path), RemoteFile(str(path)), RemoteFile(str(path), None, 1, 2), f"{path}.none")
        first = [Stamps(payloads).of(index).text for index in range(4)]
        assert first[0] == first[1] == stamp_of_path(str(path)) and first[2] == f"{first[0]} 1+2" and first[3] is None
        path.write_bytes(b"other")
        assert Stamps(payloads).of(0).text != first[0] and Stamps(payloads).of(0).text == stamp_of_path(str(path))
