"""A run's folder: one schema of report.json for every task, and the three that came before it."""

import json

import pytest

from cvmae.config import ConfigError
from cvmae.workdir import Report, Workdir, check_path

OLD = {
    "pretrain": (
        {"trained": {"probe/accuracy": 0.5}, "untrained": {"probe/accuracy": 0.25}},
        Report("pretrain", {"probe/accuracy": 0.5}, {"probe/accuracy": 0.25}),
    ),
    "pretrain without a baseline": ({"trained": {"a": 1.0}}, Report("pretrain", {"a": 1.0})),
    "linear": (
        {"best": {"rate": 0.1}, "heads": [], "test": {"accuracy/top1": 0.5}, "clips": 3, "unreadable": 0, "views": "1 x 1"},
        Report(
            "linear",
            {"accuracy/top1": 0.5},
            {},
            {"best": {"rate": 0.1}, "heads": [], "clips": 3, "unreadable": 0, "views": "1 x 1"},
        ),
    ),
    "knn": ({"knn": {"top1/k=20": 0.5}}, Report("knn", {"top1/k=20": 0.5})),
    "extract": ({"extract": {"videos": 3}}, Report("extract", {"videos": 3})),
}


@pytest.mark.parametrize("name", OLD)
def test_reports_of_earlier_versions_are_read(name, tmp_path):
    value, expected = OLD[name]
    (tmp_path / "report.json").write_text(json.dumps(value))
    assert Report.of_json(value, name) == expected
    if name != "linear":  # whose task its own file does not name
        assert Workdir(tmp_path).read_report() == expected


def test_a_report_comes_back_as_it_was_written(tmp_path):
    workdir = Workdir.create(tmp_path / "new" / "folder")
    assert workdir.read_report() is None and workdir.read_config() is None
    report = Report("linear", {"accuracy/top1": 0.5}, {"accuracy/top1": 0.25}, {"clips": 3, "best": {"rate": 0.1}})
    workdir.write_report(report)
    assert workdir.read_report() == report
    assert set(json.loads((workdir / "report.json").read_text())) == {"task", "metrics", "baseline", "details", "step"}


@pytest.mark.parametrize("value", [[], 3, {}, {"metrics": 3}, {"test": []}, {"knn": None}, {"metrics": {}, "details": "x"}])
def test_a_damaged_report_is_an_error_that_names_the_file(value, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match="report.json cannot be read"):
        Workdir(tmp_path).read_report()


def test_a_file_in_place_of_the_folder_and_a_damaged_config_are_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="cannot be a folder"):
        Workdir.create(tmp_path / "file")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="config.json is not JSON"):
        Workdir(tmp_path).read_config()


@pytest.mark.parametrize("bucket", ["gb", "My_Bucket", "a..b", "x" * 64])
def test_a_bucket_that_cannot_be_one_of_gcs_is_refused_before_anything_is_written(bucket):
    pytest.importorskip("gcsfs")
    with pytest.raises(
        ConfigError, match=f"^--workdir=gs://{bucket}/run: '{bucket}' is no name of a bucket of GCS, .*: give gs://"
    ):
        check_path(f"gs://{bucket}/run")
    check_path("gs://bucket-of-tests/run")
