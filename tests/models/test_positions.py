"""Position tables against statements of them written out by element, and against transformers' where it is installed."""

import importlib.util
import math

import jax
import numpy as np
import pytest

from cvmae.models import positions
from cvmae.models.patches import Grid
from tests.requirements import missing

GRID = Grid(8, 32, 24, 2, 8)


def sincos_of(coordinate: float, j: int, width: int) -> float:
    """Element j of one axis of MAE's table: sines in the first half, cosines in the second."""
    angle = coordinate / 10000 ** ((j % (width // 2)) / (width / 2))
    return math.sin(angle) if j < width // 2 else math.cos(angle)


def test_interleaved_by_element():
    table = positions.interleaved_sincos(50, 12)
    for n, j in np.ndindex(50, 12):
        angle = n / 10000 ** (2 * (j // 2) / 12)
        assert table[n, j] == pytest.approx(math.cos(angle) if j % 2 else math.sin(angle), abs=1e-6)


def test_sincos2d_by_element():
    table = positions.sincos2d(4, 3, 16)
    for row, column, j in np.ndindex(4, 3, 16):
        expected = sincos_of(column, j, 8) if j < 8 else sincos_of(row, j - 8, 8)
        assert table[row * 3 + column, j] == pytest.approx(expected, abs=1e-6)


def test_sincos3d_by_element():
    table = positions.sincos3d(GRID, 16)  # 4 for time, 6 for the row, 6 for the column
    for n, (t, row, column) in enumerate(np.ndindex(GRID.shape)):
        expected = [sincos_of(t, j, 4) for j in range(4)]
        expected += [sincos_of(row, j, 6) for j in range(6)] + [sincos_of(column, j, 6) for j in range(6)]
        np.testing.assert_allclose(table[n], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["sincos1d", "sincos3d"])
@pytest.mark.parametrize("width", [16, 32, 96, 192, 384, 512, 768, 1024, 1280])
def test_fixed_tables_fill_every_width_in_use(kind, width):
    table = positions.fixed_table(kind, GRID, width)
    assert table.shape == (GRID.tokens, width) and table.dtype == np.float32
    assert len(np.unique(table.round(5), axis=0)) == GRID.tokens


def test_against_transformers():
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        missing("parity", "torch and transformers come with the extra: pip install '.[parity]'")
    from transformers.models.videomae.modeling_videomae import get_sinusoid_encoding_table

    theirs = get_sinusoid_encoding_table(1568, 768)[0].numpy()
    np.testing.assert_allclose(positions.interleaved_sincos(1568, 768), theirs, atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="has no time axis, but there are 4 slots"):
        positions.fixed_table("sincos2d", GRID, 16)
    with pytest.raises(ValueError, match="even width"):
        positions.sincos2d(2, 2, 18)
    with pytest.raises(ValueError, match="expected one of separable"):
        positions.fixed_table("rope", GRID, 16)


def test_separable_is_space_plus_time():
    module = positions.Positions("separable", GRID, 16, has_cls=True)
    params = module.init(jax.random.key(0))["params"]
    assert {k: v.shape for k, v in params.items()} == {"space": (12, 16), "time": (4, 16), "cls": (16,)}
    table, cls = module.apply({"params": params})
    for slot, s in np.ndindex(GRID.slots, GRID.positions):
        np.testing.assert_array_equal(table[slot * GRID.positions + s], params["time"][slot] + params["space"][s])
    np.testing.assert_array_equal(cls, params["cls"])


@pytest.mark.parametrize("kind, names", [("learned", {"table"}), ("sincos1d", set()), ("sincos3d", set())])
def test_parameters_of_the_other_kinds(kind, names):
    module = positions.Positions(kind, GRID, 16, has_cls=False)
    variables = module.init(jax.random.key(0))
    assert set(variables.get("params", {})) == names
    table, cls = module.apply(variables)
    assert table.shape == (GRID.tokens, 16) and not cls.any()
