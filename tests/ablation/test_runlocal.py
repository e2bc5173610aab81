"""The miniature of each study trains for real: one whole, interrupted by a signal; of the others what their axis changes."""

import os
import signal

import pytest

from configs.ablate import STUDIES
from cvmae.ablation.runner import run_study
from cvmae.run import run as run_config
from cvmae.training.metrics import MetricsWriter
from tests.ablation.fake import folders, saved, study
from tests.command import checkpoint_steps, metric_lines

pytestmark = pytest.mark.usefixtures("quick_compilation")


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
    assert set(reports[first]) == {"trained", "untrained"} and set(reports[second]) == {"trained"}
    assert len(numbers) == 3 * len(config.study.measures)
    for name, report in reports.items():
        for measure in config.study.measures:
            assert numbers[f"{name.removesuffix('-seed0')}/{measure}"] == report["trained"][measure]
    assert (tmp_path / "table.png").exists() and "Missing" not in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "masking"])
def test_a_miniature_runs(name, tmp_path):
    config = study(name, study__index=1)
    numbers = run_study(config, tmp_path)
    variant = config.study.variants[1][0]
    measures = {key.removeprefix(f"{variant}/") for key in numbers}
    assert measures == set(config.study.measures) - (set() if name == "decoder" else {"reconstruction/model"})
    assert f"{config.study.variants[0][0]}-seed0: not begun" in (tmp_path / "table.md").read_text()
