"""What is read of workdirs: whole ones, those of runs that crashed, and folders that are none."""

import base64
import os

import pytest

from cvmae.report import pictures
from cvmae.report.gather import NoWorkdirError, gather
from tests.report.workdirs import START, figures, picture, pretrained, probed, write, write_lines


def test_a_workdir_is_read_whole(tmp_path):
    [run] = gather([pretrained(tmp_path / "run")])
    assert run.label == "run" and run.config["loss.mse_video"] == 1.0 and run.config["video_branch.variant"] == "mini/8"
    assert run.series["loss/mse_video"][4] == 0.25 and list(run.series["eval/loss/mse_video"]) == [5, 10, 15, 20]
    assert run.report.metrics["probe/accuracy"] == 0.864
    assert [start["step"] for start in run.starts] == [0, 10] and run.starts[0] == START
    assert [picture.kind for picture in run.pictures] == ["reconstruction"] and run.notes == []


def test_classes_and_bad_files(tmp_path):
    probed(tmp_path)
    (tmp_path / "bad_files.csv").write_text('path,reason\na.mp4,"cut, short"\n')
    (tmp_path / "bad_test_files.csv").write_text("path,reason\nb.mp4,empty\n")
    (tmp_path / "features" / "test_split").mkdir(parents=True)
    (tmp_path / "features" / "test_split" / "bad_files.csv").write_text("path,reason\nc.mp4,gone\n")
    [run] = gather([tmp_path])
    assert run.classes[1] == {"name": "down", "clips": "20", "top1": "0.8000", "most_confused_with": "up"}
    assert run.bad == [("a.mp4", "cut, short"), ("b.mp4", "empty"), ("c.mp4", "gone")]


def test_broken_lines_are_left_out_and_counted(tmp_path):
    lines = [
        '{"step": 1, "loss": 2.0}',
        '{"step": 2, "lo',
        "",
        "[1]",
        "7",
        '{"loss": 1.0}',
        '{"step": 4, "loss": NaN, "word": "x"}',
    ]
    (tmp_path / "metrics.jsonl").write_bytes("\n".join(lines).encode() + b'\n\xff\xfe\n{"step": 3, "loss": 1.5}')
    [run] = gather([tmp_path])
    assert str(run.series) == "{'loss': {1: 2.0, 3: 1.5, 4: nan}}"
    assert "metrics.jsonl: 6 broken lines are left out" in run.notes


def test_of_a_step_that_was_done_again_the_later_counts(tmp_path):
    write_lines(tmp_path, [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}])
    assert gather([tmp_path])[0].series == {"loss": {1: 3.0, 2: 2.0}}


@pytest.mark.parametrize("text", ["{", "[1]", "null", '"a"', "\udcff"])
def test_damaged_files_are_named_and_the_rest_is_shown(tmp_path, text):
    pretrained(tmp_path)
    for name in ("config.json", "report.json", "environment.json"):
        (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    (tmp_path / "per_class.csv").write_text("a,b\n1,2\n")
    [run] = gather([tmp_path])
    assert run.series and not (run.config or run.report or run.starts or run.classes)
    for name in ("config.json", "report.json", "environment.json", "per_class.csv"):
        assert [note for note in run.notes if note.startswith(name)], (name, run.notes)


def test_what_is_missing_is_named(tmp_path):
    write(tmp_path / "config.json", {"task": "knn"})
    [run] = gather([tmp_path])
    assert [note.partition(":")[0] for note in run.notes] == ["no metrics.jsonl", "no report.json", "no environment.json"]


def test_labels_tell_runs_apart(tmp_path):
    folders = [pretrained(tmp_path / name) for name in ("a/linear", "b/linear", "b/knn")]
    assert [run.label for run in gather(folders)] == ["a/linear", "b/linear", "knn"]
    assert [run.label for run in gather([folders[0], f"{folders[0]}/../linear", folders[2]])] == ["linear", "knn"]


def test_a_folder_that_is_no_workdir_is_refused(tmp_path):
    with pytest.raises(NoWorkdirError, match="absent does not exist"):
        gather([tmp_path / "absent"])
    with pytest.raises(NoWorkdirError, match="is not a workdir, it has none of the files config.json"):
        gather([tmp_path])
    (tmp_path / "file").touch()
    with pytest.raises(NoWorkdirError, match="file is not a folder"):
        gather([tmp_path / "file"])
    pretrained(tmp_path / "seed0"), pretrained(tmp_path / "seed1")
    with pytest.raises(NoWorkdirError, match="it contains workdirs, give those: seed0 seed1$"):
        gather([tmp_path])


def test_pictures_are_embedded_in_the_order_of_their_list(tmp_path):
    pretrained(tmp_path)
    figures(
        tmp_path, ("six.gif", "attention", "moving"), ("six.png", "attention", "six rows"), ("sheet.jpg", "retrieval", "nearest")
    )
    found = gather([tmp_path])[0].pictures
    assert [(p.kind, p.caption, p.file) for p in found[1:]] == [
        ("attention", "six rows", "six.png"),
        ("retrieval", "nearest", "sheet.jpg"),
    ]
    kind, _, data = found[1].source.partition(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == (tmp_path / "figures" / "six.png").read_bytes()
    assert found[2].source.startswith("data:image/jpeg;base64,")


def test_videos_are_shown_as_videos(tmp_path):
    write(tmp_path / "figures" / "figures.json", [{"file": "a.mp4", "kind": "attention", "caption": ""}])
    (tmp_path / "figures" / "a.mp4").write_bytes(b"film")
    [video] = gather([tmp_path])[0].pictures
    assert video.is_video and video.source == "data:video/mp4;base64,ZmlsbQ=="


def test_pictures_that_cannot_be_shown_are_named(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    picture(tmp_path / "secret.png")
    picture(folder / "figures" / "large.png", 2000)
    (folder / "figures" / "a.html").write_text("<script>")
    os.symlink(tmp_path / "secret.png", folder / "figures" / "link.png")
    files = ("../../secret.png", str(tmp_path / "secret.png"), "link.png", "a.html", "gone.png", "large.png")
    write(folder / "figures" / "figures.json", [{"file": file} for file in files])
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    [run] = gather([folder])
    assert run.pictures == []
    said = [note for note in run.notes if "is not shown" in note]
    assert [note.count("outside of the workdir") for note in said] == [1, 1, 1, 0, 0, 0]
    assert "expected one of .png" in said[3] and "no such file" in said[4] and "exceed" in said[5]


@pytest.mark.parametrize("value", [{"file": "a.png"}, ["a.png"], [{"kind": "x"}], 3, [{"file": 3}]])
def test_a_damaged_list_of_pictures_is_named(tmp_path, value):
    write(tmp_path / "figures" / "figures.json", value)
    [run] = gather([tmp_path])
    assert [note for note in run.notes if note.startswith("figures.json cannot be read")]
