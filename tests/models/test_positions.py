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

    expected = get_sinusoid_encoding_table(1568, 768)[0].numpy()
    np.testing.assert_allclose(positions.interleaved_sincos(1568, 768), expected, atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match="has no time axis, but there are 4 time patches"):
        positions.fixed_table("sincos2d", GRID, 16)
    with pytest.raises(ValueError, match="even width"):
        positions.sincos2d(2, 2, 18)
    with pytest.raises(ValueError, match="expected one of sincos1d"):
        positions.fixed_table("rope", GRID, 16)


def test_separable_is_space_plus_time():
    module = positions.Positions("separable", GRID, 16, has_cls=True)
    params = module.init(jax.random.key(0))["params"]
    assert {k: v.shape for k, v in params.items()} == {"space": (12, 16), "time": (4, 16), "cls": (16,)}
    table, cls = module.apply({"params": params})
    for t, s in np.ndindex(GRID.time_patches, GRID.spatial_patches):
        np.testing.assert_array_equal(table[t * GRID.spatial_patches + s], params["time"][t] + params["space"][s])
    np.testing.assert_array_equal(cls, params["cls"])


@pytest.mark.parametrize("kind, names", [("learned", {"table"}), ("sincos1d", set()), ("sincos3d", set())])
def test_parameters_of_the_other_kinds(kind, names):
    module = positions.Positions(kind, GRID, 16, has_cls=False)
    variables = module.init(jax.random.key(0))
    assert set(variables.get("params", {})) == names
    table, cls = module.apply(variables)
    assert table.shape == (GRID.tokens, 16) and not cls.any()


# From and to (time patches, rows, columns): fewer and more frames, smaller and larger sides, sides of their own, single rows.
GRIDS = (
    ((8, 14, 14), (4, 14, 14)),
    ((8, 14, 14), (16, 14, 14)),
    ((8, 14, 14), (8, 10, 10)),
    ((8, 14, 14), (8, 20, 20)),
    ((3, 5, 2), (7, 1, 9)),
    ((1, 1, 4), (5, 3, 2)),
)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_interpolation_against_torch(old, new):
    if not importlib.util.find_spec("torch"):
        missing("parity", "torch comes with the extra: pip install '.[parity]'")
    import torch

    table = np.random.default_rng(0).normal(size=(math.prod(old), 6)).astype(np.float32)
    space = torch.from_numpy(table).reshape(*old, 6).permute(0, 3, 1, 2)
    space = torch.nn.functional.interpolate(space, size=new[1:], mode="bicubic", align_corners=False, antialias=False)
    time = space.permute(1, 2, 3, 0).reshape(1, -1, old[0])
    time = torch.nn.functional.interpolate(time, size=new[0], mode="linear", align_corners=False)
    expected = time.reshape(6, *new[1:], new[0]).permute(3, 1, 2, 0).reshape(-1, 6).numpy()
    result = positions.interpolate(table, old, new)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=1e-5)


def smooth(shape):
    """A function of the position alone, [N, 3], another for each axis; positions are fractions of the clip."""
    time, row, column = np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij")
    return np.stack([time, np.sin(2 * row), np.cos(2 * column)], axis=-1).reshape(-1, 3)


@pytest.mark.parametrize("new", [(4, 14, 12), (16, 20, 16), (8, 10, 24)])
def test_a_smooth_table_keeps_its_meaning(new):
    result = positions.interpolate(smooth((8, 14, 12)), (8, 14, 12), new).reshape(*new, 3)
    inner = tuple(slice(math.ceil(n / 6), -math.ceil(n / 6)) for n in new)  # the border is repeated, not continued
    np.testing.assert_allclose(result[inner], smooth(new).reshape(*new, 3)[inner], atol=0.01)


def test_linear_by_hand():
    result = positions.interpolate(np.array([[0.0], [1.0]], np.float32), (2, 1, 1), (4, 1, 1))
    np.testing.assert_array_equal(result[:, 0], [0, 0.25, 0.75, 1])
    np.testing.assert_array_equal(positions.interpolate(np.arange(4.0)[:, None], (4, 1, 1), (2, 1, 1))[:, 0], [0.5, 2.5])


def test_the_same_grid_keeps_every_bit():
    table = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    assert positions.interpolate(table, (2, 4, 3), (2, 4, 3)).tobytes() == table.tobytes()


def test_time_patches_do_not_mix_where_only_the_frame_grows():
    table = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    both, first = (positions.interpolate(t, (n, 4, 3), (n, 8, 3)) for t, n in ((table, 2), (table[:12], 1)))
    np.testing.assert_allclose(both[:24], first, rtol=1e-6)


@pytest.mark.parametrize("kind", ["separable", "learned"])
def test_parameters_for_another_grid(kind):
    new = Grid(4, 48, 24, 2, 8)
    old_module, new_module = (positions.Positions(kind, grid, 16, has_cls=True) for grid in (GRID, new))
    params = old_module.init(jax.random.key(0))["params"]
    fitted = positions.interpolate_params(params, GRID, new)
    assert {k: v.shape for k, v in fitted.items()} == jax.tree.map(
        lambda a: a.shape, new_module.init(jax.random.key(0))["params"]
    )
    assert fitted["cls"] is params["cls"]
    table, _ = old_module.apply({"params": params})
    # Separable tables are a sum, and interpolation is linear: the sum is interpolated alike.
    complete = positions.interpolate(table, GRID.shape, new.shape)
    np.testing.assert_allclose(new_module.apply({"params": fitted})[0], complete, atol=1e-6)


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match="5 rows is not over 2x2x2 = 8 tokens"):
        positions.interpolate(np.zeros((5, 3)), (2, 2, 2), (4, 2, 2))
