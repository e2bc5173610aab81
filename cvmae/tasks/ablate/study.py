"""A study: one pre-training config, and the fields that each variant of it changes, over seeds.

It is data, `config.study`: `variants`, a tuple of (name, {field of config.pretrain: value}); `seeds`; `measures`, numbers of a
run's report.json; `note`; and `index`, the one run to make. Nothing here trains.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping

import ml_collections

from cvmae.config import ConfigError, check_key, flatten, nearest, require
from cvmae.evaluation.pretraining_report import report_rows
from cvmae.storage.path import AnyPath, as_path
from cvmae.tasks.validate import validate
from cvmae.workdir import Report, Workdir

TASK = "ablate"
ARRAY = "SLURM_ARRAY_TASK_ID"
# Fields in which a resumed run may differ: none of them changes a number of the report.
FREE = {
    "log_every",
    "checkpoint_every",
    "checkpoint_keep",
    "checkpoint_keep_every",
    "report.untrained",
    "profile",
    "data.motion.cache_dir",
    "compilation_cache",
    "log.wandb",
    "log.mlflow",
    "log.run_name",
}
FREE |= {f"data.{name}" for name in ("name", "workers", "threads", "prefetch", "timeout_s", "allow_change")}


@dataclasses.dataclass(frozen=True)
class StudyRun:
    """A run of a study, one variant with one seed: its pre-training config and its folder."""

    variant: str
    seed: int
    config: ml_collections.ConfigDict  # locked
    folder: AnyPath

    @property
    def name(self) -> str:
        return f"{self.variant}-seed{self.seed}"

    @property
    def report(self) -> Report | None:
        """Its report, which is the last thing that a run writes; None before."""
        return Workdir(self.folder).read_report()


def runs_of(config, workdir: str | os.PathLike) -> list[StudyRun]:
    """Returns every run of a study, all variants with the first seed first, each checked as far as it can be without its data.

    Raises:
      ConfigError: the study or a variant of it cannot run, or `workdir` holds runs with other configs.
    """
    study = config.study
    check_study(study)
    folder = as_path(workdir)
    runs = []
    for seed in study.seeds:
        for name, overrides in study.variants:
            # One variant's untrained encoder is every variant's, but for the masks it is looked at under.
            own = {"seed": seed, "report.untrained": name == study.variants[0][0]}
            run = with_fields(config.pretrain, dict(overrides) | own, name)
            runs.append(StudyRun(name, seed, run, folder / f"{name}-seed{seed}"))
    require(runs[0].config.task == "pretrain", f"config.pretrain.task={runs[0].config.task!r}: a study is of pre-training")
    require(
        all(run.config.get("report", {}).get("labelled") for run in runs),
        "config.pretrain.report.labelled=0 leaves nothing to compare: give the clips that the probe learns from, such as 1600",
    )
    for run in runs:
        try:
            validate(run.config)
        except ConfigError as error:
            raise ConfigError(f"variant {run.variant!r}: {error}") from error
    check_workdir(config, folder)
    for run in runs:
        check_unchanged(run)
    return runs


def check_study(study) -> None:
    """Raises ConfigError where variants, seeds or measures are not what they must be."""
    for pair in study.variants:
        require(
            isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[0], str) and isinstance(pair[1], Mapping),
            f"config.study.variants has {pair!r}: expected pairs of a name and {{field: value}}, such as "
            "(('mae', {'loss.mse_image': 0.0}),)",
        )
    names, seeds = [name for name, _ in study.variants], list(study.seeds)
    require(bool(names) and bool(seeds), "config.study: there must be a variant and a seed at least")
    for name in names:
        require(
            re.fullmatch(r"[\w.+=-]*[\w+=-]", name) is not None,
            f"config.study.variants: {name!r} is to be a folder's name: letters, digits and . _ + = -",
        )
    for field, values in (("variants", names), ("seeds", seeds)):
        twice = sorted({str(value) for value in values if values.count(value) > 1})
        require(not twice, f"config.study.{field}: {', '.join(twice)} is there twice")
    require(
        all(type(seed) is int for seed in seeds), f"config.study.seeds={tuple(seeds)}: expected whole numbers, such as (0,1,2)"
    )
    known = [name for name, _, _ in report_rows()]
    for measure in study.measures:
        require(measure in known, f"config.study.measures has {measure!r}: {nearest(str(measure), known)}")


def with_fields(config, overrides: Mapping, variant: str):
    """A locked copy of a config with some fields set. Raises: ConfigError naming the variant and the field."""
    copy = config.copy_and_resolve_references().lock()
    for field, value in overrides.items():
        try:
            check_key(copy, field)
            copy.update_from_flattened_dict({field: value})
        except (ConfigError, TypeError, ValueError) as error:
            raise ConfigError(f"variant {variant!r}, field {field!r}: {error}") from error
    return copy


def chosen(runs: list[StudyRun], index: int, environment: Mapping[str, str]) -> list[StudyRun]:
    """Returns the runs that this process makes: the one of `index`, else the one of a Slurm array's index, else all.

    Raises:
      ConfigError: there is no such run.
    """
    setting, number = f"config.study.index={index}", index
    if index == -1 and ARRAY in environment:
        setting = f"{ARRAY}={environment[ARRAY]}"
        number = int(environment[ARRAY]) if environment[ARRAY].isdigit() else len(runs)
    if index == -1 and ARRAY not in environment:
        return runs
    require(0 <= number < len(runs), f"{setting}: the study has {len(runs)} runs, so an array is 0-{len(runs) - 1}")
    return [runs[number]]


def check_workdir(config, folder: AnyPath) -> None:
    """Raises ConfigError where a folder is another study's, or a run's."""
    there = read_config(folder)
    if there is None:
        return
    expected = {"task": config.task, "study.name": config.study.name}
    for field, value in expected.items():
        require(
            there.get(field) == value,
            f"--workdir={folder} holds {field}={there.get(field)!r}, this is {field}={value!r}: give another --workdir",
        )


def check_unchanged(run: StudyRun) -> None:
    """Raises ConfigError where a run's folder was begun with a config that would have given other numbers."""
    there = read_config(run.folder)
    if there is None:
        return
    here = flatten(json.loads(run.config.to_json_best_effort()))
    # A field that the file lacks came with a later version, whose default is what the run was made with.
    changed = [field for field in sorted(there) if there[field] != here.get(field) and field not in FREE]
    if changed:
        field = changed[0]
        others = f" and {len(changed) - 1} other fields" if len(changed) > 1 else ""
        raise ConfigError(
            f"{run.folder} was begun with {field}={there.get(field)!r}, the study now has {here.get(field)!r}{others}: set "
            f"config.pretrain.{field} or the variant back, delete that folder, or give another --workdir"
        )


def read_config(folder: AnyPath) -> dict | None:
    """Returns config.json of a folder by dotted names; None for a folder without it. Raises: ConfigError."""
    config = Workdir(folder).read_config()
    return None if config is None else flatten(config)
