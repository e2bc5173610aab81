"""Stamps of weights: others where the weights are, the same for a copy."""

import os
import shutil

import numpy as np

from cvmae.workdir.weights_stamp import weights_stamp


def random_bytes(seed, size=1_000_000):
    return np.random.default_rng(seed).bytes(size)


def test_a_file_of_other_weights_has_another_stamp_and_a_copy_the_same(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(random_bytes(0))
    first = weights_stamp(str(path))
    shutil.copy(path, tmp_path / "copy.pth")
    os.utime(path, (0, 0))
    assert weights_stamp(str(path)) == weights_stamp(str(tmp_path / "copy.pth")) == first
    path.write_bytes(random_bytes(1))
    assert weights_stamp(str(path)) not in ("", first)
    changed = bytearray(random_bytes(0))
    changed[-1] ^= 1
    path.write_bytes(changed)
    assert weights_stamp(str(path)) not in ("", first)


def test_of_a_folder_the_weights_count_and_not_what_is_beside_them(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(random_bytes(0))
    first = weights_stamp(str(tmp_path))
    (tmp_path / "README.md").write_text("of these weights")
    assert weights_stamp(str(tmp_path)) == first
    (tmp_path / "model.safetensors").write_bytes(random_bytes(1))
    assert weights_stamp(str(tmp_path)) not in ("", first)


def test_of_a_workdir_the_newest_checkpoint_counts(tmp_path):
    def write(step, seed):
        file = tmp_path / "checkpoints" / str(step) / "state" / "d" / "0"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(random_bytes(seed, 100))

    write(9, 0)
    write(10, 0)
    first = weights_stamp(str(tmp_path))
    write(9, 1)
    assert weights_stamp(str(tmp_path)) == first
    write(10, 1)
    second = weights_stamp(str(tmp_path))
    write(11, 1)
    assert len({first, second, weights_stamp(str(tmp_path))}) == 3


def test_what_is_not_on_this_disk_has_none(tmp_path):
    for path in (str(tmp_path), str(tmp_path / "none"), "gs://bucket/weights", "facebook/dinov2-base", "a\0b"):
        assert weights_stamp(path) == ""
