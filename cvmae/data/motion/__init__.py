"""`motion`: a labeled set of short rendered videos in which only the motion depends on the class.

Cut-outs of photographs move over other photographs. Classes come in pairs with a common generator; the second class has
the frames of the first in reverse order, so a model that ignores the order of frames is right at most about half of the
time. The photographs of the test split are not in the training split. Clips are H.264 files listed in a manifest, so they
are read by the same code as Something-Something; they are rendered once and cached.

    from cvmae.data import motion
    manifest = motion.prepare("easy")      # path of a CSV: path,label,split and the parameters of each clip

    python -m cvmae.data.motion --size=easy --sheet=easy.png --baselines
"""

from __future__ import annotations

import os
import pathlib
import shutil
import sys
import tempfile
import time

from tqdm import tqdm

from cvmae.data.motion import build as _build
from cvmae.data.motion import photos
from cvmae.data.motion.spec import FLIP_KEEPS_LABEL, PAIRS, SIZES, VERSION, Size, class_names, digest, get_size

__all__ = ["FLIP_KEEPS_LABEL", "PAIRS", "SIZES", "VERSION", "Size", "class_names", "default_cache_dir", "get_size", "prepare"]

_STALE_SECONDS = 24 * 3600


def default_cache_dir() -> pathlib.Path:
    """Returns $CVMAE_CACHE, else $XDG_CACHE_HOME/cvmae, else ~/.cache/cvmae."""
    if os.environ.get("CVMAE_CACHE"):
        return pathlib.Path(os.environ["CVMAE_CACHE"]).expanduser()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "cvmae"


def prepare(
    size: str = "easy",
    cache_dir: str | os.PathLike[str] = "",
    train_clips: int = 0,
    test_clips: int = 0,
    seed: int = 0,
    *,
    side: int = 0,
    workers: int = 0,
) -> str:
    """Renders a set of clips into the cache, unless it is there already, and returns its manifest.

    An interrupted build leaves no manifest, and processes may build the same set at the same time: each renders into a
    temporary folder, and the first that finishes renames it to the final one.

    Args:
      size: "easy" (4 classes, 8 frames of 32x32) or "full" (12 classes, 16 frames of 64x64).
      cache_dir: parent of the cached sets; "" = `default_cache_dir()`.
      train_clips: number of training clips; 0 = the default of the size (8,000 and 12,000).
      test_clips: number of test clips; 0 = the default of the size (800 and 1,200).
      seed: of the set, >= 0.
      side: frame side in pixels, even; 0 = the default of the size.
      workers: processes that render; 0 = one per core. The clips do not depend on it.

    Returns:
      The path of the manifest, a CSV with columns path (relative to the manifest's folder), label, split ("train" or
      "test") and the parameters with which the clip was drawn.

    Raises:
      ValueError: unknown size, or a number out of range.
      FileNotFoundError: a photograph is missing from the installed packages.
      RuntimeError: a rendering process failed.
    """
    spec = get_size(size, side=side, train_clips=train_clips, test_clips=test_clips)
    if seed < 0:
        raise ValueError(f"motion: seed={seed} is negative")
    name = f"{size}-{digest(spec, seed, photos.PHOTOGRAPHS)}"
    parent = pathlib.Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    final = parent.absolute() / "motion" / name
    manifest = final / _build.MANIFEST
    if manifest.is_file():
        return str(manifest)
    for names in photos.PHOTOGRAPHS.values():
        for photograph in names:
            photos.find(photograph)
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(final.parent)
    temporary = pathlib.Path(tempfile.mkdtemp(prefix=f".{name}.", dir=final.parent))
    try:
        with tqdm(total=spec.train_clips + spec.test_clips, desc=f"motion {size}", unit="clip", file=sys.stderr) as bar:
            _build.build(temporary, spec, seed, workers, bar.update)
        temporary.chmod(0o755)  # mkdtemp lets only the owner read it
        _move_into_place(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return str(manifest)


def _move_into_place(temporary: pathlib.Path, final: pathlib.Path) -> None:
    """Renames `temporary` to `final`, unless another process was faster. A `final` without a manifest is removed."""
    while not (final / _build.MANIFEST).is_file():
        try:
            temporary.rename(final)
        except OSError:  # `final` exists and is not empty
            if (final / _build.MANIFEST).is_file() or not final.exists():
                continue
            broken = tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent)
            final.rename(pathlib.Path(broken) / "broken")
            shutil.rmtree(broken, ignore_errors=True)


def _remove_stale(folder: pathlib.Path) -> None:
    """Removes temporary folders of builds that were killed, which are older than those of running builds."""
    for path in folder.glob(".*-*.*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
