"""The table of a study beside numpy, and the plot beside the table."""

import csv
import re

import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from cvmae.tasks.ablate import table
from cvmae.tasks.ablate.runner import run_study
from cvmae.tasks.ablate.study import runs_of
from tests.tasks.ablate.fake_study import Trainer, pairs, value

SEEDS = (0, 1, 3)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """(workdir, config) of a study whose runs are all made but high-seed3."""
    Trainer(monkeypatch, stops=["high-seed3"])
    run_study(pairs(SEEDS), tmp_path)
    return tmp_path, pairs(SEEDS)


def of(variant, seeds):
    return [value(f"{variant}-seed{seed}") for seed in seeds]


def test_cells_are_mean_and_deviation_over_the_seeds_that_are_there(made):
    workdir, _ = made
    lines = (workdir / "table.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    low, high = of("low", SEEDS), of("high", SEEDS[:2])
    assert cells == [
        ["", "linear probe", "held-out reconstruction error"],
        ["---"] * 3,
        ["untrained", "12.5 ± 0.0", ""],
        ["low", f"{100 * np.mean(low):.1f} ± {100 * np.std(low, ddof=1):.1f}", f"{np.mean([1.5, 2.5, 4.5]):.3f} ± 1.528"],
        ["high", f"{100 * np.mean(high):.1f} ± {100 * np.std(high, ddof=1):.1f}", ""],
    ]
    assert np.std([1.5, 2.5, 4.5], ddof=1) == pytest.approx(1.528, abs=5e-4)
    assert "- high-seed3: not finished" in lines
    assert re.search("2 steps of batch 8, mean ± standard deviation over seeds 0, 1, 3", lines[0])
    assert lines[-1].startswith("Reconstruction errors are measured with each variant's own masks")


def test_the_csv_has_every_value(made):
    rows = {(row["variant"], row["measure"]): row for row in csv.DictReader(open(made[0] / "table.csv", encoding="utf-8"))}  # noqa: SIM115
    assert len(rows) == 3 * 2
    for variant, seeds in (("low", SEEDS), ("high", SEEDS[:2])):
        row, values = rows[variant, "probe/accuracy"], of(variant, seeds)
        assert [float(word) for word in row["values"].split()] == values and int(row["runs"]) == len(values)
        assert float(row["mean"]) == pytest.approx(np.mean(values))
        assert float(row["deviation"]) == pytest.approx(np.std(values, ddof=1))
    empty = rows["high", "reconstruction/model"]
    assert (empty["runs"], empty["mean"], empty["deviation"], empty["values"]) == ("0", "", "", "")


def test_one_seed_has_no_deviation(tmp_path, monkeypatch):
    Trainer(monkeypatch)
    run_study(pairs((1,)), tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "±" not in text and ", seed 1;" in text
    assert [row["deviation"] for row in csv.DictReader(open(tmp_path / "table.csv", encoding="utf-8"))] == [""] * 6  # noqa: SIM115


def bars(axis):
    """(means, places, deviations) of the one error bar of a panel."""
    [container] = [found for found in axis.containers if isinstance(found, ErrorbarContainer)]
    means, places = container[0].get_data()
    spread = [(segment[1][0] - segment[0][0]) / 2 for segment in container[2][0].get_segments()]
    return list(means), list(places), spread


def test_the_plot_has_a_point_with_its_deviation_for_each_variant(made):
    workdir, config = made
    assert (workdir / "table.png").read_bytes().startswith(b"\x89PNG")
    found = table.collect(config, runs_of(config, workdir))
    probe, error = table.figure(found.values, table.titles(config), table.UNTRAINED).axes
    low, high = of("low", SEEDS), of("high", SEEDS[:2])
    means, places, spread = bars(probe)
    np.testing.assert_allclose(means, [100 * np.mean(low), 100 * np.mean(high)])
    np.testing.assert_allclose(spread, [100 * np.std(low, ddof=1), 100 * np.std(high, ddof=1)])
    assert places == [0, 1] and [label.get_text() for label in probe.get_yticklabels()] == ["low", "high"]
    dots = [line for line in probe.get_lines() if line.get_marker() == "."]
    assert [len(line.get_xdata()) for line in dots] == [3, 2]
    [dashed] = [line for line in probe.get_lines() if line.get_linestyle() == "--"]
    assert set(dashed.get_xdata()) == {12.5}
    means, places, _ = bars(error)
    np.testing.assert_allclose(means, [np.mean([1.5, 2.5, 4.5])])
    assert places == [0] and error.get_title() == "held-out reconstruction error" and error.get_xlabel() == ""


@pytest.mark.parametrize(
    "reference, lines, said",
    [(2.8, 1, "%"), (9.0, 0, "%  (untrained: 900, to the right)"), (-7.0, 0, "%  (untrained: -700, to the left)")],
)
def test_a_reference_far_off_does_not_squeeze_the_variants(reference, lines, said):
    values = {"untrained": {"m": [reference]}, "a": {"m": [1.0, 1.2]}, "b": {"m": [2.0]}}
    [axis] = table.figure(values, {"m": ("title", True)}, "untrained").axes
    assert len([line for line in axis.get_lines() if line.get_linestyle() == "--"]) == lines
    assert axis.get_xlabel() == said and axis.get_xlim()[1] - axis.get_xlim()[0] < 220


def test_nothing_finished_is_a_table_without_numbers_and_no_plot(tmp_path, monkeypatch):
    Trainer(monkeypatch, stops=["low-seed0"])
    run_study(pairs(), tmp_path)
    text = (tmp_path / "table.md").read_text()
    assert "| low |  |  |" in text and text.count("not begun") == 3 and not (tmp_path / "table.png").exists()


def test_the_last_to_write_has_seen_every_run(tmp_path, monkeypatch):
    """A run of the same array ends, and writes its table, while this one writes an older one."""
    trainer, draw, config = Trainer(monkeypatch), table.draw, pairs((0,))
    runs = runs_of(config, tmp_path)
    trainer(runs[0].config, runs[0].folder)

    def drawn(*args):
        draw(*args)
        if not runs[1].report:
            trainer(runs[1].config, runs[1].folder)

    monkeypatch.setattr(table, "draw", drawn)
    text = table.write(config, runs, tmp_path)
    assert "| high | 50.0 |" in text and (tmp_path / "table.md").read_text() == text
