"""The page: everything that a workdir holds is on it, side by side, escaped, and it refers to nothing outside of itself."""

import datetime
import json
import re
from xml.etree import ElementTree

import pytest

from cvmae.report import __main__
from cvmae.report.gather import Run, gather
from cvmae.report.page import render
from cvmae.report.sections import card, differences
from cvmae.report.words import MEANINGS, number
from cvmae.workdir import Report
from tests.commands import run_own
from tests.report.workdirs import EVIL, figures, pretrained, probed, probed_by_map, studied, write, write_lines

MADE = datetime.datetime(2026, 1, 2, 3, 4)


def page(*runs: Run) -> ElementTree.Element:
    """The page as a tree, without places to break lines at: it is well-formed XML, which is more than a browser asks for."""
    return ElementTree.fromstring(render(list(runs), MADE).removeprefix("<!DOCTYPE html>").replace("<wbr/>", "").strip())


def words(node) -> str:
    """The text of a node."""
    return " ".join(" ".join(node.itertext()).split())


def part(tree, name: str):
    return tree.find(f".//section[@id='{name}']")


def table(node) -> list[list[str]]:
    """The cells of a table's rows."""
    return [[words(cell) for cell in row] for row in node.iter("tr")]


def test_several_runs_are_side_by_side(tmp_path):
    tree = page(*gather([pretrained(tmp_path / "a"), pretrained(tmp_path / "b", 2.0, total="40_steps")]))
    assert table(part(tree, "differences")) == [["", "a", "b"], ["total", "20_steps", "40_steps"]]
    results = table(part(tree, "results").find(".//table"))
    assert results[1] == ["held-out reconstruction error", "0.643 untrained 1.26", "1.286 untrained 1.26"]
    assert results[2] == ["linear probe", "86.4 % untrained 35.2 %", "86.4 % untrained 35.2 %"]
    names = [words(code) for code in part(tree, "training").iter("code")]
    assert names == [
        "loss/mse_video",
        "accuracy/intra_video",
        "feature_std/video",
        "optimizer/learning_rate",
        "time/clips_per_second",
    ]
    assert (
        len(list(part(tree, "pictures-1").iter("img"))) == 2 and words(part(tree, "pictures-1").find("h2")) == "Reconstructions"
    )
    origin = words(part(tree, "origin"))
    assert origin.count("python -m cvmae.main --config=configs/demo.py") == 2 and "0123456789ab" in origin and "0.10.2" in origin
    assert "3 clips were replaced" in words(part(tree, "files")) and "2026-01-02 03:04 UTC" in words(tree)


def test_diagnostics_are_explained_once_and_old_reports_lack_them(tmp_path):
    new = pretrained(tmp_path / "new")
    metrics = {"accuracy/intra_video": 0.75, "gray_accuracy/intra_video": 0.5, "accuracy/intra_frame": 0.5, "probe/accuracy": 0.8}
    metrics |= {
        "gray_accuracy/intra_frame": 0.25,
        "effective_rank/video": 12.5,
        "effective_rank/image": 9.0,
        "cka/video_image": 0.5,
    }
    write(new / "report.json", {"task": "pretrain", "metrics": metrics, "baseline": {"cka/video_image": 0.25}, "details": {}})
    write_lines(new, [{"step": 1, "feature_std/video": 0.5}, {"step": 2, "eval/feature_rank/video": 7.5}])
    tree = page(*gather([new, pretrained(tmp_path / "old")]))
    results = {row[0]: row[1:] for row in table(part(tree, "results").find(".//table"))}
    explained = {title: f"{title} {MEANINGS[beginning]}" for title, beginning in (
        ("intra-modal accuracy, video level, in gray", "gray_accuracy/"),
        ("effective rank of video features", "effective_rank/"),
        ("CKA of video and image features", "cka/"),
    )}  # fmt: skip
    assert results[explained["intra-modal accuracy, video level, in gray"]] == ["50.0 %", "–"]
    assert results["intra-modal accuracy, frame level, in gray"] == ["25.0 %", "–"]
    assert results[explained["effective rank of video features"]] == ["12.5", "–"]
    assert results["effective rank of image features"] == ["9", "–"]
    assert results[explained["CKA of video and image features"]] == ["0.5 untrained 0.25", "–"]
    names = list(results)
    assert names.index("intra-modal accuracy, video level") + 1 == names.index(
        explained["intra-modal accuracy, video level, in gray"]
    )
    training = part(tree, "training")
    assert "Effective rank of features" in [words(title) for title in training.iter("h3")]
    assert "feature_rank/video" in [words(code) for code in training.iter("code")]


def test_a_run_has_the_same_color_everywhere(tmp_path):
    runs = gather([pretrained(tmp_path / str(number)) for number in range(10)])
    for node in page(*runs).iter():
        marks = node.get("class", "").split()
        if "name" in marks:
            number = int(words(node))
            assert {f"c{number % 8}", f"d{number // 8}"} <= set(marks)


def test_probes_classes_and_pictures(tmp_path):
    probed(tmp_path)
    figures(tmp_path, ("six.png", "attention", "Six rows."), ("near.png", "retrieval", "Nearest clips."))
    tree = page(*gather([tmp_path]))
    test, heads, classes = part(tree, "results").iter("table")
    assert ["top-1", "70.0 %"] in table(test) and ["best head: learning rate", "0.01"] in table(test)
    assert table(heads) == [
        ["", "weight decay 0", "weight decay 0.1"],
        ["learning rate 0.01", "50.0 %", "75.0 %"],
        ["learning rate 0.001", "25.0 %", "30.0 %"],
    ]
    assert [words(cell) for cell in heads.iter("td") if cell.get("class") == "best"] == ["75.0 %"]
    assert table(classes)[2] == ["down", "80.0 % 20 clips, most often confused with up"]
    assert part(tree, "differences") is None
    titles = [words(part(tree, f"pictures-{number}").find("h2")) for number in (1, 2, 3)]
    assert titles == ["Attention", "Retrieval", "Confusion matrices"]
    assert [image.get("alt") for image in tree.iter("img")][:2] == ["Six rows.", "Nearest clips."]


def test_a_probe_of_several_labels_a_clip_is_shown_by_map(tmp_path):
    tree = page(*gather([probed_by_map(tmp_path / "map"), probed(tmp_path / "top")]))
    test, heads, _, classes = part(tree, "results").iter("table")
    assert ["mAP", "42.5 %", "–"] in table(test) and table(heads)[1] == ["learning rate 0.01", "25.0 %", "37.5 %"]
    titles = [words(node) for name in ("h3", "summary") for node in part(tree, "results").iter(name)]
    assert "Probe heads: mAP or top-1 by learning rate and weight decay" in titles
    assert "Top-1 or Average precision of 3 classes" in titles
    assert table(classes)[1:] == [
        ["up", "35.0 % 30 clips", "60.0 % 20 clips, most often confused with up"],
        ["down", "50.0 % 20 clips", "80.0 % 20 clips, most often confused with up"],
        ["left", "– 0 clips", "–"],
    ]
    assert "mean average precision" in words(part(tree, "training")).lower()
    assert "expected the columns" not in words(tree)


def test_a_study_is_shown_as_its_table_and_plot(tmp_path):
    tree = page(*gather([studied(tmp_path / "study")]))
    assert table(part(tree, "results")) == [
        ["", "linear probe", "held-out reconstruction error"],
        ["untrained", "62.5 % ± 1.2 %, 3 runs", "0.75 1 run"],
        ["mae", "–", "–"],
    ]
    assert [words(part(tree, "pictures-1").find("h2")), words(tree.find(".//p[@class='task']"))] == ["Ablations"] * 2
    assert "no metrics.jsonl" not in words(part(tree, "files"))  # each of its runs has one


def test_what_a_workdir_lacks_is_left_out(tmp_path):
    write(tmp_path / "report.json", {"task": "retrieval", "metrics": {"same_class/r1": 0.5, "same_class/queries": 800.0}})
    tree = page(*gather([tmp_path]))
    assert [section.get("id") for section in tree.iter("section")] == [None, "results", "files", "origin"]
    assert table(part(tree, "results"))[1:] == [["same_class/r1", "50.0 %"], ["same_class/queries", "800"]]
    assert "no metrics.jsonl" in words(part(tree, "files"))


def test_every_text_is_escaped(tmp_path):
    folder = tmp_path / EVIL.replace("/", "|")
    probed(folder, classes=(EVIL, "</table>"))
    write(folder / "config.json", {"task": EVIL, EVIL: {EVIL: EVIL}, "total": EVIL})
    write_lines(folder, [{"step": step, "loss": 1.0, f"accuracy/{EVIL}": 0.5} for step in (1, 2)])
    write(folder / "environment.json", {"starts": [{"command": EVIL, "versions": {EVIL: EVIL}, "time": EVIL}]})
    (folder / "bad_files.csv").write_text(f'path,reason\n{EVIL.replace(",", "")},"</ul>{EVIL.replace(chr(34), "")}"\n')
    figures(folder, ("six.png", EVIL, EVIL))
    write(tmp_path / "b" / "config.json", {"total": "</details>"})
    tree = page(*gather([folder, tmp_path / "b"]))
    nodes = list(tree.iter())
    assert not list(tree.iter("script")) and not [node for node in nodes if any(key.startswith("on") for key in node.attrib)]
    assert EVIL in words(part(tree, "origin").find(".//pre")) and "49" not in words(part(tree, "origin").find(".//pre"))
    assert {image.get("src")[:5] for image in tree.iter("img")} == {"data:"}


def test_nothing_outside_is_referred_to(tmp_path):
    tree = page(*gather([probed(tmp_path / "a"), pretrained(tmp_path / "b")]))
    links = [
        node.get(key) for node in tree.iter() for key in ("src", "href", "srcset", "action", "poster", "data") if node.get(key)
    ]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    ids = {node.get("id") for node in tree.iter()}
    assert {link[1:] for link in links if link.startswith("#")} <= ids
    [style] = tree.iter("style")
    assert not re.search(r"url\(|@import|https?:", style.text)
    [policy] = [node.get("content") for node in tree.iter("meta") if node.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ") and "script" not in policy and "http" not in policy


def test_fields_that_only_some_have_are_apart():
    runs = [
        Run(str(i), "", config=config) for i, config in enumerate(({"a": 1.0, "b": 2, "d": 0}, {"a": 1.0, "b": 3, "c": [1.0]}))
    ]
    differ, some = differences(runs)
    assert [(name, [cell.text for cell in cells]) for name, cells in differ.rows] == [("b", ["2", "3"])]
    assert [(name, [cell.text for cell in cells]) for name, cells in some.rows] == [("d", ["0", "–"]), ("c", ["–", "(1.0)"])]
    assert differences(runs[:1]) is None and differences([runs[0], Run("x", "")]) is None


@pytest.mark.parametrize(
    "report, expected",
    [
        (Report("finetune", {"accuracy/top1": 0.5}), ("test top-1", "50.0\u00a0%")),
        (Report("knn", {"top1/k=20": 0.25}), ("20 nearest neighbors", "25.0\u00a0%")),
        (Report("finetune", {"mAP": 0.5}), ("test mAP", "50.0\u00a0%")),
        (Report("knn", {"mAP/k=10": 0.5, "mAP/k=20": 0.25}), ("20 nearest neighbors, mAP", "25.0\u00a0%")),
        (Report("pretrain", {"retrieval/same_clip_r1": 0.5}), ("same clip, R@1", "50.0\u00a0%")),
        (Report("retrieval", {"same_video/r1": 0.5}), ("same video, R@1", "50.0\u00a0%")),
        (Report("finetune", {}), None),
        # Of a damaged file or another version: values that are no numbers.
        (
            Report.of_json({"task": "linear", "metrics": {"accuracy/top1": "high"}, "details": {"heads": 4, "best": None}}),
            None,
        ),
        (Report.of_json({"task": "pretrain", "metrics": {"a": None, "b": [1]}, "details": {"heads": [1, {"rate": 1}]}}), None),
        (None, None),
    ],
)
def test_any_report_is_shown(report, expected):
    run = Run("a", "", report=report)
    assert card(run).headline == expected
    assert page(run) is not None


def test_a_cut_run_says_how_far_it_came():
    run = Run(
        "a",
        "",
        {"task": "finetune", "total": "600_steps"},
        {"time/seconds": {120: 130.0}, "time/clips_per_second": {60: 10.0, 120: 30.0}},
    )
    assert card(run).task == "Fine-tuning"
    assert card(run).facts == [("steps", "120 of 600"), ("time", "2 min 10 s"), ("speed", "20 clips/s")]


def test_the_sources_of_a_mixture_are_its_data():
    assert ("data", "a:1,b:2") in card(Run("a", "", config={"data.source": "files", "data.mixture": "a:1,b:2"})).facts


def test_fields_that_changed_at_a_resume_are_named():
    starts = [
        {"step": 0},
        {"step": 9, "changed_fields": {"total": ["1_steps", "2_steps"]}},
        {"changed_fields": {"loss.a": [0, 1]}},
    ]
    assert ("changed at a resume", "total, loss.a") in card(Run("a", "", starts=starts)).facts
    assert [name for name, _ in card(Run("a", "", starts=[{"step": 0}, {"changed_fields": 3}])).facts] == ["starts"]


def run_command(*words) -> int:
    """The exit code of the command, in this process."""
    return run_own(__main__, *words)


def test_the_command_writes_a_page_and_prints_its_path(tmp_path, capsys):
    run = pretrained(tmp_path / "run")
    assert run_command(run) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert (run / "report.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert run_command(run, probed(tmp_path / "probe"), f"--out={tmp_path / 'both.html'}") == 0
    assert "2 runs side by side" in (tmp_path / "both.html").read_text(encoding="utf-8")


def test_a_bucket_without_a_usable_setting_is_one_line(tmp_path, monkeypatch, capsys):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:1")
    run = pretrained(tmp_path / "run")
    for words in (["s3://b/run"], [run, "--out=s3://b/report.html"]):
        assert run_command(*words) == 2
        assert capsys.readouterr().err == "error: AWS_ENDPOINT_URL=127.0.0.1:1 is no URL: give http://HOST:PORT\n"


def test_names_that_are_no_text_do_not_stop_it(tmp_path):
    run = pretrained(tmp_path / "run")
    (run / "config.json").write_text(json.dumps({"a": "\ud800"}))
    assert run_command(run) == 0 and (run / "report.html").exists()


@pytest.mark.parametrize(
    "argv, said",
    [([], "no workdir is given"), (["nowhere"], "nowhere does not exist: give the --workdir"), (["--color=red", "a"], "color")],
)
def test_a_wrong_command_is_refused_in_one_line(tmp_path, capsys, monkeypatch, argv, said):
    monkeypatch.chdir(tmp_path)
    assert run_command(*argv) == 2
    text = capsys.readouterr().err
    assert text.startswith("error: ") and said in text and text.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("out", "reason"), [("absent/r.html", "No such file or directory"), ("folder", "Is a directory")])
def test_a_page_that_cannot_be_written_is_said(tmp_path, capsys, out, reason):
    (tmp_path / "folder").mkdir()
    assert run_command(pretrained(tmp_path / "run"), f"--out={tmp_path / out}") == 1
    said = f"error: {tmp_path / out} cannot be written ({reason}): give --out=FILE.html, a file in a folder that is there"
    assert capsys.readouterr().err == f"{said} and can be written\n"


@pytest.mark.parametrize(
    ("value", "name", "text"),
    [
        (0.8641, "accuracy/top1", "86.4\u00a0%"),
        (800.0, "same_class/queries", "800"),
        (12.5, "clips", "12"),
        (7.5, "retrieval/median_rank", "7.5"),
        (1600, "clips", "1\u2009600"),
        (12345.6, "time/clips_per_second", "12\u2009346"),
        (0.64352, "loss", "0.6435"),
        (7.6e-9, "optimizer/learning_rate", "7.6e-09"),
        (float("nan"), "clips", "nan"),
        (1e30, "", "1e+30"),
    ],
)
def test_fractions_are_in_percent_and_counts_have_no_decimals(value, name, text):
    assert number(value, name) == text
