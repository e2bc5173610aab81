"""What W&B and MLflow have of tasks that train: the numbers of the report, pictures, and the page."""

import importlib.util

import pytest

from cvmae import tasks
from tests.requirements import missing
from tests.tiny_configs import config, downstream
from tests.training.wandb_files import offline_runs

TASKS = {
    "pretrain": (lambda: config(["mse_video"]), "report", {"curves.png", "reconstruction.png"}),
    "finetune": (lambda: downstream("finetune", init_from="untrained"), "report/accuracy/top1", {"curves.png", "confusion.png"}),
    "linear": (lambda: downstream("linear", init_from="untrained"), "report/accuracy/top1", {"curves.png", "confusion.png"}),
}


@pytest.mark.parametrize("task", ["linear", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pretrain", "finetune"))])
def test_trackers_have_the_report_of_a_run(task, tmp_path, monkeypatch):
    for kind in ("wandb", "mlflow"):
        if importlib.util.find_spec(kind) is None:
            missing(kind, f"pip install -e '.[{kind}]'")
    from mlflow import MlflowClient

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    make, number, pictures = TASKS[task]
    c = make()
    c.total = "2_steps"
    c.log.wandb, c.log.mlflow = "videos", f"sqlite:///{tmp_path}/runs.db"
    numbers = tasks.run(c, tmp_path / "run", report_page=True)

    [run] = offline_runs(tmp_path / "run")
    assert run.exit_codes == [0] and run.records["run"][0].run.display_name == "run"
    media = {name.partition("/path")[0] for name in run.summary() if name.endswith("/path")}
    assert media == {"pages/report", *(f"pictures/{name.removesuffix('.png')}" for name in pictures)}
    client = MlflowClient(c.log.mlflow)
    [other] = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    files = {artifact.path for artifact in client.list_artifacts(other.info.run_id)}
    assert {"config.json", "report.html", "environment.json", "pictures"} <= files
    assert {artifact.path for artifact in client.list_artifacts(other.info.run_id, "pictures")} == {
        f"pictures/{n}" for n in pictures
    }
    if task != "pretrain":
        mine = next(value for name, value in numbers.items() if name.endswith("/accuracy/top1"))
        assert run.summary()[number] == pytest.approx(mine) == other.data.metrics[number]
        assert "per_class.csv" in files and (run.folder / "files" / "per_class.csv").exists()
