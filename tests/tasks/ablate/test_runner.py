"""A study's runs: which are made, left alone, resumed or refused, and what a failure or a signal does; nothing here trains."""

import os
import signal

import pytest

from cvmae.config import ConfigError
from cvmae.tasks.ablate import table
from cvmae.tasks.ablate.runner import StudyError, run_study
from cvmae.tasks.ablate.study import ARRAY
from cvmae.training import preemption
from cvmae.training.metric_writer import NonFiniteError
from cvmae.training.preemption import stop_requested
from tests.tasks.ablate.fake_study import Trainer, folders, pairs, saved

ALL = ["low-seed0", "high-seed0", "low-seed1", "high-seed1"]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No array around these tests, and no plots, which test_table.py looks at."""
    monkeypatch.delenv(ARRAY, raising=False)
    monkeypatch.setattr(table, "draw", lambda *_: None)


def test_all_runs_are_made_each_in_its_own_folder_and_not_twice(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    numbers = run_study(pairs(), tmp_path)
    assert trainer.runs == trainer.forgotten == ALL and folders(tmp_path) == set(ALL)
    assert trainer.tables == [False, True, True, True]
    assert [trainer.configs[name].video_branch.mask.ratio for name in ALL] == [0.5, 0.75] * 2
    assert numbers["high/probe/accuracy"] == pytest.approx((0.5 + 0.5 + 1 / 64) / 2)
    assert "high/reconstruction/model" not in numbers
    assert run_study(pairs(), tmp_path) == numbers and trainer.runs == ALL
    assert saved(tmp_path / "config.json")["study"]["seeds"] == [0, 1]


def test_more_seeds_add_runs(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    run_study(pairs(seeds=(0,)), tmp_path)
    run_study(pairs(), tmp_path)
    assert trainer.runs == ALL


def test_a_run_that_fails_is_named_and_the_others_are_made(tmp_path, monkeypatch, capsys):
    broken = {"high-seed0": NonFiniteError("step 3: loss/mse_video is not finite"), "low-seed1": MemoryError("no\nmore")}
    trainer = Trainer(monkeypatch, broken)
    with pytest.raises(StudyError, match="2 of 4 runs failed: high-seed0 .*loss/mse_video.*; low-seed1 .MemoryError: no more"):
        run_study(pairs(), tmp_path)
    assert trainer.runs == ALL
    text = (tmp_path / "table.md").read_text()
    assert "- high-seed0: failed: NonFiniteError: step 3" in text and "- low-seed1: failed: MemoryError: no more" in text
    assert capsys.readouterr().out == text
    trainer.raises = {}
    run_study(pairs(), tmp_path)
    assert trainer.runs == [*ALL, "high-seed0", "low-seed1"]
    assert "Missing" not in (tmp_path / "table.md").read_text() and not list(tmp_path.glob("*/failed.txt"))


@pytest.mark.parametrize("by", ["field", "environment"])
def test_an_index_makes_one_run_and_the_table_of_what_is_there(by, tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    if by == "environment":
        monkeypatch.setenv(ARRAY, "2")
    config = pairs() if by == "environment" else pairs(study__index=2)
    run_study(config, tmp_path)
    assert trainer.runs == ["low-seed1"]
    text = (tmp_path / "table.md").read_text()
    assert "- high-seed1: not begun" in text and "low-seed1:" not in text and "| low |" in text


def test_the_field_goes_before_the_array(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    monkeypatch.setenv(ARRAY, "2")
    run_study(pairs(study__index=1), tmp_path)
    assert trainer.runs == ["high-seed0"]


@pytest.mark.parametrize("value, said", [("4", f"{ARRAY}=4: .*an array is 0-3"), ("x", f"{ARRAY}=x")])
def test_an_index_of_no_run_is_refused(value, said, tmp_path, monkeypatch):
    monkeypatch.setenv(ARRAY, value)
    with pytest.raises(ConfigError, match=said):
        run_study(pairs(), tmp_path / "w")
    assert not (tmp_path / "w").exists()
    with pytest.raises(ConfigError, match="config.study.index=-2"):
        run_study(pairs(study__index=-2), tmp_path / "w")


def test_folders_of_other_configs_are_refused_before_anything_runs(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch, stops=["high-seed1"])
    run_study(pairs(), tmp_path)
    trainer.runs = []
    with pytest.raises(ConfigError, match="low-seed0 was begun with total='2_steps', the study now has '3_steps'"):
        run_study(pairs(pretrain__total="3_steps"), tmp_path)
    with pytest.raises(ConfigError, match="begun with .* and 1 other fields"):
        run_study(pairs(pretrain__total="3_steps", pretrain__batch_size=4), tmp_path)
    changed = (("low", {"video_branch.mask.ratio": 0.5}), ("high", {"video_branch.mask.ratio": 0.625}))
    with pytest.raises(ConfigError, match="high-seed0 was begun with video_branch.mask.ratio=0.75, the study now has 0.625"):
        run_study(pairs_with(changed), tmp_path)
    other = pairs()
    other.study.name = "views"
    with pytest.raises(ConfigError, match="holds study.name='masking', this is study.name='views'"):
        run_study(other, tmp_path)
    with pytest.raises(ConfigError, match="holds task='pretrain'"):
        run_study(pairs(), tmp_path / "low-seed0")
    assert not trainer.runs


def pairs_with(variants):
    config = pairs()
    config.study.variants = variants
    return config


def test_how_clips_are_read_may_change(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch, stops=["low-seed0"])
    run_study(pairs(), tmp_path)
    trainer.stops = set()
    run_study(pairs(pretrain__data__workers=2, pretrain__log_every="2_steps"), tmp_path)
    assert trainer.runs == ["low-seed0", *ALL]


def test_data_that_is_not_there_is_said_before_anything_is_written(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)
    with pytest.raises(ConfigError, match="config.pretrain.data: .*manifest"):
        run_study(pairs(pretrain__data__source="files"), tmp_path / "w")
    assert not trainer.runs and not (tmp_path / "w").exists()


def test_a_run_that_a_signal_stopped_ends_the_study_and_goes_on_by_the_same_call(tmp_path, monkeypatch, capsys):
    trainer = Trainer(monkeypatch, stops=["high-seed0"])
    assert run_study(pairs(), tmp_path) == {}
    assert trainer.runs == ALL[:2] and "the same command resumes it" in capsys.readouterr().err
    trainer.stops = set()
    assert run_study(pairs(), tmp_path)
    assert trainer.runs == ALL[:2] + ALL[1:]


def test_a_signal_while_a_run_writes_its_report_ends_the_study_after_it(tmp_path, monkeypatch):
    trainer = Trainer(monkeypatch)

    def signalled(config, workdir):
        with stop_requested():
            os.kill(os.getpid(), signal.SIGTERM)
            return trainer(config, workdir)

    monkeypatch.setattr("cvmae.tasks.run", signalled)
    before = signal.getsignal(signal.SIGTERM)
    assert run_study(pairs(), tmp_path) == {}
    assert trainer.runs == ["low-seed0"] and (tmp_path / "low-seed0" / "report.json").exists()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_inner_block_does_not_hear_what_came_before_it():
    with stop_requested() as outer:
        with stop_requested() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner(0) and outer(0)
        with stop_requested() as second:
            assert outer(0) and not second(0)
    assert not preemption._WAITING
