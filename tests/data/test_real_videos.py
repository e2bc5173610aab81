"""Videos from other sources: H.264, VP9, MPEG-4 and MPEG-2 in mp4, avi and mpg. `launch/test_videos.sh DIR` fetches them."""

import os

import av
import numpy as np
import pytest

from cvmae.data import decode, pipeline, sources
from tests import requirements
from tests.data.configs import small_config

# name -> (frames, H, W), as a decode of the whole file counts them.
VIDEOS = {
    "bikes.mp4": (250, 272, 640),
    "carphone_pristine.mp4": (120, 144, 176),
    "carphone_distorted.mp4": (120, 144, 176),
    "bigbuckbunny.mp4": (132, 720, 1280),
    "test_A.avi": (501, 938, 1160),
    "test_B.avi": (508, 938, 1160),
    "demo.mp4": (230, 994, 1768),
    "cityCC0.mpg": (190, 405, 720),
}


@pytest.fixture(scope="module")
def folder():
    folder = os.environ.get("CVMAE_TEST_VIDEOS", "")
    absent = [name for name in VIDEOS if not os.path.isfile(os.path.join(folder, name))]
    if absent:
        why = "run launch/test_videos.sh DIR and set CVMAE_TEST_VIDEOS=DIR"
        requirements.missing("videos", f"{why} ({', '.join(absent)} not in {folder or 'CVMAE_TEST_VIDEOS, which is not set'})")
    return folder


@pytest.mark.parametrize("name", VIDEOS)
def test_tables_count_every_frame(folder, name):
    table = decode.read_table(os.path.join(folder, name))
    assert len(table) == VIDEOS[name][0]
    assert table.reliable == (not name.endswith(".mpg")) and (np.diff(table.times) > 0).all() and 20 < table.fps < 31


@pytest.mark.parametrize("name", VIDEOS)
def test_frames_equal_those_of_a_full_decode_of_real_videos(folder, name):
    path = os.path.join(folder, name)
    count, height, width = VIDEOS[name]
    # Far enough in for a seek where there is more than one keyframe; near enough for a quick truth by counting.
    wanted = [37, 40, 43, 44]
    got = decode.read_frames(path, wanted)
    assert got.shape == (4, height, width, 3)
    with av.open(path) as file:
        for number, frame in enumerate(file.decode(video=0)):
            if number in wanted:
                np.testing.assert_array_equal(got[wanted.index(number)], frame.to_ndarray(format="rgb24"))
            if number == wanted[-1]:
                break
    assert decode.read_frames(path, [count - 1]).any()


def test_a_folder_of_mixed_videos_is_read_without_a_bad_file(folder, tmp_path):
    rows = "".join(f"{name},,train\n" for name in VIDEOS)
    (tmp_path / "list.csv").write_text("path,label,split\n" + rows)
    config = small_config(data__source="files", data__manifest=str(tmp_path / "list.csv"), data__root=folder, data__stride=2)
    config.data.frame_size, config.data.threads = (64, 64), 1
    source = sources.make_source(config.data, "train")
    with pipeline.make_loader(config, source) as loader:
        batches = [next(loader) for _ in range(4)]  # two passes over the eight files
    assert not any(batch["failures"].any() for batch in batches)
    assert sorted(np.concatenate([batch["index"] for batch in batches])) == sorted([*range(8)] * 2)
    for batch in batches:
        assert (batch["video"].std(axis=(1, 2, 3, 4)) > 5).all()
