"""Texts that programs write for labels and that would be classes by name: refused, or named, with what to write."""

import json

import pytest

from cvmae.data.manifest import ManifestError, read_manifest
from tests.data.test_manifest import write
from tests.data.test_text_files import MANIFEST


def read(folder, *labels, multi_label=False):
    """Returns the manifest of one training video for every label."""
    lines = [json.dumps({"path": f"{number}.mp4", "label": label, "split": "train"}) for number, label in enumerate(labels)]
    return read_manifest(write(folder, "\n".join(lines), "labels.jsonl"), "train", multi_label=multi_label)


@pytest.mark.parametrize(
    "label, value",
    [
        ("tensor(10)", "10"),
        ("tensor(1, device='cuda:0')", "1"),
        ("tensor([2])", "2"),
        ("np.int64(0)", "0"),
        ("array([3])", "3"),
        ("Array(4, dtype=int32)", "4"),
        ("np.str_('run')", "run"),
        ("b'run'", "run"),
    ],
)
def test_values_as_python_prints_them_are_refused(tmp_path, label, value):
    for multi_label in (False, True):
        with pytest.raises(ManifestError, match=rf"labels.jsonl:2: label .* is a value as Python prints it; write {value} alone"):
            read(tmp_path, "jump", label, multi_label=multi_label)
    write(tmp_path, f'number,name\n0,"{label}"\n1,jump\n', "classes.csv")
    assert [entry.label for entry in read(tmp_path, "jump", label).entries] == [1, 0]


def test_names_that_resemble_them_are_classes(tmp_path):
    names = ("array of things (many)", "bb'run'", "play tensor(s)", "tensor")
    assert set(read(tmp_path, *names).class_names) == set(names)


@pytest.mark.parametrize("mark", ["\uff1b", "\u061b"])
def test_other_semicolons_are_several_labels(tmp_path, mark):
    for multi_label, remedy in ((False, "give one class per video"), (True, "separate them by ;")):
        with pytest.raises(ManifestError, match=f"labels.jsonl:2: label .* is several labels; {remedy}"):
            read(tmp_path, "run", f"run{mark}jump", multi_label=multi_label)


def test_classes_with_weights_are_refused_where_most_have_one(tmp_path):
    for label in ("run=0.5;jump=0.5", "run:1.0;jump:0", "run = 50%;jump = 50%"):
        with pytest.raises(ManifestError, match="label 'run.*' is a class with a weight, and labels have none; write run, or"):
            read(tmp_path, label, multi_label=True)
    assert len(read(tmp_path, "ratio 4:1;run", "jump", multi_label=True).class_names) == 3


def test_classes_that_differ_in_quotes_are_said(tmp_path):
    [note] = read(tmp_path, "'run';jump", "run", multi_label=True).notes
    assert "2 classes differ only in quotes, case or spaces, \"'run'\" and 'run'; write them alike if they are one" in note


def test_numbers_that_a_classes_file_lists_as_names_of_other_numbers_are_said(tmp_path):
    write(tmp_path, "number,name\n0,2\n1,1\n2,0\n", "classes.csv")
    [note] = read(tmp_path, 0, 1, 2).notes
    assert note.endswith("label 2 is class 0, and so 2 have another number than their name")
    write(tmp_path, "number,name\n0,0\n1,1\n2,2\n", "classes.csv")
    assert read(tmp_path, 0, 1, 2).notes == ()


@pytest.mark.parametrize("split", [["train", "val"], {"train": 1}, True])
def test_a_split_that_is_no_word_is_refused(tmp_path, split):
    path = write(tmp_path, json.dumps({"path": "a.mp4", "label": 0, "split": split}) + "\n", "list.jsonl")
    with pytest.raises(ManifestError, match="list.jsonl:1: split .* is no word; give one, and a row for each split"):
        read_manifest(path, "train")


@pytest.mark.parametrize("split", ["train;val", "train|val", '"train,val"', "train + val"])
def test_a_split_that_is_several_is_said(tmp_path, split):
    path = write(tmp_path, f"path,label,split\na.mp4,0,train\nb.mp4,1,{split}\n")
    [note] = read_manifest(path, "train").notes
    assert note.endswith(f"which is not read, first {path}:3; a video in several splits has a row for each")


@pytest.mark.parametrize(
    "text, encoding", [("\u8dd1\u6b65", "gbk"), ("\u8d70\u308b", "shift-jis"), ("\u0431\u0435\u0433", "cp1251")]
)
def test_text_of_another_script_is_not_taken_for_a_western_encoding(tmp_path, text, encoding):
    (tmp_path / "list.csv").write_bytes(MANIFEST.format(text).encode(encoding))
    with pytest.raises(ManifestError, match=r"list.csv:2: .*GBK, Big5, .*it seems\); .*iconv -f ENCODING"):
        read_manifest(str(tmp_path / "list.csv"), "train")
