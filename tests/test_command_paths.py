"""Paths with a scheme that a command cannot read or write: one line that names the flag, before any work, and no folder of that name."""

import pytest

from cvmae import bench, plan
from cvmae.data.baselines import __main__ as baselines
from cvmae.data.motion import __main__ as motion
from cvmae.evaluation import mteb
from cvmae.interop import __main__ as interop
from cvmae.performance import gpu_check
from cvmae.report import __main__ as report
from tests.commands import caller, run_own

OUT = {
    "export": (interop, "export", "--to=npz", "--checkpoint=w"),
    "import": (interop, "import", "--from=cvmae", "--weights=w"),
    "mteb": (mteb, "--encoder=w", "--tasks=t"),
    "report": (report, "w"),
    "gpu_check": (gpu_check,),
    "motion": (motion,),
}


@pytest.mark.parametrize("path", ["foo://x", "file:///x", "http://h/x", "hf://a/b"])
@pytest.mark.parametrize("name", OUT)
def test_a_path_that_cannot_be_written_to(name, path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command, *words = OUT[name]
    assert run_own(command, *words, f"--out={path}") == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --out={path}: {path.partition(':')[0]}:// ") and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        (interop, ("import", "--weights=foo://x", "--out=o"), "--weights=foo://x: foo:// is not supported"),
        (interop, ("export", "--to=npz", "--checkpoint=foo://x", "--out=o"), "--checkpoint=foo://x: foo:// is not supported"),
        (interop, ("push", "foo://x", "--to=hf:a/b"), "push takes one folder of this machine"),
        (baselines, ("--manifest=foo://x",), "--manifest=foo://x: foo:// is not supported"),
        (mteb, ("--encoder=foo://x", "--tasks=t", "--out=o"), "--encoder=foo://x: foo:// is not supported"),
        (motion, ("--sheet=gs://bucket/x.png",), "--sheet=gs://bucket/x.png: gs:// is not supported there"),
    ],
)
def test_other_paths(command, words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_own(command, *words) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}") and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("command", "words"), [(bench, ()), (plan, ("--topology=cpu:1",))])
def test_numbers_that_cannot_be_written_are_told_before_they_are_computed(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, error = caller(command, monkeypatch, capsys)(*words, "--json=hf://a/b")
    assert (code, out) == (2, "") and error.startswith("error: --json=hf://a/b: hf:// cannot be written to")
