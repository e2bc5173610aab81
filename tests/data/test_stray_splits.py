"""Rows of a manifest whose split no field of config.data names: misspelled ones and empty ones are said, others are not."""

import pytest

from cvmae.data.manifest import read_manifest
from cvmae.data.sources import make_source
from tests.data.configs import small_config


def notes_of(folder, *splits, **used):
    """Returns the notes of a run over rows of these splits, after the manifest's path."""
    rows = "".join(f"{number}.mp4,,{split}\n" for number, split in enumerate(["train", "val", *splits]))
    (folder / "list.csv").write_text(f"path,label,split\n{rows}")
    fields = {f"data__{field}": split for field, split in used.items()}
    data = small_config(data__source="files", data__manifest=str(folder / "list.csv"), **fields).data
    return [note.removeprefix(f"{folder}/list.csv: ") for note in make_source(data, data.split).notes]


@pytest.mark.parametrize(
    ("split", "name"),
    [("Train", "train"), ("TRAIN", "train"), ("tr ain", "train"), ("trian", "train"), ("tran", "train"), ("VAL", "val")],
)
def test_a_split_that_resembles_one_that_is_read_is_said(tmp_path, split, name):
    said = f"the split '{split}', which is not read, first {tmp_path}/list.csv:5; write '{name}' if that is meant"
    assert notes_of(tmp_path, "test", split, split) == [f"2 rows have {said}"]
    assert notes_of(tmp_path, "test", split, split="train[:50%]") == [f"1 row has {said}"]


@pytest.mark.parametrize("split", ["", "  ", "nan", "None"])
def test_rows_without_a_split_are_said(tmp_path, split):
    said = f"1 row has no split and so no use here, first {tmp_path}/list.csv:4; write one, or remove them"
    assert notes_of(tmp_path, split) == [said]


@pytest.mark.parametrize(
    "splits",
    [("test", "test_unseen", "val_unseen"), ("train2", "train_b", "trainA"), ("eval", "vala", "unseen"), (" train", "val ")],
)
def test_other_splits_are_not_said(tmp_path, splits):
    assert notes_of(tmp_path, *splits) == []


def test_a_split_that_another_field_names_is_read(tmp_path):
    assert notes_of(tmp_path, "Train", eval_split="Train") == []
    assert len(read_manifest(str(tmp_path / "list.csv"), "train").notes) == 1  # alone, nothing else is read
