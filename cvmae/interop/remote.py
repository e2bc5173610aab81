"""Weights and checkpoints in buckets: copies the files that are needed into the user's cache folder, again where they have changed."""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable

from cvmae.files import cache_folder, replacing, write_json
from cvmae.interop.arrays import known_suffix
from cvmae.interop.huggingface_config import BESIDE
from cvmae.storage.remote_path import RemotePath, Status
from cvmae.workdir import CHECKPOINTS, CONFIG, PREDICTIONS

_BESIDE = (*BESIDE, "cvmae.json", "params.npz")
_STAMPS = "stamps.json"  # of the files that were copied: their sizes and stamps in the bucket


def fetch(url: str) -> pathlib.Path:
    """Returns a local copy of weights in a bucket: of a file, or of a folder of weights.

    Raises:
      FileNotFoundError: there is nothing of these; the message is one line.
      OSError: a file cannot be read or the copy not written.
      SetupError: the scheme is unknown, or its package or credentials are missing.
    """
    path = RemotePath(url)
    if path.is_file():
        return _copy(path.parent, {path.name: path.status()}, keep=True) / path.name
    files = {name: status for name, status in path.listing().items() if status and (name in _BESIDE or known_suffix(name))}
    if not files:
        raise FileNotFoundError(f"no weights at {url}: give a workdir, a weights file, or a folder that holds some")
    return _copy(path, files)


def fetch_checkpoint(checkpoint: RemotePath) -> pathlib.Path:
    """Returns a local copy of WORKDIR/checkpoints/STEP, beside which the config and the predictions of its run lie as they do there.

    Raises: as `fetch`.
    """
    workdir = checkpoint.parent.parent
    top = {name: status for name, status in workdir.listing().items() if status and name in (CONFIG, PREDICTIONS)}
    arrays = {file.relative_to(workdir).as_posix(): status for file, status in checkpoint.files().items()}
    return _copy(workdir, top | arrays) / checkpoint.relative_to(workdir)


def _copy(folder: RemotePath, files: dict[str, Status], keep: bool = False) -> pathlib.Path:
    """Copies files of a folder, those that have changed; others that were copied before are deleted, unless `keep`."""
    target = cache_folder() / "weights" / hashlib.blake2b(str(folder).encode(), digest_size=12).hexdigest()
    target.mkdir(parents=True, exist_ok=True)
    stamps = _read_stamps(target)
    if not keep:
        _delete(target, set(stamps) - set(files))
    for name, status in files.items():
        if stamps.get(name) != list(status) or not (target / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with replacing(target / name) as temporary:
                (folder / name).download(temporary)
    write_json(target / _STAMPS, (stamps if keep else {}) | {name: list(status) for name, status in files.items()})
    return target


def _read_stamps(target: pathlib.Path) -> dict[str, list]:
    try:
        stamps = json.loads((target / _STAMPS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _delete(target: pathlib.Path, names: Iterable[str]) -> None:
    for name in names:
        (target / name).unlink(missing_ok=True)
    checkpoints = target / CHECKPOINTS
    for folder in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if not any(files for _, _, files in os.walk(folder)):
            shutil.rmtree(folder, ignore_errors=True)
