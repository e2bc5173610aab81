"""Draws the validation videos of a set that has no splits, class by class."""

import collections
import hashlib
import os
from collections.abc import Mapping


def split_key(name: str) -> str:
    """Returns what a video's split depends on: its path without the extension, so that a converted file keeps its split."""
    return os.path.splitext(name)[0]


def draw(labels: Mapping[str, str], val_share: float, seed: int, earlier: Mapping[str, str] | None = None) -> dict[str, str]:
    """Draws "train" or "val" for every video, with the same share of "val" in every class.

    Rounded as a whole: the number of "val" is that share of all videos, to the nearest number, and at least 1 of 2 or more;
    each class has its own share rounded down or up. One video of each class is always "train". In a class, the videos with
    the smallest hashes of seed and key are "val", so that a draw depends on nothing but the arguments.

    Args:
      labels: class name by key (see split_key), "" for videos without a class, which are drawn like one more class.
      val_share: 0 <= val_share < 1.
      seed: any integer; another one gives another draw.
      earlier: splits by key that stay as they are, whatever the shares are then. Only videos that are not in it are drawn:
        they become "val" as long as their class has fewer than it should.

    Returns:
      The split of each key of `labels`.
    """
    earlier = earlier or {}
    members = collections.defaultdict(list)
    for key, label in labels.items():
        members[label].append(key)
    quotas = _quotas({label: len(keys) for label, keys in members.items()}, val_share, seed)
    splits = {}
    for label, keys in members.items():
        kept = {key: earlier[key] for key in keys if key in earlier}
        drawn = sorted((key for key in keys if key not in earlier), key=lambda key: _hash(seed, key))
        missing = max(0, quotas[label] - list(kept.values()).count("val"))
        splits |= kept | dict.fromkeys(drawn[:missing], "val") | dict.fromkeys(drawn[missing:], "train")
    return splits


def draw_each(labels: Mapping[str, str], val_share: float, seed: int) -> dict[str, str]:
    """Draws every video by itself, "val" if its hash is below the share; for sets that an earlier version split. See `draw`."""
    return {key: "val" if _hash(seed, key) < val_share * 2**64 else "train" for key in labels}


def _quotas(sizes, val_share, seed):
    """Numbers of "val" by class: rounded down, then one more for those that lost most, until the total is right."""
    quotas = {label: min(int(val_share * size), size - 1) for label, size in sizes.items()}
    count = sum(sizes.values())
    total = max(int(val_share * count + 0.5), int(val_share > 0 and count > 1))
    open_labels = [label for label, size in sizes.items() if quotas[label] < size - 1]
    open_labels.sort(key=lambda label: (quotas[label] - val_share * sizes[label], _hash(seed, f"class {label}")))
    for label in open_labels[: max(0, total - sum(quotas.values()))]:
        quotas[label] += 1
    return quotas


def _hash(seed, text):
    return int.from_bytes(hashlib.sha256(f"{seed}/{text}".encode()).digest()[:8], "big")
