"""Transforms between arrays of weights files and parameters: other axes, other orders, several arrays in one."""

import einops
import numpy as np

from cvmae.models.patches import Grid


class Transform:
    """Turns an array of a file into `count` parameters, and back; each raises ValueError for an impossible shape.

    Both ways move numbers and change none, so that a file written from what was read has the same bytes; `ScaleFromOne` alone adds 1.
    """

    count = 1

    def read(self, array: np.ndarray) -> tuple[np.ndarray, ...]:
        """Returns the parameters of a file's array."""
        raise NotImplementedError

    def write(self, arrays: tuple[np.ndarray, ...], grid: Grid) -> np.ndarray:
        """Returns the file's array of parameters; `grid` gives the sizes of a patch."""
        raise NotImplementedError


class Copy(Transform):
    """An array that both sides store alike."""

    def read(self, array):
        return (array,)

    def write(self, arrays, grid):
        return arrays[0]


class Linear(Transform):
    """A linear weight: torch's [out, in] and Flax's [in, out]."""

    def read(self, array):
        if array.ndim != 2:
            raise ValueError(f"a linear weight has 2 axes, not {array.ndim}")
        return (array.T,)

    def write(self, arrays, grid):
        return arrays[0].T


class Conv(Transform):
    """A patch convolution [D, C, (t,) p, p] and the kernel [(t p p C), D] of the matrix product over `patchify`'s order."""

    def __init__(self, axes: int):
        self.axes = axes

    def read(self, array):
        if array.ndim != self.axes:
            raise ValueError(f"a patch convolution has {self.axes} axes here, not {array.ndim}")
        kernel = array if array.ndim == 5 else array[:, :, None]
        return (einops.rearrange(kernel, "out c t h w -> (t h w c) out"),)

    def write(self, arrays, grid):
        sides = {"t": grid.tubelet, "h": grid.patch, "w": grid.patch}
        kernel = einops.rearrange(arrays[0], "(t h w c) out -> out c t h w", **sides)
        return kernel if self.axes == 5 else kernel[:, :, 0]


class ClsToken(Transform):
    """A token: [1, 1, D] and [D]."""

    def read(self, array):
        if array.ndim < 1 or array.size != array.shape[-1]:
            raise ValueError("a token has one axis longer than 1, the last")
        return (array.reshape(-1),)

    def write(self, arrays, grid):
        return arrays[0][None, None]


class PositionTable(Transform):
    """A position table: [1, N, D] and [N, D]."""

    def read(self, array):
        if array.ndim != 3 or len(array) != 1:
            raise ValueError("a position table has 3 axes, the first of them 1 long")
        return (array[0],)

    def write(self, arrays, grid):
        return arrays[0][None]


class ClsTokenAndPositionTable(PositionTable):
    """A position table [1, 1 + N, D] whose first row is that of cls, and [D], [N, D]."""

    count = 2

    def read(self, array):
        (rows,) = super().read(array)
        if not len(rows):
            raise ValueError("a position table has a row for cls and one for each position")
        return rows[0], rows[1:]

    def write(self, arrays, grid):
        return np.concatenate([arrays[0][None], arrays[1]])[None]


class Fused(Transform):
    """Arrays stacked along the first axis: [count·D, ...] and as many of [D, ...], each read by `each`; `names` says which."""

    def __init__(self, each: Transform, count: int, names: str):
        self.each, self.count, self.names = each, count, names

    def read(self, array):
        if array.ndim < 1 or len(array) % self.count:
            raise ValueError(f"{self.names} in one array have a first axis that is a multiple of {self.count}")
        return tuple(self.each.read(part)[0] for part in np.split(array, self.count))

    def write(self, arrays, grid):
        return np.concatenate([self.each.write((array,), grid) for array in arrays])


class ScaleFromOne(Transform):
    """The scale of a layer norm, stored less 1 (VideoPrism)."""

    def read(self, array):
        return (array.astype(np.promote_types(array.dtype, np.float32)) + np.float32(1),)

    def write(self, arrays, grid):
        return arrays[0] - np.float32(1)


class Heads(Transform):
    """An array with an axis of heads and one of their widths, the last two, which are one axis here; it is written as one."""

    def __init__(self, axes: int, each: Transform):
        self.axes, self.each = axes, each

    def read(self, array):
        if array.ndim != self.axes:
            raise ValueError(f"it has {self.axes} axes, the last two of heads and their width, not {array.ndim}")
        return self.each.read(array.reshape(*array.shape[:-2], -1))

    def write(self, arrays, grid):
        return self.each.write(arrays, grid)


TRANSFORMS = {
    "copy": Copy(),
    "linear": Linear(),
    "conv2d": Conv(4),
    "conv3d": Conv(5),
    "token": ClsToken(),
    "rows": PositionTable(),
    "token_and_rows": ClsTokenAndPositionTable(),
    "qkv_linear": Fused(Linear(), 3, "query, key and value"),
    "qkv_copy": Fused(Copy(), 3, "query, key and value"),
    "gate_linear": Fused(Linear(), 2, "gate and values"),
    "gate_copy": Fused(Copy(), 2, "gate and values"),
    "scale_from_one": ScaleFromOne(),
    "heads_copy": Heads(3, Copy()),
    "heads_linear": Heads(3, Linear()),
    "heads_bias": Heads(2, Copy()),
}
