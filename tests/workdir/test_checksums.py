"""Checksums of arrays: the same on the host and on devices and for every sharding, another for every changed bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.workdir import checksums

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (0, 4)])
def test_host_and_device_agree(dtype, shape):
    array = jnp.asarray(np.random.default_rng(0).normal(size=shape) * 100).astype(dtype)
    assert int(checksums._sum(array)) == checksums._sum_on_host(array) == checksums._sum_on_host(np.asarray(array))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_counts(dtype):
    array = np.asarray(jnp.asarray([1, 2, 3]).astype(dtype))
    expected = checksums.of_arrays({"a": array})
    for byte in range(array.nbytes):
        for bit in range(8):
            changed = bytearray(array.tobytes())
            changed[byte] ^= 1 << bit
            assert checksums.of_arrays({"a": np.frombuffer(bytes(changed), array.dtype)}) != expected


def test_a_known_sum():
    # 1.0 is 0x3f800000, -1.0 is 0xbf800000: their sum is 0xff000000.
    assert checksums.of_arrays({"a": np.array([1.0, -1.0], np.float32)}) == {"/a": 0xFF000000}


def test_what_is_no_array_of_words_is_left_out():
    tree = {"key": jax.random.key(0), "wide": np.ones(3), "flag": np.array(True), "kept": jnp.ones(2)}
    assert set(checksums.of_arrays(tree)) == {"/kept"}


def test_positions_are_compared_by_value():
    position = {"step": 4, "seconds": 0.1, "task": "pretrain"}
    assert checksums.of_position(position) == checksums.of_position(dict(reversed(position.items())))
    assert checksums.of_position(position) != checksums.of_position(position | {"step": 5})
