"""The identity of a run: what must be the same where a checkpoint is to go on, its data included."""

import hashlib

from cvmae.config import UNTRAINED, ConfigError, flatten
from cvmae.data.labels import label_sets_of
from cvmae.data.mixture import Mixture
from cvmae.data.sources import Source, TfdsSource, digest_keys
from cvmae.parallel import processes

# The entries of an identity that are of the data, and what a message calls them.
DATA = {
    "clips": "their number",
    "source_files": "the files or their order",
    "source_labels": "the labels",
    "source_classes": "the names of the classes",
    "source_mixture": "the sources of the mixture or their weights",
    "source": "the source",
}
ALLOW = "data.allow_change"


def describe(config, source: Source) -> dict:
    """Returns the identity of a run, numbers and texts that its checkpoints keep.

    Args:
      config: of the run.
      source: the training clips.
    """
    identity = {"task": config.task, "batch_size": config.batch_size, "seed": config.seed}
    starts = {field: value for field, value in flatten(config).items() if field.endswith("init_from")}
    # Before version 0.2 an empty field asked for an untrained encoder.
    identity |= {field: "" if value == UNTRAINED else value for field, value in starts.items()}
    return identity | _describe_data(source)


def _describe_data(source: Source) -> dict:
    """Returns the entries of DATA. The parts of a source tell what changed; to know the labels of tfds, every record is read."""
    data = {"clips": len(source), "source": source.identity}
    if isinstance(source, TfdsSource):
        return data
    if isinstance(source, Mixture):
        data["source_mixture"] = source.proportions
    return data | {
        "source_files": digest_keys(source),
        "source_labels": _digest(source.labels.astype("<i4").tobytes() + _label_sets(source)),
        "source_classes": _digest(repr(source.class_names).encode()),
    }


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _label_sets(source: Source) -> bytes:
    """Returns the table of label sets as bytes; empty where a video has one label, as in checkpoints of earlier versions."""
    sets = label_sets_of(source)
    return b"" if sets is None else str(sets.shape).encode() + sets.tobytes()


def check(position: dict, expected: dict, allow_data_change: bool = False) -> None:
    """Checks that a run continues the one of a checkpoint; entries that an earlier version did not write are not compared.

    Args:
      position: of the checkpoint.
      expected: of this run, by `describe`.
      allow_data_change: True accepts other data, and says so.

    Raises:
      ConfigError: another task, batch, seed, start or data set; the message says what changed.
    """
    changed = [name for name, value in expected.items() if position.get(name, value) != value]
    for name in changed:
        if name not in DATA:
            raise ConfigError(
                f"the checkpoint was made with {name}={position[name]}, this run has {expected[name]}, so it cannot "
                f"resume: set {name} back, or give another --workdir"
            )
    if not changed:
        return
    parts = [DATA[name] for name in DATA if name in changed and (name != "source" or changed == ["source"])]
    what = f"the training data changed since step {position.get('step')}: {', '.join(parts)}"
    if "source_mixture" in changed:
        what = f"{what} (they were {position['source_mixture']}, now {expected['source_mixture']})"
    if allow_data_change:
        processes.log_once(f"note: {what}; config.{ALLOW}=True, so the run continues with the new data")
        return
    if "clips" in changed:
        what = f"the checkpoint was made with clips={position['clips']}, this run has {expected['clips']}; {what}"
    elif changed == ["source"]:
        what = f"{what} (it was {position['source']}, now {expected['source']})"
    raise ConfigError(
        f"{what}, so it cannot resume: set config.data back (the manifest with its labels, root, split), give another --workdir, "
        f"or --config.{ALLOW}=True to continue with the new data"
    )
