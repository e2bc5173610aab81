"""Accuracy of logistic regression on features of clips, fitted on one split of a manifest and tested on others."""

from __future__ import annotations

import csv
import fractions
import functools
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cvmae.data import clip_files, subset
from cvmae.data.baselines.features import FEATURES

_READ_AT_ONCE = 256  # clips: keeps the memory small, whatever the size of the set
_COLUMNS = ("path", "label", "split")


def draws(labels: np.ndarray, clips: int, seeds: int) -> list[np.ndarray]:
    """Draws the records to fit on, randomly and as evenly over the classes as possible, once for each seed 0, 1, ...

    If all records are to be used (`clips` is 0, or not below their number), there is one draw, since others would be equal.

    Args:
      labels: [N], of the training split.
      clips: number of records in a draw; 0 = all.
      seeds: number of draws.

    Returns:
      Indices of records, int64 [clips], for each draw.

    Raises:
      ValueError: `seeds` is below 1, or `clips` is below the number of classes.
    """
    names, numbers = np.unique(labels, return_inverse=True)
    if seeds < 1:
        raise ValueError(f"baselines: seeds={seeds}: at least one draw of the training clips is needed")
    if clips and clips < len(names):
        raise ValueError(f"baselines: clips={clips} is fewer than the {len(names)} classes (0 means all training clips)")
    if not clips or clips >= len(labels):
        return [np.arange(len(labels))]
    shuffles = [np.random.default_rng(seed).permutation(len(labels)) for seed in range(seeds)]
    part = subset.Slice("train", fractions.Fraction(0), fractions.Fraction(clips), percent=False)
    return [shuffle[subset.choose(numbers[shuffle], part)] for shuffle in shuffles]


def accuracies(
    manifest: str | os.PathLike[str],
    names: Iterable[str] = tuple(FEATURES),
    tolerance: float = 1e-4,
    seeds: int = 1,
    clips: int = 0,
    *,
    side: int = 0,
    split: str = "train",
    test_splits: Sequence[str] = ("test",),
) -> dict[str, np.ndarray]:
    """Returns the test accuracy of logistic regression on each named feature, fitted on the training split or draws of it.

    Features are computed once, and only for clips that are in some draw.

    Args:
      manifest: path of a CSV with the columns path, label and split, whose clips have equal numbers of frames of equal size.
      names: keys of FEATURES.
      tolerance: of the fit; 1e-2 is many times faster and changes the accuracy by one or two points.
      seeds: number of fits, each on another draw of training clips (see `draws`) and scored on all test clips.
      clips: number of training clips in a draw; 0 = all, in one fit.
      side: of the frames that features are made of, pixels; 0 = the default of each feature.
      split: the training split.
      test_splits: the splits to score on.

    Returns:
      The accuracies by name, float64 [splits, fits] in 0..1, with one fit if a draw has all training clips.

    Raises:
      ValueError: see `draws`; or a name, a column or a split does not exist, or clips differ in shape.
    """
    rows = read_splits(manifest, (split, *test_splits))
    folder = pathlib.Path(manifest).parent
    return _measure(rows, folder, names, tolerance, seeds, clips, side=side, split=split, test_splits=test_splits)


def _measure(
    rows: Mapping[str, Sequence[Mapping[str, str]]],
    folder: pathlib.Path,
    names: Iterable[str],
    tolerance: float,
    seeds: int,
    clips: int,
    *,
    side: int,
    split: str,
    test_splits: Sequence[str],
) -> dict[str, np.ndarray]:
    """Returns the accuracies from the rows of every split, whose paths are relative to `folder`; see `accuracies`."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    names = tuple(names)
    if unknown := [name for name in names if name not in FEATURES]:
        raise ValueError(f"baselines: unknown feature {unknown[0]!r}; known: {', '.join(FEATURES)}")
    labels = {name: np.array([row["label"] for row in split_rows]) for name, split_rows in rows.items()}
    drawn = draws(labels[split], clips, seeds)
    used = np.unique(np.concatenate(drawn))
    compute = functools.partial(_features, folder, names=names, side=side)
    train, tests = compute([rows[split][i] for i in used]), {name: compute(rows[name]) for name in test_splits}
    result = {name: np.zeros((len(test_splits), len(drawn))) for name in names}
    for name in names:
        for number, records in enumerate(drawn):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=300, tol=tolerance))
            model.fit(train[name][np.searchsorted(used, records)], labels[split][records])
            result[name][:, number] = [model.score(tests[test][name], labels[test]) for test in test_splits]
    return result


def table(
    manifest: str | os.PathLike[str],
    seeds: int = 1,
    clips: int = 0,
    *,
    names: Iterable[str] = tuple(FEATURES),
    side: int = 0,
    tolerance: float = 1e-4,
    split: str = "train",
    test_splits: Sequence[str] = ("test",),
) -> str:
    """Returns the accuracies in percent as lines of text, chance first; with several test splits, a column for each.

    For several fits, the mean ± the standard deviation (of a sample: divided by the number of fits less one). Arguments and
    errors are those of `accuracies`.
    """
    rows = read_splits(manifest, (split, *test_splits))
    folder = pathlib.Path(manifest).parent
    chance = 1 / len({row["label"] for row in rows[split]})
    measured = _measure(rows, folder, names, tolerance, seeds, clips, side=side, split=split, test_splits=test_splits)
    result = {"chance": np.full((len(test_splits), 1), chance), **measured}
    fits = max(values.shape[1] for values in result.values())
    train, tests = len(rows[split]), " and ".join(f"{len(rows[name])} {name}" for name in test_splits)
    fitted = f"{train} training" if not clips or clips >= train else f"{clips} of {train} training"
    spread = f", mean ± standard deviation over {fits} draws of the training clips" if fits > 1 else ""
    lines = [f"{fitted} and {tests} clips; accuracy on the {'/'.join(test_splits)} clips in %{spread}"]
    if len(test_splits) > 1:
        lines.append(f"{'':26s} " + "  ".join(f"{name:>12s}" for name in test_splits))
    width = 12 if len(test_splits) > 1 else 0
    lines += [f"{name:26s} " + "  ".join(f"{_percent(row):>{width}s}" for row in values) for name, values in result.items()]
    return "\n".join(lines)


def _percent(values: np.ndarray) -> str:
    text = f"{100 * values.mean():5.1f}"
    return text if len(values) == 1 else f"{text} ± {100 * values.std(ddof=1):.1f}"


def read_splits(manifest: str | os.PathLike[str], splits: Iterable[str]) -> dict[str, list[dict[str, str]]]:
    """Returns the rows of the named splits of a manifest. Raises: ValueError for a missing column or split."""
    with open(manifest, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or ())]:
            raise ValueError(f"{manifest}:1: the header lacks {', '.join(missing)}; expected a CSV with {', '.join(_COLUMNS)}")
        rows = list(reader)
    by_split = {split: [row for row in rows if row["split"] == split] for split in splits}
    for split, split_rows in by_split.items():
        if not split_rows:
            known = ", ".join(sorted({row["split"] for row in rows})) or "none"
            raise ValueError(f"{manifest}: no clip has split {split!r}; the splits there are: {known}")
    return by_split


def _features(folder: pathlib.Path, rows: Sequence[Mapping[str, str]], names: Iterable[str], side: int) -> dict[str, np.ndarray]:
    """Reads the clips of the rows and computes their features, [N, D] for each name."""
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in names}
    shape: tuple[int, ...] = ()
    for start in range(0, len(rows), _READ_AT_ONCE):
        clips = [clip_files.read(folder / row["path"]) for row in rows[start : start + _READ_AT_ONCE]]
        for clip, row in zip(clips, rows[start:]):
            shape = shape or clip.shape
            if clip.shape != shape:
                raise ValueError(f"{folder / row['path']}: frames, height and width are {clip.shape[:3]}, of others {shape[:3]}")
        for name in chunks:
            chunks[name].append(FEATURES[name](np.stack(clips), **({"side": side} if side else {})))
    return {name: np.concatenate(features) for name, features in chunks.items()}
