"""MLflow as a tracker, `config.log.mlflow=URI`; its own environment variables (MLFLOW_EXPERIMENT_NAME, ..._USERNAME, ...) say the rest."""

import logging
import os
import pathlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cvmae.training.trackers import TrackedRun

EXPERIMENT = "cvmae"  # unless MLFLOW_EXPERIMENT_NAME names another
PARAMS_OF_A_CALL, METRICS_OF_A_CALL = 100, 1000  # limits of the server
PARAM_CHARACTERS = 500  # of a value; servers take 500 and more
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class Mlflow:
    """A run of an experiment on the tracking server, or in the database, of a URI. See `Tracker`."""

    may_lose, whole_steps, newest = 0, False, -1

    def __init__(self, uri: str):
        self._uri, self._id = uri, ""
        self._client: Any = None  # an MlflowClient, once the run is open

    def open(self, run: TrackedRun, kept: dict, keep: Callable[[dict], None]) -> str:
        """Opens the run, see `Tracker.open`."""
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # its errors are raised too, and are for the caller to say
        logging.getLogger("alembic").setLevel(logging.WARNING)  # which says much at the first use of a database
        client = MlflowClient(self._uri)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        if (kept.get("uri"), kept.get("experiment")) != (self._uri, name):
            experiment = client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else client.create_experiment(name, _artifacts_beside(self._uri))
            tags = {"workdir": str(run.workdir.absolute())}
            made = client.create_run(number, run_name=run.name, tags=tags).info.run_id
            kept = {"uri": self._uri, "experiment": name, "id": made}
            keep(kept)
        self._client, self._id = client, kept["id"]
        client.update_run(self._id, status="RUNNING")
        self._write_config(run.config)
        return f"run {self._id} of experiment {name!r} in {re.sub('//[^/@]*@', '//', self._uri)}"

    def _write_config(self, config: Mapping) -> None:
        """Writes the config as parameters, which never change, and as the file config.json, which is that of the newest start."""
        from mlflow.entities import Param

        known = self._client.get_run(self._id).data.params
        params = [Param(field, str(value)[:PARAM_CHARACTERS]) for field, value in config.items() if field not in known]
        for start in range(0, len(params), PARAMS_OF_A_CALL):
            self._client.log_batch(self._id, params=params[start : start + PARAMS_OF_A_CALL])
        self._client.log_dict(self._id, dict(config), "config.json")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds the metrics of a step."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(re.sub(r"[^\w\-. /]", "_", name), value, now, step) for name, value in values.items()]
        for start in range(0, len(metrics), METRICS_OF_A_CALL):
            self._client.log_batch(self._id, metrics=metrics[start : start + METRICS_OF_A_CALL])

    def report(
        self, step: int, numbers: Mapping[str, float], pictures: Sequence[pathlib.Path], files: Sequence[pathlib.Path]
    ) -> None:
        """Adds numbers as metrics of the last step, and pictures and files as artifacts, see `Tracker.report`."""
        self.write(step, numbers)
        for path in pictures:
            self._client.log_artifact(self._id, str(path), "pictures")
        for path in files:
            self._client.log_artifact(self._id, str(path))

    def close(self, end: str) -> None:
        """Closes the run, see `Tracker.close`."""
        self._client.set_terminated(self._id, STATUS[end])


def _artifacts_beside(uri: str) -> str | None:
    """Returns a folder for files beside a database that is a file; None leaves it to the server."""
    match = re.fullmatch(r"sqlite:///(.+)", uri)
    return (pathlib.Path(match[1]).absolute().parent / "mlartifacts").as_uri() if match else None
