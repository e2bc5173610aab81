"""Classes of mirrored clips, from class names."""

import numpy as np
import pytest

from cvmae.augment.mirror_labels import mirror_label_sets, mirror_table


def test_names_of_something_something():
    names = (
        "Pushing [something] from left to right",
        "Pulling something from right to left",
        "Turning the camera left while filming something",
        "Putting something upright on the table",
        "Pushing [something] from right to left",
        "Turning the camera RIGHT while filming something",
        "Moving something leftover to the bright side",
    )
    assert mirror_table(names) == (4, -1, 5, 3, 0, 2, 6)


def test_names_of_jester():
    names = ("Swiping Left", "Turning Hand Clockwise", "Swiping Right", "Thumb Up", "Turning Hand Counterclockwise")
    assert mirror_table(names) == (2, 4, 0, 3, 1)
    assert mirror_table(["turning clockwise", "turning counter-clockwise"]) == (-1, -1)  # in another spelling: not flipped


def test_mirroring_twice_gives_the_class_itself():
    names = [f"{verb} from {a} to {b}" for verb in ("Pulling", "Pushing") for a, b in (("left", "right"), ("right", "left"))]
    table = mirror_table(names)
    assert table == (1, 0, 3, 2)
    assert [table[other] for other in table] == list(range(4))
    assert mirror_table([]) == ()


def test_names_that_differ_in_case_only_are_refused():
    with pytest.raises(ValueError, match="classes 0 and 2 have one name, 'Turning Left'"):
        mirror_table(["turning left", "turning right", "Turning Left"])


def test_sets_of_labels_are_mirrored_class_by_class():
    mirror = (1, 0, 2, -1)  # left, right, neither, no mirrored class
    sets = np.array([[1, 0, 1, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 0]], bool)
    table, rows = mirror_label_sets(sets, mirror)
    np.testing.assert_array_equal(table[:4], sets)
    np.testing.assert_array_equal(table[4:], [[False, True, True, False]])
    assert rows == (4, 1, -1, 3, 0)


def test_no_sets_have_no_mirrors():
    table, rows = mirror_label_sets(np.zeros((0, 3), bool), (0, 1, 2))
    assert table.shape == (0, 3) and rows == ()
