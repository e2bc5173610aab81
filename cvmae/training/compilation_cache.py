"""JAX's persistent compilation cache, in the user's cache folder: a run that is resumed does not compile again."""

import hashlib
import os
import pathlib
import platform

import jax

from cvmae.files import cache_folder

VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own; where it is set it counts


def default_folder() -> pathlib.Path:
    """Returns the folder of this user for this kind of machine, `~/.cache/cvmae/jax/...`."""
    return cache_folder() / "jax" / _machine()


def _machine() -> str:
    """Returns a name that machines of unlike processors do not share: a home folder may be common to them, CPU code is not."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        features = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    except OSError:  # not Linux
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.blake2b(features.encode(), digest_size=6).hexdigest()}"


def enable(setting: str) -> None:
    """Turns the cache on or off for this process, before anything is compiled.

    Args:
      setting: config.compilation_cache: `auto` for `default_folder`, a folder, or empty for none.
    """
    if os.environ.get(VARIABLE):
        return
    folder = default_folder() if setting == "auto" else setting
    jax.config.update("jax_compilation_cache_dir", str(folder) if folder else None)
