"""Baselines on `motion`: what shuffling leaves, which clips are fitted on, and accuracies against scikit-learn's own."""

import csv
import itertools
import pathlib

import numpy as np
import pytest
from sklearn import linear_model

from cvmae.data import motion
from cvmae.data.motion import baselines, build, video


def _rows(manifest):
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_shuffled_clips_have_orders_of_their_own():
    clips = np.zeros((200, 8, 32, 32, 3), np.uint8)
    clips[:] = 2 ** np.arange(8)[:, None, None, None]
    clips[:, 0, 0, 0, 0] = np.arange(200)  # no two clips are equal
    steps = np.rint(baselines.shuffled_difference(clips).reshape(200, 7, 16, 16)[..., -1, -1] * 255)
    pairs = {2**b - 2**a: {a, b} for a, b in itertools.combinations(range(8), 2)}  # the frames that a step is between
    paths = [[pairs[int(step)] for step in clip] for clip in steps]
    assert all(set.union(*path) == set(range(8)) for path in paths)
    assert all(one & two for path in paths for one, two in itertools.pairwise(path))
    assert len({tuple(clip) for clip in steps}) > 190
    # In a random order 2 of 8 neighbours were neighbours before.
    assert 0.2 < np.mean([max(pair) - min(pair) == 1 for path in paths for pair in path]) < 0.3
    # The order is the clip's own: it depends neither on the run nor on the clips beside it.
    np.testing.assert_array_equal(baselines.shuffled_difference(clips[150:]), baselines.shuffled_difference(clips)[150:])


def test_draws_are_balanced_and_differ():
    labels = np.array(["a"] * 50 + ["b"] * 30 + ["c"] * 4)
    drawn = baselines.draws(labels, 24, 3)
    for records in drawn:
        assert len(set(records)) == 24
        assert [int((labels[records] == name).sum()) for name in "abc"] == [10, 10, 4]
    assert len({frozenset(records) for records in drawn}) == 3
    again = baselines.draws(labels, 24, 2)
    assert all(np.array_equal(a, b) for a, b in zip(again, drawn))
    for clips in (0, 84, 1600):
        (records,) = baselines.draws(labels, clips, 3)
        np.testing.assert_array_equal(records, np.arange(84))


@pytest.mark.parametrize(("clips", "seeds", "message"), [(2, 1, "fewer than the 3 classes"), (-1, 1, "fewer"), (0, 0, "seeds=0")])
def test_bad_draws(clips, seeds, message):
    with pytest.raises(ValueError, match=message):
        baselines.draws(np.array(["a", "b", "c"]), clips, seeds)


def test_accuracies_over_several_draws(tmp_path, monkeypatch):
    manifest, computed = motion.prepare("easy", tmp_path, 80, 40), []

    def brightness(clips):
        computed.extend(clip.tobytes() for clip in clips)
        return clips.mean((2, 3), dtype=np.float64).reshape(len(clips), -1)

    monkeypatch.setitem(baselines.FEATURES, "brightness", brightness)
    monkeypatch.setattr(baselines, "_READ_AT_ONCE", 32)
    found = baselines.accuracies(manifest, ("brightness",), 1e-2, seeds=3, clips=40)["brightness"]

    rows, folder = _rows(manifest), pathlib.Path(manifest).parent
    clips = {s: np.stack([video.read(folder / r["path"]) for r in rows if r["split"] == s]) for s in build.SPLITS}
    labels = {s: np.array([r["label"] for r in rows if r["split"] == s]) for s in build.SPLITS}
    drawn = baselines.draws(labels["train"], 40, 3)
    used = sorted(set(np.concatenate(drawn)))
    wanted_clips = [clip.tobytes() for clip in (*clips["train"][used], *clips["test"])]
    assert 40 < len(used) < 80 and sorted(computed) == sorted(wanted_clips)  # each of them once

    x = {s: clips[s].mean((2, 3), dtype=np.float64).reshape(len(clips[s]), -1) for s in build.SPLITS}
    wanted = []
    for records in drawn:
        mean, std = x["train"][records].mean(0), x["train"][records].std(0)
        model = linear_model.LogisticRegression(C=0.01, max_iter=300, tol=1e-2)
        model.fit((x["train"][records] - mean) / std, labels["train"][records])
        wanted.append(np.mean(model.predict((x["test"] - mean) / std) == labels["test"]))
    np.testing.assert_allclose(found, wanted, atol=0.026)  # one clip of 40 may fall on the other side
    assert len(set(found)) > 1

    head, chance, line = baselines.table(manifest, 3, 40, names=("brightness",), tolerance=1e-2).splitlines()
    assert head.startswith("40 of 80 training and 40 test clips") and "3 draws" in head and chance.split() == ["chance", "25.0"]
    deviation = (sum((value - sum(found) / 3) ** 2 for value in found) / 2) ** 0.5
    assert line.split() == ["brightness", f"{100 * sum(found) / 3:.1f}", "±", f"{100 * deviation:.1f}"]
    head, _, line = baselines.table(manifest, names=("brightness",), tolerance=1e-2).splitlines()
    assert head.startswith("80 training and 40 test clips") and "±" not in head + line
