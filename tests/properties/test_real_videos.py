"""A folder of mixed real videos (h264, vp9, mpeg4, mpeg2; mp4, avi, mpg) trains through `data.source=files`, every file good."""

import os
import pathlib

import pytest

from tests.commands import arguments, metric_lines, run
from tests.requirements import missing
from tests.tiny_configs import PLAIN

KINDS = {".mp4", ".avi", ".mpg"}


@pytest.fixture(scope="module")
def videos():
    folder = pathlib.Path(os.environ.get("CVMAE_TEST_VIDEOS", "/nonexistent"))
    found = sorted(path for path in folder.glob("*") if path.suffix in KINDS)
    if {path.suffix for path in found} != KINDS:
        missing("videos", "run launch/test_videos.sh DIR and set CVMAE_TEST_VIDEOS=DIR")
    return found


def test_every_file_is_read(videos, tmp_path):
    rows = [f"{path},,{split}" for split in ("train", "val") for path in videos]
    (tmp_path / "videos.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    fields = PLAIN | {"data__source": "files", "data__manifest": tmp_path / "videos.csv", "data__stride": 2}
    fields |= {"total": "2_steps", "eval_every": "2_steps"}  # a batch is every file once
    done = run(*arguments(tmp_path / "work", **fields))
    assert done.returncode == 0, done.stderr[-2000:]
    lines = metric_lines(tmp_path / "work")
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]
    assert all(line["data/replaced_clips"] == 0 for line in lines if "loss" in line)
    assert not (tmp_path / "work" / "bad_files.csv").exists()
