"""Where videos lie, where their twins go, and what is never written to."""

import contextlib
import dataclasses
import importlib
import os
import pathlib

import pytest

from cvmae.data import decode
from cvmae.data.prepare import Options, PrepareError, prepare, work
from cvmae.storage import client
from cvmae.storage.settings import SetupError
from tests.data import layouts, videos
from tests.data.prepare.runs import options, snapshot, table
from tests.requirements import missing
from tests.servers import free_port


def test_files_of_one_name_are_both_made(tmp_path):
    layouts.put(tmp_path / "videos" / "wave" / "a.mp4", 3)
    layouts.put(tmp_path / "videos" / "wave" / "a.webm", 4)
    layouts.put(tmp_path / "videos" / "wave" / "b.webm", 5)
    paths = [path for path, *_ in table(prepare(options(tmp_path, "folder", transcode=32))["manifest"])[1:]]
    assert paths == ["videos32/wave/a.mp4.mp4", "videos32/wave/a.webm.mp4", "videos32/wave/b.mp4"]
    frames = [decode.read_frames(str(tmp_path / "out" / path), [0])[0] for path in paths]
    assert videos.numbers_of(frames) == [30, 40, 50]


def test_odd_names(tmp_path):
    for name in ('with, a "comma".mp4', "über.mp4", "line\nbreak.mp4", "~home.mp4"):
        layouts.put(tmp_path / "videos" / " a class " / name, 1)
    layouts.put(tmp_path / "videos" / ".hidden" / "a.mp4", 1)
    with contextlib.suppress(OSError):  # not every file system takes it
        layouts.put(pathlib.Path(os.fsdecode(os.fsencode(tmp_path / "videos" / "c") + b"/\xff.mp4")), 1)
        assert True
    rows = table(prepare(options(tmp_path, "folder"))["manifest"])[1:]
    assert len(rows) == 4 and {label for _, label, _ in rows} == {"a class"}
    for path, *_ in rows:
        assert videos.number_of(decode.read_frames(str(tmp_path / "out" / path), [0])[0]) == 10
    assert [problem for _, problem, _ in table(tmp_path / "out" / "report.csv")[1:]] in (["not UTF-8"], [])


def test_links_are_followed_once(tmp_path):
    layouts.put(tmp_path / "elsewhere" / "a.mp4", 1)
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "wave").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "videos")
    rows = table(prepare(options(tmp_path, "folder"))["manifest"])
    assert rows[1:] == [["videos/wave/a.mp4", "wave", "train"]]


def test_videos_inside_of_out_need_no_link(tmp_path):
    layouts.folders(tmp_path, with_splits=True)
    manifests = prepare(Options("folder", str(tmp_path / "videos"), str(tmp_path), check="none"))
    assert table(manifests["manifest"])[1][0].startswith("videos/") and not (tmp_path / "videos").is_symlink()


@pytest.mark.parametrize("mine", ["videos", "videos/mine.txt"])
def test_what_is_in_the_way_of_the_link_is_kept(tmp_path, mine):
    layouts.folders(tmp_path, with_splits=True)
    layouts.write(tmp_path / "out" / mine, "kept")
    manifests = prepare(options(tmp_path, "folder", check="none"))
    path = table(manifests["manifest"])[1][0]
    assert path.startswith("../videos/") and (tmp_path / "out" / path).is_file()
    assert (tmp_path / "out" / mine).read_text() == "kept"


@pytest.mark.parametrize("where", ["videos", "videos/out", "link/out", "videos/../videos/out"])
def test_out_must_not_lie_in_videos(tmp_path, where):
    layouts.folders(tmp_path, with_splits=True)
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    before = snapshot(tmp_path / "videos")
    with pytest.raises(PrepareError, match="lies in --videos=.*, which is never written to"):
        prepare(Options("folder", str(tmp_path / "videos"), str(tmp_path / where)))
    assert snapshot(tmp_path / "videos") == before


def test_videos_must_not_lie_where_things_are_written(tmp_path):
    layouts.folders(tmp_path, with_splits=True)
    (tmp_path / "videos").rename(tmp_path / "videos32")
    before = snapshot(tmp_path / "videos32")
    with pytest.raises(PrepareError, match="videos32, which is written to; take another --out"):
        prepare(Options("folder", str(tmp_path / "videos32"), str(tmp_path), transcode=32))
    assert snapshot(tmp_path / "videos32") == before
    prepare(Options("folder", str(tmp_path / "videos32"), str(tmp_path), transcode=16, workers=1))


@pytest.mark.parametrize(
    ("field", "path", "said"),
    [
        ("out", "foo://x", "--out=foo://x: foo:// is not supported; give a local path, or one that begins with gs://, s3://$"),
        (
            "out",
            "hf://a/b",
            "--out=hf://a/b: hf:// cannot be written to; give a local path, or one that begins with gs://, s3://$",
        ),
        ("videos", "http://h/x", "--videos=http://h/x: http:// is not supported; .* gs://, s3://, hf://$"),
        ("labels", "FILE:///x", "--labels=FILE:///x: file:// is not supported"),
    ],
)
def test_a_scheme_that_is_not_supported_is_refused_with_the_flag(field, path, said):
    with pytest.raises(SetupError, match=f"^{said}"):
        Options(**{"dataset": "hmdb51", "videos": "v", "out": "o", "labels": "l"} | {field: path})


def test_a_bucket_that_does_not_answer_is_told_before_a_video_is_read(tmp_path, monkeypatch):
    try:
        importlib.import_module("s3fs")
    except ImportError as error:
        missing("buckets", str(error))
    layouts.put(tmp_path / "videos" / "run" / "a.mp4", 3)
    monkeypatch.setattr(work, "process", lambda job: pytest.fail("read a video"))
    monkeypatch.setattr(client, "BACKOFF_S", 0.0)
    for name, value in (
        ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}"),
        ("AWS_ACCESS_KEY_ID", "a"),
        ("AWS_SECRET_ACCESS_KEY", "b"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(OSError, match="s3://nowhere/out/manifest.csv: Could not connect"):
        prepare(dataclasses.replace(options(tmp_path, "folder", check="none"), out="s3://nowhere/out"))
