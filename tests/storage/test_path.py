"""Paths of object stores against servers on localhost: what they read, write, list and refuse."""

import io
import threading

import pytest

from cvmae.storage import client, path
from cvmae.storage.blocks import BlockFile
from cvmae.storage.client import SetupError
from cvmae.storage.path import as_path, dirname, exists, isdir, isfile, join
from cvmae.storage.remote_path import RemotePath
from tests.servers import faulty, serving


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with serving(request.param) as path:
        yield path


def test_paths_are_joined_without_the_rules_of_the_local_system(tmp_path):
    assert join("s3://b/sets/", "a.mp4") == "s3://b/sets/a.mp4"
    assert join("s3://b/sets", "../videos/a b#%.mp4") == "s3://b/videos/a b#%.mp4"
    assert join("s3://b/sets", "gs://c/a.mp4") == "gs://c/a.mp4"
    assert join("/data", "s3://b/a.mp4") == "s3://b/a.mp4"
    assert join("/data", "a.mp4") == "/data/a.mp4" and join("s3://b", "a", "b") == "s3://b/a/b"
    assert dirname("s3://b/x/a.mp4") == "s3://b/x" and dirname("/x/a") == "/x"
    path = as_path("S3://b//x/./a.tar.gz")
    assert (str(path), path.name, path.stem, path.suffix) == ("s3://b/x/a.tar.gz", "a.tar.gz", "a.tar", ".gz")
    assert str(path.parent.parent) == str(path.parent.parent.parent) == "s3://b"
    assert str(path.with_suffix(".csv")) == "s3://b/x/a.tar.csv" and path.relative_to(path.parent).as_posix() == "a.tar.gz"
    assert as_path(tmp_path) == tmp_path
    for wrong in ("s3://", "s3:///x", "s3://b/../c"):
        with pytest.raises(SetupError, match="names no bucket"):
            RemotePath(wrong)
    with pytest.raises(SetupError, match=r"^file:///x: file:// is not supported; give a local path"):
        RemotePath("file:///x")


def test_objects_are_written_whole_listed_and_read(bucket):
    top = RemotePath(f"{bucket}/objects")
    names = ["a.txt", "b c#%+?.txt", "sub/d.txt", "sub/deep/e.bin"]
    for number, name in enumerate(names):
        assert (top / name).write_text(f"{number}\nö") == 4
    assert [str(path) for path in top.files()] == [f"{top}/{name}" for name in names]
    assert list(top.listing()) == ["a.txt", "b c#%+?.txt", "sub"] and top.listing()["sub"] is None
    assert [path.name for path in top.glob("*.txt")] == names[:2] and [p.name for p in top.glob("sub/*.txt")] == ["d.txt"]
    assert [path.name for path in top.rglob("*.bin")] == ["e.bin"]
    assert (top / names[1]).read_text() == "1\nö" and (top / "a.txt").read_range(1, 3) == b"\n\xc3"
    assert (top / "a.txt").read_range(2, 99) == "ö".encode() and (top / "a.txt").read_range(50, 60) == b""
    before = (top / "a.txt").status()
    (top / "a.txt").write_bytes(b"other")
    assert (top / "a.txt").status() != before and (top / "a.txt").status().size == 5
    assert isfile(f"{top}/a.txt") and not isdir(f"{top}/a.txt") and isdir(f"{top}/sub") and not isfile(f"{top}/sub")
    assert exists(f"{top}/sub") and not exists(f"{top}/su") and not exists(f"{bucket}-of-nobody/x")
    (top / "empty").write_bytes(b"")
    assert (top / "empty").read_bytes() == b"" and BlockFile(f"{top}/empty").read() == b""
    (top / "sub").remove_tree()
    (top / "a.txt").unlink()
    (top / "a.txt").unlink(missing_ok=True)
    assert list(top.listing()) == ["b c#%+?.txt", "empty"]
    for missing in (top / "a.txt", RemotePath(f"{bucket}-of-nobody/x")):
        with pytest.raises(FileNotFoundError) as refused:
            missing.read_bytes()
        assert refused.value.filename == str(missing) and refused.value.strerror == "no such object or bucket"


def test_large_files_go_up_and_down_in_parts(bucket, tmp_path, monkeypatch):
    monkeypatch.setattr("cvmae.storage.remote_path.PART_BYTES", 1 << 20)
    content = bytes(range(256)) * (9 << 12) + b"end"
    (tmp_path / "file").write_bytes(content)
    path = RemotePath(f"{bucket}/large")
    path.upload(tmp_path / "file")
    path.download(tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    file = BlockFile(str(path), block_bytes=1000)
    assert file.size == len(content)
    reader = io.BufferedReader(file, 16)
    for start, count in ((0, 10), (995, 10), (len(content) - 3, 9), (5, 2500)):
        reader.seek(start)
        assert reader.read(count) == content[start : start + count]
    part = BlockFile(str(path), size=100, block_bytes=64, offset=1000)
    assert part.readall() == content[1000:1100]


def test_one_of_many_creates_an_object(bucket):
    path, won = RemotePath(f"{bucket}/lock"), []
    threads = [threading.Thread(target=lambda n=n: won.append(n) if path.create(b"%d" % n) else None) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and path.read_bytes() == b"%d" % won[0]


@pytest.mark.parametrize("fault", [503, 429, "drop"])
def test_what_may_pass_is_tried_again(bucket, fault):
    path = RemotePath(f"{bucket}/tried")
    path.write_bytes(b"x" * 100_000)
    with faulty(bucket[:2]) as proxy:
        proxy.faults, proxy.match = [fault, fault], "GET"
        assert path.read_bytes() == b"x" * 100_000 and not proxy.faults
        assert len(proxy.requests) == 3


def test_attempts_are_limited_and_what_will_not_pass_is_not_tried_again(bucket):
    path = RemotePath(f"{bucket}/limited")
    path.write_bytes(b"x")
    with faulty(bucket[:2]) as proxy:
        proxy.faults = [503] * 99
        with pytest.raises(OSError, match="after 5 attempts") as refused:
            path.read_bytes()
        assert len(proxy.requests) == 5 and refused.value.filename == str(path) and "\n" not in str(refused.value)
        for fault, kind in ((403, PermissionError), (404, FileNotFoundError)):
            proxy.faults, proxy.requests = [fault], []
            with pytest.raises(kind):
                path.read_bytes()
            assert len(proxy.requests) == 1


def test_a_server_that_does_not_answer_is_left(bucket, monkeypatch):
    path = RemotePath(f"{bucket}/silent")
    path.write_bytes(b"x")
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    with faulty(bucket[:2]) as proxy:
        proxy.faults = ["hang"]
        assert path.read_bytes() == b"x" and len(proxy.requests) == 2


def test_a_missing_package_and_an_unknown_scheme_are_one_line(monkeypatch):
    with pytest.raises(
        SetupError, match=r"ftp:// is not supported; give a local path, or one that begins with gs://, s3://, hf://"
    ):
        RemotePath("ftp://b/x").read_bytes()
    monkeypatch.setattr(client.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SetupError, match=r"s3://b/x: s3:// needs the package s3fs: pip install 'crossvideomae\[s3\]'"):
        RemotePath("s3://b/x").read_bytes()


def test_missing_credentials_are_one_line(monkeypatch, tmp_path):
    with serving("s3") as bucket:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            monkeypatch.setenv(name, str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        with pytest.raises(SetupError, match=r"no credentials for s3://: set AWS_ACCESS_KEY_ID and") as refused:
            RemotePath(f"{bucket}/x").read_bytes()
        assert "\n" not in str(refused.value)
    with serving("gs") as bucket, faulty("gs") as proxy:
        proxy.faults = [401]
        with pytest.raises(SetupError, match=r"no credentials for gs://: run `gcloud auth application-default login`"):
            RemotePath(f"{bucket}/x").read_bytes()


def test_hard_links_are_files_with_several_names(tmp_path, monkeypatch):
    (tmp_path / "below").mkdir()
    files = [tmp_path / name for name in ("a", "b", "below/c", "absent")]
    files[0].write_bytes(b"1"), files[1].write_bytes(b"1")
    files[2].hardlink_to(files[0])
    one, other, linked, absent = map(str, files)
    assert path.hard_links([one, other, linked, absent, "s3://bucket/a"]) == {linked: one}
    # A file system that lists the same numbers for different files.
    monkeypatch.setattr(path, "_numbers_of", lambda _: (0, {"a": 7, "b": 7, "c": 7, "absent": 7}))
    assert path.hard_links([one, other, linked, absent]) == {linked: one}
    assert path.hard_links([absent, one]) == {}
