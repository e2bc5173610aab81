"""The layering of the house: who may know whom."""

import ast
import importlib
import pathlib
import pkgutil

import pytest

import cvmae

ROOT = pathlib.Path(cvmae.__file__).parent
UPPER = {"training", "ablation", "tasks", "main", "plan", "planning", "bench", "benchmark", "command_line"}
FORBIDDEN = {
    "models": UPPER
    | {"multihost", "data", "losses", "augment", "inputs", "objective", "evaluation", "interop", "visualize", "config"},
    "losses": UPPER | {"data", "augment", "inputs", "objective", "evaluation", "interop", "visualize"},
    "augment": UPPER | {"data", "inputs", "objective", "evaluation", "interop", "visualize"},
    "files": UPPER | {"data", "models", "losses", "augment", "evaluation", "interop", "visualize", "config"},
    "commands": UPPER | {"data", "models", "losses", "augment", "evaluation", "interop", "visualize", "config"},
    "rng": UPPER | {"data", "models", "evaluation", "interop", "visualize"},
    "multihost": UPPER
    | {"data", "models", "losses", "augment", "inputs", "objective", "evaluation", "interop", "visualize", "config"},
    "inputs": UPPER | {"data", "objective", "evaluation", "interop", "visualize"},
    "objective": UPPER | {"data", "evaluation", "interop", "visualize"},
    "data": UPPER | {"multihost", "models", "losses", "augment", "inputs", "objective", "evaluation", "interop", "visualize"},
    "evaluation": UPPER | {"interop", "visualize"},
    "interop": UPPER | {"data", "losses", "augment", "evaluation", "visualize"},
    "visualize": UPPER | {"data", "interop"},
    "config": UPPER | {"data", "models", "losses", "augment", "evaluation", "interop", "visualize"},
    "training": UPPER - {"training"},
    "command_line": UPPER - {"command_line"} | {"data", "models", "evaluation", "interop", "visualize"},
    "ablation": UPPER - {"ablation", "training"} | {"interop", "visualize"},
    "planning": {"ablation", "tasks", "main", "plan", "bench", "benchmark", "command_line"},
    "benchmark": {"ablation", "tasks", "main", "plan", "bench", "command_line"},
}
FOREIGN = {"data": {"jax", "flax", "optax", "orbax"}, "models": {"optax", "grain", "orbax", "av"}, "losses": {"optax", "grain"}}


def imports(path):
    """Dotted names of everything a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms():
    """(room, file) of every file of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def test_nobody_knows_who_is_above():
    broken = []
    for room, path in rooms():
        for name in imports(path):
            first, _, rest = name.partition(".")
            second = rest.split(".")[0]
            if (first == "cvmae" and second in FORBIDDEN.get(room, ())) or first in FOREIGN.get(room, ()):
                broken.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not broken, broken


def test_what_is_slow_to_import_is_imported_where_it_is_used():
    """Every command waits for what stands at the top of a module: these take one or two seconds of a processor each."""
    slow, at_the_top = {"sklearn", "tensorboardX", "torch", "transformers", "huggingface_hub", "tensorflow_datasets"}, []
    for _, path in rooms():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            )
            if {name.partition(".")[0] for name in names} & slow:
                at_the_top.append(str(path.relative_to(ROOT)))
    assert set(at_the_top) <= {"data/motion/baselines.py"}, at_the_top  # which its command alone imports


def test_every_room_has_its_rule():
    known = {room for room, _ in rooms()} - {"__init__", "version", "main", "tasks", "plan", "bench"}
    assert known == set(FORBIDDEN)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.walk_packages([str(ROOT)], "cvmae.") if "__main__" not in m.name])
def test_every_module_imports(module):
    importlib.import_module(module)


def test_public_names_exist():
    found = {name: getattr(cvmae, name) for name in cvmae.__all__}
    assert all(one is not None for one in found.values())
    # A module of the same name would take a name's place once it is imported.
    assert all(getattr(cvmae, name) is one for name, one in found.items())
    with pytest.raises(AttributeError, match="no attribute 'Encodre'"):
        cvmae.Encodre
