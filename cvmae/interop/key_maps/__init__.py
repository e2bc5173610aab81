"""All kinds of weights files that are read, and the key map of a given file.

A new kind is one module here with its `KeyMap`s, and a line in `KEY_MAPS`.
"""

from collections.abc import Collection, Mapping

import numpy as np

from cvmae.interop.key_maps.dinov2 import HF_DINOV2
from cvmae.interop.key_maps.mae import (
    HF_VIT_MAE,
    HF_VIT_MAE_ENCODER,
    MAE,
    MAE_CLASSIFIER,
    MAE_HEADLESS,
    MAE_PROBE,
    MAE_TRAINED_TABLE,
)
from cvmae.interop.key_maps.mae_st import MAE_ST
from cvmae.interop.key_maps.siglip import HF_SIGLIP
from cvmae.interop.key_maps.videomae import (
    HF_VIDEOMAE,
    HF_VIDEOMAE_CLASSIFIER,
    HF_VIDEOMAE_ENCODER,
    HF_VIDEOMAE_HEADLESS,
    VIDEOMAE,
    VIDEOMAE_CLASSIFIER,
    VIDEOMAE_ENCODER,
)
from cvmae.interop.key_maps.videoprism import HF_VIDEOPRISM, VIDEOPRISM
from cvmae.interop.key_maps.vjepa2 import HF_VJEPA2, HF_VJEPA2_CLASSIFIER, VJEPA2
from cvmae.interop.keymap import KeyMap
from cvmae.interop.pretrained import WeightsError

KEY_MAPS: tuple[KeyMap, ...] = (
    MAE,
    MAE_CLASSIFIER,
    MAE_HEADLESS,
    MAE_PROBE,
    HF_VIT_MAE,
    HF_VIT_MAE_ENCODER,
    *MAE_ST,
    VIDEOMAE,
    VIDEOMAE_CLASSIFIER,
    VIDEOMAE_ENCODER,
    HF_VIDEOMAE,
    HF_VIDEOMAE_ENCODER,
    HF_VIDEOMAE_CLASSIFIER,
    HF_VIDEOMAE_HEADLESS,
    *HF_DINOV2,
    *HF_SIGLIP,
    HF_VJEPA2,
    HF_VJEPA2_CLASSIFIER,
    VJEPA2,
    *HF_VIDEOPRISM,
    *VIDEOPRISM,
)
# VideoMAEv2 kept VideoMAE's names; its giant differs in size alone.
ALIASES = {"videomaev2": "videomae"}
OWN_KIND = "cvmae"  # workdirs and exports of this package, which need no key map
KINDS = ("auto", OWN_KIND, *dict.fromkeys(m.kind for m in KEY_MAPS), *ALIASES)


def find_key_map(kind: str, keys, source: str = "the file") -> KeyMap:
    """Returns the key map of a file with these keys.

    Args:
      kind: one of `KINDS`. `auto` detects it from the keys; among several layouts the one that names most keys is taken.
      keys: the file's keys, without wrappers (see `wrappers.unwrap`).
      source: the file's name, for messages.

    Raises:
      ValueError: the kind is unknown.
      WeightsError: `auto` fits no kind; the message says what comes nearest.
    """
    if kind not in KINDS:
        raise ValueError(f"weights kind is {kind!r}; expected one of {', '.join(KINDS)}")
    keys = list(keys)
    if kind == "auto":
        fitting = [m for m in KEY_MAPS if m.fits(keys)]
        if not fitting:
            some = ", ".join(sorted(keys)[:3])
            known = f"its keys ({some}, ...) are of none of the known kinds: {', '.join(KINDS[1:])}"
            raise WeightsError(source, [f"{known}; {nearest(keys)}"])
    else:
        of_kind = [m for m in KEY_MAPS if m.kind == ALIASES.get(kind, kind)]
        # Layouts may differ by an absent key (a cls token), but a damaged file may fit none.
        fitting = [m for m in of_kind if m.fits(keys)] or of_kind
        if not fitting:
            raise WeightsError(source, [f"kind {kind!r} is a workdir or an export of this package, not a file of other keys"])
    return max(fitting, key=lambda m: sum(m.find(key) is not None for key in keys))


def with_trained_table(key_map: KeyMap, arrays: Mapping[str, np.ndarray], tolerance: float) -> KeyMap:
    """Returns the key map of an image encoder alone whose position table was trained, if it is that, else `key_map` itself.

    Args:
      key_map: the map that the keys fit.
      arrays: the arrays by key, without wrappers.
      tolerance: the difference up to which a table is the computed one.
    """
    if key_map is not MAE or not MAE_TRAINED_TABLE.fits(arrays.keys()):
        return key_map
    table = arrays["pos_embed"] if "pos_embed" in arrays else np.zeros(0)
    try:
        is_trained = bool(np.isfinite(table).all()) and table.any() and key_map.tables[0].difference(table) > tolerance
    except (ValueError, TypeError):  # mis-shaped, or no numbers: reported against the computed table
        is_trained = False
    return MAE_TRAINED_TABLE if is_trained else key_map


def is_complete(keys: Collection[str]) -> bool:
    """Returns True if a known layout fits these keys and names all of them."""
    return any(m.fits(keys) and all(map(m.names, keys)) for m in KEY_MAPS)


def nearest(keys: Collection[str]) -> str:
    """Returns what keys of no known layout come nearest to, and what to do: a prefix to take off, or the keys that are missing."""
    for prefix in _prefixes(keys):
        inside = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
        fitting = [m for m in KEY_MAPS if m.fits(inside)]
        if fitting:
            layout = max(fitting, key=lambda m: sum(map(m.names, inside)))
            outside = sorted(key for key in keys if not key.startswith(prefix))
            beside = f" and leave out the other {len(outside)} keys ({', '.join(outside[:3])}, ...)" if outside else ""
            return f"without {prefix!r} they fit {layout.kind}, {layout.layout}: take that prefix off the keys{beside}, then save again"
    named, layout = max(((sum(map(m.names, keys)), m) for m in KEY_MAPS), key=lambda pair: pair[0])
    if not named:
        return "no key is one of theirs: give the file of such a model"
    absent = [p for p in layout.signature if not p.startswith("!") and not any(key.startswith(p) for key in keys)]
    lacks = f", but none starts with {', '.join(absent)}" if absent else ""
    return f"{named} of the {len(keys)} keys are those of {layout.kind}, {layout.layout}{lacks}: give the file of the whole model"


def _prefixes(keys: Collection[str]) -> list[str]:
    """Returns the beginnings of keys that end with a dot, the most common first."""
    counts: dict[str, int] = {}
    for key in keys:
        parts = key.split(".")
        for depth in range(1, min(5, len(parts))):
            prefix = ".".join(parts[:depth]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))[:64]
