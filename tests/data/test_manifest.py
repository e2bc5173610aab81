import json
import os
import re

import numpy as np
import pytest

from cvmae.data.manifest import UNLABELED, Entry, ManifestError, read_manifest
from cvmae.data.records import SplitError


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
    for name in ("list.jsonl", "list.JSONL", "list.NDJson"):
        path = write(tmp_path, "\n\n".join(map(json.dumps, rows)) + "\n", name)
        expected = (Entry(f"{tmp_path}/a b,c.mp4", 2, 1.0), Entry(f"{tmp_path}/d.mp4", UNLABELED))
        assert read_manifest(path, "val").entries == expected


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
    write(tmp_path, 'number,name\n0, run \n1 ,"fly "\n2,10\n', "classes.csv")
    assert read_manifest(path, "train").class_names == ("run", "fly", "10")


@pytest.mark.parametrize(
    "classes, labels, message",
    [
        ("0,run\n", ("run", "fly"), "classes.csv: no class 'fly', which the manifest has; add it, or remove the file"),
        ("0,run\n1,fly\n", ("0", "2"), "classes.csv: no class '2', which the manifest has"),
        ("0,run\n2,fly\n", ("run", "fly"), "classes.csv:3: '2,fly' is not class 1 and a name; expected number,name"),
        ("0,run\n1,run\n", ("run", "fly"), "classes.csv:3: classes 0 and 1 are both called 'run'; give each a name"),
        ("0,run\n1, run \n", ("run", "fly"), "classes.csv:3: classes 0 and 1 are both called 'run'"),
        ("0,run\n1,\n", ("run", "fly"), "classes.csv:3: class 1 has no name; write one, since an empty label means no label"),
        ('0,run\n1," "\n', ("run", "fly"), "classes.csv:3: class 1 has no name"),
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
        ("path,label,split, Start,end\na,0,train,1,2\n", "l.csv", "l.csv:1: the header has ' Start'; write start, as in"),
        ("path,label,split\n", "l.csv", "no video has split 'test'.*no rows"),
        ('{"path": "a", "label": 0, "split": "test"}\n{"path": \n', "l.jsonl", "l.jsonl:2: not JSON"),
        ('{"path": "a", "split": "test"}\n', "l.jsonl", "l.jsonl:1: the object lacks label"),
        ("[1]\n", "l.jsonl", "l.jsonl:1: expected an object"),
        (
            '{"path": "a", "label": 0, "split": "train", "label": 1}\n',
            "l.jsonl",
            "l.jsonl:1: the key 'label' is there twice in one obj",
        ),
    ],
)
def test_errors_name_the_file_the_line_and_the_remedy(tmp_path, text, name, message):
    split = "train" if "train" in text and "test" not in message else "test"
    with pytest.raises((ManifestError, SplitError), match=message):
        read_manifest(write(tmp_path, text, name), split)


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(ManifestError, match="none.csv: No such file or directory; give a manifest, a file with"):
        read_manifest(str(tmp_path / "none.csv"), "train")


def test_a_manifest_that_is_not_text(tmp_path):
    (tmp_path / "l.csv").write_bytes(b"path,label,split\n\xff\xfe,0,train\n")
    with pytest.raises(ManifestError, match="not UTF-8"):
        read_manifest(str(tmp_path / "l.csv"), "train")


def labeled(folder, *labels, name="labels.csv"):
    """Writes a manifest of these labels, one per line after the header."""
    rows = "".join(f'{number}.mp4,"{label}",train\n' for number, label in enumerate(labels))
    return read_manifest(write(folder, "path,label,split\n" + rows, name), "train")


@pytest.mark.parametrize(
    "labels, expected",
    [
        (("10.0", "2.0", "0.0"), [10, 2, 0]),
        (("10", "2.", "0.00"), [10, 2, 0]),
        (("1.0", "0", "nan"), [1, 0, UNLABELED]),
        (("+1", "00", "007", "2"), [1, 0, 7, 2]),
        (("0", "", "NaN", "None", "NULL", "na", "N/A", "<NA>", "-1", "-1.0", " "), [0] + [UNLABELED] * 10),
        (("999", "0"), [999, 0]),  # of published classes, two
    ],
)
def test_numbers_in_any_spelling_and_missing_labels(tmp_path, labels, expected):
    manifest = labeled(tmp_path, *labels)
    assert [entry.label for entry in manifest.entries] == expected and manifest.class_names == ()


def test_numbers_as_a_data_frame_with_an_empty_cell_writes_them(tmp_path):
    numbers = np.array([10, 2, np.nan, 0])
    rows = [{"path": f"{i}.mp4", "label": float(x), "split": "train"} for i, x in enumerate(numbers)]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "list.jsonl")
    assert [entry.label for entry in read_manifest(path, "train").entries] == [10, 2, UNLABELED, 0]


@pytest.mark.parametrize("text", ["#N/A", "nil", "<NA>", "NaT", "#NA", "-nan", "NIL", "1.#QNAN", "#N/A N/A", "nat"])
def test_what_programs_write_for_an_empty_cell(tmp_path, text):
    manifest = labeled(tmp_path, "run", text, "jump")
    assert manifest.class_names == ("jump", "run") and manifest.entries[1].label == UNLABELED
    path = write(tmp_path, f"path,label,split,start,end\na,0,train,{text},2\n")
    assert read_manifest(path, "train").entries[0].start is None


def test_accents_in_one_character_and_in_two_are_one_class(tmp_path):
    one, two = "caf\u00e9", "cafe\u0301"
    assert labeled(tmp_path, one, two, "x").class_names == (one, "x")
    assert [entry.label for entry in labeled(tmp_path, one, two, "x").entries] == [0, 0, 1]
    write(tmp_path, f"number,name\n0,x\n1,{two}\n", "classes.csv")
    assert [entry.label for entry in labeled(tmp_path, one, two, "x").entries] == [1, 1, 0]
    write(tmp_path, f"number,name\n0,{one}\n1,{two}\n", "classes.csv")
    with pytest.raises(ManifestError, match="classes.csv:3: classes 0 and 1 are both called"):
        labeled(tmp_path, one)


@pytest.mark.parametrize(
    "labels, note",
    [
        (("Run", "run", "x"), "2 classes differ only in case or spaces, 'Run' and 'run'; write them alike if they are one"),
        (("run fast", "run  fast", "x"), "2 classes differ only in case or spaces, 'run  fast' and 'run fast'"),
        (("run fast", "run\u00a0fast"), "2 classes differ only in case or spaces"),
        (("run", "run\u200b"), "2 classes differ only in case or spaces"),
        (("STRASSE", "stra\u00dfe"), "2 classes differ only in case or spaces"),
        (("0", "1", "run", "jump"), "labels are numbers \\(0, 1\\) and names; most are names, so all are taken as names"),
        (("1", "2", "4", "5"), "no label is 0, the lowest is 1: classes are numbered from 0; subtract 1 if"),
        (("7", "12"), "no label is 0, the lowest is 7"),
        (("0", "1", "500"), "there are 501 classes, 0 to 500, and labels of only 3: if there are no others, number them 0 to 2$"),
        (("\uff11", "\uff12"), "labels such as '\uff11' are numbers in other characters than 0 to 9"),
    ],
)
def test_labels_that_may_not_be_meant_so_are_named(tmp_path, labels, note):
    [found] = labeled(tmp_path, *labels).notes
    assert re.match(f"{re.escape(str(tmp_path))}/labels.csv: {note}", found) and "\n" not in found


@pytest.mark.parametrize(
    "labels",
    [
        ("run", "jump"),
        ("inf", "infinity", "run", "jump"),
        ("0", "1"),
        ("0", "9", "19"),
        ("", "nan"),
        ("0", "2", "run fast")[:2],
        ("walk/run", "walk run"),
    ],
)
def test_other_labels_have_no_note(tmp_path, labels):
    assert labeled(tmp_path, *labels).notes == ()


def test_missing_labels_among_names(tmp_path):
    manifest = labeled(tmp_path, "run", "nan", "None", "jump", "-1")
    assert manifest.class_names == ("jump", "run")
    assert [entry.label for entry in manifest.entries] == [1, UNLABELED, UNLABELED, 0, UNLABELED]


@pytest.mark.parametrize("word", ["na", "none", "None", "NULL", "nil", "NaN", "nat"])
def test_a_word_that_may_be_a_class_is_said_with_what_to_do(tmp_path, word):
    manifest = labeled(tmp_path, "run", word, "jump", word, word, "")
    assert [entry.label for entry in manifest.entries] == [1, UNLABELED, 0] + [UNLABELED] * 3
    said = f"labels.csv: the label {word!r} of 3 rows means no label; a class of this name needs another one, or a classes.csv that lists it"
    assert manifest.notes == (f"{tmp_path}/{said}",)
    several = read_manifest(write(tmp_path, f"path,label,split\na,run;{word},train\nb,{word},train\n"), "train", multi_label=True)
    assert several.notes == (f"{tmp_path}/list.csv: {said.partition(': ')[2].replace('3 rows', '2 rows')}",)
    write(tmp_path, f"number,name\n0,{word}\n1,run\n2,jump\n", "classes.csv")
    manifest = labeled(tmp_path, "run", word, "jump", word, word, "")
    assert manifest.notes == () and [entry.label for entry in manifest.entries] == [1, 0, 2, 0, 0, UNLABELED]


def test_several_words_that_may_be_classes_are_one_line(tmp_path):
    said = "the label 'None' (2), 'nan' (1) or 'NULL' (1) of 4 rows means no label; a class of this name needs another one, or a classes.csv"
    assert labeled(tmp_path, "run", "nan", "None", "NULL", "None").notes == (f"{tmp_path}/labels.csv: {said} that lists it",)


@pytest.mark.parametrize("labels", [("0", "1", "nan", "None"), ("run", "n/a", ""), ("run", "-1", "#N/A"), ("none", "NULL")])
def test_what_is_no_class_has_no_note(tmp_path, labels):
    assert labeled(tmp_path, *labels).notes == ()


def test_a_listed_class_may_have_any_text(tmp_path):
    write(tmp_path, "number,name\n0,none\n1,walk; then run\n2,[x]\n3,10.0\n", "classes.csv")
    assert [entry.label for entry in labeled(tmp_path, "10.0", "[x]", "walk; then run", "none", "null").entries] == [
        3,
        2,
        1,
        0,
        UNLABELED,
    ]


@pytest.mark.parametrize("label", ["a, b", "Lifting something (0 1)", "[Part] of [it]", "3 to 4", "walk/run", "I|O", "can't"])
def test_names_with_commas_and_brackets_are_names(tmp_path, label):
    assert labeled(tmp_path, label, "run").class_names == tuple(sorted((label, "run")))


@pytest.mark.parametrize(
    "label",
    ["0;2", "run;jump", "[0, 2]", "[]", "[3]", "['run', 'jump']", "(0, 2)", "{0,2}", "('a','b')", "0,2", "0|2", "0 2", "[0 2]"],
)
def test_several_labels_are_refused(tmp_path, label):
    with pytest.raises(ManifestError, match=r"labels.csv:3: label .* is several labels; give one class per video"):
        labeled(tmp_path, "0", label)


@pytest.mark.parametrize("label", [[0, 2], [], ["run"], {"a": 1}])
def test_labels_that_are_json_lists_are_refused(tmp_path, label):
    path = write(tmp_path, json.dumps({"path": "a", "label": label, "split": "train"}), "list.jsonl")
    with pytest.raises(ManifestError, match=r"list.jsonl:1: label .* is (several labels|no class); give"):
        read_manifest(path, "train")


@pytest.mark.parametrize(
    "labels, message",
    [
        (("0", "1.5"), "labels.csv:3: label '1.5' is no class number; give 0, 1, ... or a name"),
        (("0", "inf"), "labels.csv:3: label 'inf' is no class number"),
        (("0", "1e3"), "labels.csv:3: label '1e3' is no class number"),
        (("0", "-3.0"), "labels.csv:3: label -3.0 is negative"),
        (("0", "1", "run"), "labels.csv:4: label 'run' is a name, most others are numbers"),
        (
            ("0", "1", "1000000"),
            "labels.csv:4: label '1000000' is no class number, there are only 3 different labels; number .* 0 to 2",
        ),
        (("2019", "2020", "2021"), "labels.csv:4: label '2021' is no class number"),
        (("0", "9" * 30), "labels.csv:3: label '9999.* is no class number"),
        (("0", "9" * 5000), "labels.csv:3: label '9999.* is no class number"),
        (("1", "2", "3"), "labels.csv:2: labels run from 1 to 3, none is 0; subtract 1"),
        (("2.0", "1.0"), "labels.csv:3: labels run from 1 to 2.0, none is 0; subtract 1"),
        (("a", "b", "2", "2.0"), "labels '2' and '2.0' are one number"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path, labels, message):
    with pytest.raises(ManifestError, match=message) as caught:
        labeled(tmp_path, *labels)
    assert "\n" not in str(caught.value)


def test_numbers_from_1_with_names_are_detected(tmp_path):
    write(tmp_path, "number,name\n0,run\n1,fly\n", "classes.csv")
    with pytest.raises(ManifestError, match="classes.csv: no class '2', which the manifest has; subtract 1"):
        labeled(tmp_path, "1", "2")
    assert [entry.label for entry in labeled(tmp_path, "1", "0.0", "run").entries] == [1, 0, 0]


@pytest.mark.parametrize("content", [b"\xff\xfe", None])
def test_a_classes_file_that_cannot_be_read(tmp_path, content):
    if content is None:
        (tmp_path / "classes.csv").mkdir()
    else:
        (tmp_path / "classes.csv").write_bytes(content)
    with pytest.raises(ManifestError, match="classes.csv: (not UTF-8|Is a directory)"):
        labeled(tmp_path, "0")


@pytest.mark.parametrize("text", ["nan", "", "NaN", "None", "null", "NA", " nan "])
def test_open_times(tmp_path, text):
    path = write(tmp_path, f"path,label,split,start,end\na,0,train,{text},2\nb,0,train,1,{text}\n")
    assert [(entry.start, entry.end) for entry in read_manifest(path, "train").entries] == [(None, 2.0), (1.0, None)]
    rows = [{"path": "a", "label": 0, "split": "train", "start": np.nan, "end": None}]
    [entry] = read_manifest(write(tmp_path, json.dumps(rows[0]), "list.jsonl"), "train").entries
    assert (entry.start, entry.end) == (None, None)


@pytest.mark.parametrize("text", ["inf", "-inf", "Infinity", "1_0", "00:01:30", "1s", "true", "[1]", "1e999", "-1.0", "-1"])
@pytest.mark.parametrize("field", ["start", "end"])
def test_what_is_no_time_is_refused(tmp_path, text, field):
    path = write(tmp_path, f"path,label,split,{field}\na,0,train,\nb,0,train,{text}\n")
    with pytest.raises(ManifestError, match="list.csv:3: (start|end) .*give seconds"):
        read_manifest(path, "train")


@pytest.mark.parametrize(
    "line",
    [
        '{"path": "a\\u0000", "label": 0, "split": "train"}',
        '{"path": "\\ud800", "label": 0, "split": "train"}',
        '{"path": ["a"], "label": 0, "split": "train"}',
        '{"path": "a", "label": ' + "9" * 5000 + ', "split": "train"}',
        "[" * 100000,
    ],
)
def test_json_that_is_no_row_is_refused(tmp_path, line):
    with pytest.raises(ManifestError, match="list.jsonl:1: .*; (expected|repair|write)") as caught:
        read_manifest(write(tmp_path, line, "list.jsonl"), "train")
    assert "\n" not in str(caught.value)


def test_a_column_that_is_there_twice(tmp_path):
    with pytest.raises(ManifestError, match="list.csv:1: the header line has label twice"):
        read_manifest(write(tmp_path, "path,label,label,split\na,0,1,train\n"), "train")


@pytest.mark.parametrize(
    "rows, line",
    [
        ('a,"x,train\nb,y,train\nc,"x,train\nd,y,train\n', 2),
        ('a,x,train\n"b,y,train\nc,x,train\n', 3),
        ('a,x,train\nb,y,"train\nc,x,train\n', 3),
        ('a,"x\ny",train\n', 2),
        ('a,"x\ry",train\r\n', 2),
    ],
)
def test_a_quoted_field_over_several_lines_is_refused(tmp_path, rows, line):
    with pytest.raises(
        ManifestError, match=f"list.csv:{line}: a quoted field runs over several lines, .*; close the quote"
    ) as caught:
        read_manifest(write(tmp_path, f"path,label,split\n{rows}"), "train")
    assert "\n" not in str(caught.value)


def test_a_path_may_have_a_line_break(tmp_path):
    manifest = read_manifest(write(tmp_path, 'path,label,split\n"a\nb, c.mp4",x,train\nb.mp4,y,train\n'), "train")
    assert [entry.path for entry in manifest.entries] == [f"{tmp_path}/a\nb, c.mp4", f"{tmp_path}/b.mp4"]


@pytest.mark.parametrize(
    "names", ["start_time,end_time", "startTime,endTime", "start_frame,end_frame", "begin,stop", "t_start,t_end", "from,to"]
)
def test_times_under_other_names_are_refused(tmp_path, names):
    first, second = names.split(",")
    refused = f"has {first}, {second}, which would not be read: write start and end, in seconds"
    with pytest.raises(ManifestError, match=f"list.csv:1: the header line {refused}"):
        read_manifest(write(tmp_path, f"path,label,split,{names}\na.mp4,x,train,1,2\n"), "train")
    row = json.dumps({"path": "a.mp4", "label": "x", "split": "train", first: 1, second: 2})
    with pytest.raises(ManifestError, match=f"list.jsonl:1: the object {refused}"):
        read_manifest(write(tmp_path, row + "\n", "list.jsonl"), "train")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("fps", "a column is not read: fps"),
        ("", "a column is not read: a column without a name"),
        ("fps, ", "columns are not read: fps, a column without a name"),
        ("end_effector,gender,first_step", "columns are not read: end_effector, gender, first_step"),
        ("lable,weight", "columns are not read: lable (did you mean label?), weight"),
        (
            "strat,ends,paths",
            "columns are not read: strat (did you mean start?), ends (did you mean end?), paths (did you mean path?)",
        ),
        ("a,b,c,d,e,f,g,h,i", "columns are not read: a, b, c, d, e, f, g, h, ..."),
    ],
)
def test_columns_that_are_not_read_are_said(tmp_path, fields, said):
    names = fields.split(",")
    path = write(tmp_path, f"path,label,split,{fields}\n" + f"a.mp4,x,train{',1' * len(names)}\n" * 3)
    assert read_manifest(path, "train").notes == (f"{path}: {said}",)
    rows = [
        {"path": "a.mp4", "label": "x", "split": "val"},
        {"path": "b.mp4", "label": "x", "split": "train"} | dict.fromkeys(names),
    ]
    path = write(tmp_path, "\n".join(map(json.dumps, rows)), "list.jsonl")
    assert read_manifest(path, "val").notes == (f"{path}: {said}",)


def test_columns_that_are_read_have_no_note(tmp_path):
    assert read_manifest(write(tmp_path, "end,path,label,split,start\n,a.mp4,x,train,\n"), "train").notes == ()


@pytest.mark.parametrize("name", ["lable", "labels", "Labl"])
def test_a_required_column_is_found_under_a_name_like_it(tmp_path, name):
    message = re.escape(f"lacks label ({name}: did you mean label?); expected path,label,split")
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(tmp_path, f"path,{name},split\na.mp4,x,train\n"), "train")
    with pytest.raises(ManifestError, match=message):
        read_manifest(write(tmp_path, json.dumps({"path": "a", name: 0, "split": "train"}), "list.jsonl"), "train")


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("path\tlabel\tsplit", r"; it is 'path\tlabel\tsplit': put commas in place of '\t'"),
        ("path;label;split;start", "put commas in place of ';'"),
        ("path|label|split", "put commas in place of '|'"),
        ("path label split", "put commas in place of ' '"),
        ("path, label, split", "the header has ' label'; write label"),
        ("Path,LABEL,Split", "the header has 'Path'; write path"),
        ("a.mp4,0,train", "lacks path, label, split; expected path,label,split[,start,end]; it is 'a.mp4,0,train'"),
        ("<!DOCTYPE html>", "; it is '<!DOCTYPE html>'"),
    ],
)
def test_a_header_that_is_none_is_shown_with_what_to_change(tmp_path, header, said):
    with pytest.raises(ManifestError) as refused:
        read_manifest(write(tmp_path, f"{header}\na.mp4,0,train\n"), "train")
    message = str(refused.value)
    assert said in message and message.startswith(f"{tmp_path}/list.csv:1: ") and "\n" not in message


@pytest.mark.parametrize(
    "path", ["file:///data/a.mp4", "http://host/a.mp4", "https://host/a.mp4", "hdfs://n/a.mp4", "FILE:///a.mp4"]
)
def test_a_path_with_another_scheme_is_refused_at_its_line(tmp_path, path):
    scheme = path.partition("://")[0].lower()
    with pytest.raises(ManifestError, match=rf"^data.root={scheme}://x: {scheme}:// is not supported; give a local path"):
        read_manifest(str(tmp_path / "list.csv"), "train", root=f"{scheme}://x")
    refused = f"list.csv:3: path '{path}' begins with {scheme}://; give a path of this machine, or one with gs://, s3://, hf://"
    with pytest.raises(ManifestError, match=refused):
        read_manifest(write(tmp_path, f"path,label,split\na.mp4,x,train\n{path},x,train\n"), "train")
