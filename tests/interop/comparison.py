"""How two implementations are compared: relative norms of differences, tensor by tensor."""

import jax
import numpy as np
from flax import traverse_util

TOLERANCE = 1e-4  # relative, float32
# A gradient that is zero in exact arithmetic (a key's bias) is rounding noise in both; its difference is measured against
# this share of the norm of the whole gradient instead of against its own norm.
FLOOR = 1e-4


def relative(ours, theirs) -> float:
    """The norm of the difference over the norm of `theirs`; both have one shape."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def tree_errors(ours, theirs) -> dict[str, float]:
    """For each path of two trees of one structure the relative error, with the floor above."""
    ours, theirs = (traverse_util.flatten_dict(jax.tree.map(np.asarray, t), sep="/") for t in (ours, theirs))
    assert ours.keys() == theirs.keys(), set(ours) ^ set(theirs)
    whole = np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in theirs.values()))
    errors = {}
    for path, a in theirs.items():
        difference = np.linalg.norm(np.asarray(ours[path], np.float64) - a)
        errors[path] = float(difference / max(np.linalg.norm(a), FLOOR * whole))
    return errors


def assert_close(name: str, error: float, tolerance: float = TOLERANCE):
    """Fails with the name and the error; prints both otherwise (`pytest -s` shows what was reached)."""
    print(f"{name}: relative error {error:.1e}")
    assert error <= tolerance, f"{name}: relative error {error:.2e} above {tolerance:.0e}"
