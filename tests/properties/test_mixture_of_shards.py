"""A run on a mixture of two sets whose tar shards lie in a bucket, killed and resumed, gives the bits of one from local files."""

import signal

import pytest

from cvmae.config import load
from cvmae.data.prepare.tar_writer import write_shards
from cvmae.tasks import run as train
from tests.commands import ROOT, arguments, assert_same_state, checkpoint_steps, metric_lines, run, saved_state
from tests.data.videos import write_video
from tests.properties.test_resume import INTERRUPTED
from tests.servers import serving, upload
from tests.tiny_configs import PLAIN

CONFIG = f"{ROOT / 'configs/ssv2.py'}:sources=a+b,runlocal"
FIELDS = PLAIN | {
    "data__mixture": "a:1,b:3",
    "data__workers": 0,
    "data__threads": 1,
    "optimizer__warmup": "0_steps",
    "optimizer__base_lr": 1e-3,
    "eval_every": "3_steps",
    "log_every": "1_steps",
    "checkpoint_every": "2_steps",
    "checkpoint_keep": 2,
    "total": "6_steps",
}
# The run draws 12 clips of a and 36 of b: it passes over each set more than once.
SPLITS = {"a": ["train"] * 9 + ["val"] * 3, "b": ["train"] * 12 + ["val"] * 5}


def write_set(folder, splits, first):
    """Writes a video for each of the splits and list.csv; frames are numbered from `first` on."""
    folder.mkdir()
    for number in range(len(splits)):
        write_video(folder / f"clip{number}.mp4", 8 + number, first=first + 5 * number)
    rows = [f"clip{number}.mp4,,{split}" for number, split in enumerate(splits)]
    (folder / "list.csv").write_text("\n".join(["path,label,split", *rows, ""]))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder with the tar shards of two sets in `shards`, and the workdir `run` over the files of both, not interrupted."""
    folder = tmp_path_factory.mktemp("sets")
    fields = dict(FIELDS)
    for number, (name, splits) in enumerate(SPLITS.items()):
        write_set(folder / name, splits, first=100 * number)
        manifest = str(folder / name / "list.csv")
        shards = write_shards(manifest, str(folder / "shards" / name), shard_bytes=5_000)
        assert len(shards) >= 4  # several of a split
        fields |= {f"data__sources__{name}__source": "files", f"data__sources__{name}__manifest": manifest}
    train(load(CONFIG, {name.replace("__", "."): value for name, value in fields.items()}), folder / "run")
    return folder


@pytest.mark.parametrize("scheme", ["s3", pytest.param("gs", marks=pytest.mark.slow)])
def test_a_killed_run_on_shards_of_two_sets_in_a_bucket_is_that_on_local_files(scheme, sets, tmp_path):
    fields = FIELDS | {f"data__sources__{name}__source": "webdataset" for name in SPLITS}
    with serving(scheme) as bucket:
        upload(sets / "shards", bucket)
        fields |= {f"data__sources__{name}__webdataset__shards": f"{bucket}/{name}/{{split}}-*.tar" for name in SPLITS}
        command = arguments(tmp_path, CONFIG, **fields)
        killed = run("kill_after_step", "5", *command, program=(INTERRUPTED,))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        # It may or may not have completed the checkpoint of step 4, which it was writing in the background.
        assert checkpoint_steps(tmp_path) in ([2], [2, 4])
        resumed = run(*command)
    assert resumed.returncode == 0 and "resumed from the checkpoint of step " in resumed.stderr, resumed.stderr
    assert_same_state(saved_state(sets / "run", 6), saved_state(tmp_path, 6))
    assert metric_lines(sets / "run") == metric_lines(tmp_path)
