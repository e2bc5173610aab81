"""A workdir tells what its run was made on, start by start, and no names of hosts or users."""

import json
import platform
import subprocess

import jax
import pytest

import cvmae
from cvmae.training import provenance
from cvmae.training.provenance import command, commit, record
from cvmae.workdir import Workdir


def test_every_start_is_kept(tmp_path):
    record(tmp_path)
    record(tmp_path, 40)
    starts = json.loads((tmp_path / "environment.json").read_text())["starts"]
    assert [start["step"] for start in starts] == [0, 40] and [path.name for path in tmp_path.iterdir()] == ["environment.json"]
    assert starts[0]["versions"]["jax"] == jax.__version__ and starts[0]["versions"]["cvmae"] == cvmae.__version__
    assert starts[0]["python"] == platform.python_version() and starts[0]["devices"].startswith(f"{jax.device_count()} x ")
    assert starts[0]["time"] <= starts[1]["time"] and starts[0]["time"].endswith("+00:00")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"starts": 3}', "\udcff"])
def test_a_damaged_file_is_begun_anew(tmp_path, text):
    (tmp_path / "environment.json").write_bytes(text.encode(errors="surrogateescape"))
    record(tmp_path, 7)
    assert [start["step"] for start in Workdir(tmp_path).read_starts()] == [7]


def test_another_process_than_the_first_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.processes, "is_main_process", lambda: False)
    record(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words, said",
    [
        (["/home/me/bin/python3", "-u", "-m", "cvmae.main", "--config=a b.py"], "python -m cvmae.main '--config=a b.py'"),
        (["python", "-m", "cvmae.main", "--coordinator=me.lan:8476"], "python -m cvmae.main --coordinator=HOST:PORT"),
        (["python", "-m", "cvmae.main", "-coordinator", "me.lan:8476", "--x"], "python -m cvmae.main -coordinator HOST:PORT --x"),
        (["python", "-m", "pytest", "cvmae.main"], ""),
        (["python", "script.py"], ""),
        (["python"], ""),
    ],
)
def test_the_command_is_what_was_typed(words, said):
    assert command(words) == said


def test_nothing_more_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.sys, "orig_argv", ["/home/me/python", "-m", "cvmae.main", "--coordinator=someone.lan:1"])
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    record(tmp_path)
    [start] = Workdir(tmp_path).read_starts()
    assert set(start) == {"time", "step", "command", "commit", "python", "versions", "system", "devices", "processes"}
    assert not [word for word in ("someone", "a-secret", "/home/me") if word in json.dumps(start)]


def test_the_commit_is_that_of_a_file_that_git_knows(tmp_path):
    def git(*words):
        names = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", "-C", str(tmp_path), *names, *words], check=True, capture_output=True, text=True).stdout

    git("init")
    file = tmp_path / "a.py"
    file.write_text("1")
    assert commit(file) == ""  # not git's, as an environment inside of somebody's repository is not
    git("add", "a.py"), git("commit", "-m", "a")
    head = git("rev-parse", "HEAD").strip()
    assert len(commit(file)) >= 12 and head.startswith(commit(file))
    file.write_text("2")
    assert commit(file) == f"{head[:12]}-dirty"
    assert commit(tmp_path / "nowhere" / "b.py") == ""
