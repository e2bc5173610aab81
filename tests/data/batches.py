"""Comparison of the batches of two loaders."""

import numpy as np


def assert_same_batches(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key], err_msg=key)
