"""What a run is made on, kept in its workdir: the command, versions, devices and commit of every start."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys

import jax

import cvmae
from cvmae.files import write_json
from cvmae.parallel import processes

NAME = "environment.json"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")


def record(folder, step: int = 0) -> None:
    """Adds this start to `folder`/environment.json, `{"starts": [...]}`, the oldest first.

    Names of hosts, users and environment variables are left out. A file that is damaged is begun anew. Of several processes the first
    one writes.

    Args:
      folder: the workdir.
      step: that the run goes on from.
    """
    if processes.is_main_process():
        path = pathlib.Path(folder) / NAME
        write_json(path, {"starts": [*read_starts(path), describe(step)]})


def read_starts(path) -> list[dict]:
    """The starts that a file of `record` lists; none where there is no such file, or it is damaged."""
    try:
        return list(json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["starts"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def describe(step: int) -> dict:
    """This start, as JSON knows it."""
    return {
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "step": step,
        "command": command(sys.orig_argv),
        "commit": commit(pathlib.Path(cvmae.__file__)),
        "python": platform.python_version(),
        "versions": {"cvmae": cvmae.__version__} | versions(),
        "system": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({jax.default_backend()})",
        "processes": jax.process_count(),
    }


def versions() -> dict[str, str]:
    """The installed PACKAGES."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # jaxlib comes under other names too
            continue
    return found


def command(words: list[str]) -> str:
    """What was typed to start a process, for a shell: `python -m cvmae.main ...`; '' where it was no module of this package.

    Args:
      words: of the process, the interpreter first. The host that --coordinator names is left out.
    """
    module = words.index("-m") + 1 if "-m" in words else 0
    if not words[module].startswith("cvmae."):
        return ""
    said, hidden = ["python", "-m"], False
    for word in words[module:]:
        said.append("HOST:PORT" if hidden else re.sub(r"^(--?coordinator=).*", r"\1HOST:PORT", word))
        hidden = word in ("--coordinator", "-coordinator")
    return shlex.join(said)


def commit(file: pathlib.Path) -> str:
    """The git commit that a file is checked out from, `-dirty` behind it where files were changed; '' of a file not in git."""
    git = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        found = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or an installed package
        return ""
    return found.stdout.decode(errors="replace").strip()
