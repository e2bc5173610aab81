"""Times of parts that may be in other units than seconds are said; times that may be seconds are not."""

import pytest

from cvmae.data.manifest import read_manifest
from cvmae.data.times import part_notes
from tests.data.test_manifest import write


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [(None, None)],
        [(0.0, 10.0), (59.0, 69.0)],
        [(7000.0, 7010.0)],
        [(3000.0, None)],
        [(0.0, 3000.0), (0.0, 3.0)],
        [(None, 600.0)],
    ],
)
def test_parts_that_may_be_in_seconds_have_no_note(parts):
    assert part_notes(parts) == []


@pytest.mark.parametrize("start", ["0", ""])
def test_milliseconds_are_said_at_the_start_of_a_run(tmp_path, start):
    rows = [f"a.mp4,0,train,{start},3000", "b.mp4,1,train,500,2500", "c.mp4,1,train,,", "d.mp4,1,train,0,3"]
    path = write(tmp_path, "path,label,split,start,end\n" + "\n".join(rows) + "\n")
    said = (
        "2 of 3 parts with an end last more than 10 minutes, such as 0 to 3000: start and end are in seconds; divide milliseconds"
    )
    assert read_manifest(path, "train").notes == (f"{path}: {said} by 1000, and frames by their rate",)
