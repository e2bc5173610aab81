"""Runs of commands, in a process of their own or in this one, and the files that they write into a workdir."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl import flags

ROOT = pathlib.Path(__file__).parent.parent
RUNLOCAL = str(ROOT / "configs" / "ssv2.py") + ":runlocal"


def host_devices(count: int) -> dict[str, str]:
    """Returns the environment of a process with `count` CPU devices; XLA_FLAGS, in which `conftest.py` has its own, stays."""
    return {"JAX_NUM_CPU_DEVICES": str(count)}


def arguments(workdir, config=RUNLOCAL, **overrides) -> list[str]:
    """Returns arguments of `cvmae.main`; `a__b=v` becomes `--config.a.b=v`."""
    fields = [f"--config.{name.replace('__', '.')}={value}" for name, value in overrides.items()]
    return [f"--config={config}", f"--workdir={workdir}", *fields]


def run(*args: str, program=("-m", "cvmae.main"), env=None) -> subprocess.CompletedProcess:
    """Runs a command and waits until it and every process that it started have ended: they all hold its stderr."""
    command = [sys.executable, *program, *args]
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def run_here(program, argv, monkeypatch) -> int:
    """Runs a command in this process and returns its exit code. program: a module with `parse` and `main`, such as `cvmae.plan`."""
    clear_flags(program, argv, monkeypatch)
    with pytest.raises(SystemExit) as stopped:
        program.main(program.parse(sys.argv))
    assert isinstance(stopped.value.code, int)
    return stopped.value.code


def clear_flags(program, argv, monkeypatch) -> None:
    """Makes `argv` the arguments of this process, with no flag parsed yet. program: see `run_here`."""
    monkeypatch.setattr(sys, "argv", [program.__name__, *argv])  # ml_collections reads overrides from there
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)  # overrides that an earlier command defined
    flags.FLAGS.unparse_flags()
    for flag in [*flags.FLAGS.get_flags_for_module(program.__name__), *flags.FLAGS.get_key_flags_for_module(program.__name__)]:
        flag.value = flag.default


def caller(program, monkeypatch, capsys):
    """Returns a function that runs a command by `run_here` and returns its exit code, stdout and stderr."""

    def call(*args, config=RUNLOCAL):
        code = run_here(program, [f"--config={config}", *args], monkeypatch)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def run_own(program, *words) -> int:
    """Runs a command with its own `FLAGS`, such as `cvmae.interop`, in this process and returns its exit code."""
    program.FLAGS.unparse_flags()
    for name in program.FLAGS:
        program.FLAGS[name].unparse()
    try:
        program.main(program.parse([program.__name__, *map(str, words)]))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    return 0


def without_times(values: Mapping) -> dict:
    """Returns metrics without the times, which differ between runs."""
    return {name: value for name, value in values.items() if not name.startswith(("time/", "input/"))}


def metric_lines(workdir) -> list[dict]:
    """Returns the lines of metrics.jsonl without the times."""
    return [without_times(json.loads(line)) for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()]


def checkpoint_steps(workdir) -> list[int]:
    """Returns the steps of the complete checkpoints, ascending."""
    names = [path.name for path in (pathlib.Path(workdir) / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def saved_state(workdir, step: int) -> dict[str, np.ndarray]:
    """Returns every array of a checkpoint by its path: parameters, optimizer state and step, from any number of devices."""
    folder = pathlib.Path(workdir).absolute() / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        shapes = reader.metadata(folder).item_metadata.tree
        tree = reader.restore(folder, restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), shapes))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same_state(a: dict, b: dict) -> None:
    """Asserts that two saved states are bit-equal."""
    assert a.keys() == b.keys()
    different = [name for name in a if a[name].tobytes() != b[name].tobytes()]
    assert not different, different
