"""The dry run that every launch script has."""

import os
import shlex
import subprocess

import pytest

from tests.launch.scripts import LAUNCH, ODD, OTHERS


@pytest.fixture
def dry(tmp_path):
    """Runs a script with --dry-run; returns the words of every command that it prints, and what else it prints."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in OTHERS:
        (tools / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/called\n")
        (tools / name).chmod(0o755)

    def call(script: str, *args: str, **variables: str):
        path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
        known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "XLA_", "JAX_"))}
        command = [str(LAUNCH / script), "--dry-run", ODD, *args]
        done = subprocess.run(command, env=known | path | variables, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert not (tmp_path / "called").exists() and sorted(os.listdir(tmp_path)) == ["bin"]
        return [shlex.split(line)[1:] for line in done.stderr.splitlines() if line.startswith("+ ")], done.stdout

    return call
