import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from cvmae.data import sources, subset
from cvmae.data.manifest import UNLABELED
from tests.data.configs import small_config

# 500 of class 0, 60 of class 1, 7 of class 2 and 33 without a label, in any order.
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, UNLABELED], [500, 60, 7, 33])).astype(np.int32)
CHOOSE = "from tests.data.test_subset import *; print(take('train[5%:9%]').tolist())"


def take(split, labels=LABELS):
    return subset.choose(labels, subset.parse_split(split)[1])


def counts(chosen):
    return [int((LABELS[chosen] == label).sum()) for label in (0, 1, 2, UNLABELED)]


def make(split, **changes):
    return sources.make_source(small_config(**changes).data, split)


@pytest.mark.parametrize(
    "split, expected",
    [
        ("train[:1%]", [5, 1, 1, 1]),
        ("train[:10%]", [50, 6, 1, 4]),
        ("train[10%:]", [450, 54, 6, 29]),
        ("train[20%:30%]", [50, 6, 1, 3]),  # of 7 records the second and third tenth: places 2 (1.4 rounded up) to 3
        ("train[:8]", [2, 2, 2, 2]),
        ("train[:400]", [300, 60, 7, 33]),
        ("train[:100]", [31, 31, 7, 31]),
        ("train[8:100]", [29, 29, 5, 29]),
        ("train[:]", [500, 60, 7, 33]),
    ],
)
def test_every_class_has_its_fraction(split, expected):
    chosen = take(split)
    assert counts(chosen) == expected and (np.diff(chosen) > 0).all()


@pytest.mark.parametrize("cuts", [["1%", "10%", "50.5%"], ["1", "13", "400"], [f"{100 * i / 17:.4f}%" for i in range(1, 17)]])
def test_adjacent_slices_cover_every_record_once(cuts):
    slices = [f"train[{low}:{high}]" for low, high in zip(["", *cuts], [*cuts, ""])]
    parts = [take(split) for split in slices]
    assert np.sort(np.concatenate(parts)).tolist() == list(range(len(LABELS)))


def test_larger_slices_hold_smaller_ones():
    for small, large in (("train[:1%]", "train[:5%]"), ("train[:17]", "train[:18]")):
        assert set(take(small)) < set(take(large))


def test_records_of_a_class_are_taken_from_anywhere_in_it():
    chosen = take("train[:50%]", np.zeros(1000, np.int32))
    halves = np.histogram(chosen, bins=10, range=(0, 1000))[0]
    assert len(chosen) == 500 and halves.min() > 30 and halves.max() < 70


def test_the_last_round_favors_no_class():
    labels = np.arange(1000, dtype=np.int32) // 2
    chosen = labels[take("train[:250]", labels)]
    assert len(set(chosen.tolist())) == 250 and 90 < (chosen < 250).sum() < 160


def test_other_processes_choose_the_same():
    here = take("train[5%:9%]").tolist()
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", CHOOSE], capture_output=True, text=True, env=environment)
        assert done.stdout.strip() == str(here), done.stderr


@pytest.mark.parametrize(
    "split, message",
    [
        ("train[10:", "cannot be read: write it like 'train', 'train\\[:1%\\]'"),
        ("train[a:b]", "cannot be read"),
        ("train[5%]", "cannot be read"),
        ("train[-5%:]", "cannot be read"),
        ("[:5%]", "cannot be read"),
        ("train[:5%]x", "cannot be read"),
        ("train[5%:30]", "mixes percent and clips"),
        ("train[:101%]", "goes beyond 100%"),
        ("train[30%:30%]", "is empty: its end is not after its start"),
        ("train[7:7]", "is empty"),
        ("train[:11]", "'train' has 10 clips, fewer than the 11 of its slice"),
        ("train[12:]", "'train' has 10 clips, fewer than the 12"),
        ("train[99.9%:]", "the slice of 'train' holds no clip; the split has 10"),
    ],
)
def test_mistakes_are_named(split, message):
    with pytest.raises(ValueError, match=message):
        make(split)


def test_a_subset_is_its_source_with_fewer_records():
    source, part = make("train", data__synthetic__clips=30), make("train[:20%]", data__synthetic__clips=30)
    numbers = [int(record.name.split("/")[-1]) for record in (part[i] for i in range(len(part)))]
    assert len(part) == 6 and numbers == sorted(numbers) and sorted(part.labels) == [0, 0, 1, 1, 2, 2]
    for index, number in enumerate(numbers):
        assert part[index].label == part.labels[index] == number % 3
        np.testing.assert_array_equal(part[index].payload, source[number].payload)
    copy = pickle.loads(pickle.dumps(part))
    assert copy[3].name == part[3].name and copy.labels.tolist() == part.labels.tolist()


def test_parts_of_manifests(tmp_path):
    rows = [f"{i}.mp4,{['up', 'down', ''][i % 3]},{'train' if i < 24 else 'val'}" for i in range(30)]
    (tmp_path / "l.csv").write_text("path,label,split\n" + "\n".join(rows))
    config = {"data__source": "files", "data__manifest": str(tmp_path / "l.csv")}
    part = make("train[:25%]", **config)
    assert part.class_names == ("down", "up") and sorted(part.labels) == [-1, -1, 0, 0, 1, 1]
    assert part.labels.dtype == np.int32 and [part[i].label for i in range(6)] == part.labels.tolist()
    assert len(make("val[:1%]", **config)) == 3
    with pytest.raises(Exception, match="no video has split 'tain'; the splits there are: train, val"):
        make("tain[:1%]", **config)
