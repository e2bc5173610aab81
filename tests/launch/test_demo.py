"""`launch/demo.sh` with a stand-in for Python: the commands that it runs, and signals and exit codes on their way through it."""

import os
import shutil
import subprocess
import sys
import time

from tests.commands import ROOT

LAUNCH = ROOT / "launch"

FIELD = "--config.data.manifest=my videos/it's $(HOME).csv"  # one word, whatever it goes through
PYTHON = f"""#!{sys.executable}
import os, pathlib, signal, sys, time
if "cvmae.main" in sys.argv:
    signal.signal(signal.SIGTERM, lambda *_: pathlib.Path("told").touch())
    pathlib.Path("running").touch()
    while not pathlib.Path("told").exists() and "CODE" not in os.environ:
        time.sleep(0.01)
print(*sys.argv[1:], *os.environ["GLIBC_TUNABLES"].split(":")[:1])
sys.exit(int(os.environ.get("CODE", 0)))
"""


def demo(tmp_path, **variables: str) -> subprocess.Popen:
    """launch/demo.sh, started in a folder of its own, with a `python` that says what it is called with."""
    (tmp_path / "launch").mkdir()
    for name in ("demo.sh", "dry_run.sh"):
        shutil.copy(LAUNCH / name, tmp_path / "launch")
    (tmp_path / "launch" / "venv.sh").touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(
        [str(tmp_path / "launch" / "demo.sh"), "w", FIELD], env=os.environ | path | variables, stdout=subprocess.PIPE, text=True
    )


def test_the_demo_passes_a_signal_on_and_ends_with_its_report(tmp_path):
    with demo(tmp_path) as script:
        while not (tmp_path / "running").exists() and script.poll() is None:
            time.sleep(0.01)
        script.terminate()
        said = script.communicate()[0].splitlines()
    assert script.returncode == 0 and (tmp_path / "told").exists()
    kept = "glibc.malloc.arena_max=1"  # see the script: memory is kept from step to step
    assert said == [f"-m cvmae.main --config=configs/demo.py --workdir=w {FIELD} {kept}", f"-m cvmae.report w {kept}"]


def test_a_demo_that_fails_makes_no_report(tmp_path):
    with demo(tmp_path, CODE="3") as script:
        said = script.communicate()[0]
    assert script.returncode == 3 and "report" not in said
