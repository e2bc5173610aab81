"""Draws the validation videos of a set that has no splits, class by class."""

import collections
import hashlib
import os
from collections.abc import Mapping


def split_key(name: str) -> str:
    """Returns the key on which a video's split depends: the path without extension, so that converted files keep theirs."""
    return os.path.splitext(name)[0]


def draw(labels: Mapping[str, str], val_share: float, seed: int, earlier: Mapping[str, str] | None = None) -> dict[str, str]:
    """Draws "train" or "val" for every video, with the same share of "val" in every class.

    The number of "val" is the share of all videos, rounded, and at least 1 if there are 2; in each class it is the share
    of the class, rounded down or up. At least one video of each class is "train". In a class, the videos with the smallest
    hashes of seed and key are "val", so a draw depends only on the arguments.

    Args:
      labels: class name by key (see split_key), "" for videos without a class, which are drawn like a class of their own.
      val_share: 0 <= val_share < 1.
      seed: any integer.
      earlier: splits by key that are kept even if the shares are no longer exact. Only other videos are drawn: they become
        "val" while their class has fewer than its share.

    Returns:
      The split of each key of `labels`.
    """
    earlier = earlier or {}
    members = collections.defaultdict(list)
    for key, label in labels.items():
        members[label].append(key)
    quotas = _quotas({label: len(keys) for label, keys in members.items()}, val_share, seed)
    splits: dict[str, str] = {}
    for label, keys in members.items():
        kept = {key: earlier[key] for key in keys if key in earlier}
        drawn = sorted((key for key in keys if key not in earlier), key=lambda key: _hash(seed, key))
        missing = max(0, quotas[label] - list(kept.values()).count("val"))
        splits |= kept | dict.fromkeys(drawn[:missing], "val") | dict.fromkeys(drawn[missing:], "train")
    return splits


def draw_each(labels: Mapping[str, str], val_share: float, seed: int) -> dict[str, str]:
    """Draws every video independently, "val" if its hash is below the share, as earlier versions did; see `draw`."""
    return {key: "val" if _hash(seed, key) < val_share * 2**64 else "train" for key in labels}


def _quotas(sizes, val_share, seed):
    """Returns the number of "val" by class: rounded down, plus 1 for the classes with the largest remainders."""
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
