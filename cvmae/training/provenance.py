"""Provenance of a run, kept in its workdir: the command, versions, devices and commit of every start."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping

import jax

import cvmae
from cvmae.files import set_aside, write_json
from cvmae.parallel import processes
from cvmae.workdir import PROVENANCE, Workdir

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "av")


def record(folder, step: int = 0, changed: Mapping[str, list] | None = None) -> None:
    """Adds this start to `folder`/environment.json, `{"starts": [...]}`, the oldest first.

    Names of hosts, users and environment variables are left out. A damaged file is set aside. The main process writes.

    Args:
      folder: the workdir.
      step: the step that the run resumes from.
      changed: the fields of the config that were others until then, {field: [before, now]}; kept as `changed_fields`.
    """
    if processes.is_main_process():
        workdir = Workdir(folder)
        path, starts = workdir / PROVENANCE, workdir.read_starts()
        if starts is None:
            processes.log_once(f"{path} is damaged: set aside as {set_aside(path).name}")
        write_json(path, {"starts": [*(starts or ()), describe(step) | ({"changed_fields": dict(changed)} if changed else {})]})


def describe(step: int) -> dict:
    """Describes this start as a JSON object."""
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
    """Returns the versions of the installed PACKAGES."""
    installed = {}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # jaxlib comes under other names too
            continue
    return installed


def command(words: list[str]) -> str:
    """Returns the command that started a process, for a shell: `python -m cvmae.main ...`; '' for no module of this package.

    Args:
      words: the arguments of the process, the interpreter first. The host that --coordinator names is left out.
    """
    module = words.index("-m") + 1 if "-m" in words else 0
    if not words[module].startswith("cvmae."):
        return ""
    shown, hidden = ["python", "-m"], False
    for word in words[module:]:
        shown.append("HOST:PORT" if hidden else re.sub(r"^(--?coordinator=).*", r"\1HOST:PORT", word))
        hidden = word in ("--coordinator", "-coordinator")
    return shlex.join(shown)


def commit(file: pathlib.Path) -> str:
    """Returns the git commit that a file is checked out from, with `-dirty` where files were changed; '' for a file not in git."""
    git = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True)
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"], capture_output=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):  # no git, or an installed package
        return ""
    return described.stdout.decode(errors="replace").strip()
