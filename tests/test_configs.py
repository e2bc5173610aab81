"""Every config: loads, says what it lacks, takes a variant, and its `runlocal` runs to the end and leaves what it should."""

import json

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cvmae.config import ConfigError, load
from cvmae.training.loop import train
from cvmae.training.validate import validate
from tests.command import QUICK, arguments, checkpoint_steps, metric_lines, run
from tests.small import CONFIGS

NAMES = sorted(path.stem for path in CONFIGS.glob("*.py") if path.stem not in ("common", "__init__"))


def path(name: str, argument: str = "") -> str:
    return f"{CONFIGS / name}.py:{argument}"


def test_the_promised_configs_are_there():
    assert set(NAMES) >= {"demo", "motion", "ssv2", "k400", "ucf101", "hmdb51"}


@pytest.mark.parametrize("name", NAMES)
def test_a_config_is_valid_as_it_stands(name):
    validate(load(path(name)))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"demo", "motion"}))
def test_a_config_of_files_asks_for_its_manifest(name, tmp_path):
    config = load(path(name))
    with pytest.raises(ConfigError, match="data.manifest"):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", NAMES)
def test_the_variant_goes_to_both_branches(name):
    config = load(path(name, "variant=Ti/8"))
    assert config.video_branch.variant == config.image_branch.variant == "Ti/8"
    assert load(path(name)).video_branch.variant != "Ti/8"
    validate(config)


@pytest.mark.parametrize("arg, frames, side", [("size=easy", 8, 32), ("size=full", 16, 64), ("size=full,side=96", 16, 96)])
def test_motion_comes_in_sizes(arg, frames, side):
    config = load(path("motion", arg))
    validate(config)
    assert config.data.motion.size in arg and config.data.motion.side in (0, side)
    assert (config.data.num_frames, config.data.frame_size, config.augment.size) == (frames, (side, side), (side, side))


def test_an_unknown_size_of_motion_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'full'"):
        load(path("motion", "size=ful"))


@pytest.mark.parametrize("name", NAMES)
def test_its_docstring_is_the_command(name):
    assert f"python -m cvmae.main --config=configs/{name}.py" in (CONFIGS / f"{name}.py").read_text().split('"""')[1]


def check_workdir(workdir, config):
    """What a run of 8 steps leaves: see `configs/common.py:runlocal`."""
    lines = metric_lines(workdir)
    assert [line["step"] for line in lines if "loss" in line] == list(range(1, 9))
    assert [line["step"] for line in lines if "eval/loss" in line] == [4, 8]
    terms = {f"loss/{term}" for term, weight in config.loss.items() if weight}
    assert {key for key in lines[0] if key.startswith("loss/")} == terms
    assert checkpoint_steps(workdir) == [2, 4, 6, 8][-config.checkpoint_keep :]
    assert json.loads((workdir / "config.json").read_text()) == json.loads(config.to_json_best_effort())
    for picture in ("curves.png", "reconstruction.png"):
        assert (workdir / picture).read_bytes().startswith(b"\x89PNG")
    events = EventAccumulator(str(workdir / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "ssv2"])
def test_runlocal_runs_to_its_end(name, tmp_path, quick_compilation):
    config = load(path(name, "runlocal"))
    assert config.batch_size == 8 and config.data.source == "synthetic"
    train(config, str(tmp_path))
    check_workdir(tmp_path, config)


def test_runlocal_is_a_command(tmp_path):
    done = run(*arguments(tmp_path, path("ssv2", "runlocal")), env=QUICK)
    assert done.returncode == 0, done.stderr
    assert "learning rate 5e-05 = base_lr 0.0016 x batch 8 / 256" in done.stderr
    check_workdir(tmp_path, load(path("ssv2", "runlocal")))
