"""Line breaks in names: refused where they are no name, and exact in every table and message that is written."""

import csv
import io
import json

import numpy as np
import pytest

from cvmae.data.bad_files import BadDataError, BadFiles, pack_failures
from cvmae.data.decode import DecodeError, read_table
from cvmae.data.label_texts import LabelError, split_label
from cvmae.data.lines import counted, csv_text, one_line
from cvmae.data.manifest import ManifestError, read_manifest, splits_of
from cvmae.data.prepare import PrepareError, prepare
from cvmae.data.prepare import text as tables
from cvmae.data.prepare.labels import kinetics
from cvmae.data.sources import FileSource, make_source
from cvmae.evaluation.classification import ClassRow, write_per_class_csv
from cvmae.evaluation.multi_label import LabelRow, write_label_csv
from tests.data import videos
from tests.data.configs import small_config
from tests.data.prepare.runs import options, table
from tests.data.test_pipeline import take

BREAKS = ["a\nb", "a\rb", "a\r\nb", "a\u2028b", "a\x0bb"]


@pytest.mark.parametrize("cell", [*BREAKS, "a,b", 'a"b', "", "\n", "\r"])
def test_a_table_is_read_back_as_it_is(cell, tmp_path):
    rows = [["x", "y"], [cell, "1"], ["", cell], [cell]]
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""))) == rows
    tables.write_table(str(tmp_path / "t.csv"), rows[0], rows[1:])
    assert table(tmp_path / "t.csv") == rows
    write_per_class_csv(tmp_path / "c.csv", [ClassRow(0, cell, 3, 0.5, 1.0, cell)])
    assert table(tmp_path / "c.csv")[1] == ["0", cell, "3", "0.5000", "1.0000", cell]
    write_label_csv(tmp_path / "l.csv", [LabelRow(0, cell, 3, 0.5)])
    assert table(tmp_path / "l.csv")[1] == ["0", cell, "3", "0.5000"]


@pytest.mark.parametrize("name", BREAKS)
@pytest.mark.parametrize("field", ["label", "split"])
def test_a_label_or_split_of_several_lines_is_refused(tmp_path, name, field):
    row = {"path": "a.mp4", "label": "run", "split": "train"} | {field: name}
    (tmp_path / "list.jsonl").write_text(f'{{"path": "b", "label": "x", "split": "train"}}\n{json.dumps(row)}\n')
    for several in (False, True):
        with pytest.raises(ManifestError, match=f"list.jsonl:2: {field} .* has a line break; write it in one line") as caught:
            read_manifest(str(tmp_path / "list.jsonl"), "train", multi_label=several)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(LabelError, match="has a line break"):
        split_label("set: column label", ["run", name], True)


@pytest.mark.parametrize("name", BREAKS)
def test_a_class_of_several_lines_is_refused(tmp_path, name):
    (tmp_path / "classes.csv").write_text(f'number,name\n0,run\n1,"{name}"\n', newline="")
    (tmp_path / "list.csv").write_text("path,label,split\na.mp4,run,train\n")
    with pytest.raises(ManifestError, match="classes.csv: the name of class 1, .*, has a line break; write it") as caught:
        read_manifest(str(tmp_path / "list.csv"), "train")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", BREAKS)
def test_a_path_of_several_lines_is_that_path_everywhere(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"path": f"{name}{number}.mp4", "label": number % 2, "split": "train"} for number in range(9)]
    (tmp_path / "list.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = FileSource(read_manifest("list.jsonl", "train"))
    assert [source.key(number) for number in range(9)] == [row["path"] for row in rows]
    with pytest.raises(BadDataError) as caught:
        take(small_config(data__source="files", data__manifest="list.jsonl"), 1)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(DecodeError) as unreadable:
        read_table(name)
    assert str(unreadable.value) == f"{one_line(name)}: No such file or directory"
    bad = BadFiles(tmp_path, 100, 0.02)
    bad.update(pack_failures([(name, "broken")])[None])
    with pytest.raises(BadDataError) as stopped:
        bad.update(np.stack([pack_failures([(f"{name}{number}", "broken")]) for number in (1, 2)]))
    assert len(str(stopped.value).splitlines()) == 1
    assert BadFiles(tmp_path, 100, 1.0).pairs == [(name, "broken"), (f"{name}1", "broken"), (f"{name}2", "broken")]


@pytest.mark.parametrize("name", BREAKS)
def test_prepare_keeps_such_a_path_and_refuses_such_a_class(tmp_path, name):
    folder = tmp_path / "videos" / "run"
    folder.mkdir(parents=True)
    for number in range(2):
        videos.write_video(folder / f"{name}{number}.mp4", 4)
    (folder / f"{name}2.mp4").write_bytes(b"")
    manifest = prepare(options(tmp_path, "folder"))["manifest"]
    sources = [
        make_source(small_config(data__source="files", data__manifest=manifest).data, split) for split in splits_of(manifest)
    ]
    paths = [source.video_file(number) for source in sources for number in range(len(source))]
    assert sorted(path.rpartition("/run/")[2] for path in paths) == [f"{name}0.mp4", f"{name}1.mp4"]
    assert [row[0] for row in table(tmp_path / "out" / "report.csv")[1:]] == [f"run/{name}2.mp4"]
    folder.rename(folder.with_name(f"run{name}"))
    with pytest.raises(PrepareError, match="videos: class .* has a line break; write it in one line") as caught:
        prepare(options(tmp_path, "folder"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_quote_without_its_partner_in_a_label_file_is_refused(tmp_path):
    header = "label,youtube_id,time_start,time_end,split\n"
    for rows, line in (
        ('"run,a,0,1,train\nrun,b,0,1,"train\n', 2),
        ('run,a,0,1,train\n\nrun,"b,0,1,train\nrun,c,0,1,train"\n', 4),
    ):
        (tmp_path / "kinetics.csv").write_text(header + rows)
        with pytest.raises(
            PrepareError, match=f"kinetics.csv:{line}: a quoted field runs over several lines, from .*; close the quote"
        ):
            kinetics.read(str(tmp_path / "kinetics.csv"))


@pytest.mark.parametrize("mark", ["\u2028", "\x85", "\x0b", "\x1c"])
def test_only_line_feeds_end_a_line_of_a_label_file(tmp_path, mark):
    (tmp_path / "names.txt").write_text(f"one{mark}two\nthree\n", encoding="utf-8")
    assert [line for _, line in tables.read_lines(str(tmp_path / "names.txt"), "")] == [f"one{mark}two", "three"]


@pytest.mark.parametrize(("number", "text"), [(0, "0 heads"), (1, "1 head"), (1200, "1,200 heads")])
def test_a_number_has_its_noun_in_singular_or_plural(number, text):
    assert counted(number, "head") == text
