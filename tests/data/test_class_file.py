"""The file classes.csv: with another header it is refused where it may be meant to number the classes, and named where it is not read."""

import pytest

from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.tar_shards import ShardError
from tests.data.test_manifest import write
from tests.data.test_tar_shards import open_shards, write_tar

LABELED = "path,label,split\na.mp4,run,train\nb.mp4,fly,train\n"


@pytest.mark.parametrize(
    "header",
    [
        "Number,Name",
        "number, name",
        "number;name",
        "name,number",
        "number,name,",
        ",number,name",
        "number,name,clips",
        "Number\tname",
    ],
)
def test_a_header_with_number_and_name_among_others_is_refused(tmp_path, header):
    write(tmp_path, f"{header}\n0,run\n", "classes.csv")
    with pytest.raises(ManifestError, match="classes.csv:1: the header is .*; write number,name, these two alone, separated by"):
        read_manifest(write(tmp_path, LABELED), "train")


@pytest.mark.parametrize(
    "text, begins",
    [
        ("id,name\n0,run\n", "with 'id,name'"),
        ("class_id,class_name\n0,run\n", "with 'class_id,class_name'"),
        ("0,run\n1,fly\n", "with '0,run'"),
        ("run\nfly\n", "with 'run'"),
        ("", "with no header"),
        ("\n", "with no header"),
    ],
)
def test_a_file_that_is_not_read_is_said_where_there_are_labels(tmp_path, text, begins):
    write(tmp_path, text, "classes.csv")
    path = write(tmp_path, LABELED)
    manifest = read_manifest(path, "train")
    assert manifest.class_names == ("fly", "run")
    said = f"classes.csv is not read, since it begins {begins}: where it is to number the classes, its first line is number,name"
    assert manifest.notes == (f"{path}: {said}",)
    assert read_manifest(write(tmp_path, "path,label,split\na.mp4,,train\n"), "train").notes == ()


def test_a_file_without_classes_is_said_where_there_are_labels(tmp_path):
    write(tmp_path, "number,name\n", "classes.csv")  # which `prepare` writes for videos without labels
    path = write(tmp_path, LABELED)
    [note] = read_manifest(path, "train").notes
    assert note == f"{path}: classes.csv lists no class, so it numbers none; list all of them, or remove the file"
    assert read_manifest(write(tmp_path, "path,label,split\na.mp4,,train\n"), "train").notes == ()


def test_names_in_shards_beside_a_file_that_is_not_read_are_refused(tmp_path):
    write(tmp_path, "id,name\n0,run\n", "classes.csv")
    path = write_tar(tmp_path / "train-0.tar", [("a.mp4", b"x"), ("a.json", b'{"label": "run"}')])
    with pytest.raises(ShardError, match="'run' is a class by name; list the names in .*classes.csv, with number,name"):
        open_shards(path)
