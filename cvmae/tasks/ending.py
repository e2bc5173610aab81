"""Lines for the end of a run: the files that it left, and the command that usually comes next."""

import os
import shlex
from collections.abc import Sequence

from cvmae.config import ConfigError, check_key, flatten, load
from cvmae.data.mixture import MixtureError, sections
from cvmae.objective.terms import active_terms
from cvmae.tasks.model_fields import is_sigmoid
from cvmae.workdir import (
    CHECKPOINTS,
    CONFUSION,
    CURVES,
    FEATURES,
    FIGURES,
    PAGE,
    PER_CLASS,
    PREDICTIONS,
    PROBES,
    PROFILE,
    RECONSTRUCTION,
    REPORT,
    STUDY_TABLE,
    Workdir,
)

LEFT_BEHIND = (
    PAGE,
    REPORT,
    CURVES,
    RECONSTRUCTION,
    PREDICTIONS,
    PER_CLASS,
    CONFUSION,
    STUDY_TABLE,
    FEATURES,
    FIGURES,
    PROFILE,
    CHECKPOINTS,
)
_NEXT = {"pretrain": "linear", "finetune": "visualize", "linear": "finetune", "attentive": "finetune"}
# Fields, and sections, whose flags the next command needs as well: those of the data, of the encoder's input, of the test's views and of
# the machine. Batch sizes, rates and lengths are another recipe's.
_OF_DATA = ("data", "augment.size", "augment.mean", "augment.std", "augment.flip", "augment.mirror_labels", "test")
_OF_MACHINE = ("dtype", "attention", "remat", "compilation_cache", "scan", "mesh", "sharding", "optimizer_sharding")
_PRETRAIN_ARGUMENTS = ("stage", "phase", "fast", "sources")  # of configs, for pre-training alone


def ending(config, config_path: str, workdir: str, arguments: Sequence[str] = ()) -> list[str]:
    """Returns lines for the end of a run: the files that it left, and the command that usually comes next, where one does.

    Args:
      config: that was run.
      config_path: as it was given, `configs/ssv2.py:variant=B/16`.
      workdir: of the run.
      arguments: of the command that ran it; the next command has the flags among them that it needs too.
    """
    folder = Workdir(workdir)
    files = [name for name in LEFT_BEHIND if (folder / name).exists()]
    lines = [f"left in {workdir}: {', '.join(files)}"] if files else []
    if config.task == "pretrain" and not active_terms(config).video_branch:
        flag = f"--config.image_branch.init_from={workdir}"
        return [*lines, f"next: {flag} of a pre-training on videos begins with this image branch"]
    following = _next_task(config, folder)
    if following is None:
        return lines
    path = with_task(config_path, following)
    try:
        known = load(path)
    except ConfigError:  # a config of the user's own, which may not have every task
        return lines
    # A probe keeps the encoder that it started from, so that is what comes next starts from, with the fields that describe it.
    is_probe = config.task in PROBES
    wanted = (*_OF_DATA, *_OF_MACHINE, *(["video_branch"] if is_probe else []))
    flags = [flag for flag in config_flags(arguments) if _is_needed(_field(flag), wanted, known)]
    if config.data.get("mixture"):
        fields = [_field(flag).removeprefix("data.") for flag in flags if _field(flag).startswith("data.")]
        member = _member_flags(config.data, known, fields)
        if member is None:
            return lines
        flags = [flag for flag in flags if not _field(flag).startswith("data.")] + member
    flags = [f"--config.init_from={config.init_from if is_probe else workdir}", *flags, *_label_flags(config, following, flags)]
    flags.append(f"--workdir={workdir_beside(workdir, following)}")
    return [*lines, f"next, for example: {shlex.join(['python', '-m', 'cvmae.main', f'--config={path}', *flags])}"]


def workdir_beside(workdir: str, task: str) -> str:
    """Returns the folder of a task that follows a run, beside the run's own: each run has another, also in a bucket."""
    plain = workdir.rstrip("/")
    is_named = plain.rpartition("/")[2] not in ("", ".", "..")
    return f"{plain if is_named else os.path.abspath(workdir)}-{task}"


def _next_task(config, folder: Workdir) -> str | None:
    """Returns the task that usually follows a run, which has a video encoder; None without one, or where its data are unknown."""
    following = _NEXT.get(config.task)
    if config.task == "pretrain" and config.data.get("mixture"):
        following = "visualize"  # clips of one of the sources, which may have no labels
    backbone = (folder.read_config() or {}).get("video_branch", {}).get("backbone", "vit")
    return "extract" if following == "visualize" and backbone != "vit" else following


def config_flags(arguments: Sequence[str]) -> list[str]:
    """Returns the flags among the arguments of a command that set fields of its config, each as one word, `--config.FIELD=VALUE`."""
    flags = []
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        name, equals, _ = argument.partition("=")
        if not name.startswith("-") or not name.lstrip("-").startswith(("config.", "noconfig.")):
            continue
        takes_next = not equals and following and not following.startswith("-") and not name.lstrip("-").startswith("no")
        flags.append(f"--{argument.lstrip('-')}{f'={following}' if takes_next else ''}")
    return flags


def _field(flag: str) -> str:
    """Returns the field that a flag of `config_flags` sets, without `config.`."""
    return flag.partition("=")[0].partition(".")[2]


def _is_needed(field: str, wanted: Sequence[str], known) -> bool:
    """Returns True for one of the wanted fields, or a field of a wanted section, that the config `known` has."""
    if not any(field == name or field.startswith(f"{name}.") for name in wanted):
        return False
    try:
        check_key(known, field)
    except ConfigError:
        return False
    return True


def _member_flags(data, known, set_for_all: Sequence[str]) -> list[str] | None:
    """Returns the flags of the data of the first source of a mixture; None where it cannot be opened.

    Args:
      data: of the mixture.
      known: config of the task that needs them.
      set_for_all: fields of `data` that were set for all sources.
    """
    try:
        name, section = next(iter(sections(data).items()))
    except MixtureError:
        return None
    with section.unlocked():
        # Its clips to look at are those that it was evaluated on; it is called a data set where its section says so.
        section.test_split, section.name = section.eval_split, data.sources[name].get("name") or known.data.get("name", "")
    there, values = flatten(known.data), flatten(section)
    fields = dict.fromkeys([*set_for_all, *flatten(data.sources[name]), "test_split"])
    needed = [field for field in fields if field in there and values[field] not in (None, there[field])]
    return [f"--config.data.{field}={values[field]}" for field in needed]


def _label_flags(config, following: str, flags: Sequence[str]) -> list[str]:
    """Returns the flag that the task `following` needs for clips with several labels, where those of the data do not say it."""
    if not (config.data.get("multi_label") or is_sigmoid(config)):
        return []
    trained = {"linear": "probe", "finetune": "head"}.get(following)
    if trained:
        return [f"--config.{trained}.loss=sigmoid"]
    return [] if any("data.multi_label" in flag for flag in flags) else ["--config.data.multi_label=True"]


def with_task(config_path: str, task: str) -> str:
    """Returns the path of a config with another task than pre-training in its argument."""
    file, _, argument = config_path.partition(":")
    parts = [part for part in argument.split(",") if part and part.partition("=")[0] not in ("task", *_PRETRAIN_ARGUMENTS)]
    return f"{file}:{','.join([f'task={task}', *parts])}"
