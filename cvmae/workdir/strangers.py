"""Looks at what has the names of a workdir's files before a run writes them: folders in place of files, links that lead nowhere."""

import os
import pathlib

from cvmae.config import ConfigError
from cvmae.files import lost_link, set_aside, storage_errors
from cvmae.parallel import processes
from cvmae.workdir import (
    BAD_EVAL_FILES,
    BAD_FILES,
    BAD_TEST_FILES,
    CHECKPOINTS,
    CONFIG,
    CONFUSION,
    CURVES,
    FEATURES,
    FIGURES,
    METRICS,
    PAGE,
    PER_CLASS,
    PREDICTIONS,
    PROFILE,
    PROVENANCE,
    RECONSTRUCTION,
    REPORT,
    STUDY_TABLE,
    TENSORBOARD,
    Workdir,
)

_FILES = (
    METRICS,
    REPORT,
    PROVENANCE,
    PREDICTIONS,
    PER_CLASS,
    STUDY_TABLE,
    BAD_FILES,
    BAD_EVAL_FILES,
    BAD_TEST_FILES,
    CURVES,
    RECONSTRUCTION,
    CONFUSION,
    PAGE,
)
_FOLDERS = (TENSORBOARD, FIGURES, PROFILE)
_NEEDED = {CONFIG: "a file", CHECKPOINTS: "a folder", FEATURES: "a folder"}  # what a run continues from


def set_strangers_aside(workdir: Workdir) -> None:
    """Renames folders in place of a run's files, and files in place of its folders, and says so; nothing is deleted.

    Raises:
      ConfigError: it is in place of what the run continues from, or a link of the workdir leads nowhere. In all processes.
    """
    refusal, lines = "", []
    if processes.is_main_process() and isinstance(workdir.path, pathlib.Path):  # a bucket has no folders and no links
        try:
            lines = _look(workdir.path)
        except ConfigError as error:
            refusal = str(error)
    if refusal := processes.allgather_json(refusal)[0]:
        raise ConfigError(refusal)
    processes.log_once(*lines)


def _look(folder: pathlib.Path) -> list[str]:
    lines = []
    with os.scandir(folder) as entries:
        kinds = {entry.name: "a folder" if entry.is_dir() else "a file" for entry in entries}
    expected = dict.fromkeys(_FILES, "a file") | dict.fromkeys(_FOLDERS, "a folder") | _NEEDED
    for name, kind in sorted(kinds.items()):
        path = folder / name
        if lost := path.is_symlink() and lost_link(path):
            raise ConfigError(lost)
        if kind == expected.get(name, kind):
            continue
        if name in _NEEDED:
            raise ConfigError(f"{path} is {kind}, the run has {expected[name]} there: move it away, or give another --workdir")
        with storage_errors(f"the name of {path}", folder):
            lines.append(f"{path} is {kind}, the run writes {expected[name]} there: set aside as {set_aside(path).name}")
    return lines
