"""All kinds of weights files that are read, and the key map of a given file.

A new kind is one module here with its `KeyMap`s, and a line in `KEY_MAPS`.
"""

from cvmae.interop.key_maps.mae import HF_VIT_MAE, MAE, MAE_CLASSIFIER, MAE_PROBE
from cvmae.interop.key_maps.mae_st import MAE_ST
from cvmae.interop.key_maps.videomae import (
    HF_VIDEOMAE,
    HF_VIDEOMAE_CLASSIFIER,
    HF_VIDEOMAE_ENCODER,
    VIDEOMAE,
    VIDEOMAE_CLASSIFIER,
)
from cvmae.interop.keymap import KeyMap
from cvmae.interop.pretrained import WeightsError

KEY_MAPS: tuple[KeyMap, ...] = (
    MAE,
    MAE_CLASSIFIER,
    MAE_PROBE,
    HF_VIT_MAE,
    *MAE_ST,
    VIDEOMAE,
    VIDEOMAE_CLASSIFIER,
    HF_VIDEOMAE,
    HF_VIDEOMAE_ENCODER,
    HF_VIDEOMAE_CLASSIFIER,
)
# VideoMAEv2 kept VideoMAE's names; its giant differs in size alone.
ALIASES = {"videomaev2": "videomae"}
OWN_KIND = "cvmae"  # workdirs and exports of this package, which need no key map
KINDS = ("auto", OWN_KIND, *dict.fromkeys(m.kind for m in KEY_MAPS), *ALIASES)


def find_key_map(kind: str, keys, source: str = "the file") -> KeyMap:
    """Returns the key map of a file with these keys.

    Args:
      kind: one of `KINDS`. `auto` detects it from the keys; among several layouts the one that names most keys is taken.
      keys: the file's keys.
      source: the file's name, for messages.

    Raises:
      ValueError: the kind is unknown.
      WeightsError: `auto` fits no kind.
    """
    if kind not in KINDS:
        raise ValueError(f"weights kind is {kind!r}; expected one of {', '.join(KINDS)}")
    keys = list(keys)
    if kind == "auto":
        fitting = [m for m in KEY_MAPS if m.fits(keys)]
        if not fitting:
            some = ", ".join(sorted(keys)[:3])
            raise WeightsError(source, [f"its keys ({some}, ...) are of none of the known kinds: {', '.join(KINDS[1:])}"])
    else:
        of_kind = [m for m in KEY_MAPS if m.kind == ALIASES.get(kind, kind)]
        # Layouts may differ by an absent key (a cls token), but a damaged file may fit none.
        fitting = [m for m in of_kind if m.fits(keys)] or of_kind
        if not fitting:
            raise WeightsError(source, [f"kind {kind!r} is a workdir or an export of this package, not a file of other keys"])
    return max(fitting, key=lambda m: sum(m.find(key) is not None for key in keys))
