"""Rows of the splits of a pre-training: what its start says of them, and its report where labels are missing."""

import json

import pytest

from cvmae.tasks import run
from tests.data.videos import write_video
from tests.tiny_configs import PLAIN, config, downstream, make_task


def pretraining(folder, rows, **fields):
    """A run of one step on the videos a to h, of which `rows` lists some; rows: path,label,split."""
    for number, name in enumerate("abcdefgh"):
        write_video(folder / f"{name}.mp4", 12, first=10 * number)
    (folder / "list.csv").write_text("path,label,split\n" + "\n".join(rows) + "\n")
    data = {"data__source": "files", "data__manifest": str(folder / "list.csv"), "batch_size": 3, "total": "1_steps"}
    return config(("mse_video",), **(PLAIN | {"report__labelled": 4, "eval_every": "0_steps"} | data | fields))


TRAIN = ["a.mp4,run,train", "b.mp4,jump,train", "c.mp4,run,train", "d.mp4,jump,train"]
VAL = ["e.mp4,run,val", "f.mp4,jump,val", "g.mp4,fly,val", "a.mp4,run,val"]
SHARED = "note: data.eval_split='val': 1 of 4 videos are also in data.split='train', such as a.mp4"
UNTRAINED = "note: data.split='train' has no video of 1 of 3 classes (fly), data.eval_split='val' has 1 of them"


def notes(c):
    """Returns the notes about rows that a run prints at its start."""
    task = make_task(c)
    task.check_data()
    return task.row_notes()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [SHARED, UNTRAINED]),
        ({"report__labelled": 0, "eval_every": "1_steps"}, [SHARED]),
        ({"report__labelled": 0}, []),  # nothing reads the split
    ],
)
def test_videos_in_both_splits_and_classes_without_training_clips_are_noted(fields, expected, tmp_path):
    said = notes(pretraining(tmp_path, TRAIN + VAL, **fields))
    assert len(said) == len(expected) and all(note.startswith(start) for note, start in zip(said, expected, strict=True))


def test_pretraining_is_not_refused_for_what_labels_would_refuse(tmp_path, capsys):
    rows = [
        *TRAIN,
        *(row.replace("train", "val") for row in TRAIN[:3]),
        "a.mp4,jump,train",
        "b.mp4,run,train",
        "c.mp4,jump,train",
    ]
    assert "report/probe/accuracy" in run(pretraining(tmp_path, rows), str(tmp_path / "run"))
    err = capsys.readouterr().err
    assert "3 of 3 videos are also in" in err and "3 videos are listed again with another label" in err


@pytest.mark.parametrize(
    ("rows", "fields", "count", "heading"),
    [
        (VAL, {}, 1, "on clips (1 of 4 trained on) "),
        (VAL[:3], {"data__eval_split": "train"}, 4, "on clips (4 of 4 trained on) "),
        (VAL[:3], {}, 0, "on clips not trained on "),
    ],
)
def test_the_report_says_how_many_of_its_clips_were_trained_on(rows, fields, count, heading, tmp_path, capsys):
    run(pretraining(tmp_path, TRAIN + rows, **fields), str(tmp_path / "run"), report_page=True)
    assert heading in capsys.readouterr().out
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["details"].get("trained_on", 0) == count
    page = (tmp_path / "run" / "report.html").read_text()
    assert ("evaluated on clips of which some were trained on" in page) == bool(count)
    assert ("evaluated on held-out clips" in page) == (not count)


def test_the_test_of_a_classifier_says_it_too(tmp_path, capsys):
    c = pretraining(tmp_path, TRAIN + VAL)
    data = {
        "data__source": "files",
        "data__manifest": c.data.manifest,
        "batch_size": 2,
        "total": "1_steps",
        "eval_every": "0_steps",
    }
    run(downstream("linear", **data), str(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "report.json").read_text())["details"]["trained_on"] == 1
    assert "4 videos of val, 1 of them trained on, " in capsys.readouterr().out


UNLABELED = [row.replace("run", "").replace("jump", "") for row in TRAIN]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (UNLABELED + VAL[:2], "data.split='train' have no labels"),
        ([row.replace("jump", "run") for row in TRAIN] + VAL[:2], "data.split='train' are of one class"),
        (TRAIN + VAL[:1], "data.eval_split='val' are of one class"),
    ],
)
def test_without_two_classes_the_start_says_that_the_report_has_no_probe(rows, said, tmp_path):
    assert f"note: the clips of config.{said}, so the report has no linear probe" in notes(pretraining(tmp_path, rows))


def test_a_report_without_labels_has_what_needs_none(tmp_path):
    numbers = run(pretraining(tmp_path, UNLABELED + VAL[:2]), str(tmp_path / "run"))
    assert "report/probe/accuracy" not in numbers
    assert numbers.keys() >= {"report/retrieval/same_clip_r1", "report/retrieval/same_label_1nn"}


def test_a_report_of_one_class_has_no_neighbors(tmp_path):
    numbers = run(pretraining(tmp_path, TRAIN + VAL[:1]), str(tmp_path / "run"))
    assert "report/retrieval/same_clip_r1" in numbers
    assert not numbers.keys() & {"report/probe/accuracy", "report/retrieval/same_label_1nn"}
