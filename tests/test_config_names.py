"""Configs by name and by path, from any folder, and what a config file that cannot be imported says."""

import os
import pathlib
import subprocess
import sys

import pytest

from cvmae.config import ConfigError, config_folder, find_config, load

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.parametrize("name", ["ssv2", "ssv2.py", "configs/ssv2.py"])
def test_a_config_of_this_package_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(f"{name}:runlocal") == f"{config_folder() / 'ssv2.py'}:runlocal"
    assert load(f"{name}:task=knn,runlocal").task == "knn"


def test_a_file_comes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("ssv2").write_text("")
    assert find_config("ssv2:variant=L/16") == "ssv2:variant=L/16"


@pytest.mark.parametrize(
    "name, message", [("ssv3", "did you mean 'ssv2'"), ("common", "did you mean|known: "), ("x/y.py", "known: ")]
)
def test_a_name_that_no_config_has_names_the_nearest(name, message):
    with pytest.raises(ConfigError, match=message):
        find_config(name)


def test_a_file_without_the_suffix_of_python_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ConfigError, match=r"mine.txt' is no Python file: its name must end in .py"):
        load(str(tmp_path / "mine.txt"))


MINE = """
from cvmae.configs import common, ssv2

def get_config(arg=None):
    c = ssv2.get_config(arg)
    c.seed = 7
    return c
"""


def test_a_file_of_ones_own_elsewhere_builds_on_the_configs_of_the_package(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    code = "from cvmae.config import load; c = load('mine.py:runlocal'); print(c.seed, c.batch_size)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "7 8\n", done.stderr


@pytest.mark.parametrize(
    "text, message",
    [
        ("def get_config(arg=None)\n    return 1\n", r"mine.py:1: expected ':'"),
        ("import nowhere\n", r"mine.py:1: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = 1\n\ndef get_config(arg=None):\n    return y\n", r"mine.py:4: NameError: name 'y' is not defined"),
        ("from cvmae.configs import commun\n", r"mine.py:1: ImportError: cannot import name 'commun'"),
    ],
)
def test_a_config_file_that_cannot_be_imported_names_file_and_line(text, message, tmp_path):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(str(tmp_path / "mine.py"))


@pytest.mark.parametrize("module", ["cvmae", "cvmae.main"])
def test_both_names_of_the_main_command_say_what_is_missing(module, tmp_path):
    done = subprocess.run([sys.executable, "-m", module], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --config is missing")


def command(*words, cwd):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-m", "cvmae.main", *words], cwd=cwd, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def test_the_fields_of_a_config_are_printed_with_their_comments_from_any_folder(tmp_path):
    code, out, error = command("--config=ssv2:runlocal", "--config.seed=3", "--print_config", cwd=tmp_path)
    assert code == 0, error
    lines = dict(line.split(" = ", 1) for line in out.splitlines())
    assert lines["seed"].startswith("3  # ") and lines["data.source"].startswith("'synthetic'  # files | tfds")
    assert lines["video_branch.variant"].startswith("'test/16'  # ") and not list(tmp_path.iterdir())


def test_help_lists_the_tasks_and_where_the_fields_are(tmp_path):
    code, out, _ = command("--help", cwd=tmp_path)
    assert code == 0 and "retrieval" in out and "--print_config" in out and "--workdir" in out and "--config.FIELD=VALUE" in out
