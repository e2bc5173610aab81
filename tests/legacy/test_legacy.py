"""Workdirs, exports, features and manifests of an earlier version are read, resumed and shown. See README.md."""

import dataclasses
import json
import pathlib
import tarfile

import numpy as np
import pytest

import cvmae
from cvmae import config as config_lib
from cvmae.data.manifest import read_manifest
from cvmae.data.pipeline import make_loader
from cvmae.data.sources import make_source
from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.interop import __main__ as interop_command
from cvmae.report import __main__ as report_command
from cvmae.report.gather import gather
from cvmae.tasks.model_fields import fill_fields
from cvmae.workdir import Report
from tests.commands import checkpoint_steps, metric_lines, run_own
from tests.data.configs import small_config
from tests.data.videos import number_of
from tests.legacy.runs import RUNS
from tests.tiny_configs import CONFIGS

HERE = pathlib.Path(__file__).parent
ENDED = json.loads((HERE / "expected.json").read_text())["ended"]
EXPECTED = dict(np.load(HERE / "expected.npz"))
NOTHING_LOGGED = {"knn", "retrieval", "extract", "shards", "visualize"}  # they train nothing, and the report may say so
STUDIED = tuple(f"study/video-{ratios}-seed{seed}" for ratios in ("0.50-image-0.50", "0.95-image-0.90") for seed in (0, 1))


@pytest.fixture(autouse=True)
def old(tmp_path, monkeypatch):
    """A folder with all that is kept, where the process works."""
    with tarfile.open(HERE / "legacy.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config_of(name):
    path, fields = RUNS[name]
    return config_lib.load(f"{CONFIGS}/{path}", fields)


def again(name, workdir=None) -> dict:
    """The numbers of the same call in the old workdir."""
    return cvmae.run(config_of(name), workdir or name)


def read(path):
    return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))


def report_of(value: dict, task: str) -> dict:
    """A report of any schema as one of the present."""
    return dataclasses.asdict(Report.of_json(value, task))


def contents(folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(pathlib.Path(folder).rglob("*")) if path.is_file()}


def flat(tree, prefix="") -> dict:
    """{'a.b': value} of nested dicts and lists."""
    if not isinstance(tree, dict | list):
        return {prefix: tree}
    found: dict = {}
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        found |= flat(value, f"{prefix}.{name}" if prefix else str(name))
    return found


def assert_close(found, expected):
    """All that was there is there, with the same numbers; more may be."""
    found, expected = flat(found), flat(expected)
    assert not expected.keys() - found.keys(), expected.keys() - found.keys()
    for name, value in expected.items():
        if value is None:  # not recorded then
            continue
        assert found[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-4, abs=1e-5)), name


@pytest.mark.parametrize("name", RUNS)
def test_the_same_call_gives_the_fields_that_it_gave(name):
    filled, _ = fill_fields(config_of(name))
    before, now = flat(read(f"{name}/config.json")), flat(json.loads(filled.to_json_best_effort()))
    reworded = {"study.note"} & before.keys()
    assert {field: now.get(field) for field in before.keys() - reworded} == {
        field: before[field] for field in before.keys() - reworded
    }


def test_a_run_that_was_stopped_half_way_goes_on_to_the_same_numbers():
    before, seconds = pathlib.Path("stopped/metrics.jsonl").read_text(), "time/seconds"
    assert checkpoint_steps("stopped") == [3]
    numbers = again("stopped")
    lines = pathlib.Path("stopped/metrics.jsonl").read_text()
    assert lines.startswith(before), "what was logged before is another"
    assert checkpoint_steps("stopped") == [3, 6]
    found = metric_lines("stopped")
    assert [line["step"] for line in found] == [line["step"] for line in ENDED]
    assert_close(found, ENDED)
    assert_close(numbers | {"step": 6}, ENDED[-2])
    assert numbers[seconds] > json.loads(before.splitlines()[-2])[seconds], "the clock began anew"


def test_a_probe_starts_from_an_old_workdir():
    """From its first step on, by `init_from`."""
    again("linear", "new")
    assert_close(metric_lines("new"), metric_lines("linear"))
    assert len(metric_lines("new")) == 6


@pytest.mark.parametrize("name", ["finetune", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linear", "attentive"))])
def test_what_a_finished_run_leaves_is_made_anew_of_its_checkpoint(name):
    folder = pathlib.Path(name)
    names = ("report.json", "per_class.csv", "predictions.npz", "confusion.png")
    before, kept = contents(name), dict(np.load(folder / "predictions.npz"))
    for file in names:
        (folder / file).unlink()
    again(name)
    after = contents(name)
    assert before.keys() <= after.keys()
    assert after[f"{name}/metrics.jsonl"] == before[f"{name}/metrics.jsonl"] and checkpoint_steps(name) == [4]
    assert_close(read(folder / "report.json"), report_of(json.loads(before[f"{name}/report.json"]), name))
    assert after[f"{name}/per_class.csv"] == before[f"{name}/per_class.csv"]
    new = dict(np.load(folder / "predictions.npz"))
    np.testing.assert_allclose(new["probabilities"], kept["probabilities"], rtol=1e-4, atol=1e-6)
    assert all(np.array_equal(new[key], kept[key]) for key in kept if key != "probabilities")


def test_the_report_reads_every_workdir(old, capsys):
    names = [*RUNS, *STUDIED]
    for name, run in zip(names, gather(names), strict=True):
        assert [note for note in run.notes if not is_expected(name, note)] == []
        assert run.config["pretrain.video_branch.variant" if name == "study" else "video_branch.variant"] == "test/8"
        check_workdir(name, run)
    assert run_own(report_command, *names, "--out=report.html") == 0
    assert "report.html" in capsys.readouterr().out
    page = (old / "report.html").read_text()
    for value in headlines():
        assert f"{100 * value:.1f}\u00a0%" in page, value


def is_expected(name, note) -> bool:
    """Whether a run of this kind never leaves what a note misses."""
    return (name in NOTHING_LOGGED and "metrics.jsonl" in note) or (name == "stopped" and "report.json" in note)


def check_workdir(name, run):
    """What was gathered of a workdir beside its files."""
    folder = pathlib.Path(name)
    if name == "study":
        assert len(run.study) == 3 * 4 and run.study[0]["variant"] == "untrained" and run.study[-1]["runs"] == "2"
        assert len(run.pictures) == 1
        return
    task = run.config["task"]
    assert run.report == (None if name == "stopped" else Report.of_json(read(folder / "report.json"), task))
    assert len(run.starts) == len(read(folder / "environment.json")["starts"]) >= 1
    if name not in NOTHING_LOGGED:
        for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
            step = line.pop("step")
            assert {metric: run.series[metric][step] for metric in line} == line
    pictures = {"pretrain": ["reconstruction"], "visualize": ["clip", "tokens", "embedding", "retrieval"]}
    pictures |= {task: ["confusion"] for task in ("finetune", "linear", "attentive")}
    assert [picture.kind for picture in run.pictures] == pictures.get(name, [])
    assert len(run.classes) == (4 if name in ("finetune", "linear", "attentive") else 0)


def headlines():
    """Shares that the page says."""
    yield read("pretrain/report.json")["trained"]["retrieval/same_clip_r1"]
    for name in ("finetune", "linear", "attentive"):
        yield read(f"{name}/report.json")["test"]["accuracy/top1"]
    yield read("knn/report.json")["knn"]["top1/k=3"]
    yield read("retrieval/report.json")["retrieval"]["same_video/map"]


LOADED: dict[str, dict] = {
    name: {} for name in ("pretrain", "stopped", "finetune", "linear", "attentive", "archive", "image", "classifier")
}


@pytest.mark.parametrize("name, options", [*LOADED.items(), ("pretrain:image", {"branch": "image"})])
def test_weights_are_loaded_and_give_the_same_output(name, options):
    """Workdirs of every kind, and what was exported of them."""
    module, params, preprocessing = cvmae.load(name.partition(":")[0], **options)
    found = module.apply({"params": params}, preprocessing(EXPECTED["clip"][: preprocessing.num_frames]))
    np.testing.assert_allclose(getattr(found, "tokens", found), EXPECTED[name], rtol=1e-4, atol=1e-5)


def test_an_export_is_imported(capsys):
    assert run_own(interop_command, "import", "--weights=archive", "--out=imported") == 0
    assert "params.safetensors" in capsys.readouterr().out
    assert pathlib.Path("imported/params.safetensors").read_bytes() == pathlib.Path("archive/params.safetensors").read_bytes()
    before, now = read("archive/cvmae.json"), read("imported/cvmae.json")
    assert set(before) == set(now)
    assert {name for name in before if now[name] != before[name]} <= {"version", "notes"}


COUNTS = {"videos": 2, "skipped": 2, "written": 0, "rewritten": 0, "unreadable": 0, "windows": 4, "not_in_source": 0}


@pytest.mark.parametrize("name, shape", [("extract", (2, 32)), ("shards", (2, 2, 32))])
def test_a_folder_of_features_is_read_and_gone_on_with(name, shape, capsys):
    found = FeatureFolder(f"{name}/features")
    assert sorted(found) == ["synthetic/train/0", "synthetic/train/1"]
    for number, (video, arrays) in enumerate(sorted(found.items())):
        assert arrays["features"].shape == shape and arrays["features"].dtype == np.float32
        np.testing.assert_array_equal(arrays["features"], EXPECTED[f"{name}/{video}"])
        assert arrays["label"] == number and str(arrays["path"]) == video
        assert arrays["start_s"].shape == (2,) and (arrays["start_s"] < arrays["end_s"]).all()
    before = contents(f"{name}/features")
    numbers = again(name)
    assert numbers.pop("extract/bytes") > 1000 and numbers == {f"extract/{key}": value for key, value in COUNTS.items()}
    assert "which did not record their videos" in capsys.readouterr().err
    after = contents(f"{name}/features")
    assert b"synthetic/train/0" in after.pop(f"{name}/features/index.csv") and after == before


@pytest.mark.parametrize("name", ["knn", "retrieval"])
def test_cached_features_serve_a_rerun(name):
    report, before = read(f"{name}/report.json"), contents(f"{name}/features")
    times = {path: pathlib.Path(path).stat().st_mtime_ns for path in before}
    assert_close(again(name), {f"{name}/{key}": value for key, value in report[name].items()})
    assert contents(f"{name}/features") == before
    assert {path: pathlib.Path(path).stat().st_mtime_ns for path in before} == times, "they were made again"
    assert_close(read(f"{name}/report.json"), report_of(report, name))


def rows_of(table: str) -> list[str]:
    """Returns the rows of a Markdown table."""
    return [line for line in table.splitlines() if line.startswith("|")]


def test_a_finished_study_is_left_alone_and_gives_its_table(capsys):
    tables, before = {}, contents("study")
    for name in ("table.md", "table.csv", "table.png"):
        tables[name] = before.pop(f"study/{name}")
        pathlib.Path("study", name).unlink()
    numbers = again("study")
    after = contents("study")
    assert after.pop("study/table.csv") == tables["table.csv"]
    table = after.pop("study/table.md").decode()
    assert rows_of(table) == rows_of(tables["table.md"].decode())  # the sentences around the rows may be reworded
    assert after.pop("study/table.png").startswith(b"\x89PNG")
    config = flat(json.loads(after.pop("study/config.json")))  # written again, and may have more fields
    old = json.loads(before.pop("study/config.json"))
    assert config.pop("study.note") and old["study"].pop("note")
    assert_close(config, old)
    assert after == before
    assert table in capsys.readouterr().out
    reports = [read(f"{folder}/report.json")["trained"]["reconstruction/model"] for folder in STUDIED[:2]]
    assert numbers["video-0.50-image-0.50/reconstruction/model"] == pytest.approx(np.mean(reports))


VIDEOS = {"train": {"down/b": (60, 0), "up/a": (0, 1), "up/c": (120, 1)}, "val": {"down/d": (180, 0), "up/e": (200, 1)}}


def test_manifests_are_read():
    for split, videos in VIDEOS.items():
        found = read_manifest("videos/manifest.csv", split)
        assert found.class_names == ("down", "up")
        assert [(entry.path, entry.label, entry.start, entry.end) for entry in found.entries] == [
            (f"{found.folder}/videos32/{split}/{name}.mp4", label, None, None) for name, (_, label) in videos.items()
        ]
    [part] = read_manifest("videos/manifest.jsonl", "train").entries
    assert part.path.endswith("videos32/train/up/a.mp4") and (part.label, part.start, part.end) == (1, 0.5, 1.0)
    [unlabelled] = read_manifest("videos/manifest.jsonl", "test").entries
    assert unlabelled.label == -1 and (unlabelled.start, unlabelled.end) == (None, None)


@pytest.mark.parametrize("split", VIDEOS)
def test_a_packed_set_has_the_videos_of_its_manifest(split):
    shape = {"data__frame_size": (32, 64), "batch_size": len(VIDEOS[split]), "data__manifest": "videos/manifest.csv"}
    for kind in ("files", "tfds"):
        config = small_config(data__source=kind, data__tfds__name="videos/packed", **shape)
        source = make_source(config.data, split)
        assert source.class_names == ("down", "up") and len(source) == len(VIDEOS[split])
        payloads = [source[number].payload for number in range(len(source))]
        if kind == "files":
            files = [pathlib.Path(path).read_bytes() for path in payloads]
        else:
            assert payloads == files
        with make_loader(config, source) as loader:
            batch = next(loader)
        assert not np.asarray(batch["failures"]).any()
        known = list(VIDEOS[split].values())
        for video, index, label in zip(batch["video"], batch["index"], batch["label"], strict=True):
            first, wanted = known[index]
            assert label == wanted and 0 <= number_of(video[0]) - first <= 12
