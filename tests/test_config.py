"""Argument strings, durations and dotted keys: what is wrong is said with the nearest right thing."""

import pathlib

import pytest

from cvmae.config import ConfigError, check_key, load, parse_arg, steps

SSV2 = str(pathlib.Path(__file__).parent.parent / "configs" / "ssv2.py")


def test_an_argument_takes_the_type_of_its_default():
    args = parse_arg("variant=S/16,runlocal,depth=3,rate=0.5", variant="B/16", runlocal=False, depth=1, rate=1.0)
    assert args.to_dict() == {"variant": "S/16", "runlocal": True, "depth": 3, "rate": 0.5}


@pytest.mark.parametrize(("text", "expected"), [("runlocal=false", False), ("runlocal=1", True), ("", False), (None, False)])
def test_a_boolean_argument(text, expected):
    assert parse_arg(text, runlocal=False).runlocal is expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("varient=B/16", "'varient' is unknown: did you mean 'variant'"),
        ("zzz", "'zzz' is unknown: known: runlocal, variant"),
        ("variant=S/16,runlocal,variant=L/16", "'variant' is given twice, as 'variant=S/16' and 'variant=L/16': leave one out"),
        ("runlocal,runlocal=false", "'runlocal' is given twice, as 'runlocal' and 'runlocal=false'"),
        ("runlocal=maybe", "'runlocal=maybe': expected a value of type bool"),
    ],
)
def test_a_wrong_argument_names_what_would_do(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_arg(text, variant="B/16", runlocal=False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0_steps", 0), ("7_steps", 7), ("3_epochs", 30), ("0.25_epochs", 3), ("5_percent", 10), ("0.1_percent", 1)],
)
def test_durations_become_whole_steps_rounded_up(text, expected):
    assert steps(text, "warmup", steps_per_epoch=10, total=200) == expected


def test_rounding_of_floats_adds_no_step():
    assert steps("100_epochs", "total", steps_per_epoch=0.07) == 7  # 0.07 * 100 is a little above 7


@pytest.mark.parametrize("text", ["5", "5 steps", "5_hours", "-1_steps", "_steps", "1e3_steps"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match="config.total=.* is no duration"):
        steps(text, "total", steps_per_epoch=1)


def test_a_percentage_of_itself_is_refused():
    with pytest.raises(ConfigError, match="config.total='5_percent': percent cannot be used"):
        steps("5_percent", "total", steps_per_epoch=1)


def test_load_sets_overrides_and_locks():
    config = load(f"{SSV2}:variant=S/8", {"data.workers": 2, "loss.mse_image": 0.5})
    assert (config.video_branch.variant, config.data.workers, config.loss.mse_image) == ("S/8", 2, 0.5)
    with pytest.raises(AttributeError):
        config.datas = 1


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("batchsize", "config has no field 'batchsize'; did you mean 'batch_size'"),
        ("data.worker", "config.data has no field 'worker'; did you mean 'workers'"),
        ("seed.more", "config.seed has no field 'more'"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, message):
    config = load(SSV2)
    with pytest.raises(ConfigError, match=message):
        check_key(config, key)
    with pytest.raises(ConfigError, match=message):
        load(SSV2, {key: 1})


def test_a_config_file_that_is_not_there():
    with pytest.raises(ConfigError, match="'nowhere.py' does not exist"):
        load("nowhere.py")
