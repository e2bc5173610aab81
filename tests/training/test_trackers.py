"""W&B offline and MLflow in a file, read back, through kills; and trackers that fail."""

import collections
import importlib.util
import json
import pathlib
import signal
import time

import pytest

from cvmae.config import ConfigError
from cvmae.tasks.validate import validate
from cvmae.training import trackers
from cvmae.training.metric_writer import read_metrics
from cvmae.training.wandb_offline import newest_step, records
from cvmae.training.wandb_tracker import Wandb
from tests import commands
from tests.requirements import missing
from tests.tiny_configs import config
from tests.training.counting_task import train
from tests.training.wandb_files import offline_runs

PROGRAM = (str(pathlib.Path(__file__).parent / "tracked_run.py"),)


def need(*kinds):
    for kind in kinds:
        if importlib.util.find_spec(kind) is None:
            missing(kind, f"pip install -e '.[{kind}]'")


def tracked(workdir, step: int, wait: bool):
    """Runs it in a process that dies before `step`, 0: never."""
    fields = ("wandb=videos", f"mlflow=sqlite:///{workdir}.db", "run_name=first")
    return commands.run(str(workdir), str(step), str(int(wait)), *fields, program=PROGRAM, env={"WANDB_MODE": "offline"})


@pytest.fixture(scope="module", params=["sent before the kill", pytest.param("killed at once", marks=pytest.mark.slow)])
def killed(request, tmp_path_factory):
    """The workdir of a run that was killed after a checkpoint and two more steps, and then went on to its end."""
    need("wandb", "mlflow")
    import wandb

    wandb.setup().ensure_service()  # as a notebook that uses W&B itself: its children inherit the service
    workdir = tmp_path_factory.mktemp("killed") / "run"
    died = tracked(workdir, 6, wait=request.param == "sent before the kill")
    assert died.returncode == -signal.SIGKILL, died.stderr
    first = json.loads((workdir / "trackers.json").read_text()) if (workdir / "trackers.json").exists() else {}
    ended = tracked(workdir, 0, wait=False)
    assert ended.returncode == 0 and "resumed from the checkpoint of step 3" in ended.stderr, ended.stderr
    assert "warning" not in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
    return workdir, first


def of_steps(pairs) -> dict[int, dict[str, float]]:
    """{step: {name: value}} of (step, values); of a step that comes twice the values must be the same, times aside."""
    steps: dict[int, dict[str, float]] = collections.defaultdict(dict)
    for step, values in pairs:
        for name, value in commands.without_times(values).items():
            assert steps[step].setdefault(name, value) == value, (step, name)
    return dict(steps)


def logged(workdir):
    return of_steps((line.pop("step"), line) for line in read_metrics(workdir))


def test_wandb_offline_has_the_whole_run_in_one_id(killed):
    workdir, first = killed
    runs = offline_runs(workdir)
    kept = json.loads((workdir / "trackers.json").read_text())["wandb"]
    assert {run.id for run in runs} == {kept["id"]} and kept["project"] == "videos"
    assert not first or first["wandb"]["id"] == kept["id"]
    assert of_steps((int(line.pop("step")), line) for run in runs for line in run.lines()) == logged(workdir)
    # Each step in one row of one file, whatever a server makes of a step that comes twice.
    assert [line["step"] for run in runs for line in run.lines()] == sorted(logged(workdir)) == list(range(1, 9))
    last = runs[-1]
    assert last.config()["seed"] == 0 and last.config()["data.source"] == "synthetic" and last.exit_codes == [0]
    assert last.records["run"][0].run.display_name == "first" and last.records["run"][0].run.project == "videos"


def test_a_start_of_a_finished_run_sends_wandb_no_row_again(killed):
    workdir, _ = killed
    before = len(offline_runs(workdir))
    ended = tracked(workdir, 0, wait=False)
    assert ended.returncode == 0, ended.stderr
    runs = offline_runs(workdir)
    assert len(runs) == before + 1 and runs[-1].lines() == [] and runs[-1].exit_codes == [0]


@pytest.fixture
def offline(monkeypatch):
    """W&B offline in this process, also where it was in use before."""
    need("wandb")
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield
    wandb.teardown()


def test_pictures_are_in_the_row_of_the_last_step_and_are_sent_once(tmp_path, offline):
    (tmp_path / "page.html").write_text("page")
    run, kept = trackers.TrackedRun("name", {}, tmp_path), {"project": "p", "id": "abcd1234"}
    for start in range(2):
        tracker = Wandb("p")
        tracker.open(run, kept, lambda _: None)
        assert tracker.newest == (7 if start else -1)
        for step in (5, 7) if not start else ():
            tracker.write(step, {"loss": 1.0})
        tracker.report(7, {"report/top1": 0.5}, [], [tmp_path / "page.html"])
        tracker.close("finished")
    first, second = offline_runs(tmp_path)
    assert [line["step"] for line in first.lines()] == [5, 7] and first.lines()[1]["pages/page/_type"] == "html-file"
    assert second.lines() == [] and second.summary()["report/top1"] == 0.5


def test_a_file_that_was_cut_short_has_the_steps_before(killed):
    workdir, _ = killed
    [file] = [run.folder / f"run-{run.id}.wandb" for run in offline_runs(workdir) if run.lines()][-1:]
    content, id = file.read_bytes(), file.stem.removeprefix("run-")
    assert newest_step(workdir, id) == 8 and newest_step(workdir, "another") == -1
    newest = []
    for size in (*range(0, len(content), 41), len(content)):
        file.write_bytes(content[:size])
        newest.append(
            max(
                (record.history.step.num for record in records(file) if record.WhichOneof("record_type") == "history"), default=-1
            )
        )
    assert newest == sorted(newest) and newest[0] == -1 and newest[-1] == 8


def test_mlflow_has_the_whole_run_in_one_run(killed):
    from mlflow import MlflowClient

    workdir, _ = killed
    client = MlflowClient(f"sqlite:///{workdir}.db")
    [run] = client.search_runs([client.get_experiment_by_name("cvmae").experiment_id])
    assert run.info.run_name == "first" and run.info.status == "FINISHED"
    assert run.data.params["seed"] == "0" and run.data.tags["workdir"] == str(workdir)
    history = [metric for name in run.data.metrics for metric in client.get_metric_history(run.info.run_id, name)]
    assert of_steps((metric.step, {metric.key: metric.value}) for metric in history) == logged(workdir)
    assert [artifact.path for artifact in client.list_artifacts(run.info.run_id)] == ["config.json"]
    assert (workdir.parent / "mlartifacts" / run.info.run_id / "artifacts" / "config.json").exists()


def test_a_server_that_is_not_there_ends_no_run(tmp_path, monkeypatch, capsys):
    need("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(trackers, "CLOSE_FAILING_S", 0.0)
    outcome = train(tmp_path, total="8_steps", log__mlflow="http://127.0.0.1:9")
    assert outcome.finished and len(read_metrics(tmp_path)) == 8
    assert capsys.readouterr().err.count("warning: mlflow does not take this run") <= 1


def test_a_database_that_breaks_is_for_the_run_to_say(tmp_path):
    """MLflow logs two tracebacks for the error that it raises; in a process of its own, since its handler keeps the stream of its import."""
    need("mlflow")
    (tmp_path / "runs").mkdir()
    code = f"""
import pathlib
from cvmae.training.mlflow_tracker import Mlflow
from cvmae.training.trackers import TrackedRun
folder = pathlib.Path({str(tmp_path)!r})
tracker = Mlflow(f"sqlite:///{{folder}}/runs/ml.db")
tracker.open(TrackedRun("run", {{"seed": 0}}, folder), {{}}, lambda kept: None)
for file in folder.glob("runs/ml.db*"):
    file.unlink()
(folder / "runs" / "ml.db").mkdir()
try:
    tracker.write(1, {{"loss": 1.0}})
except Exception as error:
    print("raised", type(error).__name__)
"""
    done = commands.run("-c", code, program=())
    assert done.stdout.startswith("raised ") and "Traceback" not in done.stderr and "ERROR" not in done.stderr, done.stderr


def test_a_run_without_trackers_keeps_nothing_of_them(tmp_path):
    train(tmp_path, total="2_steps")
    assert not (tmp_path / "trackers.json").exists() and not (tmp_path / "wandb").exists()


class Recorder:
    """A tracker that fails in the calls of the given numbers, counted over all methods."""

    def __init__(self, failing=(), may_lose=0):
        self.calls, self.failing, self.number, self.may_lose = [], set(failing), 0, may_lose
        self.whole_steps, self.newest = False, -1

    def _call(self, *call):
        self.number += 1
        if self.number in self.failing:
            raise OSError(28, "No space left on device")
        self.calls.append(call)

    def open(self, run, kept, keep):
        self._call("open", run.name, dict(kept))
        keep(kept or {"id": "new"})
        return "here"

    def write(self, step, values):
        self._call("write", step)

    def report(self, *arguments):
        self._call("report", *arguments)

    def close(self, end):
        self._call("close", end)


class HangingRecorder(Recorder):
    def open(self, run, kept, keep):
        time.sleep(3600)


@pytest.fixture
def start(monkeypatch):
    """Starts a sender that does not wait long: what it keeps is in the list `keeps`."""
    monkeypatch.setattr(trackers, "RETRY_S", 0.01)
    keeps = []

    def sender(tracker, kept=None):
        run = trackers.TrackedRun("name", {}, pathlib.Path("."))
        return trackers.Sender("wandb", tracker, run, kept or {}, lambda _, new: keeps.append(new))

    sender.keeps = keeps
    return sender


@pytest.mark.parametrize("failing", [(), (1, 2, 3), (2,), (4, 5), (1, 3, 5, 7)])
def test_calls_that_fail_are_made_again_in_their_order(start, failing, capsys):
    tracker = Recorder(failing)
    sender = start(tracker)
    for step in (1, 2, 3):
        sender.call("write", step, {"loss": 1.0})
    deadline = time.monotonic() + 60
    while len(tracker.calls) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    sender.close("finished")
    assert [call[:2] for call in tracker.calls] == [
        ("open", "name"),
        *(("write", step) for step in (1, 2, 3)),
        ("close", "finished"),
    ]
    assert start.keeps == [{"id": "new"}, *({"id": "new", "step": step, "lines": 1} for step in (1, 2, 3))]
    warnings = capsys.readouterr().err.count("does not take this run (OSError: [Errno 28] No space left on device)")
    assert warnings >= 1 if failing else warnings == 0


def test_a_call_that_never_succeeds_gives_way_with_one_warning(start, capsys):
    tracker = Recorder(range(2, 2 + trackers.ATTEMPTS))
    sender = start(tracker)
    sender.call("write", 1, {})
    sender.call("write", 2, {})
    while tracker.number < 2 + trackers.ATTEMPTS:
        time.sleep(0.01)
    sender.close("stopped")
    assert tracker.calls == [("open", "name", {}), ("write", 2), ("close", "stopped")]
    assert capsys.readouterr().err.count("warning") == 1


def test_steps_that_were_sent_before_a_restart_are_not_sent_again(start):
    tracker = Recorder()
    sender = start(tracker, {"id": "old", "step": 5})
    for step in (4, 5, 6):
        sender.call("write", step, {})
    sender.close("finished")
    assert tracker.calls == [("open", "name", {"id": "old"}), ("write", 5), ("write", 6), ("close", "finished")]


@pytest.mark.parametrize("sent", [1, 2, 3])
def test_a_step_of_several_lines_is_not_sent_again(start, sent):
    """The metrics of training and those of evaluation, of which the second may not have been sent."""
    lines = [4, 5, 5, 6]
    for steps, written in ((lines[:sent], lines[:sent]), (lines, lines[sent:])):
        tracker = Recorder()
        sender = start(tracker, start.keeps[-1] if start.keeps else None)
        for step in steps:
            sender.call("write", step, {})
        sender.close("stopped")
        assert [call[1] for call in tracker.calls if call[0] == "write"] == written


def whole(newest=-1):
    tracker = Recorder()
    tracker.whole_steps, tracker.newest = True, newest
    return tracker


@pytest.mark.parametrize("end, steps", [("finished", [4, 5]), ("stopped", [4]), ("failed", [4])])
def test_a_tracker_of_whole_steps_is_called_once_a_step(start, end, steps):
    """The last one of a run that will resume may get more: it is written then, with everything."""
    values, tracker = [], whole()
    tracker.write = lambda step, row: values.append((step, row))
    sender = start(tracker)
    for step, row in ((4, {"loss": 1.0}), (4, {"eval/loss": 2.0}), (5, {"loss": 3.0})):
        sender.call("write", step, row)
    sender.close(end)
    assert [step for step, _ in values] == steps and values[0] == (4, {"loss": 1.0, "eval/loss": 2.0})
    resumed = whole()
    sender = start(resumed, start.keeps[-1])
    for step in (4, 5, 5, 6):
        sender.call("write", step, {})
    sender.call("report", 6)
    sender.close("finished")
    assert [call[1] for call in resumed.calls if call[0] == "write"] == [step for step in (4, 5, 6) if step not in steps]
    assert [call[0] for call in resumed.calls][-3:] == ["write", "report", "close"]


def test_steps_that_the_run_of_a_tracker_has_are_not_sent_again(start):
    tracker = whole(newest=5)
    sender = start(tracker, {"id": "old", "step": 2, "lines": 1})
    for step in (2, 3, 5, 5, 6):
        sender.call("write", step, {})
    sender.close("finished")
    assert [call[1] for call in tracker.calls if call[0] == "write"] == [6]


def test_a_row_that_is_never_taken_gives_way(start):
    tracker = whole()
    tracker.failing = set(range(2, 2 + trackers.ATTEMPTS))
    sender = start(tracker)
    for step in (1, 2, 3):
        sender.call("write", step, {})
    while sender._calls:
        time.sleep(0.01)
    sender.close("finished")
    assert [call[1] for call in tracker.calls if call[0] == "write"] == [3]


def test_steps_that_a_kill_may_undo_count_as_sent_once_the_run_is_closed(start):
    sender = start(Recorder(may_lose=2))
    for step in (1, 2, 3, 4):
        sender.call("write", step, {})
    sender.close("stopped")
    assert [kept.get("step") for kept in start.keeps] == [None, 1, 2, 4]


def test_a_tracker_that_hangs_holds_up_neither_the_steps_nor_the_end(start, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "CLOSE_S", 0.1)
    sender = start(HangingRecorder())
    for step in range(3 * trackers.WAITING):
        sender.call("write", step, {})
    assert len(sender._calls) == trackers.WAITING
    sender.close("finished")
    assert "no answer for 0.1 s at the end of the run" in capsys.readouterr().err


def test_a_folder_of_runs_that_mlflow_refuses_is_an_error_at_the_start(tmp_path, monkeypatch):
    need("mlflow")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    uri = (tmp_path / "mlruns").as_uri()
    with pytest.raises(MlflowException, match="maintenance mode"):
        MlflowClient(uri)
    with pytest.raises(ConfigError, match=f"^config.log.mlflow='{uri}' is a folder, .*: give sqlite:///FILE"):
        validate(config(log__mlflow=uri))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    validate(config(log__mlflow=uri))
    assert MlflowClient(uri).search_experiments()


@pytest.mark.parametrize("text", ["word " * 100 + "https://host/page", "x" * 1000])
def test_a_long_error_is_cut_between_words(text, capsys):
    class Failing:
        may_lose = 0

        def open(self, *arguments):
            raise OSError(text)

    run = trackers.TrackedRun("name", {}, None)
    trackers.Sender("wandb", Failing(), run, {}, lambda kind, kept: None).close("failed")
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "does not take" in line]
    words = warning.partition("OSError: ")[2].partition("); the run")[0]
    assert len(words) <= 300 and (words.endswith("word ...") or words == "x" * 300)


def test_a_tracker_that_is_not_installed_is_an_error_at_the_start(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wandb").mkdir()  # as W&B leaves one, which is no package
    monkeypatch.syspath_prepend(tmp_path)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in trackers.KINDS else found(name))
    with pytest.raises(ConfigError, match=r"^config.log.wandb='p' needs wandb: pip install 'crossvideomae\[wandb\]'"):
        validate(config(log__wandb="p"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("wandb", "a/b", "the name of a project"), ("mlflow", "mlruns", "a URI such as http://HOST:5000")],
)
def test_a_value_of_another_form_is_refused(field, value, message):
    with pytest.raises(ConfigError, match=f"^config.log.{field}='{value}' cannot be used: it must be {message}"):
        validate(config(**{f"log__{field}": value}))
