"""Meta-World without its packages: tasks and labels, options and flags, and what is said where something is missing."""

import pytest

from cvmae.data import metaworld
from cvmae.data.metaworld import spec, system
from cvmae.data.prepare import PrepareError
from cvmae.data.prepare import __main__ as command
from tests.commands import run_own


def test_tasks_come_in_pairs_and_alone():
    assert len(spec.TASKS) == len(set(spec.TASKS)) == 50 and len(spec.PAIRS) == 14 and len(set(spec.OBJECT_OF.values())) == 36
    assert spec.OBJECT_OF["door-open"] == spec.OBJECT_OF["door-close"] == "door" and spec.OBJECT_OF["reach"] == "reach"


def test_appearance_that_is_unseen_is_of_other_ranges():
    seen, unseen = spec.SEEN, spec.UNSEEN
    assert unseen.azimuth[1] < seen.azimuth[0] and unseen.gain[1] <= seen.gain[0]
    assert not set(unseen.turns) & set(seen.turns) and unseen.is_wooden != seen.is_wooden


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"clips": 0}, "--clips=0 must be a number of training clips"),
        ({"side": 33}, "--side=33 must be the side of the frames in pixels, even"),
        ({"frames": 1}, "--frames=1 must be"),
        ({"seed": -1}, "--seed=-1 must be"),
        ({"tasks": "door-opn"}, "Meta-World has no task 'door-opn': did you mean 'door-open'"),
        ({"out": ""}, "--out= must be a local folder"),
        ({"out": "foo://x"}, "--out=foo://x must be a local folder"),
        ({"out": "gs://bucket/x"}, "--out=gs://bucket/x must be a local folder"),
    ],
)
def test_options_out_of_range(changes, message):
    with pytest.raises(PrepareError, match=message.replace("?", r"\?")):
        metaworld.Options(**{"out": "o"} | changes)


@pytest.mark.parametrize(
    "words, message",
    [
        (["--dataset=metaworld"], "--out is missing"),
        (["--dataset=metaworld", "--out={tmp}/o", "--videos=v"], "--videos does not apply to --dataset=metaworld"),
        (
            ["--dataset=folder", "--out={tmp}/o", "--videos=v", "--clips=3"],
            "--clips does not apply to --dataset=folder: it is an option of",
        ),
        (["--dataset=metaworld", "--out={tmp}/o", "--side=7"], "--side=7 must be"),
    ],
)
def test_flags_that_do_not_fit_are_named_in_one_line(tmp_path, capsys, words, message):
    assert run_own(command, *(word.format(tmp=tmp_path) for word in words)) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0] and not (tmp_path / "o").exists()


def test_missing_packages_and_libraries_are_named_with_their_installation(tmp_path, monkeypatch, capsys):
    words = ["--dataset=metaworld", f"--out={tmp_path / 'o'}"]
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(system.sys, "platform", "linux")
    monkeypatch.setattr(system, "PACKAGES", ("json", "no_such_package"))
    assert run_own(command, *words) == 2
    assert capsys.readouterr().err == (
        "error: --dataset=metaworld needs no_such_package: pip install 'crossvideomae[metaworld]'\n"
    )
    monkeypatch.setattr(system, "PACKAGES", ())
    monkeypatch.setattr(system, "_problem", lambda name: f"no lib{name}.so")
    assert run_own(command, *words) == 2
    assert capsys.readouterr().err == (
        "error: --dataset=metaworld renders without a screen, and no library for it works here (egl: no libegl.so; osmesa: no libosmesa.so): "
        "install one, on Debian or Ubuntu by `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` or `apt-get install libosmesa6`\n"
    )
    assert not (tmp_path / "o").exists()
