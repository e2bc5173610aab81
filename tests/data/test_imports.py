"""Start-up time of processes that decode or render: they import no JAX, no matplotlib and no TensorFlow."""

import subprocess
import sys

from tests.commands import ROOT

# Grain imports JAX if it is installed.
GRAIN = {"auto_workers", "loader", "pipeline", "clip_views", "proportions", "windows", "worker_start"}
LIST_SLOW_MODULES = """
import importlib, sys
for module in sys.argv[1:]:
    importlib.import_module(module)
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"jax", "grain", "matplotlib", "tensorflow", "tensorflow_datasets"}))
"""


def slow_modules(*modules: str) -> list[str]:
    command = [sys.executable, "-c", LIST_SLOW_MODULES, *modules]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_decoding_imports_no_jax():
    data = ROOT / "cvmae" / "data"
    modules = [f"cvmae.data.{path.stem}" for path in data.glob("*.py") if path.stem not in GRAIN | {"__init__"}]
    assert "cvmae.data.decode" in modules
    assert slow_modules(*modules, "cvmae.data.motion.build", "cvmae.data.prepare.work", "cvmae.data.metaworld.clips") == []


def test_the_loader_imports_no_plotting():
    assert "matplotlib" not in slow_modules(*(f"cvmae.data.{module}" for module in GRAIN))


def test_training_imports_no_plotting():
    """Pictures are drawn at the end; every command would wait a second for matplotlib at its start."""
    tasks = ("pretrain", "finetune", "probe", "knn", "retrieval", "extract")
    assert "matplotlib" not in slow_modules("cvmae", "cvmae.main", *(f"cvmae.tasks.{task}" for task in tasks))


def test_training_imports_no_tensorflow():
    """A data set of tensorflow-datasets does, and nothing else."""
    tasks = [f"cvmae.tasks.{path.stem}" for path in (ROOT / "cvmae" / "tasks").glob("*.py") if path.stem != "__init__"]
    imported = slow_modules("cvmae", "cvmae.main", *tasks, *(f"cvmae.data.{module}" for module in GRAIN))
    assert "jax" in imported and not {"tensorflow", "tensorflow_datasets"} & set(imported)
