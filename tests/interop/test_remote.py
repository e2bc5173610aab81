"""Weights in a bucket on localhost: the files that are needed are copied once, and again where they have changed."""

import pytest

from cvmae.interop import hub
from cvmae.storage.remote_path import RemotePath
from tests.servers import serving


@pytest.fixture(scope="module", params=["s3", "gs"])
def bucket(request):
    with serving(request.param) as path:
        yield path


def test_a_file_and_a_folder_of_weights_are_copied_once(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("CVMAE_CACHE", str(tmp_path))
    folder = RemotePath(f"{bucket}/weights")
    for name in ("model.safetensors", "config.json", "processor_config.json", "README.md"):
        (folder / name).write_text(name)
    assert hub.resolve(f"{folder}/model.safetensors").read_text() == "model.safetensors"
    copied = hub.resolve(str(folder))
    names = ["config.json", "model.safetensors", "processor_config.json", "stamps.json"]
    assert sorted(path.name for path in copied.iterdir()) == names
    before = (copied / "model.safetensors").stat().st_mtime_ns
    assert hub.resolve(str(folder)) == copied and (copied / "model.safetensors").stat().st_mtime_ns == before
    (folder / "model.safetensors").write_text("trained further")
    assert (hub.resolve(str(folder)) / "model.safetensors").read_text() == "trained further"
    (folder / "config.json").unlink()
    assert not (hub.resolve(str(folder)) / "config.json").exists()


def test_what_is_no_weights_is_one_line(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("CVMAE_CACHE", str(tmp_path))
    RemotePath(f"{bucket}/notes/a.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match="no weights at .*/notes: give a workdir, a weights file, or a folder") as refused:
        hub.resolve(f"{bucket}/notes")
    assert "\n" not in str(refused.value)
