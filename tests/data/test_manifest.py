import json
import os

import pytest

from cvmae.data.manifest import UNLABELED, Entry, ManifestError, read_manifest


def write(folder, text, name="list.csv"):
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_csv_with_numbers_parts_and_other_columns(tmp_path):
    path = write(tmp_path, "split,path,label,end,start,note\ntrain,a.mp4,3,2.5,0.5,x\nval,b.mp4,1,,,y\ntrain,/abs/c.mp4,,,1,z\n")
    manifest = read_manifest(path, "train")
    assert manifest.entries == (Entry(f"{tmp_path}/a.mp4", 3, 0.5, 2.5), Entry("/abs/c.mp4", UNLABELED, 1.0, None))
    assert manifest.class_names == ()


def test_a_folder_is_all_videos_below_it_unlabeled(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("z.mp4", "b/a.AVI", "b/notes.txt", ".hidden.mp4"):
        (tmp_path / name).write_bytes(b"")
    for split in ("train", "anything"):
        manifest = read_manifest(str(tmp_path), split)
        assert manifest.entries == (Entry(f"{tmp_path}/b/a.AVI", UNLABELED), Entry(f"{tmp_path}/z.mp4", UNLABELED))
        assert manifest.class_names == () and manifest.folder == str(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="no video file below this folder"):
        read_manifest(str(tmp_path / "empty"), "train")


def test_json_lines(tmp_path):
    rows = [{"path": "a b,c.mp4", "label": 2, "split": "val", "start": 1}, {"path": "d.mp4", "label": None, "split": "val"}]
    path = write(tmp_path, "\n\n".join(map(json.dumps, rows)) + "\n", "list.jsonl")
    assert read_manifest(path, "val").entries == (Entry(f"{tmp_path}/a b,c.mp4", 2, 1.0), Entry(f"{tmp_path}/d.mp4", UNLABELED))


def test_names_are_numbered_in_sorted_order_over_all_splits(tmp_path):
    path = write(tmp_path, "path,label,split\n1,run,train\n2,10,train\n3,jump,val\n4,,train\n")
    manifest = read_manifest(path, "train")
    assert manifest.class_names == ("10", "jump", "run")
    assert [entry.label for entry in manifest.entries] == [2, 0, UNLABELED]


def test_classes_beside_the_manifest_number_its_labels(tmp_path):
    write(tmp_path, "number,name\n0,run\n1,fly\n2,10\n", "classes.csv")
    path = write(tmp_path, "path,label,split\n1,10,train\n2,run,val\n3,,train\n")
    manifest = read_manifest(path, "train")
    assert manifest.class_names == ("run", "fly", "10")
    assert [entry.label for entry in manifest.entries] == [2, UNLABELED]
    numbered = read_manifest(write(tmp_path, "path,label,split\n1,1,train\n2,0,val\n"), "train")
    assert numbered.class_names == ("run", "fly", "10") and numbered.entries[0].label == 1
    write(tmp_path, "id,name\n7,run\n", "classes.csv")  # of something else
    assert read_manifest(write(tmp_path, "path,label,split\n1,run,train\n"), "train").class_names == ("run",)


@pytest.mark.parametrize(
    "classes, labels, message",
    [
        ("0,run\n", ("run", "fly"), "classes.csv: no class 'fly', which the manifest has; add it, or remove the file"),
        ("0,run\n1,fly\n", ("0", "2"), "classes.csv: no class '2', which the manifest has"),
        ("0,run\n2,fly\n", ("run", "fly"), "classes.csv:3: '2,fly' is not class 1 and a name; expected number,name"),
        ("0,run\n1,run\n", ("run", "fly"), "classes.csv:3: '1,run' is not class 1"),
        ("0\n", ("run", "fly"), "classes.csv:2: '0' is not class 0"),
    ],
)
def test_invalid_classes_files_are_refused(tmp_path, classes, labels, message):
    write(tmp_path, "number,name\n" + classes, "classes.csv")
    path = write(tmp_path, "path,label,split\n" + "".join(f"{label}.mp4,{label},train\n" for label in labels))
    with pytest.raises(ManifestError, match=message):
        read_manifest(path, "train")


def test_root_replaces_the_manifests_folder(tmp_path):
    path = write(tmp_path, "path,label,split\na.mp4,0,train\n")
    assert read_manifest(path, "train", root="/videos").entries[0].path == "/videos/a.mp4"


def test_a_byte_order_mark_and_windows_lines(tmp_path):
    (tmp_path / "list.csv").write_bytes("\ufeffpath,label,split\r\na.mp4,0,train\r\n".encode())
    assert read_manifest(str(tmp_path / "list.csv"), "train").entries[0].path == os.path.join(str(tmp_path), "a.mp4")


@pytest.mark.parametrize(
    "text, name, message",
    [
        ("path,split\na,train\n", "l.csv", r"l.csv:1: the header line lacks label; expected path,label,split\[,start,end\]"),
        ("", "l.csv", "l.csv:1: the header line lacks path, label, split"),
        ("path,label,split\na,b.mp4,0,train\n", "l.csv", "l.csv:2: the header has 3 columns.*quote a path that has a comma"),
        ("path,label,split\na.mp4,0\n", "l.csv", "l.csv:2: the header has 3 columns"),
        ("path,label,split\n,0,train\n", "l.csv", "l.csv:2: the path is empty"),
        ("path,label,split\na,0,train\nb,-2,train\n", "l.csv", "l.csv:3: label -2 is negative"),
        ("path,label,split,start\na,0,train,soon\n", "l.csv", "l.csv:2: start is 'soon'; give seconds"),
        ("path,label,split,start,end\na,0,train,2,1\n", "l.csv", "l.csv:2: start 2.0 and end 1.0 are not"),
        ("path,label,split\na,0,train\n", "l.csv", "no video has split 'test'; the splits there are: train"),
        ("path,label,split\n", "l.csv", "no video has split 'test'.*no rows"),
        ('{"path": "a", "label": 0, "split": "test"}\n{"path": \n', "l.jsonl", "l.jsonl:2: not JSON"),
        ('{"path": "a", "split": "test"}\n', "l.jsonl", "l.jsonl:1: the object lacks label"),
        ("[1]\n", "l.jsonl", "l.jsonl:1: expected an object"),
    ],
)
def test_errors_name_the_file_the_line_and_the_remedy(tmp_path, text, name, message):
    split = "train" if "train" in text and "test" not in message else "test"
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(tmp_path, text, name), split)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="none.csv: No such file or directory; set data.manifest"):
        read_manifest(str(tmp_path / "none.csv"), "train")


def test_a_manifest_that_is_not_text(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"path,label,split\n\xff\xfe,0,train\n")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(str(tmp_path / "l.csv"), "train")
