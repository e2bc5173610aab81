"""Several labels a clip: average precision by hand and as scikit-learn's, the vote for each label, and relevance by any label."""

import math

import numpy as np
import pytest
from sklearn import metrics

from cvmae.evaluation import multi_label
from cvmae.evaluation.knn import multi_label_knn_report
from cvmae.evaluation.multi_label import average_precisions, label_rows, labels_of, mean_average_precision
from cvmae.evaluation.retrieval import same_class


def made(seed=0, n=60, classes=5):
    draw = np.random.default_rng(seed)
    labels = draw.random((n, classes)) < 0.3
    labels[:, 2] = False  # a class that no clip has
    scores = np.round(draw.random((n, classes)) + 0.4 * labels, 2).astype(np.float32)  # with ties
    return scores, labels


def test_average_precision_by_hand():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.9], [0.6, 0.3]])
    labels = np.array([[True, False], [False, True], [True, True], [False, True]])
    # Class 0: hits at ranks 1 and 3. Class 1: hits at ranks 1, 2 and 3.
    np.testing.assert_allclose(average_precisions(scores, labels), [(1 + 2 / 3) / 2, 1.0])
    assert mean_average_precision(scores, labels) == pytest.approx((5 / 6 + 1) / 2)


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_and_map_are_scikit_learns(seed):
    scores, labels = made(seed)
    keep, classes = labels.any(1), [0, 1, 3, 4]
    expected = metrics.average_precision_score(labels[keep][:, classes], scores[keep][:, classes], average=None)
    found = average_precisions(scores, labels)
    np.testing.assert_array_equal(found[classes], expected)
    assert np.isnan(found[2])
    macro = metrics.average_precision_score(labels[keep][:, classes], scores[keep][:, classes], average="macro")
    assert mean_average_precision(scores, labels) == pytest.approx(macro, rel=1e-12)


def test_clips_without_a_label_are_left_out():
    scores, labels = made()
    more = np.concatenate([scores, np.full((1, 5), np.nan, np.float32)]), np.concatenate([labels, np.zeros((1, 5), bool)])
    np.testing.assert_array_equal(average_precisions(*more), average_precisions(scores, labels))


def test_rows_of_the_table_and_the_file(tmp_path):
    scores, labels = made()
    rows = label_rows(scores, labels, "abcde")
    assert rows[2] == (2, "c", 0, None) and [row.clips for row in rows] == labels.sum(0).tolist()
    multi_label.write_label_csv(tmp_path / "per_class.csv", rows)
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert lines[0] == "class,name,clips,average_precision" and lines[3] == "2,c,0,"
    assert lines[1] == f"0,a,{labels[:, 0].sum()},{average_precisions(scores, labels)[0]:.4f}"


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        (np.zeros((2, 3)), np.zeros((2, 2), bool), "expected scores .n, C. and labels int8 or bool .n, C."),
        (np.zeros((2, 3)), np.zeros((2, 3)), "expected scores"),
        (np.zeros((2, 3)), np.zeros((2, 3), bool), "none of the 2 clips has a class"),
        (np.full((2, 3), np.nan), np.ones((2, 3), bool), "scores of row 0 are not finite: 2 such rows"),
    ],
)
def test_what_cannot_be_scored_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        average_precisions(scores, labels)
    with pytest.raises(ValueError, match="there are 5 classes but 2 class names"):
        label_rows(*made(), "ab")


def test_labels_come_from_rows_of_the_table():
    table = np.array([[True, False], [True, True]])
    found = labels_of([1, -1, 0], table)
    np.testing.assert_array_equal(found, [[1, 1], [-1, -1], [1, 0]])
    assert found.dtype == np.int8


@pytest.mark.parametrize("seed", range(3))
def test_a_clip_of_none_of_the_classes_is_a_negative_of_each_as_in_scikit_learn(seed):
    scores, labels = made(seed)
    known = np.random.default_rng(seed).random(len(labels)) < 0.8  # the others have no label
    signed = np.where(known[:, None], labels.astype(np.int8), np.int8(-1))
    assert (signed == 0).all(1).any()
    classes = [0, 1, 3, 4]
    expected = metrics.average_precision_score(labels[known][:, classes], scores[known][:, classes], average=None)
    np.testing.assert_array_equal(average_precisions(scores, signed)[classes], expected)
    assert (expected != average_precisions(scores, labels & known[:, None])[classes]).any()  # they are no clips without a label
    found = multi_label_knn_report(np.eye(60), signed, np.eye(60), signed, (60,), math.inf)
    share = np.tile(labels[known].mean(0), (known.sum(), 1))
    assert found["mAP/k=60"] == pytest.approx(metrics.average_precision_score(labels[known][:, classes], share[:, classes]))


def test_every_neighbor_votes_for_each_of_its_labels():
    train = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [1.0, 0.01]])
    train_labels = np.array([[True, True, False], [False, True, False], [False, False, True], [False, False, False]])
    test = np.array([[1.0, 0.1], [0.1, 1.0]])
    test_labels = np.array([[True, True, False], [False, False, True]])
    found = multi_label_knn_report(train, train_labels, test, test_labels, (1, 2, 50), math.inf)
    assert list(found) == ["mAP/k=1", "mAP/k=2", "mAP/k=50"]
    # k=1: votes (1, 1, 0) and (0, 0, 1). k=2: (1/2, 1, 0) and (0, 1/2, 1/2). All three: every test clip has the same votes.
    assert found["mAP/k=1"] == found["mAP/k=2"] == 1.0
    assert found["mAP/k=50"] == pytest.approx(0.5)


def test_weights_of_the_vote_are_those_of_one_label_a_clip():
    draw = np.random.default_rng(0)
    train, test = draw.normal(size=(40, 6)), draw.normal(size=(30, 6))
    train_labels, test_labels = draw.random((40, 4)) < 0.4, draw.random((30, 4)) < 0.4
    unit, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, test))
    voters = np.flatnonzero(train_labels.any(1))
    scores = np.zeros((30, 4))
    for row, query in enumerate(queries):
        similarity = unit[voters] @ query
        for i in np.argsort(-similarity)[:7]:
            scores[row] += math.exp(similarity[i] / 0.1) * train_labels[voters[i]]
        scores[row] /= sum(math.exp(s / 0.1) for s in np.sort(similarity)[-7:])
    found = multi_label_knn_report(train, train_labels, test, test_labels, (7,), 0.1)
    assert found["mAP/k=7"] == pytest.approx(mean_average_precision(scores, test_labels), rel=1e-6)


@pytest.mark.parametrize("ks, temperature, message", [((0,), 0.1, "k of 1 or more"), ((1,), 0.0, "above 0")])
def test_a_vote_that_cannot_be_counted_is_refused(ks, temperature, message):
    labels = np.ones((2, 2), bool)
    with pytest.raises(ValueError, match=message):
        multi_label_knn_report(np.eye(2), labels, np.eye(2), labels, ks, temperature)
    with pytest.raises(ValueError, match="no training clip has a label"):
        multi_label_knn_report(np.eye(2), ~labels, np.eye(2), labels)


GALLERY = np.array([[1.0, 0.0], [0.9, 0.1], [0.5, 0.5], [0.0, 1.0]])
GALLERY_LABELS = np.array([[False, False, True], [True, True, False], [False, True, False], [False, False, False]])


def test_a_clip_is_relevant_if_it_shares_a_label():
    queries = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    labels = np.array([[True, True, False], [False, True, True], [False, False, False], [False, False, True]])
    found = same_class(queries, labels, GALLERY, GALLERY_LABELS)
    # Of the three labeled gallery clips. Query 0: order 0, 1, 2, relevant 1, 2. Query 1: order 2, 1, 0, all relevant. Query 3: 0.
    assert found["r1"] == pytest.approx(2 / 3) and found["queries"] == 3 and found["left_out"] == 0
    assert found["map"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1 + 1) / 3) and found["median_rank"] == 1


def test_queries_that_share_nothing_are_counted():
    labels = np.array([[True, False, False, False], [False, False, False, True]])
    gallery = np.pad(GALLERY_LABELS, [(0, 0), (0, 1)])
    assert same_class(GALLERY[:2], labels, GALLERY, gallery)["left_out"] == 1
    found = same_class(GALLERY, gallery, GALLERY, gallery, exclude_self=True)  # clip 0 alone has its label
    assert found["queries"] == 2 and found["left_out"] == 1


def test_one_label_each_is_retrieval_by_class():
    draw = np.random.default_rng(3)
    queries, gallery = draw.normal(size=(20, 8)), draw.normal(size=(30, 8))
    labels, gallery_labels = draw.integers(-1, 4, 20), draw.integers(-1, 3, 30)
    hot, gallery_hot = (labels_of(rows, np.eye(4, dtype=bool)) for rows in (labels, gallery_labels))
    assert same_class(queries, hot, gallery, gallery_hot) == same_class(queries, labels, gallery, gallery_labels)
    with pytest.raises(ValueError, match="expected features"):
        same_class(queries, hot[:, :0], gallery, gallery_hot[:5])
