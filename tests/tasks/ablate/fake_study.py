"""Studies whose runs do not train: a stand-in for `cvmae.tasks.run` that leaves a report of chosen numbers."""

import json
import pathlib

from cvmae import config as config_lib
from cvmae import tasks
from cvmae.tasks.ablate import runner
from cvmae.workdir import Report, Workdir
from tests.tiny_configs import CONFIGS

MEASURES = ("probe/accuracy", "reconstruction/model")


def study(name="masking", **overrides):
    """`configs/ablate.py:study=NAME,runlocal`; `a__b=v` sets a field."""
    fields = {key.replace("__", "."): value for key, value in overrides.items()}
    return config_lib.load(f"{CONFIGS / 'ablate.py'}:study={name},runlocal", fields)


def pairs(seeds=(0, 1), **overrides):
    """A study of two variants, `low` and `high`."""
    variants = tuple((name, {"video_branch.mask.ratio": ratio}) for name, ratio in (("low", 0.5), ("high", 0.75)))
    return study(study__variants=variants, study__seeds=seeds, study__measures=MEASURES, **overrides)


def value(name: str) -> float:
    """The accuracy of the run `VARIANT-seedS`."""
    variant, _, seed = name.rpartition("-seed")
    return {"low": 0.25, "high": 0.5}[variant] + int(seed) ** 2 / 64


class Trainer:
    """Put in place of `tasks.run`; remembers the runs that it was asked for, and raises or stops in those that it is told to."""

    def __init__(self, monkeypatch, raises=None, stops=()):
        self.runs, self.forgotten, self.tables = [], [], []  # tables: whether there was one when a run began
        self.configs, self.raises, self.stops = {}, raises or {}, set(stops)
        monkeypatch.setattr(tasks, "run", self)
        monkeypatch.setattr(runner, "forget", lambda: self.forgotten.append(self.runs[-1]))

    def __call__(self, config, workdir):
        created = Workdir.create(workdir)
        created.write_config(config)
        folder = created.path
        self.runs.append(folder.name)
        self.tables.append((folder.parent / "table.md").exists())
        self.configs[folder.name] = config
        if folder.name in self.raises:
            raise self.raises[folder.name]
        if folder.name in self.stops:
            return {}
        metrics = {"probe/accuracy": value(folder.name)}
        if config.video_branch.mask.ratio == 0.5:  # `high` has no decoder
            metrics["reconstruction/model"] = 1.5 + config.seed
        baseline = {"probe/accuracy": 0.125} if config.report.untrained else {}
        created.write_report(Report("pretrain", metrics, baseline))
        return {"loss": 1.0}


def folders(workdir) -> set[str]:
    """The runs that left a folder."""
    return {path.parent.name for path in pathlib.Path(workdir).glob("*/config.json")}


def saved(path) -> dict:
    return json.loads(pathlib.Path(path).read_text())
