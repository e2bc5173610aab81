"""Rows that are looked at together: files in two splits, twice or with two labels, and classes without training clips."""

import itertools
import math

import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data.custom import CheckedSource
from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.prepare import prepare
from cvmae.data.row_checks import Part, check_rows, compare_rows, repeated, shared
from cvmae.data.sources import FileSource, SyntheticSource
from cvmae.data.subset import Subset
from cvmae.tasks.notes import row_notes
from tests.data import videos
from tests.data.prepare.runs import options, table
from tests.tiny_configs import config

FIELDS = {"split": "train", "eval_split": "val", "test_split": "val"}
FIELDS_READ = {"split": "train", "eval_split": "val"}  # by pre-training


def sources(folder, rows):
    """The splits of a manifest by field; rows: lines path,label,split,start,end."""
    (folder / "list.csv").write_text("path,label,split,start,end\n" + "\n".join(rows) + "\n")
    opened = {split: FileSource(read_manifest(str(folder / "list.csv"), split)) for split in ("train", "val")}
    return {field: opened[split] for field, split in FIELDS.items()}


def clean(count):
    return [f"t{i}.mp4,{i % 2},train,," for i in range(count)] + [f"v{i}.mp4,{i % 2},val,," for i in range(count)]


def test_rows_without_a_problem_have_no_note(tmp_path):
    parts = ["long.mp4,0,train,0,5", "long.mp4,1,train,5,9", "long.mp4,0,val,9,"]
    assert check_rows(sources(tmp_path, clean(4) + parts), FIELDS, labeled=True) == []


def test_a_file_through_a_link_is_the_same_file(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "t0.mp4").touch()
    (tmp_path / "file.mp4").symlink_to(tmp_path / "real" / "t0.mp4")
    (tmp_path / "folder").symlink_to(tmp_path / "real")
    (tmp_path / "hard.mp4").hardlink_to(tmp_path / "real" / "t0.mp4")
    rows = [*clean(4), "real/t0.mp4,0,train,,"]
    for link in ("file.mp4", "folder/t0.mp4", "hard.mp4"):
        [line, *_] = check_rows(sources(tmp_path, [*rows, f"{link},0,val,,"]), FIELDS, labeled=True)
        assert "1 of 5 videos are also in data.split='train'" in line


def test_files_in_two_splits_are_counted_and_named(tmp_path):
    rows = [*clean(4), "t0.mp4,0,val,,", "./x/../t1.mp4,1,val,2,", f"{tmp_path}/t2.mp4,0,val,,3"]
    for labeled in (True, False):
        [note] = check_rows(sources(tmp_path, rows), FIELDS, labeled)
        assert note.startswith(
            "data.eval_split='val': 3 of 7 videos are also in data.split='train', such as t0.mp4, t1.mp4@2.0-, "
        )


def test_numbers_on_training_clips_are_refused_where_labels_are_compared(tmp_path):
    rows = ["a.mp4,0,train,,", "b.mp4,1,train,,", "a.mp4,0,val,,", "b.mp4,1,val,,", "c.mp4,1,val,,"]
    with pytest.raises(ManifestError, match="2 of 3 videos are also in .*no number on them would mean anything: remove them"):
        check_rows(sources(tmp_path, rows), FIELDS, labeled=True)
    assert len(check_rows(sources(tmp_path, rows), FIELDS, labeled=False)) == 1
    same = dict.fromkeys(FIELDS, "train")  # which says so
    assert check_rows(dict.fromkeys(FIELDS, sources(tmp_path, rows)["split"]), same, labeled=True) == []


def test_videos_that_are_listed_twice(tmp_path):
    [note] = check_rows(sources(tmp_path, [*clean(3), "t1.mp4,1,train,,"]), FIELDS, labeled=True)
    assert note == "data.split='train': 1 video is listed more than once, such as t1.mp4"
    rows = [*clean(5), "t1.mp4,0,train,,", "v0.mp4,1,val,,"]
    notes = check_rows(sources(tmp_path, rows), FIELDS, labeled=True)
    assert [note.partition(":")[0] for note in notes] == ["data.split='train'", "data.eval_split='val'"]
    assert all("1 video is listed again with another label, such as" in note for note in notes)
    assert all("listed more than once" in note for note in check_rows(sources(tmp_path, rows), FIELDS, labeled=False))
    rows = [*clean(5), "t1.mp4,0,train,,", "t2.mp4,0,train,,", "t3.mp4,1,train,,"]
    labeled, again = check_rows(sources(tmp_path, rows), FIELDS, labeled=True)
    assert "1 video is listed again with another label, such as t1.mp4" in labeled
    assert again == "data.split='train': 2 videos are listed more than once, such as t2.mp4, t3.mp4"
    rows = [*clean(2), "t0.mp4,1,train,,", "t1.mp4,0,train,,"]
    with pytest.raises(ManifestError, match="data.split='train': 2 videos are listed again with another label.*one label"):
        check_rows(sources(tmp_path, rows), FIELDS, labeled=True)


def test_classes_without_training_clips(tmp_path):
    (tmp_path / "classes.csv").write_text("number,name\n0,run\n1,jump\n2,fly\n3,sit\n")
    rows = [*clean(4), "v9.mp4,fly,val,,"]
    [note] = check_rows(sources(tmp_path, rows), FIELDS, labeled=True)
    assert note == "data.split='train' has no video of 2 of 4 classes (fly, sit), data.eval_split='val' has 1 of them"
    assert check_rows(sources(tmp_path, rows), FIELDS, labeled=False) == []
    rows = ["a.mp4,0,train,,", "b.mp4,1,train,,", "c.mp4,2,val,,", "d.mp4,3,val,,", "e.mp4,0,val,,"]
    with pytest.raises(ManifestError, match="no number on them would mean anything: check that both splits number"):
        check_rows(sources(tmp_path, rows), FIELDS, labeled=True)


def test_slices_of_a_split_and_other_sources(tmp_path):
    train = sources(tmp_path, [*clean(6), "t0.mp4,0,train,,"])["split"]
    halves = {"split": Subset(train, np.arange(6)), "test_split": Subset(train, np.arange(4, 7))}
    names = {"split": "train[:6]", "test_split": "train[6:]"}
    with pytest.raises(ManifestError, match="3 of 3 videos are also in"):
        check_rows(halves, names, labeled=True)
    halves["test_split"] = Subset(train, np.array([6]))
    with pytest.raises(ManifestError, match="1 of 1 video is also in"):
        check_rows(halves, names, labeled=True)
    made = {"split": SyntheticSource(8, 4, 4, 8, 8, "train"), "test_split": SyntheticSource(8, 4, 4, 8, 8, "val")}
    assert check_rows(made, {"split": "train", "test_split": "val"}, labeled=True) == []


class InMemory:
    """A source of six records that are in no files."""

    class_names, label_sets = (), None

    def __init__(self, name, identity=""):
        self.labels, self.name, self.identity = np.arange(6, dtype=np.int32) % 2, name, identity or name

    def __len__(self):
        return 6

    def key(self, index):
        return f"{self.name}/{index}"


def custom(*splits):
    """Returns the arguments of `check_rows` for the source of the training clips and that of the test."""
    names = {"split": "train", "test_split": "val"}
    checked = [part if isinstance(part, Subset) else CheckedSource(part, "source") for part in splits]
    return dict(zip(names, checked, strict=True)), names


def test_a_source_in_two_splits_is_named_though_it_has_no_files():
    one = InMemory("a")
    relabeled = InMemory("a")
    relabeled.labels = 1 - relabeled.labels
    for other in (one, InMemory("a"), relabeled):
        with pytest.raises(
            ManifestError, match="6 of 6 videos are also in data.split='train', such as a/0, a/1, .*name one split"
        ):
            check_rows(*custom(one, other), labeled=True)
        [note] = check_rows(*custom(one, other), labeled=False)
        assert note.startswith("data.test_split='val': 6 of 6 videos are also in data.split='train'")
    for other in (InMemory("b"), InMemory("b", identity="a"), InMemory("a", identity="b")):
        assert check_rows(*custom(one, other), labeled=True) == []


def test_what_is_read_beside_what_is_learned_is_noted_and_never_refused(tmp_path):
    (tmp_path / "classes.csv").write_text("number,name\n0,run\n1,jump\n2,fly\n")
    rows = ["a.mp4,0,train,,", "b.mp4,1,train,,", "b.mp4,0,train,,", "a.mp4,0,val,,", "c.mp4,2,val,,", "d.mp4,2,val,,"]
    notes = check_rows(sources(tmp_path, [*rows, "b.mp4,1,val,,"]), FIELDS, labeled=True, refuse=False)
    assert [next(word for word in ("another label", "also in", "no video of") if word in note) for note in notes] == [
        "another label",
        "also in",
        "no video of",
    ]


def test_splits_without_one_of_training_are_not_compared(tmp_path):
    opened = sources(tmp_path, [*clean(3), "t0.mp4,0,val,,", "v1.mp4,1,val,,"])
    named = {"split train": opened["split"], "split val": opened["eval_split"]}
    again, also = [finding.note for finding in compare_rows(named, "split train", labeled=True)]
    assert again == "split val: 1 video is listed more than once, such as v1.mp4"
    assert also.startswith("split val: 1 of 5 videos are also in split train, such as t0.mp4")
    [again] = [finding.note for finding in compare_rows({"split test": opened["eval_split"]}, "split train", labeled=True)]
    assert again == "split test: 1 video is listed more than once, such as v1.mp4"


def test_clips_without_a_label_are_counted_where_labels_are_compared(tmp_path):
    rows = [*clean(4), "u0.mp4,,val,,", "u1.mp4,,val,,", "w.mp4,,train,,"]
    assert check_rows(sources(tmp_path, rows), FIELDS, labeled=True) == [
        "data.split='train': 1 of 5 videos has no label, such as w.mp4; numbers about classes are of the other 4",
        "data.eval_split='val': 2 of 6 videos have no label, such as u0.mp4, u1.mp4; numbers about classes are of the other 4",
    ]
    assert check_rows(sources(tmp_path, rows), FIELDS, labeled=False) == []
    unlabeled = [row.replace(",0,", ",,").replace(",1,", ",,") for row in clean(4)]
    assert check_rows(sources(tmp_path, unlabeled), FIELDS, labeled=True) == []  # said by the tasks that need labels


def test_a_key_that_is_there_twice_is_a_video_listed_twice():
    twice = InMemory("a")
    twice.key = lambda index: f"a/{index % 5}"
    [note] = check_rows(*custom(twice, InMemory("b")), labeled=True)
    assert note == "data.split='train': 1 video is listed again with another label, such as a/0; give each video one label"


def test_slices_of_a_source_in_no_files_are_compared():
    source = CheckedSource(InMemory("a"), "source")
    slices = Subset(source, np.arange(4)), Subset(CheckedSource(InMemory("a"), "source"), np.array([0, 4, 5]))
    [note] = check_rows(*custom(*slices), labeled=True)
    assert "1 of 3 videos are also in" in note
    assert check_rows(*custom(slices[0], Subset(source, np.array([4, 5]))), labeled=True) == []


def test_a_run_says_it(tmp_path):
    opened = sources(tmp_path, [*clean(4), "t0.mp4,0,val,,"])
    c = config()
    c.data.split, c.data.eval_split = "train", "val"
    chosen = {field: opened[field] for field in ("split", "eval_split")}
    [note] = row_notes(c, chosen, labeled=True)
    assert note.startswith("note: data.eval_split='val': 1 of 5 videos are also in") and row_notes(c, {}, labeled=True) == []
    opened = sources(tmp_path, ["a,0,train,,", "a,0,val,,"])
    with pytest.raises(ConfigError, match="config.data: data.eval_split='val': 1 of 1 video is also in"):
        row_notes(c, {field: opened[field] for field in chosen}, labeled=True)


def test_shared_parts_equal_a_comparison_of_all_pairs():
    rng = np.random.default_rng(0)
    for _ in range(200):
        train, test = (
            [Part(f"{rng.integers(3)}", start := int(rng.integers(8)), start + int(rng.integers(1, 4))) for _ in range(6)]
            for _ in range(2)
        )
        train += [Part("2", 6.0)] * bool(rng.integers(2))
        expected = {
            number
            for (number, a), b in itertools.product(enumerate(test), train)
            if a.file == b.file and max(a.start, b.start) < min(a.end, b.end)
        }
        assert shared(train, test) == sorted(expected)
    assert Part.of("a", None, None) == Part("a", 0.0, math.inf)
    assert repeated([Part("a"), Part("a", 1), Part("a"), Part("a")], [0, 0, 1, 0]) == ({2: 0, 3: 0}, [2])


def test_prepare_names_them(tmp_path, capsys):
    labels, folder = tmp_path / "labels", tmp_path / "videos"
    labels.mkdir()
    folder.mkdir()
    for name in ("a", "b", "c", "d"):
        videos.write_video(folder / f"{name}.mp4", 12)
    head = "label,youtube_id,time_start,time_end,split\n"
    rows = ["run,a,0,1,train", "run,b,0,1,train", "jump,a,0,2,val", "jump,b,2,3,train", "fly,c,0,1,val", "run,d,0,1,val"]
    (labels / "kinetics_train.csv").write_text(head + "\n".join(rows) + "\n")
    prepare(options(tmp_path, "k400"))
    problems = {
        (path.rpartition("/")[2], problem, detail) for path, problem, detail in table(tmp_path / "out" / "report.csv")[1:]
    }
    assert problems == {
        ("b.mp4", "two labels", "manifest.csv train: b_000002_000003.mp4 has 'jump', b_000000_000001.mp4 has 'run'"),
        ("a.mp4", "in two splits", "manifest.csv: train and val (a_000000_000002.mp4, in train as a_000000_000001.mp4)"),
        ("a.mp4", "two labels", "manifest.csv val: a_000000_000002.mp4 has 'jump', a_000000_000001.mp4 in train has 'run'"),
    }
    out = capsys.readouterr().out
    assert "1 in two splits, 2 two labels" in out
    assert "manifest.csv: 1 of 3 classes have no training videos: fly" in out


def link(folder, new, linked):
    """Gives the folder `folder`/run with the videos a and b the second name `folder`/`new`, of which each file is a link, or it is one itself."""
    (folder / "run").mkdir(parents=True)
    for name in ("a", "b"):
        videos.write_video(folder / "run" / f"{name}.mp4", 12)
    if linked == "folder":
        (folder / new).symlink_to(folder / "run")
        return
    (folder / new).mkdir(parents=True)
    for name in ("a", "b"):
        path, there = folder / new / f"{name}.mp4", folder / "run" / f"{name}.mp4"
        path.hardlink_to(there) if linked == "hard" else path.symlink_to(there)


@pytest.mark.parametrize("side", [0, 32])
@pytest.mark.parametrize("linked", ["files", "folder", "hard"])
def test_prepare_names_files_that_links_give_a_second_label(linked, side, tmp_path, capsys):
    link(tmp_path / "videos", "jump", linked)
    prepare(options(tmp_path, "folder", transcode=side))
    [_, *problems] = table(tmp_path / "out" / "report.csv")
    assert problems and {problem for _, problem, _ in problems} <= {"two labels", "in two splits"}
    for path, problem, detail in problems:
        name = path.rpartition("/")[2]
        if problem == "two labels":
            assert all(f"{label}/{name}" in detail and f"has '{label}'" in detail for label in ("run", "jump"))
        else:
            seen = detail if side else f"{path} {detail}"  # a transcoded file has one path
            assert "in train as" in detail and all(f"{label}/{name}" in seen for label in ("run", "jump"))
    assert "no problem" not in capsys.readouterr().out


@pytest.mark.parametrize("linked", ["files", "folder", "hard"])
def test_a_file_with_several_names_is_transcoded_once_so_that_later_runs_know_it(linked, tmp_path, capsys):
    link(tmp_path / "set", "again", linked)
    for split in ("train", "val"):
        (tmp_path / "videos" / split / "run").mkdir(parents=True)
    for name, split in (("run/a", "train"), ("run/b", "train"), ("again/a", "val")):
        (tmp_path / "videos" / split / "run" / f"{name[-1]}.mp4").symlink_to(tmp_path / "set" / f"{name}.mp4")
    videos.write_video(tmp_path / "videos" / "val" / "run" / "c.mp4", 12)
    for _ in range(2):  # a rerun too
        prepare(options(tmp_path, "folder", transcode=32))
        assert "1 in two splits" in capsys.readouterr().out
        assert [row[1:] for row in table(tmp_path / "out" / "report.csv")[1:]] == [
            ["in two splits", "manifest.csv: train and val (val/run/a.mp4, in train as train/run/a.mp4)"]
        ]
        assert sum(path.suffix == ".mp4" for path in (tmp_path / "out" / "videos32").rglob("*")) == 3
        opened = {split: FileSource(read_manifest(str(tmp_path / "out" / "manifest.csv"), split)) for split in ("train", "val")}
        [note] = check_rows({"split": opened["train"], "eval_split": opened["val"]}, FIELDS_READ, labeled=False)
        assert note.startswith("data.eval_split='val': 1 of 2 videos are also in data.split='train', such as ")
