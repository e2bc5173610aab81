"""A run that resumes with other fields of the config says so, and keeps in the workdir which they were."""

import json

import pytest

from cvmae.training.identity import changed_fields, tell_changed_fields
from cvmae.workdir import Workdir
from tests.tiny_configs import config
from tests.training.counting_task import train

SIZE = {"total": "4_steps", "batch_size": 8, "checkpoint_every": "2_steps"}


def of_start(path, number):
    return Workdir(path).read_starts()[number].get("changed_fields")


def test_fields_that_changed_at_a_resume_are_told_and_kept(tmp_path, capsys):
    train(tmp_path, **SIZE)
    assert "other fields" not in capsys.readouterr().err
    train(tmp_path, **SIZE)
    assert "other fields" not in capsys.readouterr().err
    more = {
        "total": "6_steps",
        "contrast__temperature": 0.5,
        "optimizer__base_lr": 0.5,
        "loss__mse_video": 0.25,
        "augment__scale": (0.5, 0.75),
    }
    untold = {"log_every": "3_steps", "checkpoint_keep": 7, "data__threads": 3, "report__clips": 5, "scan": True}
    before = config().optimizer.base_lr
    train(tmp_path, **(SIZE | more | untold))
    [line] = [line for line in capsys.readouterr().err.splitlines() if "other fields" in line]
    assert line.startswith("resumed with other fields than before step 4: ")
    for told in (
        "total '4_steps' -> '6_steps'",
        "contrast.temperature 0.1 -> 0.5",
        f"optimizer.base_lr {before} -> 0.5",
        ") -> (0.5, 0.75)",
    ):
        assert told in line
    kept = of_start(tmp_path, 2)
    assert set(kept) == {"total", "contrast.temperature", "optimizer.base_lr", "augment.scale", "loss.mse_video"}
    assert kept["augment.scale"] == [list(config().augment.scale), [0.5, 0.75]] and kept["optimizer.base_lr"] == [before, 0.5]
    assert of_start(tmp_path, 0) is None and of_start(tmp_path, 1) is None
    assert json.loads((tmp_path / "config.json").read_text())["optimizer"]["base_lr"] == 0.5


def test_a_config_of_an_earlier_version_and_the_same_values_are_no_change(tmp_path, capsys):
    here = json.loads(config().to_json_best_effort())
    there = json.loads(json.dumps(here))
    there["data"].pop("fit"), there["optimizer"].pop("schedule"), there.update(removed=3)
    there["contrast"]["temperature"] = here["contrast"]["temperature"] = float("nan")
    there["augment"]["plus_shift"] = float(here["augment"]["plus_shift"])
    assert not changed_fields(there, here)
    (tmp_path / "config.json").write_text(json.dumps(there | {"scan": not here["scan"]}))
    assert not tell_changed_fields(Workdir(tmp_path), config(contrast__temperature=float("nan")), 3)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    "text, what", [(None, "was not there"), ("{}", "was not that of a run"), ('{"x": 1}', "was not that of a run")]
)
def test_a_config_that_is_gone_is_told(tmp_path, capsys, text, what):
    train(tmp_path, **SIZE)
    (tmp_path / "config.json").unlink() if text is None else (tmp_path / "config.json").write_text(text)
    capsys.readouterr()
    train(tmp_path, **SIZE | {"total": "6_steps", "optimizer__base_lr": 0.5})
    [line] = [line for line in capsys.readouterr().err.splitlines() if "config.json" in line]
    assert line.startswith(f"{tmp_path / 'config.json'} {what} at the resume from step 4: fields that changed since cannot")
    assert json.loads((tmp_path / "config.json").read_text())["optimizer"]["base_lr"] == 0.5
    assert not tell_changed_fields(Workdir(tmp_path / "new"), config(), 0) and not capsys.readouterr().err


@pytest.mark.parametrize("number, more", [(8, ""), (12, " and 4 more, see environment.json")])
def test_a_long_list_is_cut(tmp_path, capsys, number, more):
    there = json.loads(config().to_json_best_effort())
    names = list(there["optimizer"])[:6] + [name for name in there["augment"] if name not in there["optimizer"]][:6]
    for name in names[:number]:
        there["optimizer" if name in there["optimizer"] else "augment"][name] = "x" * 200
    (tmp_path / "config.json").write_text(json.dumps(there))
    changed = tell_changed_fields(Workdir(tmp_path), config(), 9)
    [line] = capsys.readouterr().err.splitlines()
    assert len(changed) == number and line.count(" -> ") == 8 and line.endswith(more) and "x" * 60 not in line
    (tmp_path / "config.json").write_text(json.dumps(there))
    assert not tell_changed_fields(Workdir(tmp_path), config(), 0)  # it begins from the start
