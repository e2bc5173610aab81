"""The tasks: their one list, and `run`, which runs any config in its workdir."""

import importlib
import os

# The value of config.task, and the class that does it: `trains` says of a class whether it has a training step.
TASKS = {
    "pretrain": "cvmae.tasks.pretrain:Pretrain",
    "finetune": "cvmae.tasks.finetune:Finetune",
    "linear": "cvmae.tasks.probe:Probe",
    "attentive": "cvmae.tasks.probe:Probe",
    "knn": "cvmae.tasks.knn:Knn",
    "retrieval": "cvmae.tasks.retrieval:Retrieval",
    "extract": "cvmae.tasks.extract:Extract",
    "visualize": "cvmae.tasks.visualize:Visualize",
    "ablate": "cvmae.tasks.ablate.runner:Ablate",
}
# Fields that workdirs of earlier versions lack: what these runs did, and the values in a workdir's config, None for none, that keep it.
_BEFORE: dict[tuple[str, str], tuple] = {
    ("data", "square_pixels"): (False, (None, False)),
    ("probe", "clips"): (1, (None,)),
}


def find_task(name: str):
    """Returns the class of a task. Raises: KeyError, the name is not in TASKS."""
    module, _, attribute = TASKS[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def run(config, workdir: str | os.PathLike, *, source=None, report_page: bool = False) -> dict[str, float]:
    """Runs config.task in `workdir`; called again after an interruption it resumes, and ends with the same numbers.

    Several processes train one model together. Where nothing is trained each works through videos of its own, on its own devices,
    and `workdir` is the folder that they share.

    Args:
      config: locked or not, of one of TASKS.
      workdir: the folder of the run, created if missing.
      source: data of your own in place of config.data.source, a `cvmae.Source` of the split config.data.split, or {name of a split:
        source} for every split that the task reads.
      report_page: True also writes `report.html` there once the run has ended, in the main process.

    Returns:
      The task's numbers by name: of a task that trains the last logged metrics and those of its report, of a study the mean of
      each measure over seeds. Empty where a signal asked to stop; the state is saved then.

    Raises:
      ConfigError: the config cannot run; nothing is compiled or written then.
      BadDataError: too many files cannot be read.
      NonFiniteError: a loss or gradient is not finite; the last good checkpoint stays.
      StudyError: runs of a study failed.
      StorageError: something cannot be written into `workdir`; the last good checkpoint stays.
    """
    from cvmae.files import storage_errors
    from cvmae.parallel import processes
    from cvmae.tasks.fields import check_paths
    from cvmae.tasks.model_fields import fill_fields
    from cvmae.tasks.schema import check_schema
    from cvmae.training import compilation_cache
    from cvmae.workdir import check_path

    check_path(workdir)
    check_schema(config)
    check_paths(config)
    config, custom = _with_source(config, source)
    config = _keep_cooldown(config, workdir)
    compilation_cache.enable(config.get("compilation_cache", "auto"))
    config, notes = fill_fields(config)
    config, more = _keep_begun(config, workdir)
    processes.log_once(*notes, *more)
    with storage_errors("a file of the run", workdir):
        return find_task(config.task).run(config, os.fspath(workdir), custom, report_page)


def _with_source(config, source):
    """Returns the config with data.source=custom, and the sources by split; the config itself and None without a source."""
    if source is None:
        return config, None
    from cvmae.config import config_errors, require
    from cvmae.data.custom import by_split

    require(
        "data" in config, f"config.task={config.task!r} takes no source=: its runs open the data of config.pretrain; set that"
    )
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.source = "custom"
    with config_errors():
        return config.lock(), by_split(source, config.data.split)


def _keep_cooldown(config, workdir: str | os.PathLike):
    """Returns the config with the step that a workdir was begun from, where it cools down a run, and all that followed from it."""
    if not config.get("cooldown", {}).get("init_from"):
        return config
    from cvmae.tasks.cooldown import keep_cooldown
    from cvmae.workdir import Workdir

    return keep_cooldown(config, Workdir(workdir).read_config() or {})


def _keep_begun(config, workdir: str | os.PathLike):
    """Returns the config with the values of _BEFORE that a workdir was begun with, and a note for each."""
    from cvmae.workdir import Workdir

    begun, notes = Workdir(workdir).read_config() or {}, []
    for (section, name), (before, values) in _BEFORE.items():
        there, here = begun.get(section), config.get(section, {}).get(name, before)
        if here == before or not isinstance(there, dict) or there.get(name) not in values:
            continue
        config = config.copy_and_resolve_references()
        config[section][name] = before
        config.lock()
        notes.append(f"note: config.{section}.{name}={before}, as this workdir was begun; a new --workdir takes {here}")
    return config, notes
