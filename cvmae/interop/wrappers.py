"""Takes off keys what wrapped the model when it was saved: torch.compile, DistributedDataParallel, FSDP, Lightning and others."""

import dataclasses
from collections.abc import Collection, Mapping

from cvmae.interop.key_maps import KEY_MAPS, is_complete
from cvmae.interop.pretrained import WeightsError

# By what puts them before every key, or, around a part of the model, into keys.
ANYWHERE = {
    "_orig_mod.": "torch.compile",
    "_fsdp_wrapped_module.": "FSDP",
    "_checkpoint_wrapped_module.": "activation checkpointing",
}
# The names under which modules that hold the model keep it: DataParallel and DistributedDataParallel; Lightning's; those of
# OpenMMLab; and what people write. The last is a part of some layouts too and comes off only where no layout has it.
PREFIXES = ("module.", "model.", "backbone.", "net.", "network.", "encoder.")
# Keys of wrappers themselves, each with the reason to leave it out.
COUNTERS = {"n_averaged": "the counter of torch's AveragedModel, no weight"}


@dataclasses.dataclass(frozen=True)
class Unwrapped:
    """The keys of a file without wrappers.

    Attributes:
      bare_keys: {key of the file: the same without its wrappers}.
      ignored: {key of the file: why it is left out}.
      notes: what was taken off, for the user, one a line.
    """

    bare_keys: Mapping[str, str]
    ignored: dict[str, str]
    notes: tuple[str, ...]


def unwrap(keys: Collection[str], source: str = "the file") -> Unwrapped:
    """Takes known wrappers off the keys of a file, also several around each other.

    A prefix comes off if every key has it, or if what remains is, with the other keys as they are, a known layout and no key is
    left over: a classifier whose encoder alone is wrapped. Other prefixes are not taken off: `key_maps.nearest` names them.

    Args:
      keys: the keys of a file.
      source: its name, for messages.

    Raises:
      WeightsError: two keys are the same without their wrappers.
    """
    ignored = {key: COUNTERS[key] for key in keys if key in COUNTERS and len(keys) > 1}
    bare = {key: key for key in keys if key not in ignored}
    notes = []
    for name, wrapper in ANYWHERE.items():
        inside = {key: _without(text, name) for key, text in bare.items()}
        if inside != bare:
            bare = inside
            notes.append(f"{name!r} of {wrapper} is taken off the keys")
    while not is_complete(bare.values()):
        prefix = _common_prefix(bare.values())
        # A damaged file of a layout whose keys begin so themselves stays as it is, so that its errors are about that layout.
        if prefix and not any(key_map.fits(bare.values()) for key_map in KEY_MAPS):
            bare = {key: text.removeprefix(prefix) for key, text in bare.items()}
            notes.append(f"the prefix {prefix!r} is taken off the keys")
            continue
        prefix, renamed = _part_prefix(bare)
        if prefix:
            outside = sorted(text for text in bare.values() if not text.startswith(prefix))
            bare = renamed
            notes.append(f"the prefix {prefix!r} is taken off the keys that have it; {', '.join(outside[:4])} stand beside it")
        break
    _check_distinct(bare, source)
    return Unwrapped(bare, ignored, tuple(notes))


def _without(key: str, wrapper: str) -> str:
    """Returns a key without the parts that are `wrapper`."""
    name = wrapper.removesuffix(".")
    return ".".join(part for part in key.split(".") if part != name) or key


def _common_prefix(keys: Collection[str]) -> str:
    """Returns the one of `PREFIXES` that all keys have; empty if none."""
    return next((prefix for prefix in PREFIXES if keys and all(len(k) > len(prefix) and k.startswith(prefix) for k in keys)), "")


def _part_prefix(bare: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """Returns the one of `PREFIXES` whose removal gives a known layout, and the keys without it; empty if none does."""
    for prefix in PREFIXES:
        renamed = {key: text.removeprefix(prefix) for key, text in bare.items()}
        if renamed != bare and len(set(renamed.values())) == len(renamed) and is_complete(renamed.values()):
            return prefix, renamed
    return "", {}


def _check_distinct(bare: Mapping[str, str], source: str) -> None:
    """Raises WeightsError if two keys became one."""
    first: dict[str, str] = {}
    problems = [
        f"twice: {key} and {first[text]} are both {text} without their wrappers: save one of the two models alone"
        for key, text in bare.items()
        if first.setdefault(text, key) != key
    ]
    if problems:
        raise WeightsError(source, problems)
