"""The figure of Meta-World: of an encoder that was trained as asked for, of a clip that is there, checked before anything is trained."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.launch.scripts import LAUNCH

PYTHON = f"""#!{sys.executable}
import pathlib, sys
flags = dict(word.split("=", 1) for word in sys.argv if word.startswith("--"))
workdir = pathlib.Path(flags["--workdir"])
if workdir.name == "pretrain":
    (workdir / "checkpoints" / flags["--config.total"].partition("_")[0]).mkdir(parents=True)
else:
    (workdir / "figures").mkdir(parents=True, exist_ok=True)
    for kind in ("png", "gif"):
        (workdir / "figures" / f"clip00_masked75.{{kind}}").write_text(flags["--config.visualize.records"])
"""


@pytest.fixture
def figure(tmp_path):
    """Runs the script with a stand-in for Python and a set of two test clips; returns its exit code and what it says."""
    for name in ("launch/pictures", "set", "bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("metaworld_figure.sh", "evidence_runs.sh", "dry_run.sh"):
        shutil.copy(LAUNCH / name, tmp_path / "launch")
    (tmp_path / "launch" / "venv.sh").touch()
    (tmp_path / "set" / "task.csv").write_text("path,label,split\na,reach,train\nb,reach,test\nc,push,test\n")
    (tmp_path / "bin" / "python").write_text(PYTHON)
    (tmp_path / "bin" / "python").chmod(0o755)
    env = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "MANIFESTS": "set"}

    def call(*arguments: str, **variables: str) -> tuple[int, list[str]]:
        command = [tmp_path / "launch" / "metaworld_figure.sh", "o", *arguments]
        done = subprocess.run(command, env=env | variables, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr.splitlines()

    return call


def trained(said: list[str]) -> int:
    return sum("--workdir=o/pretrain" in line for line in said)


def test_a_rerun_draws_another_clip_of_the_same_encoder(figure, tmp_path):
    code, said = figure()
    assert (code, trained(said)) == (0, 1)
    code, said = figure(CLIP="1")
    assert (code, trained(said)) == (0, 0)
    for kind in ("png", "gif"):
        assert (tmp_path / "launch" / "pictures" / f"figure_metaworld.{kind}").read_text() == "(1,)"


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ((), {"STEPS": "8"}, "with --config.total=1500_steps, not with --config.total=8_steps: "),
        (("--config.seed=3",), {}, "was begun without --config.seed=3: "),
    ],
)
def test_an_encoder_of_other_settings_is_not_drawn(figure, tmp_path, arguments, variables, said):
    assert figure()[0] == 0
    picture = tmp_path / "launch" / "pictures" / "figure_metaworld.png"
    picture.unlink()
    code, error = figure(*arguments, **variables)
    assert code == 2 and len(error) == 1 and said in error[0] and error[0].endswith("or delete o/pretrain")
    assert not picture.exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CLIP", "abc", "CLIP is 'abc': expected a whole number, 0 or more"),
        ("CLIP", "2", "CLIP is 2: test has 2 clips in set/task.csv, numbered from 0"),
        ("STEPS", "0", "STEPS is '0': expected a whole number, 1 or more"),
    ],
)
def test_a_wrong_number_is_told_before_anything_is_trained(figure, tmp_path, name, value, said, dry):
    assert figure(*dry, **{name: value}) == (2, [f"error: {said}"])
    assert not (tmp_path / "o").exists()
