"""Weights in a bucket on localhost: the files that are needed are copied once, and again where they have changed."""

import pytest

from cvmae.interop import hub, load
from cvmae.interop.saved_run import WorkdirError, read_workdir
from cvmae.storage.client import SetupError
from cvmae.storage.remote_path import RemotePath
from cvmae.workdir.saved_steps import COMMITTED
from tests.interop.models import random_params
from tests.interop.test_own_checkpoint import encoder, same, state, write_workdir
from tests.servers import serving, upload


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


@pytest.mark.parametrize("path", ["foo://x", "http://host/w.pth", "file:///w.npz", "FOO://x/checkpoints/3"])
def test_a_scheme_that_is_not_supported_is_refused_with_the_path_as_given(path):
    for read in (load.read, read_workdir):
        with pytest.raises(SetupError) as refused:
            read(path)
        assert str(refused.value).startswith(f"{path}: ") and ":// is not supported; give a local path" in str(refused.value)


def test_what_is_no_weights_is_one_line(bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("CVMAE_CACHE", str(tmp_path))
    RemotePath(f"{bucket}/notes/a.txt").write_text("x")
    with pytest.raises(FileNotFoundError, match="no weights at .*/notes: give a workdir, a weights file, or a folder") as refused:
        hub.resolve(f"{bucket}/notes")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
@pytest.mark.parametrize("missing", ["state/manifest.ocdbt", "state/ocdbt.process_0"])
def test_an_older_step_is_taken_where_the_newest_is_half_there(bucket, missing, tmp_path, monkeypatch):
    monkeypatch.setenv("CVMAE_CACHE", str(tmp_path / "cache"))
    params, workdir = random_params(encoder(), 2), RemotePath(f"{bucket}/runs/{missing.rpartition('/')[2]}")
    write_workdir(tmp_path / "run", encoder(), {step: state({"video": {"encoder": params}}) for step in (2, 10)})
    upload(tmp_path / "run", str(workdir))
    for step in (2, 10):
        (workdir / "checkpoints" / str(step) / COMMITTED).write_text("complete")
    lost = workdir / "checkpoints/10" / missing
    lost.unlink() if lost.is_file() else lost.remove_tree()
    weights = load.read(str(workdir))
    same(weights.params["encoder"], params)
    assert weights.name == f"{workdir}/checkpoints/2"
    # That some arrays are missing shows only when they are read.
    found_first = missing == "state/manifest.ocdbt"
    assert read_workdir(str(workdir)).step == (2 if found_first else 10)
    assert [note for note in weights.notes if note.startswith(f"checkpoint {workdir}/checkpoints/10 is damaged (")]
    with pytest.raises(WorkdirError, match=f"{workdir}.*step 10|checkpoint {workdir}/checkpoints/10 is damaged"):
        load.read(f"{workdir}/checkpoints/10")
