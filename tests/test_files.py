"""Files and folders are written all or nothing, with the permissions that the umask gives, whichever library writes them."""

import json
import os
import stat

import numpy as np
import pytest
import safetensors.numpy

from cvmae.files import new_folder, replacing, write_json
from cvmae.interop.huggingface import write_hf_videomae
from cvmae.interop.native import write_archive
from tests.interop.pretrained_models import pretrained, videomae

UMASKS = {0o022: (0o644, 0o755), 0o027: (0o640, 0o750), 0o077: (0o600, 0o700)}


@pytest.fixture(params=UMASKS, ids=oct)
def modes(request):
    """The permissions of a file and of a folder under the umask of the test."""
    before = os.umask(request.param)
    yield UMASKS[request.param]
    os.umask(before)


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def save_npz(path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.ones(3))


WRITERS = {
    "safetensors": lambda path: safetensors.numpy.save_file({"a": np.ones(3)}, path),
    "npz": save_npz,
    "text": lambda path: path.write_text("text"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_permissions_of_a_file(name, modes, tmp_path):
    with replacing(tmp_path / "file") as temporary:
        WRITERS[name](temporary)
    assert mode(tmp_path / "file") == modes[0] and os.listdir(tmp_path) == ["file"]


def test_permissions_of_json(modes, tmp_path):
    write_json(tmp_path / "a.json", {"a": 1})
    assert mode(tmp_path / "a.json") == modes[0] and json.loads((tmp_path / "a.json").read_text()) == {"a": 1}


def test_permissions_of_a_folder(modes, tmp_path):
    with new_folder(tmp_path / "folder") as temporary:
        (temporary / "inner").mkdir()
        for name, write in WRITERS.items():
            write(temporary / name)
            write(temporary / "inner" / name)
    files = [path for path in (tmp_path / "folder").rglob("*") if path.is_file()]
    assert len(files) == 2 * len(WRITERS) and {mode(file) for file in files} == {modes[0]}
    assert mode(tmp_path / "folder") == mode(tmp_path / "folder" / "inner") == modes[1]


@pytest.mark.parametrize("kind", ["safetensors", "npz", "hf-videomae"])
def test_permissions_of_exported_weights(kind, modes, tmp_path):
    weights, folder = pretrained(videomae()), tmp_path / "out"
    write_hf_videomae(weights, folder) if kind == "hf-videomae" else write_archive(weights, folder, kind)
    assert {mode(file) for file in folder.iterdir()} == {modes[0]} and mode(folder) == modes[1]


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "a").write_text("before")
    with pytest.raises(OSError, match="disk full"), replacing(tmp_path / "a") as temporary:
        temporary.write_text("after")
        raise OSError("disk full")
    with pytest.raises(OSError, match="disk full"), new_folder(tmp_path / "b"):
        raise OSError("disk full")
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "before"


def test_a_path_that_cannot_be_written_is_named_as_it_was_given(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "absent" / "a.json", tmp_path / "folder"):
        with pytest.raises(OSError) as caught:
            write_json(path, {})
        assert str(caught.value).endswith(f": {str(path)!r}") and ".tmp" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["folder"]
