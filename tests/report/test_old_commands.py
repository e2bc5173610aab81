"""Commands of earlier versions still run, and print one line that names the new command."""

import pytest

from cvmae.workdir import Report, Workdir
from tests.commands import run
from tests.report.workdirs import pretrained


def test_the_old_report_command(tmp_path):
    workdirs = [str(pretrained(tmp_path / name)) for name in ("a", "b")]
    done = run(*workdirs, f"--out={tmp_path / 'both.html'}", program=("-m", "cvmae.visualize.report"))
    assert (done.returncode, done.stdout) == (0, f"report: {tmp_path / 'both.html'}\n")
    assert done.stderr == "warning: python -m cvmae.visualize.report is now python -m cvmae.report\n"
    assert "2 runs side by side" in (tmp_path / "both.html").read_text(encoding="utf-8")


def test_the_old_summary_command(tmp_path):
    Workdir.create(tmp_path / "mae" / "0" / "linear").write_report(Report("linear", {"accuracy/top1": 0.5}))
    done = run(str(tmp_path), program=("-m", "cvmae.evaluation.summary"))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "| mae | 50.0 |"
    assert done.stderr == "warning: python -m cvmae.evaluation.summary is now python -m cvmae.report.summary\n"


@pytest.mark.parametrize(("command", "code"), [("cvmae.visualize.report", 2), ("cvmae.evaluation.summary", 1)])
def test_exit_codes_are_passed_on(command, code):
    assert run(program=("-m", command)).returncode == code
