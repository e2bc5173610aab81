"""Lines at the end of a run: what it left, and a next command that runs as it is printed."""

import shlex

import pytest

from cvmae import main
from cvmae.cli import FLAGS
from cvmae.data.sources import open_split
from cvmae.tasks import run
from cvmae.tasks.ending import config_flags, ending, with_task, workdir_beside
from cvmae.tasks.model_fields import fill_fields
from cvmae.tasks.validate import validate
from tests.commands import RUNLOCAL, arguments, clear_flags
from tests.interop.encoder_folders import make_dinov2
from tests.tiny_configs import PLAIN, config, downstream, make_task

CONFIG = RUNLOCAL.partition(":")[0]
SIZES = ["--config.augment.size", "(48, 32)", "--config.data.frame_size=(48,48)", "--noconfig.data.square_pixels"]


@pytest.fixture
def parsed(monkeypatch):
    """Parses the words of a command as `cvmae.main` does; returns its config."""

    def parse(words):
        clear_flags(main, words, monkeypatch)
        main.parse([main.__name__, *words])
        return FLAGS.config

    return parse


def words_of(line: str) -> list[str]:
    """Returns the arguments of the command in a line `next, for example: python -m cvmae.main ...`."""
    words = shlex.split(line.removeprefix("next, for example: "))
    assert words[:3] == ["python", "-m", "cvmae.main"]
    return words[3:]


@pytest.fixture
def next_words(parsed, tmp_path):
    """Returns a function of a command, not run here, that returns the words of the one after it."""

    def after(words, workdir=tmp_path):
        c = parsed(words)
        path = next(word.partition("=")[2] for word in words if word.startswith("--config="))
        return words_of(ending(c, path, str(workdir), words)[-1])

    return after


def test_flags_of_the_config_are_found_in_any_form():
    argv = ["main", "--config=a.py", "--config.data.test_split", "two words", "-config.data.manifest=x.csv", "--config.seed", "3"]
    argv += ["--noconfig.data.square_pixels", "--config.data.pictures", "--workdir", "w"]
    assert config_flags(argv) == [
        "--config.data.test_split=two words",
        "--config.data.manifest=x.csv",
        "--config.seed=3",
        "--noconfig.data.square_pixels",
        "--config.data.pictures",
    ]


def test_the_command_after_pretraining_runs(parsed, next_words, tmp_path):
    """Its encoder has another size than that of `runlocal`, and sees clips of another size."""
    given = [
        *SIZES,
        "--config.attention=einsum",
        "--config.video_branch.variant=mini/8",
        "--config.video_branch.positions=sincos1d",
    ]
    plain = arguments(workdir := tmp_path / "a run", f"{RUNLOCAL},fast", total="1_steps", eval_every="0_steps", **PLAIN)
    words = [*plain, *given, "--config.data.synthetic.clips=8"]
    run(parsed(words), workdir)
    following = next_words(words, workdir)
    assert {f"--config={CONFIG}:task=linear,runlocal", f"--workdir={workdir}-linear"} < set(following) and not any(
        "total" in word for word in following
    )
    c = parsed(following)
    assert (c.augment.size, c.attention, c.data.square_pixels) == ((48, 32), "einsum", False)
    assert "accuracy/top1" in run(c, tmp_path / "probe")


def test_the_command_after_a_probe_has_the_fields_of_its_encoder(parsed, next_words, tmp_path):
    make_dinov2(tmp_path / "weights")
    given = [f"--config.init_from={tmp_path / 'weights'}", "--config.video_branch.inflate=mean", "--config.test.crops=1"]
    following = next_words([f"--config={CONFIG}:task=attentive,runlocal", *given, *SIZES, "--config.probe.heads=1"])
    assert {*given, "--config.augment.size=(48, 32)"} < set(following) and not any("probe.heads" in word for word in following)
    filled, _ = fill_fields(parsed(following))
    make_task(filled).initial_state()  # with the weights


def test_the_command_after_finetuning_leaves_out_what_is_not_there(parsed, next_words):
    words = [f"--config={CONFIG}:task=finetune,runlocal", "--config.video_branch.variant=mini/8", "--config.data.eval_split=val"]
    following = next_words([*words, "--config.data.test_split=val", "--config.init_from=untrained"])
    assert "--config.data.test_split=val" in following and not any(
        "variant" in word or "eval_split" in word for word in following
    )
    c = parsed(following)
    c.init_from = "untrained"
    validate(fill_fields(c)[0])


def test_the_end_names_the_files_and_the_next_command(tmp_path):
    (tmp_path / "report.html").write_text("x")
    (tmp_path / "checkpoints").mkdir()
    lines = ending(config(), "configs/ssv2.py:variant=B/16", str(tmp_path))
    assert lines[0] == f"left in {tmp_path}: report.html, checkpoints"
    assert lines[1].endswith(
        f"--config=configs/ssv2.py:task=linear,variant=B/16 --config.init_from={tmp_path} --workdir={tmp_path}-linear"
    )
    probe = downstream("linear", init_from="runs/a")
    assert ending(probe, "configs/ssv2.py:task=linear", str(tmp_path))[1].endswith(
        f":task=finetune --config.init_from=runs/a --workdir={tmp_path}-finetune"
    )
    assert len(ending(downstream("knn"), "configs/ssv2.py:task=knn", str(tmp_path))) == 1
    assert with_task("configs/demo.py", "knn") == "configs/demo.py:task=knn"


@pytest.mark.parametrize(
    ("workdir", "following"),
    [
        ("runs/a", "runs/a-linear"),
        ("runs/a/", "runs/a-linear"),
        ("s3://b/runs/a/", "s3://b/runs/a-linear"),
        (".", "{}/here-linear"),
    ],
)
def test_the_next_command_has_a_folder_beside_the_run(workdir, following, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert workdir_beside(workdir, "linear") == following.format(tmp_path)


def test_the_command_after_a_mixture_looks_at_clips_of_its_first_source(parsed, next_words, tmp_path):
    """Whose section has its own place, split and sampling, whatever the whole has."""
    (tmp_path / "mine.csv").write_text("path,label,split\na.mp4,,all\nb.mp4,,held\n")
    own = ["mine.source=files", f"mine.manifest={tmp_path}/mine.csv", "mine.split=all", "mine.eval_split=held", "mine.stride=1"]
    words = [f"--config={CONFIG}:sources=mine+other,runlocal", "--config.data.mixture=mine:1,other:2", "--config.data.stride=3"]
    following = next_words([*words, *(f"--config.data.sources.{field}" for field in own), *SIZES])
    assert f"--config={CONFIG}:task=visualize,runlocal" in following and f"--workdir={tmp_path}-visualize" in following
    c = parsed(following)
    assert (c.data.stride, c.data.frame_size, c.augment.size, c.data.square_pixels) == (1, (48, 48), (48, 32), False)
    assert [record.name for record in open_split(c.data, "test_split")] == [f"{tmp_path}/b.mp4"]
    c.init_from = "untrained"
    validate(fill_fields(c)[0])


def test_where_no_command_is_known_none_is_printed(tmp_path):
    assert ending(config(data__mixture="stills:1,moving:2"), "configs/ssv2.py", str(tmp_path)) == []


def test_an_image_branch_is_for_a_run_on_videos(tmp_path):
    [line] = ending(config(("mse_image",)), "configs/imagenet.py", str(tmp_path))
    assert line.startswith(f"next: --config.image_branch.init_from={tmp_path} of a pre-training on videos")


def test_an_encoder_whose_attention_cannot_be_drawn_is_extracted(tmp_path):
    (tmp_path / "config.json").write_text('{"task": "finetune", "video_branch": {"backbone": "factorized"}}')
    [line] = ending(downstream("finetune"), "configs/ssv2.py:task=finetune", str(tmp_path))
    assert ":task=extract " in line
