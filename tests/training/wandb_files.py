"""What a run of W&B has written offline."""

import collections
import json
import pathlib

from cvmae.training.wandb_offline import records


class OfflineRun:
    """A folder `offline-run-TIME-ID`."""

    def __init__(self, folder: pathlib.Path):
        self.folder, self.id = folder, folder.name.rpartition("-")[2]
        found = collections.defaultdict(list)
        for record in records(next(folder.glob("run-*.wandb"))):
            found[record.WhichOneof("record_type")].append(record)
        self.records = found

    def lines(self) -> list[dict]:
        """The logged values in their order, without W&B's own; its step is that of the values."""
        logged = [_values(record.history.item) for record in self.records["history"]]
        assert all(line["_step"] == line["step"] for line in logged)
        return [{name: value for name, value in line.items() if not name.startswith("_")} for line in logged]

    def config(self) -> dict:
        return {name: value for record in self.records["run"] for name, value in _values(record.run.config.update).items()}

    def summary(self) -> dict:
        return {name: value for record in self.records["summary"] for name, value in _values(record.summary.update).items()}

    @property
    def exit_codes(self) -> list[int]:
        return [record.exit.exit_code for record in self.records["exit"]]


def _values(items) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def offline_runs(workdir) -> list[OfflineRun]:
    """The runs that the processes of a workdir have made, in their order."""
    return [OfflineRun(folder) for folder in sorted((pathlib.Path(workdir) / "wandb").glob("offline-run-*"))]
