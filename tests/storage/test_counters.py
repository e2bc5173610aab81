"""What reading clips costs is counted clip by clip, in threads and worker processes, and changes no clip."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from cvmae.data import pipeline, records
from cvmae.data.sources import make_source
from cvmae.storage import counters
from cvmae.storage.counters import FIELDS
from tests.data import videos
from tests.data.configs import small_config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four videos of known size, one of them unreadable, and their manifest."""
    folder = tmp_path_factory.mktemp("videos")
    for number in range(3):
        videos.write_video(folder / f"{number}.mp4", 10)
    (folder / "3.mp4").write_bytes(b"no video")
    (folder / "list.csv").write_text("path,label,split\n" + "".join(f"{n}.mp4,0,train\n" for n in range(4)))
    return folder


def drawn(config, source, steps):
    """(batches, counters by name) of some steps."""
    with pipeline.make_loader(config, source) as loader:
        batches = [next(loader) for _ in range(steps)]
        return batches, dict(zip(FIELDS, loader.counts.tolist(), strict=True))


@pytest.mark.parametrize("changes", [{}, {"data__workers": 2}, {"data__threads": 2}, {"data__timeout_s": 1e9}])
def test_the_loader_adds_up_what_its_clips_have_cost(folder, changes):
    config = small_config(data__source="files", data__manifest=str(folder / "list.csv"), data__frame_size=(32, 64), **changes)
    batches, counts = drawn(config, make_source(config.data, "train"), 4)
    assert all(counters.KEY not in batch for batch in batches)
    replaced = sum(int((batch["failures"][:, 0] != 0).sum()) for batch in batches)
    assert counts["unreadable"] >= replaced > 0
    assert 0 < counts["cpu_seconds"] <= 1.5 * counts["seconds"]
    sizes = [os.path.getsize(folder / f"{index}.mp4") for batch in batches for index in batch["index"]]
    if os.path.exists("/proc/thread-self/io"):  # a small file is read once or twice; its length is not
        assert sum(sizes) <= counts["bytes_read"] <= 4 * sum(sizes) + 4 * 65536 * counts["unreadable"]


@pytest.mark.skipif(not os.path.exists("/proc/thread-self/schedstat"), reason="Linux tells how long a thread waits for a core")
def test_waiting_for_a_core_is_counted():
    counted = counters.Counters()
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * len(os.sched_getaffinity(0)))]
    try:
        with counters.counting(counted), counters.timed():
            deadline, queued = time.monotonic() + 60, counters.thread_times()[2]
            while counters.thread_times()[2] < queued + 0.01 and time.monotonic() < deadline:
                pass
    finally:
        for other in others:
            other.kill()
            other.wait()
    values = dict(zip(FIELDS, counted.values().tolist(), strict=True))
    assert 0.01 <= values["queued_seconds"] <= values["seconds"] - values["cpu_seconds"] + 0.05


class Remote:
    """A source that counts, as one that reads from elsewhere would."""

    class_names, identity = (), "remote"

    def __init__(self, content):
        self.content, self.labels = content, np.zeros(5, np.int32)

    def __len__(self):
        return 5

    def __getitem__(self, index):
        counters.add(retries=2, cache_hits=1)
        return records.Record(str(index), 0, None, None, self.content)

    def key(self, index):
        return str(index)


@pytest.mark.parametrize("changes", [{}, {"data__workers": 2}])
def test_a_source_counts_for_the_clip_that_it_reads(folder, changes):
    content = (folder / "0.mp4").read_bytes()
    _, counts = drawn(small_config(**changes), Remote(content), 3)
    assert (counts["retries"], counts["cache_hits"], counts["cache_misses"]) == (24, 12, 0)
    assert counts["bytes_read"] == 12 * len(content) and counts["clips"] == 12


def test_nothing_is_counted_outside_of_a_clip():
    counters.add(retries=1)
    assert counters.current() is None
    own = counters.Counters()
    with counters.counting(own), counters.timed():
        counters.add(cache_hits=1)
        with counters.counting(None), counters.timed(reads_files=True):
            counters.add(cache_hits=1)
    counted = dict(zip(FIELDS, own.values(), strict=True))
    assert counted["cache_hits"] == 1 and counted["seconds"] > 0
