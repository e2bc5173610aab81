"""A run whose data and workdir are in a bucket: prepared, pre-trained, killed, resumed in the bits of a local run, extracted, reported."""

import json
import signal

import numpy as np
import pytest

from cvmae.config import load
from cvmae.data.prepare import Options, prepare
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.interop import remote
from cvmae.report import __main__ as report
from cvmae.storage.remote_path import RemotePath
from cvmae.tasks import run as train
from cvmae.workdir.metric_lines import copy_small_files
from tests.commands import ROOT, arguments, assert_same_state, metric_lines, run, run_own, saved_state
from tests.data.videos import write_video
from tests.multiprocess import flags, free_address, run_all
from tests.properties.test_resume import INTERRUPTED
from tests.servers import serving, upload
from tests.tiny_configs import PLAIN

FIELDS = PLAIN | {
    "data__source": "files",
    "data__workers": 0,
    "data__threads": 1,
    "eval_every": "3_steps",
    "log_every": "1_steps",
    "checkpoint_every": "2_steps",
    "checkpoint_keep": 2,
    "total": "6_steps",
}
PREPARE = ("-m", "cvmae.data.prepare")


def local_state(workdir: str, step: int, folder, monkeypatch):
    """Returns every array of a checkpoint in a bucket."""
    monkeypatch.setenv("CVMAE_CACHE", str(folder))
    return saved_state(remote.fetch_checkpoint(RemotePath(f"{workdir}/checkpoints/{step}")).parent.parent, step)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Videos, their manifest, and the workdir of a run over them that nothing interrupted."""
    folder = tmp_path_factory.mktemp("local")
    for split, count in (("train", 10), ("val", 6)):
        for number in range(count):
            path = folder / "videos" / split / ("run", "jump")[number % 2] / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, 12 + number, first=5 * number)
    prepare(Options("folder", f"{folder}/videos", f"{folder}/set", workers=1))
    train(config(data__manifest=str(folder / "set/manifest.csv")), folder / "run")
    return folder


def config(task="", **fields):
    """Returns the config of the commands below, of pre-training or of another task."""
    own = fields if task else FIELDS | fields
    path = f"{ROOT / 'configs/ssv2.py'}:{task and f'task={task},'}runlocal"
    return load(path, {name.replace("__", "."): value for name, value in own.items()})


@pytest.mark.parametrize("scheme", ["s3", pytest.param("gs", marks=pytest.mark.slow)])
def test_a_run_in_a_bucket_is_that_of_local_files(scheme, whole, tmp_path, monkeypatch, capsys):
    with serving(scheme) as bucket:
        upload(whole / "videos", f"{bucket}/videos")
        prepared = run("--dataset=folder", f"--videos={bucket}/videos", f"--out={bucket}", "--workers=1", program=PREPARE)
        assert prepared.returncode == 0 and f"manifest: {bucket}/manifest.csv" in prepared.stdout, prepared.stderr
        workdir = f"{bucket}/runs/one"
        own = {"data__manifest": f"{bucket}/manifest.csv", "data__cache_dir": str(tmp_path / "copies")}
        killed = run("kill_after_step", "5", *arguments(workdir, **FIELDS, **own), program=(INTERRUPTED,))
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert {"run.lock", "metrics.parts", "checkpoints"} <= set(RemotePath(workdir).listing())
        capsys.readouterr()
        train(config(**own), workdir, report_page=True)
        said = "".join(capsys.readouterr())
        assert f"took over {workdir}/run.lock" in said and "resumed from the checkpoint of step " in said
        copy_small_files(RemotePath(workdir), tmp_path / "run")
        assert metric_lines(tmp_path / "run") == metric_lines(whole / "run")
        assert_same_state(saved_state(whole / "run", 6), local_state(workdir, 6, tmp_path / "home", monkeypatch))
        names = set(RemotePath(workdir).listing())
        assert {"config.json", "environment.json", "report.html", "curves.png", "tensorboard", "metrics.jsonl"} <= names
        assert "run.lock" not in names and not RemotePath(f"{workdir}/metrics.parts").is_dir()
        assert run_own(report, workdir, f"--out={tmp_path}/page.html") == 0
        assert workdir in (tmp_path / "page.html").read_text()
        _check_features(workdir, bucket, own, tmp_path)


def _check_features(workdir, bucket, own, tmp_path):
    """Extracts features with the weights of the run, into the bucket, and compares them with those of local files."""
    fields = {"init_from": workdir, "data__source": "files", "data__workers": 0, "data__threads": 1, "data__split": "val"} | own
    c, out = config("extract", **fields), f"{bucket}/runs/features"
    assert train(c, out)["extract/written"] == 6
    assert train(c, out)["extract/skipped"] == 6
    train(c, tmp_path / "features")
    features, there = FeatureFolder(f"{out}/features"), FeatureFolder(tmp_path / "features/features")
    assert sorted(there) == sorted(features) and len(features) == 6
    for name, arrays in there.items():
        np.testing.assert_allclose(arrays["features"], features[name]["features"], atol=1e-5)
    assert json.loads(RemotePath(f"{out}/report.json").read_text())["task"] == "extract"


@pytest.mark.slow
def test_two_processes_write_one_run_into_a_bucket_and_one_goes_on(whole, tmp_path, monkeypatch, capsys):
    fields = FIELDS | {"data__manifest": str(whole / "set/manifest.csv")}

    def by_two(workdir):
        address = free_address()
        command = [INTERRUPTED, "terminate_after_step", "3", *arguments(workdir, **fields)]
        return run_all([[*command, *flags(address, 2, process)] for process in range(2)])

    with serving("gs") as bucket:
        workdir = f"{bucket}/runs/two"
        ends = by_two(workdir)
        assert [end.returncode for end in ends] == [0, 0], [end.stderr[-2000:] for end in ends]
        capsys.readouterr()
        train(config(data__manifest=fields["data__manifest"]), workdir)
        assert "resumed from the checkpoint of step " in "".join(capsys.readouterr())
        copy_small_files(RemotePath(workdir), tmp_path / "run")
        alone, several = metric_lines(whole / "run"), metric_lines(tmp_path / "run")
        assert [line["step"] for line in several] == [line["step"] for line in alone]
        for one, other in zip(alone, several):
            np.testing.assert_allclose([other[name] for name in one], list(one.values()), rtol=2e-5)
    with serving("s3") as bucket:
        refused = by_two(f"{bucket}/runs/two")
    assert [end.returncode for end in refused] == [2, 2] and "for which Orbax has no driver" in refused[0].stderr
