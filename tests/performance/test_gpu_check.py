"""`launch/gpu_check.sh` on the CPU with small sizes, and what becomes of parts that fail or take too long."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest

from cvmae.performance import gpu_check, gpu_parts
from cvmae.performance.gpu_parts import PARTS, SMALL, Part, PartError, Runner
from tests.commands import ROOT, run, run_own

CPU = {"JAX_PLATFORMS": "cpu"}
# Installs wheels as `pip --target` does; every other command is Python's. The Python of a test may have no pip.
PYTHON = """#!{executable}
import os, sys, zipfile
if sys.argv[1:3] != ["-m", "pip"]:
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
assert {{"--no-index", "--no-deps", "--target"}} < set(sys.argv), sys.argv
target = sys.argv[sys.argv.index("--target") + 1]
for wheel in [word for word in sys.argv if word.endswith(".whl")]:
    zipfile.ZipFile(wheel).extractall(target)
"""
# Loaded by Python at its start from the folder of wheels: says where the measurements ran.
HOOK = "import os, pathlib; pathlib.Path(os.environ['HOOK']).touch()"


@pytest.fixture
def bare(tmp_path):
    """Returns the variables of a machine with a folder of wheels."""
    python = tmp_path / "python"
    python.write_text(PYTHON.format(executable=sys.executable))
    python.chmod(0o755)
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "hook-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("sitecustomize.py", HOOK)
    return CPU | {
        "PYTHON": str(python),
        "WHEELS": str(tmp_path / "wheels"),
        "SITE": str(tmp_path / "site"),
        "HOOK": str(tmp_path / "hook"),
        "OUT": str(tmp_path / "out"),
        "LIMIT_S": "100000",  # however busy the machine
    }


@pytest.mark.slow
def test_every_part_on_a_cpu(bare, tmp_path):
    peer = all(map(importlib.util.find_spec, ("torch", "transformers")))
    names = [name for name in PARTS if peer or name != "peer"]
    done = subprocess.run(
        [str(ROOT / "launch" / "gpu_check.sh"), "--small", f"--parts={','.join(names)}"],
        env=os.environ | bare,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "hook").exists()  # what the wheels brought was on the path
    data = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    table = (tmp_path / "out" / "gpu_check.md").read_text()
    assert list(data["parts"]) == names and data["device"] == "cpu" and table in done.stdout
    rows = {part: dict(outcome["rows"]) for part, outcome in data["parts"].items()}
    assert "passed" in rows["tests"]["tests of what depends on the device"]
    [(batch, remat)] = SMALL.trials
    assert "clips/s" in rows["step"][f"training step, batch {batch}, remat={remat}"]
    assert "planned" in rows["plan"][f"memory of the step, batch {batch}, remat={remat}"]
    assert any("einsum" in result and "the step takes" in result for result in rows["attention"].values())
    assert [name.split()[4] for name in rows["latency"]] == ["4", "8", "16"]
    assert "clips/s" in " ".join(rows["loader"].values())
    assert all(f"| {name} | {result} |" in table for part in rows.values() for name, result in part.items())
    assert not peer or "times as fast" in " ".join(rows["peer"].values())


def runner(tmp_path, sizes=SMALL, seconds=60.0) -> Runner:
    return Runner(sizes, tmp_path, time.monotonic() + seconds, CPU)


def test_a_part_that_fails_is_a_line_and_the_others_run(tmp_path, monkeypatch):
    def fails(run):
        yield "first", "1 ms"
        run.command("-c", "import sys; print('error: no | room'); sys.exit(3)")

    def breaks(run):
        yield from ()
        raise KeyError("absent")

    def works(run):
        yield "third", run.command("-c", "print('done')").strip()

    monkeypatch.setattr(gpu_check, "PARTS", {"a": Part(fails, 60), "b": Part(breaks, 60), "c": Part(works, 60)})
    outcomes = gpu_check.check("abc", SMALL, 60, tmp_path / "out", "command")
    assert [outcome.failed for outcome in outcomes.values()] == [True, True, False]
    table = (tmp_path / "out" / "gpu_check.md").read_text()
    for line in ("first | 1 ms", "a | failed: exit code 3: error: no / room", "b | failed: KeyError: 'absent'", "third | done"):
        assert f"| {line} |" in table
    assert list(json.loads((tmp_path / "out" / "gpu_check.json").read_text())["parts"]) == ["a", "b", "c"]


def command_part(code: str, seconds: int) -> Part:
    return Part(lambda run: iter([("x", run.command("-c", code))]), seconds)


def test_a_part_out_of_time_is_ended_with_its_processes(tmp_path):
    """A child of the command would hold its stdout, and the runner would wait for it."""
    code = (
        "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); time.sleep(600)"
    )
    sizes = dataclasses.replace(SMALL, patience=1)
    outcome = gpu_check.run_part("slow", command_part(code, 1), runner(tmp_path, sizes), time.monotonic() + 60)
    assert outcome.failed and outcome.rows == [("slow", "failed: not done after 1 s")]


def test_a_part_without_time_is_left_out(tmp_path):
    outcome = gpu_check.run_part("late", command_part("", 60), runner(tmp_path), time.monotonic())
    assert outcome.failed and outcome.rows == [("late", "left out: no time remains")]


def fake_bench(monkeypatch, results):
    """Has `Runner.bench` return or raise the results of each batch."""

    def bench(self, config, *words, **_):
        [batch] = [int(word.partition("=")[2]) for word in words if word.startswith("--config.batch_size=")]
        if isinstance(results[batch], Exception):
            raise results[batch]
        return results[batch]

    monkeypatch.setattr(Runner, "bench", bench)


def measured(rate: float, peak: float) -> dict:
    return {
        "clips_per_second": rate,
        "flops": {"model": 4e12},
        "step": {"median_wall": 0.01},
        "peak_flops": peak,
        "seconds": {"compile": 30.0},
    }


def test_the_fastest_batch_is_kept_and_one_that_fails_is_a_line(tmp_path, monkeypatch):
    sizes = dataclasses.replace(SMALL, trials=((2, "none"), (4, "full"), (8, "none")))
    too_large = PartError("failed: exit code 1: RESOURCE_EXHAUSTED")
    fake_bench(monkeypatch, {2: measured(80, 800e12), 4: measured(100, 800e12), 8: too_large})
    run = runner(tmp_path, sizes)
    rows = list(gpu_parts.step(run))
    assert "100.0 clips/s, MFU 50.0 %" in rows[1][1] and rows[2] == ("training step, batch 8, remat=none", str(too_large))
    assert run.best is not None and run.best[:2] == (4, "full")
    fake_bench(monkeypatch, dict.fromkeys((2, 4, 8), too_large))
    with pytest.raises(PartError, match="at no batch"):
        list(gpu_parts.step(runner(tmp_path, sizes)))
    with pytest.raises(PartError, match="no step ran"):
        list(gpu_parts.plan(runner(tmp_path)))


def test_an_error_of_the_command_is_one_line():
    for argument, message in (("--parts=step,pear", "did you mean 'peer'?"), ("--second=3", "second")):
        done = run(argument, program=("-m", "cvmae.performance.gpu_check"))
        assert (
            done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and message in done.stderr
        )


def test_help_names_the_parts():
    done = run("--help", program=("-m", "cvmae.performance.gpu_check"))
    assert done.returncode == 0 and ", ".join(PARTS) in " ".join(textwrap.dedent(done.stdout).split())


@pytest.mark.parametrize(
    "words, message",
    [
        (["--out={}/file"], "error: --out={}/file cannot be written, {}/file: Not a directory; give a path"),
        (["--out={}/file/results"], "error: --out={}/file/results cannot be written"),
        (["--parts="], "error: --parts is empty: give some of tests, step, "),
    ],
)
def test_an_error_is_one_line(words, message, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run_own(gpu_check, *(word.format(tmp_path) for word in words)) == 2
    err = capsys.readouterr().err
    assert err.startswith(message.format(tmp_path, tmp_path)) and err.count("\n") == 1


def test_ctrl_c_says_where_the_results_are(tmp_path, monkeypatch, capsys):
    def interrupted(run):
        yield from ()
        raise KeyboardInterrupt

    parts = {"a": Part(lambda run: iter([("first", "1 ms")]), 60), "b": Part(interrupted, 60)}
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    assert run_own(gpu_check, f"--out={tmp_path}", "--parts=a,b") == 130
    assert capsys.readouterr().err.splitlines()[-1] == f"error: interrupted; {tmp_path} has the parts that had ended"
    assert "| first | 1 ms |" in (tmp_path / "gpu_check.md").read_text()
