"""The command line: whatever is wrong is one line on stderr with the fix, exit code 2, and an untouched workdir."""

import subprocess
import sys
from typing import Any

import pytest

from cvmae import cli, main
from cvmae.interop import WeightsError
from cvmae.tasks import pretrain
from tests.commands import ROOT, RUNLOCAL, arguments, run, run_here
from tests.tiny_configs import PLAIN


@pytest.fixture
def complaint(tmp_path, capsys, monkeypatch):
    """Runs the command in this process, for arguments that must be refused; returns the line on stderr."""

    def initialized(*_):
        raise AssertionError("a wrong command got as far as making parameters")

    monkeypatch.setattr(pretrain.Pretrain, "initial_state", initialized)
    workdir = tmp_path / "run"

    def call(*args, config=RUNLOCAL, **overrides) -> str:
        code = run_here(main, [*arguments(workdir, config, **overrides), *args], monkeypatch)
        text = capsys.readouterr().err
        assert code == 2 and text.startswith("error: ") and text.count("\n") == 1, text
        assert not workdir.exists()
        return text

    return call


REFUSED: list[tuple[dict[str, Any], str]] = [
    # The first five of the issue.
    ({"data__wrokers": 2}, "config.data has no field 'wrokers'; did you mean 'workers'"),
    ({"data__source": "files"}, "data.manifest"),
    (
        {"augment__size": "(36,32)"},
        "config.augment.size: height=36 is not a multiple of the patch size 16: take height=32 or 48",
    ),
    ({"accumulate": 3}, "config.batch_size=8 does not divide by config.accumulate=3 times 1 devices: take 6 or 9"),
    ({"mesh__data": 4}, "config.mesh.dcn=1 need 4 devices or a multiple, there are 1: set config.mesh.data=-1"),
    ({"mesh__fsdp": 2}, "config.mesh.fsdp"),
    # A manifest.
    ({"data__source": "files", "data__manifest": "nowhere.csv"}, "nowhere.csv: No such file"),
    # Shapes.
    ({"data__num_frames": 5}, "config.data.num_frames: num_frames=5 is not a multiple of the tubelet size 2"),
    ({"video_branch__variant": "XXL/16"}, "config.video_branch.variant: variant is 'XXL/16'; expected SIZE/PATCH"),
    ({"image_branch__variant": "B16"}, "config.image_branch.variant"),
    ({"image_branch__tubelet": 2}, "config.image_branch.tubelet=2 cannot be used: it must be 1"),
    ({"image_branch__frames": 9}, "config.image_branch.frames: cannot sample 9 frames from a clip of 4"),
    ({"video_branch__mask__ratio": 0.05}, "config.video_branch: a masking ratio of 0.05 leaves 8 of 8"),
    ({"video_branch__positions": "sincos2d"}, "config.video_branch.positions: positions='sincos2d' has no time axis"),
    ({"image_branch__decoder__width": 34}, "config.image_branch.decoder.positions: a sine-cosine axis needs an even width"),
    ({"video_branch__decoder__heads": 3}, "config.video_branch: decoder.width=32 is not a multiple of decoder.heads=3"),
    ({"video_branch__cls_token": False, "video_branch__decoder__cls": "encoder"}, "decoder.cls='encoder' needs cls_token=True"),
    # Objectives with nothing to do, or with something that does nothing.
    ({"loss__intra_video": -0.5}, "config.loss.intra_video=-0.5 cannot be used: it must be at least 0"),
    (
        {f"loss__{term}": 0.0 for term in ("mse_video", "mse_image", "intra_video", "intra_frame", "cross_video", "cross_frame")},
        "config.loss: every weight is 0",
    ),
    (
        {"augment__plus_shift": 2} | PLAIN,
        "config.augment.plus_shift=2 moves v⁺ in time, but no term",
    ),
    ({"accumulate": 8}, "leaves 1 clip in each, which has no negatives"),
    ({"image_branch__train": "frozen"}, "config.image_branch.train='frozen' without config.image_branch.init_from"),
    ({"image_branch__init_from": "nowhere"}, "config.image_branch.init_from='nowhere' does not exist: give a workdir"),
    # Durations.
    ({"total": "8"}, "config.total='8' is no duration"),
    ({"total": "0_steps"}, "config.total='0_steps' is too short"),
    ({"optimizer__warmup": "a while"}, "config.optimizer.warmup='a while' is no duration"),
    ({"loss_warmup__cross_video": "5"}, "config.loss_warmup.cross_video='5' is no duration"),
    # Types, which the config file gives.
    ({"batch_size": "many"}, "config.batch_size"),
]


@pytest.mark.parametrize(("overrides", "message"), REFUSED, ids=["-".join(case) for case, _ in REFUSED])
def test_a_config_that_cannot_run_is_refused_with_the_fix(complaint, overrides, message):
    assert message in complaint(**overrides)


WORDS = [
    "optimizer_sharding", "optimizer.schedule", "optimizer.cooldown_shape",
    "dtype", "attention", "augment.first_view", "data.source", "data.fit", "data.clip_sampling", "image_branch.frame_sampling", "image_branch.crop",
    "image_branch.train", *(f"{branch}_branch.{field}" for branch in ("video", "image") for field in (
        "positions", "qkv_bias", "mlp", "mask.kind", "mask.rounding", "target_norm", "decoder.layout", "decoder.positions", "decoder.cls",
    )),
]  # fmt: skip


@pytest.mark.parametrize("field", WORDS)
def test_a_word_that_is_no_choice_is_refused_with_the_choices(complaint, field):
    assert f"config.{field}='nonsense' cannot be used: it must be one of " in complaint(f"--config.{field}=nonsense")


RANGES = {
    "seed": -1, "batch_size": 0, "accumulate": 0, "checkpoint_keep": 0, "data.stride": 0, "data.fps": -1.0,
    "data.frame_size": "(0,32)", "data.workers": -1, "data.timeout_s": 0.0, "data.max_bad_fraction": 1.5,
    "data.synthetic.clips": 0, "augment.flip": 1.5, "augment.scale": "(1.0,0.5)", "augment.plus_scale": "(0.0,1.0)",
    "augment.ratio": "(2.0,1.0)", "augment.brightness": -0.1, "augment.hue": 0.6, "augment.color_probability": -0.1, "augment.grayscale": 1.5, "augment.blur": -0.1,
    "augment.solarize": 2.0, "augment.plus_shift": -1,
    "augment.std": "(0.2,0.0,0.2)", "augment.mean": "(0.5,)", "video_branch.mask.ratio": 1.0, "video_branch.eps": 0.0,
    "video_branch.tubelet": 0, "video_branch.decoder.heads": 0, "image_branch.frames": 0, "contrast.temperature": 0.0,
    "contrast.width": 0, "optimizer.base_lr": 0.0, "optimizer.b1": 1.0, "optimizer.weight_decay": -0.1,
    "optimizer.clip_norm": -1.0, "optimizer.ema_decay": 1.0, "report.pictures": -1,
}  # fmt: skip


@pytest.mark.parametrize("field", RANGES)
def test_a_number_out_of_range_is_refused(complaint, field):
    assert f"config.{field}=" in complaint(f"--config.{field}={RANGES[field]}")


def test_a_split_that_is_not_there_is_refused_before_training(complaint, tmp_path):
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,label,split\n" + "".join(f"{number}.mp4,0,train\n" for number in range(8)))
    files = {"data__source": "files", "data__manifest": manifest}
    said = complaint(**files, data__split="trian")
    assert "config.data.split='trian': " in said and "the splits there are: train (--config.data.split=NAME" in said
    assert "config.data.eval_split='val': " in complaint(**files)
    assert "config.data.split='train[:9]': 'train' has 8 clips" in complaint(**files, data__split="train[:9]")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (["--config.contrast.layers=two"], "config.contrast.layers='two': expected a whole number, as its default, 2"),
        (["--config.seed", "1.5"], "config.seed='1.5': expected a whole number"),
        (["--config.optimizer.base_lr=fast"], "config.optimizer.base_lr='fast': expected a number"),
        (["--config.scan=maybe"], "config.scan='maybe': expected True or False"),
        (["--config.data=3"], "config.data is a section; set one of its fields: --config.data."),
    ],
)
def test_a_value_of_another_type_is_refused_in_words_of_the_field(complaint, argument, message):
    assert message in complaint(*argument)


def test_a_field_that_is_an_argument_of_its_own_is_checked_too(complaint):
    assert "did you mean 'workers'" in complaint("--config.data.wrokers", "2")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workdir=w"], "--config is missing"),
        (["--config", RUNLOCAL, "--workdir", "w", "--config.data.wrokers=2"], "did you mean 'workers'"),
        (["--config=nowhere.py", "--workdir=w"], "config file 'nowhere.py' does not exist"),
        ([f"--config={RUNLOCAL},varient=B/16", "--workdir=w"], "did you mean 'variant'"),
        ([f"--config={RUNLOCAL}", "--wrkdir=w"], "wrkdir"),
        ([f"--config={RUNLOCAL}", "--workdir=w", "batch_size=4"], "unexpected argument 'batch_size=4'"),
    ],
)
def test_a_wrong_command_line_is_one_line(capsys, monkeypatch, tmp_path, argv, message):
    monkeypatch.chdir(tmp_path)
    code = run_here(main, argv, monkeypatch)
    text = capsys.readouterr().err
    assert code == 2 and text.startswith("error: ") and text.count("\n") == 1 and message in text, text
    assert not (tmp_path / "w").exists()


def test_the_process_says_the_same(tmp_path):
    done = run(*arguments(tmp_path / "run", dtype="half"))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "error: config.dtype='half' cannot be used: it must be one of float32, bfloat16\n"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "config, folder",
    [("configs/ssv2.py", "workdir/ssv2"), ("/x/k400.py:variant=L/16,runlocal", "workdir/k400-variant=L_16_runlocal")],
)
def test_without_a_workdir_the_config_names_one(config, folder):
    assert main.default_workdir(config) == folder


def test_a_workdir_that_is_a_file_is_refused(complaint, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot be a folder" in complaint(f"--workdir={tmp_path / 'file'}")


def test_the_lines_of_a_list_are_told_apart_on_one_line(capsys):
    error = WeightsError("a.npz", ["mis-shaped: a", "missing: b"])
    cli.fail(f"config.init_from: {error}", 2, leave=lambda code: None)
    cli.fail("a text\nof two lines", 2, leave=lambda code: None)
    expected = ["error: config.init_from: a.npz does not fit: mis-shaped: a; missing: b", "error: a text of two lines"]
    assert capsys.readouterr().err.splitlines() == expected


def test_ctrl_c_before_the_task_begins_is_one_line(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(main.app, "run", interrupted)
    monkeypatch.setattr(main.signals, "leave_now", sys.exit)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    with pytest.raises(SystemExit) as ended:
        main.cli()
    assert ended.value.code == 130 and capsys.readouterr().err == "error: interrupted; nothing had begun\n"


@pytest.mark.parametrize("words", [["cvmae.bench", "--help"], ["cvmae.main", "--config=configs/demo.py", "--print_config"]])
def test_a_reader_that_stops_early_is_no_error(words):
    command = [sys.executable, "-m", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
