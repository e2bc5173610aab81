"""Apache Beam's local runner beside our own processes."""

import sys

import pytest

from cvmae.data.prepare import Options, PrepareError, prepare, work
from tests import requirements
from tests.data import layouts
from tests.data.prepare.runs import options


def test_beam_gives_what_processes_give(tmp_path, monkeypatch):
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        requirements.missing("beam", str(error))
    layouts.folders(tmp_path, with_splits=True)
    layouts.put(tmp_path / "videos" / "train" / "jump" / "crash.mp4", 5)
    (tmp_path / "videos" / "train" / "jump" / "empty.mp4").write_bytes(b"")
    monkeypatch.setattr(work, "FUNCTION", "tests.data.prepare.crashing_jobs:process")
    texts = []
    for runner in ("local", "beam"):
        changes = {"transcode": 16, "pack": True, "runner": runner, "workers": 2, "out": str(tmp_path / runner)}
        prepare(Options("folder", str(tmp_path / "videos"), **changes))
        texts.append(
            [(tmp_path / runner / name).read_text() for name in ("manifest.csv", "report.csv", "packed/dataset_info.json")]
        )
        assert not (tmp_path / runner / ".prepare" / "temporary").exists()
    assert texts[0] == texts[1] and "SIGSEGV" in texts[0][1] and texts[0][0].count("videos16/") == 4


def test_beam_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    layouts.folders(tmp_path, with_splits=True)
    with pytest.raises(PrepareError, match=r"--runner=beam needs Apache Beam .*: pip install 'crossvideomae\[beam\]'"):
        prepare(options(tmp_path, "folder", runner="beam"))
