"""`launch/detached.sh`: a run that outlives the connection which started it, its log, and its exit code."""

import pathlib
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch.scripts import LAUNCH

RUN = """#!/bin/sh
trap 'echo saved; exit 5' TERM
echo started
while [ ! -e end ]; do sleep 0.05; done
echo data gone
exit 3
"""


class Host:
    """A folder of the source with the script and a stand-in for the run, which waits for a file."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        (folder / "launch").mkdir()
        shutil.copy(LAUNCH / "detached.sh", folder / "launch")
        (folder / "train").write_text(RUN)
        (folder / "train").chmod(0o755)
        self.started: list[subprocess.Popen] = []

    def start(self, *options: str) -> subprocess.Popen:
        command = ["bash", "launch/detached.sh", "./train", str(self.folder), *options]
        process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.started.append(process)
        return process

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + 60
        while text not in (self.log.read_text() if self.log.exists() else "") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert text in self.log.read_text()

    @property
    def log(self) -> pathlib.Path:
        return self.folder / "run.log"

    def kill(self, pattern: str, number: signal.Signals) -> None:
        subprocess.run(["pkill", f"-{number.name[3:]}", "-f", "--", f"{pattern} {self.folder}"], check=True)


@pytest.fixture
def host(tmp_path):
    if not shutil.which("pgrep"):
        pytest.skip("pgrep is not here")
    made = Host(tmp_path)
    yield made
    (tmp_path / "end").touch()
    for process in made.started:
        process.communicate(timeout=60)


def ends(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_a_second_call_shows_the_log_of_the_run_and_has_its_exit_code(host):
    host.log.write_text("of before\n")
    first = host.start("a b", "$(HOME)")
    host.wait_for("started")
    second = host.start("a b", "$(HOME)")
    time.sleep(0.5)
    (host.folder / "end").touch()
    assert ends(first) == (3, "of before\nstarted\ndata gone\n", "")
    code, out, err = ends(second)
    assert code == 3 and out.endswith("started\ndata gone\n") and err == "this run is in progress; this is its log\n"
    assert ends(host.start("a b", "$(HOME)"))[0] == 3  # the next run is another
    assert host.log.read_text().count("started") == 2


def test_the_run_stays_when_its_log_is_no_longer_shown(host):
    host.start().send_signal(signal.SIGINT)
    first = host.start()
    host.wait_for("started")
    first.kill()
    (host.folder / "end").touch()
    host.wait_for("data gone")


def test_a_run_with_other_options_is_refused_and_the_first_left_alone(host):
    first = host.start("--config.batch_size=8")
    host.wait_for("started")
    code, out, err = ends(host.start("--config.batch_size=16"))
    assert code == 2 and not out and err.startswith("error: another run is in progress on ")
    assert f"./train {host.folder} --config.batch_size=8\n" in err and "pkill -TERM" in err
    assert first.poll() is None and host.log.read_text() == "started\n"


def test_sigterm_lets_the_run_save_and_its_exit_code_is_kept(host):
    first = host.start()
    host.wait_for("started")
    host.kill("--alone ./train", signal.SIGTERM)
    host.kill("^/bin/sh ./train", signal.SIGTERM)
    assert ends(first) == (5, "started\nsaved\n", "")


def test_a_run_without_an_exit_code_is_an_error(host):
    first = host.start()
    host.wait_for("started")
    host.kill("--alone ./train", signal.SIGKILL)
    code, _, err = ends(first)
    assert code == 1 and "error: the run ended without an exit code: it was killed" in err
