"""`data.workers=auto` and `data.threads=auto`: from the host and a measurement, within its cores, and without a change to the clips."""

import itertools
import os
import time

import ml_collections
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.data import auto_workers, pipeline
from cvmae.data.auto_workers import Host, Reading, choose, measure
from cvmae.data.sources import make_source
from cvmae.data.worker_pool import available_cores, cgroup_cores
from cvmae.tasks import workers
from cvmae.tasks.fields import check_field
from tests.data import videos
from tests.data.configs import small_config
from tests.tiny_configs import config

GIB = 2**30
DECODES = Reading(cpu=0.01, waiting=0.0, clips=8)
WAITS = Reading(cpu=0.01, waiting=0.05, clips=8)


def fields(workers="auto", threads="auto", prefetch=2):
    return ml_collections.ConfigDict({"workers": workers, "threads": threads, "prefetch": prefetch})


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 96])
@pytest.mark.parametrize("reading", [DECODES, WAITS, Reading(0.0, 0.0, 0)])
@pytest.mark.parametrize("accelerated", [True, False])
@pytest.mark.parametrize("data", [fields(), fields(threads=1), fields(threads=3), fields(workers=2)])
def test_the_readers_never_keep_more_cores_busy_than_there_are(cores, reading, accelerated, data):
    count, threads = choose(data, reading, Host(cores, 10**15, accelerated), 1)
    assert count >= 0 and threads >= 1
    assert data.workers in ("auto", count) and data.threads in ("auto", threads)
    if data.workers == "auto":
        hidden = threads if data.threads == "auto" else 1  # threads that wait for the storage leave their core to another
        busy = max(1, count) * threads / hidden
        assert busy <= max(1, cores - 1, data.threads if data.threads != "auto" else 1)
    if not accelerated and data.workers == "auto":
        assert count == 0


@pytest.mark.parametrize(
    ("reading", "host", "batch", "expected"),
    [
        (DECODES, Host(16, 10**15, True), 1, (15, 1)),
        (WAITS, Host(16, 10**15, True), 1, (15, 4)),  # six times as long as the core works: as many threads as a process takes
        (Reading(0.01, 0.015, 8), Host(16, 10**15, True), 1, (15, 2)),
        (DECODES, Host(16, 10**15, False), 1, (0, 1)),  # the step computes on these cores
        (DECODES, Host(1, 10**15, True), 1, (0, 1)),
        (DECODES, Host(96, 64 * GIB, True), GIB, (6, 1)),  # five batches each, in half of the memory
        (DECODES, Host(96, 2 * GIB, True), GIB, (1, 1)),
    ],
)
def test_the_numbers_fit_the_host(reading, host, batch, expected):
    assert choose(fields(), reading, host, batch) == expected


def test_a_number_that_is_given_stays():
    assert choose(fields(workers=3), DECODES, Host(16, 10**15, True), 1) == (3, 5)
    assert choose(fields(threads=5), DECODES, Host(16, 10**15, True), 1) == (3, 5)


def test_clips_are_measured_and_unreadable_ones_left_out(tmp_path):
    rows = ["path,label,split"]
    for number in range(4):
        videos.write_video(tmp_path / f"{number}.mp4", 10)
        rows.append(f"{number}.mp4,0,train\nno{number}.mp4,0,train")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    c = small_config(data__source="files", data__manifest=str(tmp_path / "list.csv"), data__frame_size=(32, 64))
    source, begin = make_source(c.data, "train"), time.process_time()
    reading = measure(c, source)
    spent = time.process_time() - begin
    assert reading.clips >= 2 and 0.3 * spent / (reading.clips + 5) < reading.cpu < spent and 0 <= reading.waiting < 30
    for name in range(4):
        (tmp_path / f"{name}.mp4").unlink()
    assert measure(c, make_source(c.data, "train")) == Reading(0.0, 0.0, 0)


@pytest.mark.parametrize("accelerated", [True, False])
def test_the_batches_are_those_of_any_other_number(accelerated, monkeypatch):
    host = Host(3, 10**12, accelerated)
    monkeypatch.setattr(workers, "this_host", lambda: host)
    automatic = config(data__workers="auto", data__threads="auto")
    source = make_source(automatic.data, "train")
    resolved, [line] = workers.resolve_workers(automatic, source)
    assert (resolved.data.workers, resolved.data.threads) == ((2, resolved.data.threads) if accelerated else (0, 1))
    assert line.startswith(
        f"input: config.data.workers={resolved.data.workers} config.data.threads={resolved.data.threads}, from 3 core(s)"
    )
    assert automatic.data.workers == "auto"
    plain = config(data__workers=0, data__threads=0)
    assert workers.resolve_workers(plain, source) == (plain, [])
    with pipeline.make_loader(resolved, source) as loader, pipeline.make_loader(plain, source) as other:
        for one, two in zip(itertools.islice(loader, 12), itertools.islice(other, 12), strict=True):
            assert one.keys() == two.keys()
            for name in one:
                np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_this_host_has_the_cores_of_this_process():
    assert 1 <= workers.this_host().cores <= available_cores()
    assert 0 < workers.this_host().memory < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("value", ["auto", 0, 3])
@pytest.mark.parametrize("field", ["data.workers", "data.threads"])
def test_values_that_mean_something(field, value):
    check_field(field, value)


@pytest.mark.parametrize("value", ["Auto", "all", -1, 1.5, True, None])
@pytest.mark.parametrize("field", ["data.workers", "data.threads"])
def test_other_values_are_refused(field, value):
    with pytest.raises(
        ConfigError, match=f"config.{field}={value!r} cannot be used: it must be a whole number, at least 0, or auto"
    ):
        check_field(field, value)


GROUPS = {
    "v2 quota": ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "250000 100000\n"}, 2.5),
    "v2 quota of a parent": ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
    "v2 in a container": ({"proc/self/cgroup": "0::/gone\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
    "v2 without a limit": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, float("inf")),
    "less than a core": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    "v1 quota": ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 3),
    "v1 without a limit": (
        {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"},
        float("inf"),
    ),
    "nothing": ({}, float("inf")),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_limit_of_a_container_counts(name, tmp_path):
    files, expected = GROUPS[name]
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    assert cgroup_cores(tmp_path) == expected


def test_free_memory_is_no_more_than_the_machine_has():
    assert 0 < auto_workers.free_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
