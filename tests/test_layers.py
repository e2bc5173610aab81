"""The floors of the house: a room imports only rooms of the floors below its own, and every room stands on one."""

import ast
import importlib
import pathlib
import pkgutil

import pytest

import cvmae

ROOT = pathlib.Path(cvmae.__file__).parent
# From the ground up. Rooms of one floor do not know each other, but for the pairs of SAME_FLOOR.
FLOORS = [
    {"version", "rng", "config", "array_types"},
    {"config_comments", "storage"},
    {"files"},
    {"parallel", "cli", "augment"},
    {"models", "data"},
    {"objective"},
    {"workdir", "interop", "training"},
    {"evaluation"},
    {"visualize", "report"},
    {"tasks"},
    {"performance"},
    {"main", "plan", "bench"},
]
SAME_FLOOR = {("training", "workdir"), ("interop", "workdir"), ("report", "visualize")}
# Modules that only keep the name of an old command and run the new one when they are run themselves: importing them loads nothing.
OLD_COMMANDS = {("evaluation/summary.py", "cvmae.report.summary"), ("visualize/report.py", "cvmae.report")}
FOREIGN = {
    "data": {"jax", "flax", "optax", "orbax"},
    "models": {"optax", "grain", "orbax", "av"},
    "objective": {"optax", "grain", "orbax"},
}
MATPLOTLIB = {"visualize", "report", "tasks"}


def imports(path):
    """Yields the dotted names of everything a file imports, also of modules that it runs by name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "runpy.run_module" and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms():
    """(room, file) of every file of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).parts[0].removesuffix(".py"), path


def test_a_room_imports_only_what_stands_below_it():
    floor_of = {room: number for number, floor in enumerate(FLOORS) for room in floor}
    broken = []
    for room, path in rooms():
        for name in imports(path):
            first, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if first == "cvmae" and not room.startswith("__") and other not in (room, "") and not other.startswith("__"):
                below = other in floor_of and floor_of[other] < floor_of[room]
                old_command = (path.relative_to(ROOT).as_posix(), name) in OLD_COMMANDS
                if not (below or old_command or (room, other) in SAME_FLOOR):
                    broken.append(f"{path.relative_to(ROOT)} imports {name}")
            if first in FOREIGN.get(room, ()) or (first == "matplotlib" and room not in MATPLOTLIB):
                broken.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not broken, broken


def test_what_is_slow_to_import_is_imported_where_it_is_used():
    """Every command waits for what stands at the top of a module: these take one or two seconds of a processor each."""
    slow, at_the_top = (
        {
            "sklearn",
            "tensorboardX",
            "torch",
            "transformers",
            "huggingface_hub",
            "tensorflow_datasets",
            "fsspec",
            "s3fs",
            "gcsfs",
            "mteb",
        },
        [],
    )
    for _, path in rooms():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            )
            if {name.partition(".")[0] for name in names} & slow:
                at_the_top.append(str(path.relative_to(ROOT)))
    assert not at_the_top


def test_every_room_stands_on_one_floor():
    known = [room for floor in FLOORS for room in floor]
    assert len(known) == len(set(known))
    assert {room for room, _ in rooms()} - {"__init__", "__main__"} <= set(known)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.walk_packages([str(ROOT)], "cvmae.") if "__main__" not in m.name])
def test_every_module_imports(module):
    importlib.import_module(module)


def test_public_names_exist():
    found = {name: getattr(cvmae, name) for name in cvmae.__all__}
    assert all(one is not None for one in found.values())
    # A module of the same name would take a name's place once it is imported.
    assert all(getattr(cvmae, name) is one for name, one in found.items())
    with pytest.raises(AttributeError, match="no attribute 'Encodre'"):
        cvmae.Encodre  # noqa: B018
