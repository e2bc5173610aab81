"""The confusion picture says the right shares and names, for few classes and many."""

import matplotlib.axes
import matplotlib.image
import numpy as np
import pytest

from cvmae.visualize.confusion import draw_confusion, most_confused


def counts(classes, seed=0):
    """20 clips a class, about two thirds of them right."""
    draw = np.random.default_rng(seed)
    right = np.eye(classes) * 0.65
    return np.stack([draw.multinomial(20, right[i] + 0.35 * draw.dirichlet(np.full(classes, 0.1))) for i in range(classes)])


@pytest.fixture
def drawn(monkeypatch):
    """What is drawn: the images, the texts, and the tick labels."""
    seen = {"images": [], "texts": [], "points": 0, "labels": []}

    def watch(name, note):
        original = getattr(matplotlib.axes.Axes, name)

        def wrapper(self, *args, **kwargs):
            note(*args)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(matplotlib.axes.Axes, name, wrapper)

    watch("imshow", seen["images"].append)
    watch("text", lambda x, y, text: seen["texts"].append((x, y, text)))
    watch("plot", lambda x, y, style: seen.update(points=list(zip(y, x))))
    watch("set_yticks", lambda ticks, labels=(): seen["labels"].extend(labels))
    return seen


def test_few_classes_are_named_and_their_cells_say_the_share(tmp_path, drawn):
    matrix = np.array([[8, 2, 0], [0, 0, 0], [5, 0, 15]])
    draw_confusion(tmp_path / "c.png", matrix, ["$\\frac$", "turn right", "$x"])  # $\\frac$ is broken mathematics
    np.testing.assert_array_equal(drawn["images"][0], [[0.8, 0.2, 0], [np.nan] * 3, [0.25, 0, 0.75]])
    cells = {(y, x): text for x, y, text in drawn["texts"] if text.endswith("%")}
    assert cells == {(0, 0): "80%", (0, 1): "20%", (0, 2): "0%", (2, 0): "25%", (2, 1): "0%", (2, 2): "75%"}
    assert [label.split("  ") for label in drawn["labels"]] == [["$\\frac$", "0"], ["turn right", "1"], ["$x", "2"]]
    listing = [" ".join(line.split()) for line in drawn["texts"][-1][2].splitlines()]
    assert listing[2:4] == ["5 of 20 (25%) 2 $x", "predicted as 0 $\\frac$"]
    assert listing[4:] == ["2 of 10 (20%) 0 $\\frac$", "predicted as 1 turn right"]


@pytest.mark.parametrize("classes", [4, 25, 174])
def test_a_picture_is_written_for_any_number_of_classes(classes, tmp_path, drawn):
    matrix, names = counts(classes), [f"Pretending to put something number {i} behind something else" for i in range(classes)]
    draw_confusion(tmp_path / "c.png", matrix, names, top=8)
    picture = matplotlib.image.imread(tmp_path / "c.png")
    assert picture.std() > 0.1 and picture.shape[1] > picture.shape[0]
    assert [path.name for path in tmp_path.iterdir()] == ["c.png"]
    assert len(drawn["labels"]) == (classes if classes <= 30 else 0)  # 174 names would hide each other
    worst, listing = most_confused(matrix, 8), drawn["texts"][-1][2]
    assert drawn["points"] == (worst if classes > 30 else 0)
    assert len(listing.splitlines()) == 2 + 2 * len(worst) > 10 and "…" in listing


def test_no_confusion_is_said(tmp_path, drawn):
    draw_confusion(tmp_path / "c.png", np.eye(40, dtype=int), [str(i) for i in range(40)])
    assert drawn["texts"][-1][2].strip() == "no confusions" and drawn["points"] == []


def test_the_most_frequent_confusions_come_first_and_equals_by_number():
    matrix = np.array([[9, 3, 0], [5, 0, 3], [3, 0, 9]])
    assert most_confused(matrix, 10) == [(1, 0), (0, 1), (1, 2), (2, 0)]
    assert most_confused(matrix, 2) == [(1, 0), (0, 1)]
    assert matrix[0, 0] == 9


def test_a_picture_that_fails_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "c.png"
    path.write_bytes(b"old")
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw_confusion(path, np.eye(2, dtype=int), ["a", "b"])
    assert path.read_bytes() == b"old"


def test_what_does_not_fit_is_said(tmp_path):
    for matrix, names in ((np.eye(3), ["a", "b"]), (np.ones((2, 3)), ["a", "b"])):
        with pytest.raises(ValueError, match=r"counts \[C, C\] and C names"):
            draw_confusion(tmp_path / "c.png", matrix, names)
