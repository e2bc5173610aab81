"""Stand-ins for what numpy's scalars, arrays and dtypes, and pathlib's paths, call when they are unpickled: data, checked, no code.

A `.pth` often holds a few of these beside the model: the best accuracy, a state of numpy's random numbers, the output folder
among the arguments. torch refuses them with `weights_only=True` unless their names are allowed one by one. Here the names lead
to the classes below, so that not even numpy's own functions see the bytes of the file.
"""

import math

import numpy as np

_KINDS = "biufcSU"  # booleans, numbers and texts
_MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")  # of numpy 2 and 1
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")


class NotPlainError(ValueError):
    """A numpy value of a file that is neither numbers nor texts, or whose parts do not fit together."""


class DType:
    """A dtype of numbers or texts, such as `f8`; its state gives the order of bytes."""

    def __init__(self, code, *flags):
        try:
            dtype = np.dtype(code) if isinstance(code, str) and len(code) < 16 else None
        except (TypeError, ValueError):  # no dtype has this name
            dtype = None
        if dtype is None or dtype.kind not in _KINDS:
            raise NotPlainError(f"numpy dtype {code!r:.40} is neither of numbers nor of texts")
        self.dtype = dtype

    def __setstate__(self, state):
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise NotPlainError(f"numpy dtype has the order of bytes {order!r:.40}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class Array:
    """An array of numbers or texts; `value` is it, once the state is there."""

    def __init__(self, *args):
        self.value = np.zeros(0)

    def __setstate__(self, state):
        if not isinstance(state, tuple) or len(state) != 5:
            raise NotPlainError("numpy array without its five fields")
        _, shape, dtype, is_fortran, data = state
        sizes = isinstance(shape, tuple) and all(isinstance(side, int) and side >= 0 for side in shape)
        if not sizes or not isinstance(dtype, DType):
            raise NotPlainError("numpy array without a shape and a dtype")
        flat = _values(data, dtype)
        if math.prod(shape) != flat.size:
            raise NotPlainError(f"numpy array of the shape {list(shape)} has {flat.size} values")
        self.value = flat.reshape(shape, order="F" if is_fortran else "C")


class Path(str):
    """A path as text; its parts are joined."""

    __slots__ = ()

    def __new__(cls, *parts):
        return super().__new__(cls, "/".join(map(str, parts)))


def scalar(dtype, data):
    """Returns the scalar of a dtype whose bytes are `data`. Raises: NotPlainError, they are not."""
    if not isinstance(dtype, DType):
        raise NotPlainError("numpy scalar without a dtype")
    values = _values(data, dtype)
    if len(values) != 1:
        raise NotPlainError(f"numpy scalar of {len(values)} values")
    return values[0]


def reconstruct(*args) -> Array:
    """Returns an array that waits for its state."""
    return Array()


def _values(data, dtype: DType) -> np.ndarray:
    """Returns the values in some bytes [N], in memory of their own."""
    if isinstance(data, str):  # as pickles of protocol 2 may hold bytes
        data = data.encode("latin1")
    size = dtype.dtype.itemsize
    if not isinstance(data, bytes | bytearray) or not size or len(data) % size:
        raise NotPlainError(f"numpy values of {dtype.dtype} without the bytes of them")
    return np.frombuffer(data, dtype.dtype).copy()


def allowed() -> list:
    """Returns what torch.serialization.safe_globals takes: pairs of a stand-in and the name in the file that leads to it."""
    pairs: list = [(DType, "numpy.dtype"), (Array, "numpy.ndarray")]
    for module in _MODULES:
        pairs += [(scalar, f"{module}.scalar"), (reconstruct, f"{module}._reconstruct")]
    return pairs + [(Path, f"{module}.{name}") for module in ("pathlib", "pathlib._local") for name in _PATHS]
