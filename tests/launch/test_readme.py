"""All READMEs: every command in them exists and runs, every field, file, name, link and picture is there, and so in the scripts."""

import ast
import os
import pathlib
import re
import shlex
import shutil
import subprocess

import pytest

from cvmae.config import ConfigError, check_key, load
from cvmae.tasks import TASKS
from cvmae.tasks.model_fields import UNTRAINED_ENCODER, fill_fields
from cvmae.tasks.validate import validate
from tests.commands import ROOT

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted(
        [*ROOT.glob("*.md"), *(p for room in ("cvmae", "configs", "launch", "tests") for p in (ROOT / room).rglob("*.md"))]
    )
}
SPANS = [span for text in PAGES.values() for span in re.findall(r"(?<!`)`([^`\n]+)`", text)]
BLOCKS = [line.strip() for text in PAGES.values() for line in text.replace("\\\n", "").splitlines() if line.startswith("    ")]
COMMAND = re.compile(r"(?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*(?:taskset -c 0 )?(?:python -m cvmae\S*|\./launch/\S+)(?: .*)?")
PLACES = ("init_from", "image_from", "manifest")  # fields whose value in a text stands for the reader's own path
OWN = {"variance.py"}  # the reader's own config in cvmae/objective/README.md, which a test of its own writes and runs
CONFIGS = sorted(
    path.stem
    for path in (ROOT / "configs").glob("*.py")
    if path.stem not in ("__init__", "common", "data_fields", "variants", "downstream")
)

# What runs each of them, with the options of a machine that has two cores and no accelerator.
RUN_BY = {
    "cvmae.main": "tests/test_configs.py: test_runlocal_is_a_command",
    "cvmae": "tests/test_config_names.py: test_both_names_of_the_main_command_say_what_is_missing",
    "cvmae.report.summary": "tests/report/test_summary.py: test_the_command_prints_the_table",
    "cvmae.plan": "tests/performance/test_plan.py: test_on_two_devices_gradients_are_reduced",
    "cvmae.bench": "tests/performance/test_bench.py: test_everything_is_measured",
    "cvmae.performance.gpu_check": "tests/performance/test_gpu_check.py: test_every_part_on_a_cpu",
    "cvmae.evaluation.mteb": "tests/evaluation/test_mteb.py: test_classes_score_as_logistic_regression_on_the_files",
    "cvmae.interop": "tests/interop/test_command.py: test_export",
    "cvmae.data.prepare": "tests/data/prepare/test_command.py: test_a_run_that_is_killed_goes_on",
    "cvmae.data.baselines": "tests/data/test_baselines.py: test_one_fit_is_scored_on_several_splits",
    "cvmae.data.motion": "tests/data/test_motion.py: test_the_command_builds_draws_and_measures",
    "cvmae.report": "tests/report/test_page.py: test_the_command_writes_a_page_and_prints_its_path",
    "demo.sh": "tests/launch/test_demo.py: test_the_demo_passes_a_signal_on_and_ends_with_its_report",
    "ablations.sh": "tests/launch/test_launch.py: test_ablations_one_command_for_each_study",
    "gpu.sh": "tests/launch/test_launch.py: test_one_gpu_machine",
    "gpu_check.sh": "tests/performance/test_gpu_check.py: test_every_part_on_a_cpu",
    "slurm.sh": "tests/launch/test_slurm.py: test_slurm_for_real_and_a_rerun_with_fewer_tasks_goes_on",
    "tpu_vm.sh": "tests/launch/test_launch.py: test_a_tpu_vm",
    "gke.sh": "tests/launch/test_launch.py: test_tpus_by_jobset",
    "figures.sh": "tests/launch/test_readme.py: test_a_script_runs_commands_that_are_valid",
    "metaworld_figure.sh": "tests/launch/test_readme.py: test_a_script_runs_commands_that_are_valid",
    "evidence.sh": "tests/launch/test_evidence.py: test_a_rerun_leaves_out_what_is_finished_and_a_failure_is_the_exit_code",
    "motion_evidence.sh": "tests/launch/test_readme.py: test_a_script_runs_commands_that_are_valid",
    "test.sh": ".ci/run",
    "test_videos.sh": ".ci/run",
}


def words_of(text: str) -> list[str]:
    """The words of a command as the README writes it: without its comment, its marks of omission, and what stands for more."""
    words = shlex.split(re.sub(r"\s#.*", "", text).replace("[OTHER ...]", "OTHER"))
    return [word for word in words if word != "..."]


def commands() -> list[list[str]]:
    """The words of every whole command."""
    texts = [text for text in (*SPANS, *BLOCKS) if COMMAND.fullmatch(text)]
    return [list(words) for words in sorted({tuple(words_of(text)) for text in texts})]


def program(words: list[str]) -> str:
    """The module or the script that a command starts."""
    return words[words.index("-m") + 1] if "-m" in words else next(w for w in words if "launch/" in w).rpartition("/")[2]


def start_of(config: str) -> str:
    """A config as in `--config=`, by its path here; NAME in a text stands for any."""
    return str(ROOT / config.replace("NAME", "ssv2"))


def value_of(text: str):
    """As on the command line: Python's literals, else a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def overrides(words: list[str]) -> dict:
    """{field: value} of `--config.FIELD=VALUE`."""
    pairs = [word.removeprefix("--config.").partition("=") for word in words if word.startswith("--config.")]
    return {field: value_of(value) for field, _, value in pairs}


def check_config(words: list[str]) -> None:
    """A command with --config: it loads with its fields, and is a config that can run."""
    [config] = [word.removeprefix("--config=") for word in words if word.startswith("--config=")]
    if config.partition(":")[0] in OWN:
        return
    changed = overrides(words)
    known = {f: v for f, v in changed.items() if f.rpartition(".")[2] not in PLACES}
    # A path that is there; only a run reads it. Of a run to cool down and of a teacher, what follows from it.
    starts = {
        "init_from": "untrained",
        "image_branch.init_from": str(ROOT),
        "video_branch.teacher.init_from": str(ROOT),
        "cooldown.init_from": str(ROOT / "checkpoints" / "1"),
    }
    if "phase=cooldown" in config:
        known = {"total": "100_steps", "seed": 1, "optimizer.base_lr": 1e-3, "optimizer.ema_decay": 0.0} | known
    if "video_branch.teacher.init_from" in changed:
        known = {f"video_branch.teacher.{field}": value for field, value in UNTRAINED_ENCODER.items()} | known
    config = load(start_of(config), known | {field: path for field, path in starts.items() if field in changed})
    for field in changed:
        check_key(config, field)
    validate(config.pretrain if config.task == "ablate" else fill_fields(config)[0])


def flags_of(module: str) -> set[str]:
    """The flags that a command defines. Read from its source: several have the same names, which one process cannot import."""
    file = ROOT / module.replace(".", "/")
    file = ROOT / "cvmae/main.py" if module == "cvmae" else file / "__main__.py" if file.is_dir() else file.with_suffix(".py")
    sources = [file, ROOT / "cvmae" / "cli.py"]
    return {name for source in sources for name in re.findall(r'flags\.DEFINE_\w+\(\s*"(\w+)"', source.read_text())} | {"config"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_is_one_that_exists(words):
    if "-m" not in words:
        assert os.access(ROOT / "launch" / program(words), os.X_OK)
        source = (ROOT / "launch" / program(words)).read_text()
        assert all(word.partition("=")[0] in source for word in words if re.match("[A-Z_]+=", word))
        assert all((ROOT / word).exists() for word in words if word.startswith("tests/"))
        return
    options = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    assert {name for name in options if not name.startswith("config.")} <= flags_of(program(words))
    if any(word.startswith("--config=") for word in words):
        check_config(words)


def test_every_command_is_run():
    assert {program(words) for words in commands()} == set(RUN_BY)
    for name, place in RUN_BY.items():
        file, _, test = place.partition(": ")
        assert (f"def {test}(" if test else name) in (ROOT / file).read_text(), (name, place)


def test_options_that_are_named_alone_exist():
    """`--config.FIELD=VALUE` is a field of some task of some config; other options are of some command."""
    of_commands = set().union(*(flags_of(name) for name in RUN_BY if name.startswith("cvmae")))
    known = of_commands | {"dry-run", "help", "logdir", "editable"}
    paths = [f"configs/{name}.py:task={task}" for name in CONFIGS if name != "ablate" for task in TASKS if task != "ablate"]
    more = "configs/ablate.py:study=masking", "configs/ssv2.py:sources=ssv2+k400"
    trees = [load(start_of(path)) for path in (*paths, *more)]
    for word in {word for text in (*SPANS, *BLOCKS) for word in text.split() if word.startswith("--")}:
        name = word[2:].partition("=")[0]
        if not name.startswith("config."):
            assert {name, name.removeprefix("no")} & known, word
        elif name != "config.pretrain.FIELD":
            field = name.removeprefix("config.").replace("loss.T", "loss.mse_image").replace("loss.variance", "loss.mse_image")
            assert any(has(tree, field) for tree in trees), word


def has(config, field: str) -> bool:
    try:
        check_key(config, field)
    except ConfigError:
        return False
    return True


def anchors(text: str) -> set[str]:
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.M)}


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_are_there(page):
    links = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', PAGES[page])
    for link in {one or other for one, other in links if not (one or other).startswith("http")}:
        target, _, anchor = link.partition("#")
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), link
        assert not anchor or anchor in anchors(path.read_text(encoding="utf-8")), link


def test_the_front_page_is_short():
    assert len(PAGES["README.md"].splitlines()) <= 200


def test_the_table_of_equations_names_what_is_there():
    rows = re.search(r"<!-- equations -->(.*?)<!-- end -->", PAGES["README.md"], re.S)[1]
    file, count = "", 0
    for path, name in re.findall(r"`(?:([\w/]+\.py)(?:: )?)?(\w+)?`", rows):  # a name alone is of the file before it
        file = path or file
        source = (ROOT / "cvmae" / file).read_text()
        assert not name or re.search(rf"^(?:class|def) {name}\b", source, re.M), (file, name)
        count += bool(name)
    assert count >= 18


STAND_IN = """#!/bin/bash
printf '%s\\0' "$(basename "$0")" "$@" >>"$RECORD"
printf '\\n' >>"$RECORD"
"""


@pytest.fixture
def recorded(tmp_path):
    """Runs a script with stand-ins for what it calls; returns the words of their calls, and what it says."""
    launch, tools = tmp_path / "launch", tmp_path / "bin"
    launch.mkdir(), tools.mkdir()
    (launch / "venv.sh").touch()
    for place in (
        tools / "python",
        tools / "cp",
        tools / "ln",
        tools / "chromium",
        launch / "demo.sh",
        launch / "test_videos.sh",
    ):
        place.write_text(STAND_IN)
        place.chmod(0o755)

    def call(script: str, *args: str, code: int = 0) -> tuple[list[list[str]], list[str]]:
        for name in (script, "dry_run.sh", "evidence_runs.sh"):
            shutil.copy(ROOT / "launch" / name, launch)
        path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "RECORD": str(tmp_path / "record")}
        variables = {"SEEDS": "3", "ABLATIONS": "studies", "JOBS": "1"}  # two at a time would write into each other's lines
        done = subprocess.run(
            [str(launch / script), *args],
            env=os.environ | path | variables,
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
        record = tmp_path / "record"
        calls = [line.strip("\0").split("\0") for line in record.read_text().splitlines()] if record.exists() else []
        return calls, done.stderr.splitlines()

    return call


@pytest.mark.parametrize(
    "script, least", [("figures.sh", 2), ("metaworld_figure.sh", 2), ("motion_evidence.sh", 20), ("evidence.sh", 70)]
)
def test_a_script_runs_commands_that_are_valid(recorded, script, least):
    calls = [words for words in recorded(script, "w")[0] if words[0] == "python"]
    assert all(words[1] == "-m" for words in calls)
    ours = [words for words in calls if words[2] == "cvmae.main"]
    assert len(ours) >= least
    for words in ours:
        check_config(words)


def test_pictures_are_made_by_the_script_that_says_so(recorded, tmp_path):
    for study in ("masking", "frames", "objectives", "negatives"):
        (tmp_path / "studies" / study).mkdir(parents=True)
        (tmp_path / "studies" / study / "table.png").touch()
    calls = recorded("figures.sh", "w")[0] + recorded("metaworld_figure.sh", "w")[0]
    made = {pathlib.Path(words[-1]).name for words in calls if words[0] == "cp"}
    made |= {pathlib.Path(re.search(r"--screenshot=(\S+)", " ".join(words))[1]).name for words in calls if words[0] == "chromium"}
    shown = {name for text in PAGES.values() for name in re.findall(r"launch/pictures/([\w.]+)", text)}
    assert shown and shown <= made
    assert made == {path.name for path in (ROOT / "launch" / "pictures").iterdir()}


@pytest.mark.parametrize("script", ["figures.sh", "demo.sh"])
def test_a_dry_run_prints_the_commands_of_a_run_and_runs_none(recorded, script, tmp_path):
    calls, said = recorded(script, "--dry-run", "w")
    assert not calls and not (tmp_path / "w").exists() and not (tmp_path / "launch" / "pictures").exists()
    printed = [shlex.split(line.replace("+ exec ", "+ "))[1:] for line in said if line.startswith("+ ")]
    calls, _ = recorded(script, "w")
    names = [words[0] for words in calls]
    assert names and [name for words in printed if (name := words[0].rpartition("/")[2]) in names] == names


@pytest.mark.parametrize("args", [("--recorded",), ("w", "more")])
def test_an_argument_that_figures_does_not_take_is_refused(recorded, args):
    calls, said = recorded("figures.sh", *args, code=2)
    assert not calls and len(said) == 1 and said[0].startswith("error: unexpected argument '")
