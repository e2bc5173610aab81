"""Accuracies against scikit-learn and plain numpy."""

import csv

import numpy as np
import pytest
from sklearn import metrics

from cvmae.evaluation import classification


def made(n=200, classes=8, absent=(), seed=0):
    """Probabilities that lean to the label, and labels of which those `absent` do not occur."""
    draw = np.random.default_rng(seed)
    labels = draw.choice([c for c in range(classes) if c not in absent], n)
    logits = draw.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities.astype(np.float32), labels


def names(classes):
    return [f"class {c}" for c in range(classes)]


def with_unlabeled(probabilities, labels):
    """The same with clips in between that have no label."""
    places = np.arange(0, len(labels), 3)
    return np.insert(probabilities, places, probabilities[places], axis=0), np.insert(labels, places, -1)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_top_k_equals_scikit_learn(k):
    probabilities, labels = made()
    expected = metrics.top_k_accuracy_score(labels, probabilities, k=k, labels=np.arange(8))
    assert classification.top_k_accuracy(probabilities, labels, k) == pytest.approx(expected)
    assert classification.top_k_accuracy(*with_unlabeled(probabilities, labels), k) == pytest.approx(expected)
    assert 0.2 < expected < 1


def test_ties_go_to_the_lower_class():
    probabilities = np.tile([0.1, 0.3, 0.3, 0.3], (4, 1))
    found = [classification.top_k_accuracy(probabilities, np.array([label]).repeat(4), 2) for label in range(4)]
    assert found == [0, 1, 1, 0]
    draw = np.random.default_rng(0)
    coarse, labels = draw.integers(0, 3, (300, 6)) / 2, draw.integers(0, 6, 300)
    order = np.argsort(-coarse, axis=1, kind="stable")
    for k in (1, 3):
        expected = (order[:, :k] == labels[:, None]).any(1).mean()
        assert classification.top_k_accuracy(coarse, labels, k) == pytest.approx(expected)
    assert classification.top_k_accuracy(coarse, labels, 1) == pytest.approx((coarse.argmax(1) == labels).mean())


@pytest.mark.parametrize("absent", [(), (0, 5)])
def test_mean_class_accuracy_equals_balanced_accuracy_of_scikit_learn(absent):
    probabilities, labels = made(absent=absent)
    probabilities[:, list(absent)] = 0  # scikit-learn warns about predictions of classes without a clip
    expected = metrics.balanced_accuracy_score(labels, probabilities.argmax(1))
    assert classification.mean_class_accuracy(probabilities, labels) == pytest.approx(expected)
    assert classification.mean_class_accuracy(*with_unlabeled(probabilities, labels)) == pytest.approx(expected)
    assert expected != pytest.approx((probabilities.argmax(1) == labels).mean())


def test_the_confusion_matrix_counts_true_rows_and_predicted_columns():
    probabilities, labels = made(absent=(3,))
    found = classification.confusion_matrix(*with_unlabeled(probabilities, labels))
    expected = np.zeros((8, 8), np.int64)
    np.add.at(expected, (labels, probabilities.argmax(1)), 1)
    assert found.dtype == np.int64 and not np.array_equal(expected, expected.T)
    np.testing.assert_array_equal(found, expected)


def test_rows_of_classes_agree_with_scikit_learn():
    probabilities, labels = made(absent=(3,))
    rows = classification.per_class_rows(*with_unlabeled(probabilities, labels), names(8))
    recalls = metrics.recall_score(labels, probabilities.argmax(1), average=None, labels=np.arange(8), zero_division=0)
    for number, row in enumerate(rows):
        own = labels == number
        assert row[:3] == (number, f"class {number}", own.sum())
        if not own.any():
            assert row[3:] == (None, None, "") and number == 3
            continue
        assert row.top1 == pytest.approx(recalls[number])
        top5 = (np.argsort(-probabilities[own], axis=1)[:, :5] == number).any(1).mean()
        assert row.top5 == pytest.approx(top5)
        wrong = np.bincount(probabilities[own].argmax(1), minlength=8)
        wrong[number] = 0
        assert row.most_confused_with == f"class {wrong.argmax()}"


def test_a_class_that_is_never_mistaken_is_confused_with_none():
    rows = classification.per_class_rows(np.eye(3), np.arange(3), names(3))
    assert [row.most_confused_with for row in rows] == ["", "", ""] and all(row.top1 == 1 for row in rows)


def test_the_csv_holds_the_rows_and_nothing_half_written(tmp_path):
    path = tmp_path / "classes.csv"
    titles = ['Putting "a", then b', "Öffnen", "zip, unzip", "none"]
    rows = classification.per_class_rows(*made(classes=4, absent=(3,)), titles)
    classification.write_per_class_csv(path, rows)
    with open(path, encoding="utf-8", newline="") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == ["class", "name", "clips", "top1", "top5", "most_confused_with"]
    assert [line["name"] for line in read] == titles
    assert [int(line["clips"]) for line in read] == [row.clips for row in rows]
    assert float(read[0]["top1"]) == pytest.approx(rows[0].top1, abs=5e-5)
    assert read[3] == {"class": "3", "name": "none", "clips": "0", "top1": "", "top5": "", "most_confused_with": ""}
    whole = path.read_bytes()
    with pytest.raises(TypeError):
        classification.write_per_class_csv(path, [rows[0], None])
    assert path.read_bytes() == whole


def test_the_summary_has_it_all():
    probabilities, labels = made()
    found = classification.summarize(*with_unlabeled(probabilities, labels), names(8))
    assert found == {
        "top1": pytest.approx(metrics.accuracy_score(labels, probabilities.argmax(1))),
        "top5": pytest.approx(metrics.top_k_accuracy_score(labels, probabilities, k=5, labels=np.arange(8))),
        "mean_class_accuracy": pytest.approx(metrics.balanced_accuracy_score(labels, probabilities.argmax(1))),
        "clips": 200,
    }
    assert all(isinstance(value, float) for value in found.values())


def test_top5_of_fewer_classes_takes_them_all():
    assert classification.summarize(*made(classes=3), names(3))["top5"] == 1


def test_bad_arrays_are_named():
    probabilities, labels = made(n=10)
    with pytest.raises(ValueError, match=r"\[n, C\] and labels \[n\], not \(10, 8\) and \(9,\)"):
        classification.top_k_accuracy(probabilities, labels[1:], 1)
    with pytest.raises(ValueError, match="row 0 has the label 8, but there are 8 classes"):
        classification.confusion_matrix(probabilities, np.full(10, 8))
    with pytest.raises(ValueError, match="must be integers"):
        classification.top_k_accuracy(probabilities, labels.astype(float), 1)
    with pytest.raises(ValueError, match="none of the 10 clips has a label"):
        classification.summarize(probabilities, np.full(10, -1), names(8))
    with pytest.raises(ValueError, match="8 classes but 7 class names"):
        classification.summarize(probabilities, labels, names(7))
    with pytest.raises(ValueError, match="8 classes but 9 class names"):
        classification.per_class_rows(probabilities, labels, names(9))
    with pytest.raises(ValueError, match="k of 1 or more"):
        classification.top_k_accuracy(probabilities, labels, 0)
    labels[2], probabilities[4, 1] = -1, np.nan
    with pytest.raises(ValueError, match="row 4 are not finite"):
        classification.top_k_accuracy(probabilities, labels, 1)
