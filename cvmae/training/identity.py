"""The identity of a run: what must be the same where a checkpoint is to go on, its data included, and which other fields changed."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping

import numpy as np

from cvmae.config import UNTRAINED, ConfigError, flatten
from cvmae.data.labels import digest_labels
from cvmae.data.mixture import Mixture, without_weights
from cvmae.data.sources import Source, TfdsSource, digest_keys
from cvmae.parallel import processes
from cvmae.workdir import CONFIG, PROVENANCE, Workdir
from cvmae.workdir.weights_stamp import weights_stamp

# The entries of an identity that are of the data, and what a message calls them.
DATA = {
    "clips": "their number",
    "source_files": "the files or their order",
    "source_labels": "the labels",
    "source_classes": "the names of the classes",
    "source_mixture": "the sources of the mixture or their weights",
    "source": "the source",
    "file_sizes": "the contents of the files, whose sizes are others",
}
_LOOKED_AT = 64  # files of a source, evenly spread, whose sizes are compared: a look at each takes minutes on NFS
# The entries of held-out data, whose change is told and not refused: the source, and the sizes of some of its files.
EVALUATED, EVALUATED_SIZES = "eval_source", "eval_file_sizes"
TESTED, TESTED_SIZES = "test_source", "test_file_sizes"
_HELD_OUT = {
    "eval_split": (EVALUATED, EVALUATED_SIZES, "evaluations before and after it do not compare"),
    "test_split": (TESTED, TESTED_SIZES, "the test at the end is of what is there now"),
}
_SIZES = ("file_sizes", EVALUATED_SIZES, TESTED_SIZES)
# The stamps of the weights that a run began with, by the field that names them, whose change is told: the run has its own by now.
WEIGHTS = "weights"
# Fields that change no shape of the parameters, and yet what these compute.
FUNCTION = frozenset(
    f"{section}.{name}"
    for sections, names in {
        ("video_branch", "image_branch"): ("mlp", "eps", "final_norm", "softcap", "positions"),
        ("video_branch.decoder", "image_branch.decoder"): ("heads", "positions", "norm_eps"),
        ("head", "probe"): ("pool", "eps", "heads"),
    }.items()
    for section in sections
    for name in names
)
ALLOW = "data.allow_change"
# Beginnings of fields whose change at a resume is not told.
UNTOLD = (
    # They say when something is written, and where to.
    *("log_every", "eval_every", "checkpoint_every", "checkpoint_keep", "checkpoint_keep_every", "profile", "log."),
    # They say how fast clips are read, and where copies of them lie.
    *("data.workers", "data.threads", "data.prefetch", "data.cache_", "data.motion.cache_dir", "compilation_cache"),
    # They say what computes a step: its numbers are the same but for rounding.
    *("mesh.", "sharding.", "optimizer_sharding", "remat", "scan"),
    # They are read at the end alone, so the report is of their last values.
    *("report.", "test."),
    ALLOW,
)
_TOLD = 8  # changed fields in a line, and characters of a value: all is in the record
_VALUE_CHARACTERS = 60
_REFUSED_CHARACTERS = 300  # of a value in a refusal: it is to be given back


def describe(config, source: Source, evaluated: Source | None = None, tested: Source | None = None) -> dict:
    """Returns the identity of a run, numbers and texts that its checkpoints keep.

    Args:
      config: of the run.
      source: the training clips.
      evaluated: the clips that evaluations during training read, where there are any.
      tested: those of the test at the end, where they are others.
    """
    identity = {"task": config.task, "batch_size": config.batch_size, "seed": config.seed}
    starts = {field: value for field, value in flatten(config).items() if field.endswith("init_from")}
    # Before version 0.2 an empty field asked for an untrained encoder.
    identity |= {field: "" if value == UNTRAINED else value for field, value in starts.items()}
    stamps = {field: weights_stamp(value) for field, value in starts.items() if value not in ("", UNTRAINED)}
    identity[WEIGHTS] = {field: stamp for field, stamp in stamps.items() if stamp}
    branch = config.get("video_branch", {})
    if branch.get("target") == "latent":
        identity |= {field: value for field, value in flatten(config).items() if field.startswith("video_branch.teacher.")}
    finetune = config.get("finetune", {})  # of fine-tuning; configs of earlier versions lack it
    identity |= {"finetune.train": finetune.train} if finetune else {}
    if finetune and finetune.train.startswith("lora"):
        identity["finetune.lora_alpha"] = finetune.lora_alpha
    if evaluated is not None:
        identity |= {EVALUATED: evaluated.identity, EVALUATED_SIZES: file_sizes(evaluated)}
    if tested is not None and tested is not evaluated:
        identity |= {TESTED: tested.identity, TESTED_SIZES: file_sizes(tested)}
    return identity | _describe_data(source)


def _describe_data(source: Source) -> dict:
    """Returns the entries of DATA. The parts of a source tell what changed; to know the labels of tfds, every record is read."""
    data = {"clips": len(source), "source": source.identity, "file_sizes": file_sizes(source)}
    if isinstance(source, TfdsSource):
        return data
    if isinstance(source, Mixture):
        data["source_mixture"] = source.proportions
    return data | {
        "source_files": digest_keys(source),
        "source_labels": digest_labels(source),
        "source_classes": _digest(repr(source.class_names).encode()),
    }


def file_sizes(source: Source) -> list[int]:
    """Returns the bytes of some files of a source, evenly spread, -1 for one that is not there; none where videos are in no files."""
    if isinstance(source, Mixture):
        return [size for part in source.sources for size in file_sizes(part)]
    path_of = getattr(source, "video_file", None)
    if path_of is None or not len(source):
        return []
    numbers = np.unique(np.linspace(0, len(source) - 1, _LOOKED_AT).astype(int))
    return [_size(path_of(int(number))) for number in numbers]


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except (OSError, ValueError):
        return -1


def _differ(name: str, there, here) -> bool:
    """Returns True if an entry of an identity is another; sizes of files that were or are not there are not compared.

    Evaluations read the sources of a mixture one after the other, whatever their weights, which checkpoints have all the same.
    """
    if name in (EVALUATED, TESTED):
        return without_weights(there) != without_weights(here)
    if name not in _SIZES:
        return there != here
    if not isinstance(there, list) or len(there) != len(here):
        return False
    return any(a != b for a, b in zip(there, here, strict=True) if -1 not in (a, b))


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def check(
    position: dict, expected: dict, allow_data_change: bool = False, changed_config: Callable[[], Mapping[str, list]] = dict
) -> None:
    """Checks that a run continues the one of a checkpoint; entries that an earlier version did not write are not compared.

    Args:
      position: of the checkpoint.
      expected: of this run, by `describe`.
      allow_data_change: True accepts other data, and says so.
      changed_config: returns the fields that differ from those of the checkpoint, see `read_changed_fields`; called for a message.

    Raises:
      ConfigError: another task, batch, seed, start or data set; the message says what changed.
    """
    _tell_other_weights(position, expected)
    changed = [name for name, value in expected.items() if name != WEIGHTS and _differ(name, position.get(name, value), value)]
    changed = _tell_held_out(position, changed)
    for name in changed:
        if name not in DATA:
            before, now = (_named(name, entries[name]) for entries in (position, expected))
            raise ConfigError(
                f"the checkpoint was made with {name}={before}, this run has {now}, so it cannot resume: set {name} back, or "
                "give another --workdir"
            )
    _check_function(changed_config())
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
        what = f"{what} (it was {_shown(position['source'])}, now {_shown(expected['source'])})"
    fields = {name: values for name, values in changed_config().items() if name.startswith("data.")}
    of_data = f"; changed: {show_changes(fields)}" if fields else ""
    raise ConfigError(
        f"{what}, so it cannot resume: set config.data back (the manifest with its labels, root, split{of_data}) or give the source of before, "
        f"give another --workdir, or --config.{ALLOW}=True to continue with the new data"
    )


def _tell_held_out(position: dict, changed: list[str]) -> list[str]:
    """Says which held-out data changed; returns the other entries that did."""
    for field, (source, sizes, so) in _HELD_OUT.items():
        if source in changed or sizes in changed:
            what = "files, labels or classes" if source in changed else "the contents of files, whose sizes are others"
            processes.log_once(f"note: the data of config.data.{field} changed since step {position.get('step')} ({what}): {so}")
        changed = [name for name in changed if name not in (source, sizes)]
    return changed


def _tell_other_weights(position: dict, expected: dict) -> None:
    """Says which of the weights that a run began with were replaced since; those that are not on this disk are not compared."""
    before = position.get(WEIGHTS, {})
    for field, stamp in expected.get(WEIGHTS, {}).items():
        if before.get(field, stamp) != stamp:
            processes.log_once(
                f"note: the weights in config.{field}={expected.get(field)!r} are others than at the start of the run, which continues with "
                "those it began with; give another --workdir to begin with these"
            )


def _check_function(changed: Mapping[str, list]) -> None:
    """Raises ConfigError where the same parameters would compute something else: fields of FUNCTION differ, see `read_changed_fields`."""
    fields = {name: values for name, values in changed.items() if name in FUNCTION}
    if fields:
        raise ConfigError(
            f"the checkpoint was made with another model, {show_changes(fields)}, so it cannot resume: give the old value back (that of "
            "weights comes from config.init_from, which may have been replaced), or give another --workdir"
        )


def _named(name: str, value) -> str:
    """Returns an entry of an identity as a config has it: of weights to start from, none are `untrained`, and '' in a branch."""
    return str(value) or (UNTRAINED if name == "init_from" else "''")


def changed_fields(there: Mapping, here: Mapping) -> dict[str, list]:
    """Returns the fields whose values differ between two configs that both have them, {field: [before, now]}, as JSON holds them.

    Fields of `UNTOLD` and the weights that a run starts from, which `check` compares, are left out.

    Args:
      there: the config of the earlier start, from its file.
      here: the config of this one.
    """
    before, now = flatten(there), flatten(here)
    fields = [name for name in now if name in before and not name.startswith(UNTOLD) and not name.endswith("init_from")]
    # NaN differs from itself.
    return {
        name: [before[name], now[name]] for name in fields if before[name] != now[name] and repr(before[name]) != repr(now[name])
    }


def read_changed_fields(workdir: Workdir, config) -> dict[str, list]:
    """Returns the fields that differ from those in the workdir's config, see `changed_fields`. All processes call it.

    Args:
      workdir: with the config of the earlier start, which the main process reads; {} without one.
      config: of this start; {} for None.
    """
    before = workdir.read_config() if config is not None and processes.is_main_process() else None
    changed = {} if before is None else changed_fields(before, json.loads(config.to_json_best_effort()))
    return processes.allgather_json(changed)[0]


def show_changes(changed: Mapping[str, list]) -> str:
    """Formats changed fields for a refusal, `config.probe.rates (0.1, 0.2) -> (0.1,)`; all of them, as any may be the cause."""
    pairs = ((name, *(_shown(value, _REFUSED_CHARACTERS) for value in values)) for name, values in changed.items())
    return ", ".join(f"config.{name} {before} -> {now}" for name, before, now in pairs)


def give_back(changed: Mapping[str, list]) -> str:
    """Says what to do about a checkpoint of other shapes, with the fields that changed since."""
    if not changed:
        return "give another --workdir, or the config and the classes of the data that the checkpoint was made with"
    back = "give the old value back" if len(changed) == 1 else "give the old values back of those that change shapes"
    return f"since it was made, the config has changed, {show_changes(changed)}: {back}, or give another --workdir"


def tell_changed_fields(workdir: Workdir, config, step: int) -> dict[str, list]:
    """Prints which fields differ from those that the workdir's run had until now, and returns them, see `changed_fields`.

    Args:
      workdir: with the config of the earlier start; the main process reads it.
      config: of this start.
      step: that the run resumes from; at step 0 there is nothing to compare.
    """
    if not step or not processes.is_main_process():
        return {}
    before = workdir.read_config()
    if before is None or "task" not in before:  # which every version writes
        what = "was not there" if before is None else "was not that of a run"
        processes.log_once(
            f"{workdir / CONFIG} {what} at the resume from step {step}: fields that changed since cannot be named; it is written again"
        )
        return {}
    changed = changed_fields(before, json.loads(config.to_json_best_effort()))
    if changed:
        values = [f"{name} {_shown(before)} -> {_shown(now)}" for name, (before, now) in list(changed.items())[:_TOLD]]
        more = f" and {len(changed) - _TOLD} more, see {PROVENANCE}" if len(changed) > _TOLD else ""
        processes.log_once(f"resumed with other fields than before step {step}: {', '.join(values)}{more}")
    return changed


def _shown(value, characters: int = _VALUE_CHARACTERS) -> str:
    text = repr(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= characters else f"{text[: characters - 3]}..."
