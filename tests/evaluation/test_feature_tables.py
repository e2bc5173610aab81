"""Tables beside features that spreadsheets or people changed: read where their contents are the same, else named by line and column."""

import pytest

from cvmae.evaluation.feature_folder import FeatureFolder
from cvmae.evaluation.feature_reading import FeatureError
from tests.evaluation.conftest import COUNT

TABLES = {"npz": "index.csv", "array_record": "features-00000.csv"}
SAVED = {  # as spreadsheets and editors save a table without a change of its contents
    "mark and line ends": lambda text: "\ufeff" + text.replace("\n", "\r\n"),
    "whole numbers as floats": lambda text: text.replace(",3,", ",3.0,").replace(",3\n", ",3.0\n"),
    "empty rows": lambda text: text + "\n" + "," * text.partition("\n")[0].count(",") + "\n\n",
    "other order": lambda text: "\n".join([text.split("\n")[0], *text.split("\n")[:0:-1]]),
}


def change(path, edit):
    path.write_bytes(edit(path.read_bytes().decode()).encode())


@pytest.mark.parametrize("format", TABLES)
@pytest.mark.parametrize("saved", SAVED)
def test_a_table_that_a_spreadsheet_saved_is_the_same(extracted, tmp_path, format, saved):
    extracted(format)
    change(tmp_path / "out" / TABLES[format], SAVED[saved])
    assert sorted(map(str, (arrays["path"] for arrays in FeatureFolder(tmp_path / "out").values()))) == [
        f"d/{number}.mp4" for number in range(COUNT)
    ]
    assert extracted(format)["skipped"] == COUNT


@pytest.mark.parametrize("format", TABLES)
@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda text: text.replace("3", "", 1), ":2: windows is '', and expected is a whole number"),
        (lambda text: text.replace("3", "3.5", 1), ":2: windows is '3.5', and expected is a whole number"),
        (lambda text: text.replace("3", "-3", 1), ":2: windows is '-3', and expected is a whole number"),
        (lambda text: text + "d/9.mp4\n", ":6: 'd/9.mp4' is not a value for each of name,"),
        (lambda text: "", ": it is empty, and expected is a line with name,"),
        (lambda text: text.replace("windows", "count", 1), ":1: the header is 'name,.*', which lacks windows; expected name,"),
        (lambda text: text.replace("name,", "name,name,", 1), ":1: the header is 'name,name,.*', which has 'name' twice"),
        (lambda text: text.replace(",", ";"), ":1: the header is 'name;.*', which lacks name,"),
    ],
)
def test_a_damaged_table_is_named_by_line_and_column(extracted, tmp_path, format, edit, message):
    extracted(format)
    change(tmp_path / "out" / TABLES[format], edit)
    with pytest.raises(FeatureError, match=rf" is damaged \({TABLES[format]}{message}.*\): run task=extract again") as refused:
        FeatureFolder(tmp_path / "out")
    assert "\n" not in str(refused.value)


def test_names_that_are_not_utf8_stay_readable(extracted, tmp_path):
    names = ("a\udcff.mp4", "b.mp4")
    extracted(names=names)
    assert sorted(FeatureFolder(tmp_path / "out")) == sorted(names)
    index = tmp_path / "out" / "index.csv"
    index.write_bytes(index.read_bytes() + b"x\xff,x.npz,3\n")
    with pytest.raises(FeatureError, match=r"index.csv:4: not UTF-8 text, byte 0xff in column 2"):
        FeatureFolder(tmp_path / "out")


def test_records_without_a_number_of_their_own(extracted, tmp_path):
    extracted("array_record")
    table = tmp_path / "out" / TABLES["array_record"]
    change(table, lambda text: text[:-2] + "0\n")
    with pytest.raises(FeatureError, match=r"features-00000.csv: its column record does not have each number from 0 once"):
        FeatureFolder(tmp_path / "out")
