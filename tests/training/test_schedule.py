"""The learning rate over the steps: every schedule against a table made by numpy, and optax's own functions where it has them."""

import jax
import numpy as np
import optax
import pytest

from cvmae.config import ConfigError
from cvmae.tasks.validate import validate
from cvmae.training.optimizer import describe, make_cooldown, make_schedule
from tests.tiny_configs import config, downstream, make_task

PEAK, LOW = 2e-3, 1e-5  # base_lr x 512 / 256, and min_lr


def fields(**changes):
    values = {"base_lr": 1e-3, "min_lr": LOW, **changes}
    return config(**{f"optimizer__{name}": value for name, value in values.items()}).optimizer


def rates(schedule, count: int) -> list[float]:
    return [float(schedule(step)) for step in range(count)]


def shapes_of(table, warmup: int, total: int, cooldown: int, shape: str):
    """The values of wsd at the steps of `table`, in float64."""
    rising = np.interp(table, [0, max(warmup, 1e-9)], [0, PEAK])
    done = np.clip((table - (total - cooldown)) / cooldown, 0, 1)
    falling = LOW + (PEAK - LOW) * (1 - (done if shape == "linear" else np.sqrt(done)))
    return np.where(table < warmup, rising, falling)


@pytest.mark.parametrize("shape", ["linear", "1-sqrt"])
@pytest.mark.parametrize("warmup, total, cooldown", [(4, 40, 10), (0, 20, 20), (5, 10, 5), (0, 7, 1)])
def test_wsd_is_the_table_of_its_formula(shape, warmup, total, cooldown):
    schedule = make_schedule(fields(schedule="wsd", cooldown_shape=shape), 512, warmup, total, cooldown)
    steps = np.arange(total + 5)
    np.testing.assert_allclose(rates(schedule, total + 5), shapes_of(steps, warmup, total, cooldown, shape), rtol=2e-6, atol=1e-9)
    compiled = jax.jit(jax.vmap(schedule))(steps)
    np.testing.assert_allclose(compiled, shapes_of(steps, warmup, total, cooldown, shape), rtol=2e-6, atol=1e-9)


def test_the_cooldowns_are_as_published():
    """Hägele et al.: 1 - sqrt((n - (N - N_decay)) / N_decay) times the peak; at a quarter of the way half of the rate is left."""
    assert [float(make_cooldown("1-sqrt", 1.0, 0.0, 100)(step)) for step in (0, 25, 64, 100)] == pytest.approx([1, 0.5, 0.2, 0])
    assert [float(make_cooldown("linear", 1.0, 0.0, 100)(step)) for step in (0, 25, 100)] == pytest.approx([1, 0.75, 0])


@pytest.mark.parametrize("warmup", [0, 3])
def test_constant_is_that_of_optax(warmup):
    schedule = make_schedule(fields(schedule="constant"), 512, warmup, total=10)
    if warmup:  # optax's stays at 0 without one
        np.testing.assert_array_equal(rates(schedule, 14), rates(optax.warmup_constant_schedule(0.0, PEAK, warmup), 14))
    assert rates(schedule, 14)[warmup:] == pytest.approx([PEAK] * (14 - warmup))


@pytest.mark.parametrize("earlier", [False, True])
def test_the_default_is_the_same_program_as_before(earlier):
    c = fields()
    if earlier:
        c = c.copy_and_resolve_references()
        with c.unlocked():
            del c.schedule, c.cooldown, c.cooldown_shape
    schedule, plain = make_schedule(c, 512, 4, 20), optax.warmup_cosine_decay_schedule(0.0, PEAK, 4, 20, LOW)
    assert str(jax.make_jaxpr(schedule)(0)) == str(jax.make_jaxpr(plain)(0))
    np.testing.assert_array_equal(rates(schedule, 25), rates(plain, 25))


@pytest.mark.parametrize("make", [config, lambda **c: downstream("finetune", **c)])
def test_a_task_that_trains_has_it_with_its_durations(make):
    changed = {"schedule": "wsd", "cooldown": "50_percent", "warmup": "2_steps", "base_lr": 0.32, "min_lr": 0.0}
    task = make_task(make(**{f"optimizer__{name}": value for name, value in changed.items()}), total=8)
    assert rates(task.learning_rate, 9) == pytest.approx(0.01 * np.array([0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25, 0]))
    assert "warm-up 2_steps, then constant, cooldown 50_percent (linear) to 0" in task.describe()[0]


def test_the_log_names_the_schedule():
    assert describe(fields(schedule="constant"), 512).endswith("warm-up 40_epochs, then constant")
    assert describe(fields(), 512).endswith("then half a cosine to 1e-05")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"schedule": "wsdd"}, "it must be one of cosine, constant, wsd; did you mean 'wsd'?"),
        ({"schedule": "cosin"}, "did you mean 'cosine'?"),
        ({"cooldown_shape": "1_sqrt"}, "it must be one of linear, 1-sqrt; did you mean '1-sqrt'?"),
        ({"cooldown": "a tenth"}, "config.optimizer.cooldown='a tenth' is no duration"),
    ],
)
def test_a_word_that_is_no_schedule_is_refused_with_the_nearest(changes, message):
    with pytest.raises(ConfigError) as refused:
        validate(config(**{f"optimizer__{name}": value for name, value in changes.items()}))
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"cooldown": "0_steps"}, "config.optimizer.cooldown='0_steps' with schedule='wsd' never cools down"),
        ({"cooldown": "80_percent", "warmup": "3_steps"}, "are 3 + 7 steps, more than the 8 of the run"),
    ],
)
def test_a_cooldown_that_does_not_fit_is_refused_before_anything_is_compiled(changes, message):
    with pytest.raises(ConfigError) as refused:
        make_task(config(**{f"optimizer__{name}": value for name, value in {"schedule": "wsd", **changes}.items()}), total=8)
    assert message in str(refused.value)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_a_rate_that_would_rise_to_its_end_is_refused(schedule):
    make_schedule(fields(schedule=schedule, base_lr=0.01, min_lr=0.01), 4, 0, 20, 5)  # a small batch: the peak is below base_lr
    with pytest.raises(
        ConfigError, match="config.optimizer.min_lr=5.0 is above the rate that it ends, config.optimizer.base_lr=0.01"
    ):
        make_schedule(fields(schedule=schedule, base_lr=0.01, min_lr=5.0), 4, 0, 20, 5)
    make_schedule(fields(schedule="constant", base_lr=0.01, min_lr=5.0), 4, 0, 20)  # which has no end
