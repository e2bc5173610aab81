"""Compares two implementations: relative norms of differences, tensor by tensor."""

import jax
import numpy as np
from flax import traverse_util

TOLERANCE = 1e-4  # relative, float32
# A gradient that is zero in exact arithmetic (a key's bias) is rounding noise in both; its difference is measured against
# this share of the norm of the whole gradient instead of against its own norm.
FLOOR = 1e-4


def relative(actual, reference) -> float:
    """The norm of the difference over the norm of `reference`; both have one shape."""
    actual, reference = np.asarray(actual, np.float64), np.asarray(reference, np.float64)
    assert actual.shape == reference.shape, (actual.shape, reference.shape)
    return float(np.linalg.norm(actual - reference) / np.linalg.norm(reference))


def tree_errors(actual, reference) -> dict[str, float]:
    """For each path of two trees of one structure the relative error, with the floor above."""
    actual, reference = (traverse_util.flatten_dict(jax.tree.map(np.asarray, t), sep="/") for t in (actual, reference))
    assert actual.keys() == reference.keys(), set(actual) ^ set(reference)
    total = np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in reference.values()))
    errors = {}
    for path, a in reference.items():
        difference = np.linalg.norm(np.asarray(actual[path], np.float64) - a)
        errors[path] = float(difference / max(np.linalg.norm(a), FLOOR * total))
    return errors


def assert_close(name: str, error: float, tolerance: float = TOLERANCE):
    """Fails with the name and the error; prints both otherwise (`pytest -s` shows what was reached)."""
    print(f"{name}: relative error {error:.1e}")
    assert error <= tolerance, f"{name}: relative error {error:.2e} above {tolerance:.0e}"
