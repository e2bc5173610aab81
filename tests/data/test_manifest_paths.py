"""White space around the paths of a manifest: part of a file's name, or of a table that was written by hand."""

import json

import pytest

from cvmae.data.manifest import ManifestError, read_manifest
from cvmae.data.prepare import prepare
from tests.data import videos
from tests.data.prepare.runs import options


def paths(folder, text, *names, name="list.csv"):
    """Writes files and a manifest, and returns the paths that are read from it, below the folder."""
    for file in names:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(b"")
    (folder / name).write_text(text)
    return [entry.path.removeprefix(f"{folder}/") for entry in read_manifest(str(folder / name), "train").entries]


def test_prepare_writes_names_that_are_read_back_exactly(tmp_path):
    names = ["A/v0.mp4", "A/v0.mp4 ", "A/ v1.mp4", "A/v2.mp4\u00a0", " B/v3.mp4", "B/v3.mp4\t"]
    for number, name in enumerate(names):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        videos.write_video(tmp_path / "videos" / f"{name}.mp4", 4 + number)
        (tmp_path / "videos" / f"{name}.mp4").rename(tmp_path / "videos" / name)
    manifest = prepare(options(tmp_path, "folder", val_share=0.0))["manifest"]
    entries = read_manifest(manifest, "train").entries
    assert sorted(entry.path.partition("/out/videos/")[2] for entry in entries) == sorted(names)


@pytest.mark.parametrize("cell", ["v0.mp4 ", " v0.mp4", "\tv0.mp4", "v0.mp4\u3000"])
def test_white_space_is_part_of_a_path_where_a_file_has_this_name(tmp_path, cell):
    row = json.dumps({"path": cell, "label": "x", "split": "train"})
    assert paths(tmp_path, f"path,label,split\n{cell},x,train\n") == ["v0.mp4"]  # neither is there
    assert paths(tmp_path, f"path,label,split\n{cell},x,train\n", cell) == [cell]
    refused = r"list.csv:3: path .*v0.mp4.* has white space around it, .*; write the path in quotes to keep .*, or remove it"
    with pytest.raises(ManifestError, match=refused) as caught:
        paths(tmp_path, f"path,label,split\na.mp4,x,train\n{cell},x,train\n", "v0.mp4")
    assert "\n" not in str(caught.value)
    assert paths(tmp_path, f'path,label,split\n"{cell}",x,train\nv0.mp4,x,train\n') == [cell, "v0.mp4"]
    assert paths(tmp_path, f'label,split,path\nx,train,"{cell}"\r\nx,train,v0.mp4\r\n') == [cell, "v0.mp4"]
    assert paths(tmp_path, row, name="list.jsonl") == [cell]


def test_a_manifest_that_was_written_by_hand_may_have_spaces_around_cells(tmp_path):
    text = 'path,label,split\n\na/v0.mp4 , x , train \n "v1.mp4" ,x,train\n  v2.mp4,x,train\n"v3.mp4 ",x, train\n'
    found = paths(tmp_path, text, "a/v0.mp4", "v2.mp4", "v3.mp4")
    assert (found[0], *found[2:]) == ("a/v0.mp4", "v2.mp4", "v3.mp4")
    absolute = f"path,label,split\n {tmp_path}/v2.mp4 ,x,train\n"
    assert paths(tmp_path, absolute) == ["v2.mp4"]
