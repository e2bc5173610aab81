"""Baselines on sets of short clips: what shuffling leaves, which clips are fitted on, and accuracies against scikit-learn's own."""

import csv
import itertools
import pathlib

import numpy as np
import pytest
from sklearn import linear_model

from cvmae.data import baselines, clip_files, motion
from cvmae.data.baselines import __main__ as command
from cvmae.data.baselines import features, logistic
from cvmae.data.motion import build
from tests.commands import run_own


def _rows(manifest):
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_shuffled_clips_have_orders_of_their_own():
    clips = np.zeros((200, 8, 32, 32, 3), np.uint8)
    clips[:] = 2 ** np.arange(8)[:, None, None, None]
    clips[:, 0, 0, 0, 0] = np.arange(200)  # no two clips are equal
    steps = np.rint(features.shuffled_difference(clips).reshape(200, 7, 16, 16)[..., -1, -1] * 255)
    pairs = {2**b - 2**a: {a, b} for a, b in itertools.combinations(range(8), 2)}  # the frames that a step is between
    paths = [[pairs[int(step)] for step in clip] for clip in steps]
    assert all(set.union(*path) == set(range(8)) for path in paths)
    assert all(one & two for path in paths for one, two in itertools.pairwise(path))
    assert len({tuple(clip) for clip in steps}) > 190
    # In a random order 2 of 8 neighbours were neighbours before.
    assert 0.2 < np.mean([max(pair) - min(pair) == 1 for path in paths for pair in path]) < 0.3
    # The order is the clip's own: it depends neither on the run nor on the clips beside it.
    np.testing.assert_array_equal(features.shuffled_difference(clips[150:]), features.shuffled_difference(clips)[150:])


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
    monkeypatch.setattr(logistic, "_READ_AT_ONCE", 32)
    found = baselines.accuracies(manifest, ("brightness",), 1e-2, seeds=3, clips=40)["brightness"][0]

    rows, folder = _rows(manifest), pathlib.Path(manifest).parent
    clips = {s: np.stack([clip_files.read(folder / r["path"]) for r in rows if r["split"] == s]) for s in build.SPLITS}
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


def _write_set(folder, labels=("dark", "bright")):
    """Writes clips of two classes that differ in brightness; in the split `swapped` the labels are exchanged."""
    rows = []
    for split, is_swapped, count in (("train", False, 6), ("test", False, 4), ("swapped", True, 4)):
        for number in range(count):
            frames = np.full((4, 16, 16, 3), 60 if (number % 2 == 0) else 200, np.uint8) + np.uint8(number)
            clip_files.write(folder / f"{split}{number}.mp4", frames, fps=8, quantizer=20)
            rows.append([f"{split}{number}.mp4", labels[(number % 2) ^ is_swapped], split])
    with open(folder / "set.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["path", "label", "split"], *rows])
    return folder / "set.csv"


def test_one_fit_is_scored_on_several_splits(tmp_path, capsys):
    manifest = _write_set(tmp_path)
    wanted = {name: [[1.0], [0.0]] for name in ("first frame", "order-free", "ordered frames")}
    got = baselines.accuracies(manifest, wanted, side=4, test_splits=("test", "swapped"))
    assert {name: values.tolist() for name, values in got.items()} == wanted
    words = (f"--manifest={manifest}", "--test_splits=test,swapped", "--features=first frame,ordered frames", "--side=4")
    assert run_own(command, *words) == 0
    head, columns, chance, *lines = capsys.readouterr().out.splitlines()
    assert head.startswith("6 training and 4 test and 4 swapped clips") and columns.split() == ["test", "swapped"]
    assert chance.split() == ["chance", "50.0", "50.0"]
    assert [line.split()[-2:] for line in lines] == [["100.0", "0.0"]] * 2


@pytest.mark.parametrize("name", [name for name in baselines.FEATURES if name != "optical flow"])
def test_the_side_is_that_of_the_frames(name):
    clips = np.random.default_rng(0).integers(0, 256, (2, 5, 32, 32, 3), dtype=np.uint8)
    assert 4 * baselines.FEATURES[name](clips, side=8).shape[1] == baselines.FEATURES[name](clips, side=16).shape[1]
    assert len(np.unique(baselines.FEATURES[name](clips, side=8), axis=0)) == 2


def test_frames_that_order_does_not_reach_and_those_that_it_does():
    clips = np.random.default_rng(0).integers(0, 256, (3, 6, 32, 32, 3), dtype=np.uint8)
    for name, knows_order in (("order-free", False), ("ordered frames", True), ("ordered frame difference", True)):
        both = baselines.FEATURES[name](clips), baselines.FEATURES[name](clips[:, ::-1])
        assert np.allclose(*both, atol=1e-6) != knows_order, name
    frames = baselines.FEATURES["ordered frames"](clips, side=32).reshape(clips.shape)
    np.testing.assert_allclose(frames, clips / 255, atol=1e-6)


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "--manifest is missing"),
        (["--manifest=absent.csv"], "absent.csv"),
        (
            ["--manifest={tmp}/set.csv", "--test_splits=val"],
            "no clip has split 'val'; the splits there are: swapped, test, train",
        ),
        (["--manifest={tmp}/set.csv", "--features=sound"], "unknown feature 'sound'; known: first frame"),
        (["--manifest={tmp}/other.csv"], "other.csv:1: the header lacks label; expected a CSV with path, label, split"),
        (["--manifest={tmp}/sizes.csv"], "big.mp4: frames, height and width are (4, 32, 32), of others (4, 16, 16)"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(tmp_path, capsys, words, message):
    rows = _write_set(tmp_path).read_text()
    (tmp_path / "other.csv").write_text("path,split\na.mp4,train\n")
    clip_files.write(tmp_path / "big.mp4", np.zeros((4, 32, 32, 3), np.uint8), fps=8, quantizer=20)
    (tmp_path / "sizes.csv").write_text(rows + "big.mp4,dark,train\n")
    assert run_own(command, *(word.format(tmp=tmp_path) for word in words)) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]
