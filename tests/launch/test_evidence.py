"""The scripts of tables of objectives: the commands of each run, what a rerun leaves out, and what is refused."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

from cvmae.config import flatten, load
from tests.launch.scripts import LAUNCH, ODD, is_the_command
from tests.tiny_configs import CONFIGS


def fields(words: list[str]) -> dict[str, str]:
    """{field: value} of the flags of a command, of which the last counts."""
    return dict(word.removeprefix("--config.").split("=", 1) for word in words if word.startswith("--config."))


def workdirs(commands: list[list[str]]) -> list[str]:
    return [word.removeprefix("--workdir=") for words in commands for word in words if word.startswith("--workdir=")]


def test_evidence_stage_0_first_then_pretraining_then_tasks(dry):
    commands, _ = dry("evidence.sh", "my out", VARIANTS="untrained full-frozen", SEEDS="2", MANIFESTS="my set", TASKS="")
    assert commands[0] == ["source", "launch/venv.sh"] and commands[-1][-2:] == ["cvmae.report.summary", "my out"]
    runs = commands[1:-1]
    tasks = [f"attentive-{of}" for of in ("task", "object", "direction")]
    tasks += ["linear-task", "knn-task", "retrieval-task", "finetune-5", "finetune-10"]
    expected = ["stage0/2/pretrain", "full-frozen/2/pretrain"]
    expected += [f"untrained/2/{task}" for task in (*tasks, "finetune-all")] + [f"full-frozen/2/{task}" for task in tasks]
    assert workdirs(runs) == [f"my out/{name}" for name in expected]
    stage0, frozen, *downstream = runs
    assert "--config=configs/metaworld.py:task=pretrain,stage=image" in stage0 and "--config.seed=2" in stage0
    assert fields(frozen)["image_branch.init_from"] == "my out/stage0/2/pretrain"
    assert fields(frozen)["image_branch.train"] == "frozen"
    assert all(ODD in words for words in runs)
    by_name = dict(zip(workdirs(downstream), downstream))
    assert "--config.data.manifest=my set/direction.csv" in by_name["my out/untrained/2/attentive-direction"]
    assert fields(by_name["my out/full-frozen/2/finetune-5"])["data.split"] == "train[500:750]"
    assert fields(by_name["my out/full-frozen/2/finetune-5"])["init_from"] == "my out/full-frozen/2/pretrain"
    supervised = fields(by_name["my out/untrained/2/finetune-all"])
    assert supervised["init_from"] == "untrained" and supervised["total"] == "1500_steps" and "data.split" not in supervised


def test_evidence_takes_part_of_the_table_and_larger_sizes(dry):
    how = {"SEEDS": "0 1", "VARIANTS": "mae full-color", "TASKS": "knn-direction finetune-all"}
    commands, _ = dry("evidence.sh", **how, STEPS="4", BATCH="8", WEIGHT="0.1", GPU="yes")
    runs = commands[1:-1]
    assert [name.split("/", 2)[2] for name in workdirs(runs)[:4]] == [
        f"{name}/{seed}/pretrain" for seed in range(2) for name in ("mae", "full-color")
    ]
    assert len(runs) == 4 + 2 * 2 * 2 and not [word for words in runs for word in words if "stage" in word]
    color = fields(runs[1])
    assert (color["loss.cross_video"], color["augment.first_view"], color["batch_size"]) == ("0.1", "color", "8")
    assert color["total"] == "4_steps" and color["image_branch.decoder.width"] == color["video_branch.decoder.width"]
    assert all("side=64,variant=S/16" in words[3] and fields(words)["dtype"] == "bfloat16" for words in runs)


def test_evidence_without_tasks_is_pretraining_alone(dry):
    commands, _ = dry("evidence.sh", "o", VARIANTS="untrained mae", SEEDS="0", TASKS=" ")
    assert workdirs(commands) == ["o/mae/0/pretrain"]


def test_evidence_closes_what_views_have_in_common(dry):
    commands, _ = dry("evidence.sh", SEEDS="0", VARIANTS="mae-half intra-closed full-closed full-shift", TASKS="knn-task")
    mae, intra, closed, shift = (fields(words) for words in commands[1:5])
    assert (mae["video_branch.mask.ratio"], mae["loss.intra_video"]) == ("0.5", "0") and "augment.scale" not in mae
    assert (intra["augment.scale"], intra["loss.intra_video"], intra["loss.cross_video"]) == ("(0.3,1.0)", "1", "0")
    assert (closed["image_branch.crop"], closed["augment.first_view"]) == ("independent", "color")
    assert closed["loss.cross_video"] == "1"
    assert shift.keys() - closed.keys() == {"augment.plus_shift"}


def test_evidence_tells_the_terms_of_a_modality_from_those_across_both(dry):
    commands, _ = dry("evidence.sh", "out", SEEDS="1", VARIANTS="intra cross cross-frozen", TASKS="knn-task", WEIGHT="0.5")
    stage0, intra, cross, frozen = (fields(words) for words in commands[1:5])
    assert workdirs(commands[1:5])[0] == "out/stage0/1/pretrain" and "loss.cross_video" not in stage0
    for name in ("video", "frame"):
        assert (intra[f"loss.intra_{name}"], intra[f"loss.cross_{name}"]) == ("0.5", "0")
        assert (cross[f"loss.intra_{name}"], cross[f"loss.cross_{name}"]) == ("0", "0.5")
    assert intra["loss.mse_image"] == "0" and "loss.mse_image" not in cross and "image_branch.init_from" not in cross
    assert {name: frozen[name] for name in frozen.keys() - cross.keys()} == {
        "image_branch.init_from": "out/stage0/1/pretrain",
        "image_branch.train": "frozen",
    }


def test_evidence_makes_mae_fast_by_what_the_argument_changes(dry):
    """In the video branch: the image branch has no loss there."""
    commands, _ = dry("evidence.sh", SEEDS="0", VARIANTS="mae mae-fast", TASKS="knn-task")
    plain, fast = (fields(words) for words in commands[1:3])
    configs = [flatten(load(f"{CONFIGS}/metaworld.py{argument}")) for argument in ("", ":fast")]
    changed = {name: str(value) for name, value in configs[1].items() if value != configs[0][name]}
    assert {name: fast[name] for name in fast.keys() - plain.keys()} == {
        name: value for name, value in changed.items() if name.startswith("video_branch.")
    }


def test_evidence_trains_a_teacher_before_its_student(dry):
    commands, _ = dry("evidence.sh", "w", SEEDS="3", VARIANTS="latent mae", TASKS="knn-task")
    assert workdirs(commands[1:-1]) == [
        f"w/{run}" for run in ("mae/3/pretrain", "latent/3/pretrain", "latent/3/knn-task", "mae/3/knn-task")
    ]
    assert fields(commands[2])["video_branch.teacher.init_from"] == "w/mae/3/pretrain"


def test_a_dry_run_ends_with_the_number_of_runs():
    how = {"SEEDS": "0 1", "VARIANTS": "mae", "TASKS": "knn-direction", "JOBS": "2"}
    done = subprocess.run([LAUNCH / "evidence.sh", "--dry-run", "out"], env=os.environ | how, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "4 runs into out, 2 at a time"


@pytest.mark.parametrize("variable, name", [("VARIANTS", "maee"), ("TASKS", "linear-tasks"), ("TASKS", "finetune-0")])
def test_evidence_refuses_what_it_does_not_know(variable, name, tmp_path):
    env = os.environ | {variable: name}
    done = subprocess.run(
        [str(LAUNCH / "evidence.sh"), "--dry-run", "w"], env=env, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and f"error: {variable} has {name}, " in done.stderr and "cvmae.main" not in done.stderr


def test_motion_evidence_is_a_dry_run_too(dry):
    commands, _ = dry("motion_evidence.sh", "w", SEEDS="1")
    assert len(workdirs(commands)) == 4 + 5 * 5 and commands[-1][-1] == "w"
    assert is_the_command(commands[1], config="configs/demo.py:task=pretrain", workdir="w/mae/1/pretrain")


def stand_in_first(folder) -> dict[str, str]:
    """Returns an environment in which `python` is the one in `folder`."""
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def send_once_there(process: subprocess.Popen, number: int, file) -> None:
    """Sends a signal to a process once the file is there."""
    while process.poll() is None and not file.exists():
        time.sleep(0.05)
    process.send_signal(number)


@pytest.fixture
def evidence(tmp_path):
    """Runs `evidence.sh` with a stand-in for Python; returns its exit code, the workdirs of what it started, and what it says."""
    (tmp_path / "launch").mkdir()
    for name in ("evidence.sh", "evidence_runs.sh", "dry_run.sh"):
        shutil.copy(LAUNCH / name, tmp_path / "launch")
    (tmp_path / "launch" / "venv.sh").touch()
    (tmp_path / "python").write_text(EVIDENCE_PYTHON)
    (tmp_path / "python").chmod(0o755)
    env = stand_in_first(tmp_path) | {"SEEDS": "0", "STEPS": "7"}
    env |= {"VARIANTS": "mae intra", "TASKS": "knn-task linear-task"}

    def call(*arguments: str, number: int = 0, **variables: str) -> tuple[int, list[str], list[str]]:
        command = [tmp_path / "launch" / "evidence.sh", *(arguments or ("o",))]
        process = subprocess.Popen(command, env=env | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if number:
            send_once_there(process, number, tmp_path / "o" / "waits")
        printed, said = process.communicate(timeout=60)
        started = workdirs([shlex.split(line)[1:] for line in said.splitlines() if line.startswith("+ ")])
        # The table is printed after a failure too.
        assert printed.splitlines() == ([f"-m cvmae.report.summary {command[-1]}"] if process.returncode in (0, 1) else [])
        return process.returncode, started, [line for line in said.splitlines() if not line.startswith("+ ")]

    return call


NAMES = [f"o/{name}/0/{task}" for name in ("mae", "intra") for task in ("knn-task", "linear-task")]


def test_a_rerun_leaves_out_what_is_finished_and_a_failure_is_the_exit_code(evidence, tmp_path):
    """The stand-in fails where the workdir has a file `broken` beside it, and so do the tasks after it."""
    (tmp_path / "o" / "intra" / "0").mkdir(parents=True)
    (tmp_path / "o" / "intra" / "0" / "broken").touch()
    code, started, said = evidence()
    assert (code, started) == (1, ["o/mae/0/pretrain", "o/intra/0/pretrain", *NAMES])
    assert len(said) == 3 and all(line.startswith("failed, see o/log: ") for line in said)
    assert evidence()[:2] == (0, ["o/intra/0/pretrain", *NAMES[2:]])
    assert evidence()[:2] == (0, [])
    assert evidence(f"{tmp_path}/o")[:2] == (0, [])  # the same folder by another name


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        ((), {"STEPS": "8"}, "o/mae/0/pretrain, .* with --config.total=7_steps, not with --config.total=8_steps: "),
        ((), {"WEIGHT": "0.5", "VARIANTS": "intra"}, "o/intra/0/pretrain, .*intra_video=1, not with .*intra_video=0.5: "),
        ((), {"MANIFESTS": "x"}, "with --config.data.manifest=metaworld/task.csv, not with --config.data.manifest=x/task.csv: "),
        (("o", "--config.log_every=1_steps"), {}, "was begun without --config.log_every=1_steps: "),
        ((), {"VARIANTS": "untrained", "PROBE_STEPS": "3"}, "o/untrained/0/linear-task, .*=600_steps, not with .*=3_steps: "),
    ],
)
def test_results_of_other_settings_are_not_taken_for_those_of_these(evidence, arguments, variables, said):
    assert evidence(VARIANTS="untrained mae intra")[0] == 0
    code, started, error = evidence(*arguments, **variables)
    assert (code, started) == (2, [])
    assert len(error) == 1 and re.search(said, error[0]) and "give another folder than o, or delete o/" in error[0]


def test_a_probe_of_an_encoder_that_was_trained_again_is_refused(evidence, tmp_path):
    assert evidence()[0] == 0
    shutil.rmtree(tmp_path / "o" / "mae" / "0" / "pretrain")
    code, _, said = evidence(STEPS="8", VARIANTS="mae")
    assert code == 2 and said == [
        "error: o/mae/0/knn-task starts from o/mae/0/pretrain, which is gone: delete o/mae/0/knn-task too"
    ]
    for name in ("knn-task", "linear-task"):
        shutil.rmtree(tmp_path / "o" / "mae" / "0" / name)
    assert evidence(STEPS="8", VARIANTS="mae")[:2] == (0, [f"o/mae/0/{name}" for name in ("pretrain", "knn-task", "linear-task")])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_the_runs_and_waits_until_they_have_saved(evidence, tmp_path, number):
    (tmp_path / "o" / "mae" / "0").mkdir(parents=True)
    (tmp_path / "o" / "mae" / "0" / "wait").touch()
    code, started, _ = evidence(number=number)
    assert (code, started) == (128 + number, ["o/mae/0/pretrain"])
    assert (tmp_path / "o" / "mae" / "0" / "saved").exists()
    assert evidence()[:2] == (0, ["o/mae/0/pretrain", "o/intra/0/pretrain", *NAMES])


def test_a_signal_ends_the_studies_too(evidence, tmp_path):
    shutil.copy(LAUNCH / "ablations.sh", tmp_path / "launch")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "wait").touch()
    env = stand_in_first(tmp_path) | {"OUT": "o", "STUDIES": "masking frames", "JOBS": "1"}
    process = subprocess.Popen([tmp_path / "launch" / "ablations.sh"], env=env, stderr=subprocess.PIPE, text=True)
    send_once_there(process, signal.SIGTERM, tmp_path / "waits")
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and (tmp_path / "o" / "saved").exists()
    assert not (tmp_path / "o" / "frames").exists()


def test_two_folders_are_refused(evidence):
    code, started, said = evidence("a", "b")
    assert (code, started, said) == (2, [], ["error: two folders are given, a and b: give one"])


def test_labels_a_class_are_of_the_classes_of_the_manifest(dry, tmp_path_factory):
    folder = tmp_path_factory.mktemp("metaworld")
    rows = [f"{number}.mp4,{label},{split}" for number, (label, split) in enumerate(SOME_ROWS)]
    (folder / "task.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    commands, _ = dry("evidence.sh", VARIANTS="untrained", TASKS="finetune-5", SEEDS="2", MANIFESTS=str(folder))
    assert fields(commands[1])["data.split"] == "train[20:30]"


SOME_ROWS = [("open", "train"), ("open", "train"), ("close", "train"), ("push", "test")]


EVIDENCE_PYTHON = f"""#!{sys.executable}
import pathlib, signal, sys, time
flags = dict(word.split("=", 1) for word in sys.argv if word.startswith("--"))
if "cvmae.main" not in sys.argv:
    print(*sys.argv[1:])
    sys.exit()
workdir = pathlib.Path(flags["--workdir"])


def save(number, _):
    time.sleep(0.5)
    (workdir.parent / "wait").rename(workdir.parent / "saved")
    sys.exit(128 + number)


if (workdir.parent / "wait").exists():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, save)
    (workdir.parent.parent.parent / "waits").touch()
    time.sleep(60)
if workdir.name == "pretrain" and (workdir.parent / "broken").exists():
    (workdir.parent / "broken").unlink()
    sys.exit("no such manifest")
if not pathlib.Path(flags.get("--config.init_from", ".").replace("untrained", ".")).exists():
    sys.exit("no such run")
workdir.mkdir(parents=True)
if workdir.name == "pretrain":
    (workdir / "checkpoints" / flags["--config.total"].partition("_")[0]).mkdir(parents=True)
else:
    (workdir / "report.json").touch()
"""


def test_evidence_gives_the_six_terms_an_encoder_that_reconstruction_has_trained(dry):
    commands, _ = dry("evidence.sh", "w", SEEDS="3", VARIANTS="mae full-frozen mae-after full-after", TASKS="knn-task")
    runs = ("stage0", "mae", "full-frozen", "mae-after", "full-after")
    assert workdirs(commands[1:6]) == [f"w/{name}/3/pretrain" for name in runs]
    mae, frozen, mae_after, full_after = (fields(words) for words in commands[2:6])
    for before, after in ((mae, mae_after), (frozen, full_after)):
        assert {name: after[name] for name in after.keys() - before.keys()} == {"video_branch.init_from": "w/mae/3/pretrain"}
        assert all(after[name] == value for name, value in before.items())
