import csv

import numpy as np
import pytest

from cvmae.data.bad_files import REPORT_BYTES, BadDataError, BadFiles, pack_failures, unpack_failures


def batch(*rows):
    return np.stack([pack_failures(list(row)) for row in rows])


def listed(folder):
    with open(folder / "bad_files.csv", encoding="utf-8", newline="") as file:
        return [(row["path"], row["reason"]) for row in csv.DictReader(file)]


def test_packed_failures_round_trip():
    pairs = [("vidéos/a, b.mp4", 'the "moov" is missing'), ("c.mp4", "ends early")]
    reports = batch([], pairs, [], [("d", "e")])
    assert reports.shape == (4, REPORT_BYTES) and reports.dtype == np.uint8 and not reports[0].any()
    assert unpack_failures(reports) == [*pairs, ("d", "e")]


@pytest.mark.parametrize("letter", ["x", "é", "\U0001f3a5", '"'])
def test_texts_too_long_keep_the_end_of_the_name(letter):
    [(name, reason)] = unpack_failures(batch([(letter * 900 + "/end.mp4", "why " + letter * 900)]))
    assert name.endswith("/end.mp4") and reason.startswith("why")
    assert unpack_failures(batch([("n" * 200, "r" * 200)] * 8)) == [("n" * 200, "r" * 160)]


def test_each_file_is_listed_once_and_clips_are_counted(tmp_path):
    bad = BadFiles(tmp_path, total=10, max_fraction=0.5)
    assert bad.update(batch([], [])) == 0
    assert not (tmp_path / "bad_files.csv").exists()
    assert bad.update(batch([("a", "x")], [], [("b", "y"), ("a", "x")])) == 2
    assert bad.update(batch([("a", "x")])) == 1
    assert listed(tmp_path) == [("a", "x"), ("b", "y")] and len(bad) == 2


def test_a_restart_continues_the_list(tmp_path):
    BadFiles(tmp_path, 10, 0.5).update(batch([("a", "x, y")]))
    again = BadFiles(tmp_path, 10, 0.5)
    assert len(again) == 1
    again.update(batch([("a", "x, y")], [("b", "z")]))
    assert listed(tmp_path) == [("a", "x, y"), ("b", "z")]


def test_files_that_ended_a_run_end_it_again_until_they_are_repaired(tmp_path):
    rows = batch([("a", "x")], [("b", "y")])
    for _ in range(2):
        with pytest.raises(BadDataError, match=r"2 of 10 videos.*a \(x\); b \(y\)\. The full list"):
            BadFiles(tmp_path, 10, 0.1).update(rows)
    repaired = BadFiles(tmp_path, 10, 0.1)
    assert repaired.update(rows[:1]) == 1 and listed(tmp_path) == [("a", "x"), ("b", "y")]


def test_new_files_are_announced_once(tmp_path, capsys):
    for _ in range(2):
        bad = BadFiles(tmp_path, 10, 0.5, announced="these clips")
        bad.update(batch([("a", "x")], [("a", "x")]))
    assert (
        capsys.readouterr().err
        == f"note: these clips: cannot be read, and left out: a (x); {tmp_path}/bad_files.csv lists them\n"
    )


def test_above_the_limit_the_error_names_files_and_remedies(tmp_path):
    bad = BadFiles(tmp_path, total=10, max_fraction=0.2)
    bad.update(batch([("a", "x")], [("b", "y")], [("b", "another reason")]))  # 2 of 10 is not above
    with pytest.raises(BadDataError, match=r"3 of 10 videos.*data.max_bad_fraction=0.2.*a \(x\).*raise data.max_bad_fraction"):
        bad.update(batch([("c", "z")]))
    assert ("c", "z") in listed(tmp_path)


def test_a_limit_of_zero_stops_at_the_first(tmp_path):
    with pytest.raises(BadDataError, match="1 of 1000"):
        BadFiles(tmp_path, 1000, 0.0).update(batch([("a", "x")]))
