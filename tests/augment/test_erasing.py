"""Random erasing: boxes, noise, and probability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.augment import Erasing, erase

KEYS = jax.random.split(jax.random.key(5), 1200)
PLAIN = jnp.full((2, 30, 40, 3), 9.0)  # noise of N(0, 1) never has this value
SPEC = Erasing()


@pytest.fixture(scope="module")
def made():
    """A plain clip, erased with each of the keys, [n, T, H, W, 3]."""
    return np.asarray(jax.jit(jax.vmap(lambda key: erase(key, PLAIN, SPEC)))(KEYS))


@pytest.fixture(scope="module")
def erased(made):
    """The clips of `made` that lost a box, and their erased pixels, bool [n, T, H, W]."""
    holes = (made != 9).any(-1)
    some = holes.any((1, 2, 3))
    return made[some], holes[some]


def test_probability(made, erased):
    assert abs(len(erased[0]) / len(made) - 0.25) < 0.04


def test_one_box_through_all_frames(erased):
    _, holes = erased
    assert (holes == holes[:, :1]).all()
    rows, columns = holes[:, 0].any(2), holes[:, 0].any(1)
    np.testing.assert_array_equal(holes[:, 0], rows[:, :, None] & columns[:, None, :])
    for lines in (rows, columns):
        assert (np.abs(np.diff(lines.astype(int), axis=1)).sum(1) <= 2).all()  # no gap inside the box
        assert lines.any(0).all()  # every row and column is erased in some clip


def test_areas_and_ratios(erased):
    _, holes = erased
    height, width = holes[:, 0].any(2).sum(1), holes[:, 0].any(1).sum(1)
    area, ratio = height * width / (30 * 40), width / height
    assert 0.015 < area.min() < 0.03 and 0.3 < area.max() < 0.36
    assert abs(area.mean() - (0.02 + 1 / 3) / 2) < 0.015
    assert 0.22 < ratio.min() < 0.36 and 2.8 < ratio.max() < 4.2 and abs(np.log(ratio).mean()) < 0.1


def test_noise_is_normal_and_independent(erased):
    made, holes = erased
    noise = made[holes]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    first, second = made[:, 0][holes[:, 0]], made[:, 1][holes[:, 1]]
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.01
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < 0.01


def test_a_clip_does_not_depend_on_the_others(made):
    alone = jax.jit(lambda key: erase(key, PLAIN, SPEC))
    for row in range(12):
        np.testing.assert_allclose(alone(KEYS[row]), made[row], atol=1e-6)


@pytest.mark.parametrize("field", [{"probability": 1.1}, {"area": (0.5, 0.2)}, {"area": (0.1, 1.5)}, {"ratio": (0.0, 1.0)}])
def test_bad_fields(field):
    with pytest.raises(ValueError, match="expected"):
        Erasing(**field)
