"""The miniature of each study trains: one of them whole, after a signal; of the others the variant that differs from the base."""

import os
import signal

import pytest

from configs.ablate import ABOUT, STUDIES
from cvmae.tasks import pretrain
from cvmae.tasks import run as run_config
from cvmae.tasks.ablate.runner import run_study
from cvmae.training.metric_writer import MetricsWriter
from tests.commands import checkpoint_steps, metric_lines
from tests.tasks.ablate.fake_study import folders, saved, study


@pytest.mark.slow
def test_masking_stopped_by_a_signal_goes_on_and_ends_in_a_table(tmp_path, monkeypatch, capsys):
    write, config = MetricsWriter.write, study(pretrain__total="3_steps")
    first, second = (f"{name}-seed0" for name, _ in config.study.variants)

    def written(self, step, values):
        write(self, step, values)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(MetricsWriter, "write", written)
        assert run_config(config, str(tmp_path)) == {}
    assert folders(tmp_path) == {first} and not (tmp_path / first / "report.json").exists()
    numbers = run_config(config, str(tmp_path))
    assert "resumed from the checkpoint of step" in capsys.readouterr().err
    for name in (first, second):
        assert [line["step"] for line in metric_lines(tmp_path / name) if "loss" in line] == [1, 2, 3]
        assert checkpoint_steps(tmp_path / name) == [3]
    reports = {name: saved(tmp_path / name / "report.json") for name in (first, second)}
    assert reports[first]["baseline"] and not reports[second]["baseline"]
    assert len(numbers) == 3 * len(config.study.measures)
    for name, report in reports.items():
        for measure in config.study.measures:
            assert numbers[f"{name.removesuffix('-seed0')}/{measure}"] == report["metrics"][measure]
    assert (tmp_path / "table.png").exists() and "Missing" not in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_a_variant_without_decoder_has_no_reconstruction_error(tmp_path):
    config = study("objectives", study__index=1)
    numbers = run_study(config, tmp_path)
    assert set(numbers) == {f"intra_video/{measure}" for measure in config.study.measures} - {"intra_video/reconstruction/model"}
    assert "mse-seed0: not begun" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == "views" else pytest.mark.slow)
        for name in sorted(set(STUDIES) - {"masking", "objectives"})
    ],
)
def test_a_miniature_trains(name, tmp_path, monkeypatch):
    """What it is measured by is the same for every study, and compiled in the tests above."""
    monkeypatch.setattr(pretrain, "evaluate_pretraining", lambda *_: {"probe/accuracy": 0.5})
    config = study(name, study__index=1)
    variant = config.study.variants[1][0]
    assert run_study(config, tmp_path) == {f"{variant}/probe/accuracy": 0.5}
    lines = metric_lines(tmp_path / f"{variant}-seed0")
    assert [line["step"] for line in lines] == [1, 2]
    assert {key for key in lines[0] if key.startswith("loss/")} == {f"loss/{ABOUT[name]}"}
