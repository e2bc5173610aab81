"""Identity of features on disk: the encoder, the clips and the data that they were computed from, compared before they are used."""

import dataclasses
import hashlib
import json

import jax
import numpy as np

from cvmae.config import ConfigError, flatten
from cvmae.data.pipeline import clip_spec
from cvmae.evaluation.feature_reading import FeatureError
from cvmae.evaluation.features import FeatureSpec
from cvmae.files import write_json
from cvmae.parallel import processes
from cvmae.storage.client import raise_of_store
from cvmae.storage.path import AnyPath, as_path

IDENTITY = "identity.json"
_ENCODER = ("variant", "tubelet", "positions", "cls_token", "qkv_bias", "eps", "final_norm")
# Entries whose values are hashes: what messages call them, and the fields of the config that say of what, the clearest ones first.
_HASHED = {
    "parameters": ("the weights", ("init_from", "seed")),
    "source": (
        "the videos or their labels",
        tuple(
            f"data.{name}"
            for name in [
                "manifest",
                "tfds.name",
                "webdataset.shards",
                "hf.path",
                "source",
                "root",
                "split",
                "test_split",
                "tfds.data_dir",
                "hf.config",
            ]
        ),
    ),
}
# Entries that are left out at these values, so that caches of before the fields stay valid.
_LEFT_OUT = {
    "clips.square_pixels": False,
    "encoder.mlp": "gelu",
    "encoder.layer_scale": False,
    "encoder.registers": 0,
    "encoder.softcap": 0.0,
    "encoder.temporal_blocks": 0,
}
_WINDOWS = "extract.window_stride, format and dtype"
_DELETE = "delete it, as each file of features says itself what made it (but for those of version 0.1.0: move the folder away to recompute them)"


def fingerprint(params) -> str:
    """Returns a hash of all parameters with their names, dtypes and shapes."""
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def encoder_identity(config, params, spec: FeatureSpec) -> dict:
    """Returns the settings that features depend on, except the videos: parameters, encoder, clip sampling, crops, layer."""
    clips = dataclasses.asdict(clip_spec(config).deterministic())
    if clips["square_pixels"] == _LEFT_OUT["clips.square_pixels"]:
        del clips["square_pixels"]
    defaults = {name.removeprefix("encoder."): value for name, value in _LEFT_OUT.items() if name.startswith("encoder.")}
    later = {name: value for name, default in defaults.items() if (value := config.video_branch.get(name, default)) != default}
    return {
        "parameters": fingerprint(params),
        "encoder": {name: config.video_branch[name] for name in _ENCODER} | {"dtype": config.dtype} | later,
        "clips": {
            name: value for name, value in clips.items() if name not in ("num_sampled", "frame_sampling", "extra", "clips")
        },
        "augment": {name: config.augment[name] for name in ("size", "mean", "std")},
        "features": dataclasses.asdict(spec),
    }


def digest(identity: dict) -> str:
    """Returns a hash of an identity, with which each file of features says what made it. It stays when entries of `_LEFT_OUT` are new."""
    entries = flatten(json.loads(json.dumps(identity)))
    kept = {name: value for name, value in entries.items() if name not in _LEFT_OUT or value != _LEFT_OUT[name]}
    return hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=16).hexdigest()


def digest_of(folder) -> str:
    """Returns the hash of the identity that a folder of features has; "" for a folder without one. Raises: FeatureError, it is damaged."""
    path = as_path(folder) / IDENTITY
    try:
        return digest(_read_identity(path, _DELETE)["identity"]) if path.exists() else ""
    except ConfigError as error:
        raise_of_store(error)
        raise FeatureError(str(error)) from error


def open_cache(folder, identity: dict, layout: dict | None = None, config=None) -> dict:
    """Creates a cache, or checks that an existing one has this identity.

    Args:
      folder: the folder of the cache.
      identity: the settings that its contents depend on, for JSON.
      layout: properties of a new cache that may differ between runs; None for files each of which says itself what made it.
      config: of the run; a new cache keeps what it calls the weights and the data, which messages name. None names nothing.

    Returns:
      The layout that the cache was created with.

    Raises:
      ConfigError: the cache has another identity; the message lists the differences.
    """
    folder = as_path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, wanted, names = folder / IDENTITY, json.loads(json.dumps(identity)), _names(config)
    if processes.is_main_process() and not path.exists():
        write_json(path, {"identity": wanted, "layout": layout or {}, "config": names})
    processes.barrier(f"claimed {folder}")
    if not path.exists():
        raise ConfigError(
            f"{path}, which another process wrote, is not here: --workdir must be a folder that all processes share"
        )
    existing = _read_identity(path, _DELETE if layout is None else f"give another --workdir, or move {folder} away")
    there, here = (_LEFT_OUT | flatten(value) for value in (existing["identity"], wanted))
    changed = [name for name in here | there if there.get(name) != here.get(name)]
    if changed:
        differs = [_difference(name, there.get(name), here.get(name), existing.get("config"), names) for name in changed]
        raise ConfigError(
            f"{folder} holds features of something else: {'; '.join(differs[:4])}. Give another --workdir, or delete that folder"
        )
    return existing["layout"]


def _names(config) -> dict:
    """Returns the fields of a config that call the weights and the data by name, as JSON holds them."""
    fields = {} if config is None else flatten(json.loads(config.to_json_best_effort()))
    return {name: fields[name] for _, names in _HASHED.values() for name in names if name in fields}


def _difference(name: str, there, here, before, now: dict) -> str:
    """Formats an entry of an identity that differs; `before` and `now` are the names of the cache and of the run, see `_names`."""
    if name not in _HASHED:
        return f"{_WINDOWS if name == 'windows' else name} {there} and not {here}"
    what, names = _HASHED[name]
    before = before if isinstance(before, dict) else {}  # caches of earlier versions have none
    fields = [field for field in names if field in now and field in before and before[field] != now[field]]
    if fields:
        return f"{what}, of {', '.join(f'config.{field} {before[field]!r} and not {now[field]!r}' for field in fields)}"
    field = next((field for field in names if now.get(field)), None)
    return what if field is None else f"{what}, which are others now in config.{field} {now[field]!r}"


def _read_identity(path: AnyPath, remedy: str) -> dict:
    """Returns what `open_cache` wrote. Raises: ConfigError with the remedy, it is damaged."""
    why = "it lacks identity and layout"
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
        if isinstance(value, dict) and isinstance(value.get("identity"), dict) and isinstance(value.get("layout"), dict):
            return value
    except json.JSONDecodeError as error:
        why = f"line {error.lineno} is not JSON: {error.msg}" if error.doc.strip() else "it is empty"
    except UnicodeDecodeError:
        why = "it is no text in UTF-8"
    except (OSError, ValueError, RecursionError) as error:
        raise_of_store(error)
        why = getattr(error, "strerror", None) or f"{error}"
    raise ConfigError(f"{path} is damaged ({why}): {remedy}")
