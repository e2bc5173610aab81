"""Weights by hub id: downloads the few files that are needed from the Hugging Face hub, or finds them in its local cache."""

import os
import pathlib
import re

from cvmae.interop import remote
from cvmae.interop.arrays import known_suffix
from cvmae.interop.huggingface_config import BESIDE
from cvmae.interop.pretrained import WeightsError, first_line
from cvmae.interop.saved_run import is_workdir
from cvmae.storage.path import AnyPath, as_path, expand_user, is_remote

PREFIX = "hf:"
EXPECTED = "give a workdir, a weights file or folder, or a hub id owner/name"
_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(?:@(?P<revision>\S+))?", re.ASCII)
_FILES = ("*.safetensors", "model.safetensors.index.json", *BESIDE, "cvmae.json", "params.npz")
_PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin")


class HubUnreachableError(FileNotFoundError):
    """A model that the hub does not know, or that neither the hub nor the cache could give."""


def is_hub_id(text) -> bool:
    """Returns True for a hub id: `owner/name` or `owner/name@revision`, with or without `hf:` before it.

    Without `hf:`, text is a path if it exists, if its first folder exists, or if it ends like a weights file.
    """
    text = os.fspath(text)
    if is_remote(text):
        return False
    if text.startswith(PREFIX):
        return True
    return bool(_ID.fullmatch(text)) and not os.path.isdir(text.partition("/")[0]) and not known_suffix(text)


def full_id(path) -> str:
    """Returns a hub id with `hf:` before it; empty for a path."""
    text = os.path.expanduser(os.fspath(path))
    return PREFIX + text.removeprefix(PREFIX) if is_hub_id(text) else ""


def repository_of(hub_id: str) -> str:
    """Returns `owner/name` of a hub id; empty if it is malformed."""
    match = _ID.fullmatch(hub_id.removeprefix(PREFIX))
    return match["name"] if match else ""


def resolve(path) -> str | AnyPath:
    """Returns the local path of weights (see `load.read`): the path itself, or the copy of what is on the hub or in a bucket.

    A workdir in a bucket stays where it is, as its steps are chosen among before one is copied.

    Raises:
      FileNotFoundError: there is no such path, and no such model on the hub or it could not be reached; the message is one line.
      WeightsError: a hub id with `hf:` is malformed, or huggingface_hub is not installed.
      TypeError: `path` is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path is {repr(path)[:40]}, of type {type(path).__name__}: {EXPECTED}")
    if not os.fspath(path).strip():
        raise FileNotFoundError(f"path is {os.fspath(path)!r}, which is empty: {EXPECTED}")
    path = expand_user(os.fspath(path))
    if is_remote(path):
        try:
            return as_path(path) if is_workdir(path) else remote.fetch(path)
        except OSError as error:
            raise FileNotFoundError(
                str(error) if error.filename is None else f"no weights at {path}: {error.strerror}"
            ) from error
    if not is_hub_id(path):
        if not os.path.exists(path):
            or_hub = f" (hf:{path} for one that looks like this path)" if _ID.fullmatch(path) and not known_suffix(path) else ""
            raise FileNotFoundError(f"no weights at {path}, which does not exist: {EXPECTED}{or_hub}")
        return path
    try:
        return fetch(path)
    except (HubUnreachableError, WeightsError) as error:
        if path.startswith(PREFIX):
            raise
        reason = "; ".join(error.problems) if isinstance(error, WeightsError) else str(error)
        reason = reason.removeprefix(f"{path.partition('@')[0]}: ")
        raise FileNotFoundError(f"{path}: no such path, and not a hub id that can be reached ({reason}): {EXPECTED}") from error


def fetch(hub_id: str, cache_dir=None, endpoint: str | None = None) -> pathlib.Path:
    """Returns the local folder of a model on the hub: its weights and their description; nothing else is downloaded.

    Pickled weights (pytorch_model.bin) are taken only if there are no others. Without a network, or with HF_HUB_OFFLINE=1,
    the folder in the cache is returned.

    Args:
      hub_id: see `is_hub_id`; the revision is a branch, a tag or a commit.
      cache_dir: None takes huggingface_hub's (HF_HUB_CACHE).
      endpoint: address of the hub; None takes huggingface_hub's (HF_ENDPOINT).

    Raises:
      FileNotFoundError: the hub does not have it or does not give it to this user, or could not be reached and the cache does
        not hold it; the message is one line.
      WeightsError: huggingface_hub is not installed, or the id is malformed.
    """
    match = _ID.fullmatch(hub_id.removeprefix(PREFIX))
    if not match:
        raise WeightsError(hub_id, ["it is no hub id: expected hf:owner/name or hf:owner/name@revision"])
    # Files in folders of the repository are other forms of the model (onnx, a pipeline's parts).
    options = {"cache_dir": cache_dir, "endpoint": endpoint, "ignore_patterns": "*/*"}
    folder = _snapshot(match["name"], match["revision"], allow_patterns=list(_FILES), **options)
    if not _has_weights(folder):
        folder = _snapshot(match["name"], match["revision"], allow_patterns=[*_FILES, *_PICKLED], **options)
    if not _has_weights(folder):
        raise FileNotFoundError(
            f"{hub_id}: no weights that are read, neither safetensors nor params.npz nor {_PICKLED[0]}, are in that model or in its "
            f"copy in {folder}: give another one, or connect once if that copy is incomplete"
        )
    return folder


def _has_weights(folder: pathlib.Path) -> bool:
    return any(
        file.is_file() for pattern in ("*.safetensors", "params.npz", "pytorch_model*.bin") for file in folder.glob(pattern)
    )


def _snapshot(name: str, revision: str | None, cache_dir, **options) -> pathlib.Path:
    """Calls `huggingface_hub.snapshot_download`, with its errors as one line each; see `fetch`."""
    try:
        from huggingface_hub import constants, errors, snapshot_download
    except ImportError as error:
        raise WeightsError(name, ["hub ids need huggingface_hub: pip install 'crossvideomae[hub]'"]) from error
    cache = cache_dir or constants.HF_HUB_CACHE
    try:
        return pathlib.Path(snapshot_download(name, revision=revision, cache_dir=cache, **options))
    except errors.HFValidationError as error:
        raise WeightsError(name, [f"it is no hub id: {first_line(error)}"]) from error
    except errors.GatedRepoError as error:
        why = "its owner gives access on request: ask for it on the model's page, then log in with `hf auth login`"
        raise FileNotFoundError(f"{name} on the hub: {why}") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{name} on the hub has no revision {revision!r}: give a branch, a tag or a commit") from error
    except errors.RepositoryNotFoundError as error:
        why = "no such model, or it is private: check the name, or log in with `hf auth login`"
        raise HubUnreachableError(f"{name}: on the hub there is {why}") from error
    # HTTPError is that of the client below, for what it loses on the way; RuntimeError is what hf_xet's downloads raise.
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HTTPError, RuntimeError) as error:
        raise HubUnreachableError(_unreachable(name, cache, error)) from error


def _unreachable(name: str, cache, error: Exception) -> str:
    """Returns one line on a download that failed, of files that are not in the cache either."""
    status = getattr(getattr(error.__cause__ or error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"{name}: the hub refuses access to it ({status}), and it is not in the cache folder {cache}: run `hf auth login`"
    reason = str(error)
    if error.__cause__ is not None and reason.startswith("Got: "):  # huggingface_hub's names the class before the text
        reason = str(error.__cause__)
    what = f"{name}: the hub could not be reached, and not all of it is in the cache folder {cache}"
    return f"{what}: connect once, or give a local folder ({first_line(reason)})"
