"""Medians, quartiles and ratios of alternating calls; the loader against the bare loop; profiles by kind and by layer."""

import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cvmae.data.decode import DecodeError
from cvmae.data.pipeline import clip_spec, cut_clip, make_loader
from cvmae.data.sources import make_source
from cvmae.performance import bench_loader, bench_report, hlo, profile, timing
from cvmae.performance.hlo import PACKAGE
from tests.data import videos
from tests.performance.programs import TPU
from tests.tiny_configs import config


def test_calls_alternate_and_warm_up_rounds_are_not_timed(monkeypatch):
    order, clock, cpu = [], itertools.count(), itertools.count(0, 10)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(timing.time, "process_time", lambda: next(cpu))
    times = timing.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3, warmup=2)
    assert order == ["a", "b"] * 5
    assert times["a"] == timing.Times((1, 1, 1), (10, 10, 10))


def test_medians_quartiles_and_ratios():
    first, second = timing.Times((2.0, 30.0, 4.0), (1.0, 1.0, 1.0)), timing.Times((1.0, 10.0, 1.0), (2.0, 4.0, 8.0))
    assert first.median() == 4 and first.spread() == (3, 17) and first.median("cpu") == 1
    assert timing.ratio(first, second, "wall") == 3  # of each round, not of the medians
    assert timing.ratio(first, second, "cpu") == 0.25


def test_the_loader_is_rated_by_clips_per_second_over_the_bare_loop():
    times = timing.Times((2.0, 2.0), (3.0, 3.0)), timing.Times((1.0, 1.0), (1.5, 1.5))
    data = bench_report.loader_data(bench_loader.LoaderTimes(80, 2, 0, *times))
    assert (data["share"], data["cpu_share"]) == (0.5, 0.5)
    assert (data["clips_per_second"], data["bare_clips_per_second"]) == (40, 80)
    assert bench_loader.LoaderTimes(80, 2, 4, *times).cpu_fraction is None


@pytest.fixture
def synthetic():
    c = config(data__threads=2, batch_size=4)
    return c, make_source(c.data, "train")


def test_the_bare_loop_reads_the_clips_that_the_loader_gave(synthetic, monkeypatch):
    c, source = synthetic
    bare, read = [], []
    monkeypatch.setattr(bench_loader, "bare_loop", lambda source, spec, read, threads: bare.append((list(read), threads)))
    real = bench_loader.pipeline.make_loader

    class Watched:
        def __init__(self, *args):
            self.inner = real(*args)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def __iter__(self):
            return self

        def __next__(self):
            batch = next(self.inner)
            read.append(list(zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)))
            return batch

    monkeypatch.setattr(bench_loader.pipeline, "make_loader", Watched)
    times = bench_loader.measure_loader(c, source, batches=3, rounds=2)
    clips = [clip for batch in read[-3:] for clip in batch]
    assert bare[-1] == (clips, 2) and len(bare) == 2
    assert len(read) % 2 == 0 and len(read) > 2 * 3  # batches that were ready before the clock started are discarded
    assert (times.clips, times.threads, times.workers, len(times.loader.wall)) == (12, 2, 0, 2)


def test_the_bare_loop_cuts_the_frames_that_the_loader_gave(tmp_path, monkeypatch):
    """Also where a video is read again: from another start, as the loader does."""
    lines = ["path,label,split"]
    for number in range(2):
        videos.write_video(tmp_path / f"{number}.mp4", 40, first=40 * number, size=(64, 64))
        lines.append(f"{number}.mp4,0,train")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    c = config(data__source="files", data__manifest=str(tmp_path / "list.csv"), batch_size=2)
    source = make_source(c.data, "train")
    with make_loader(c, source) as loader:
        batches = [{name: np.array(value) for name, value in next(loader).items()} for _ in range(4)]
    read = [clip for batch in batches for clip in zip(batch["index"].tolist(), batch["draw"].tolist(), strict=True)]
    cut = []
    pipeline = types.SimpleNamespace(
        cut_clip=lambda *args: cut.append(cut_clip(*args)[0])
    )  # not the module: the loader may still read ahead
    monkeypatch.setattr(bench_loader, "pipeline", pipeline)
    bench_loader.bare_loop(source, clip_spec(c), read, 1)
    expected = np.concatenate([batch["video"] for batch in batches])
    np.testing.assert_array_equal(np.stack(cut), expected)
    assert len({clip.tobytes() for clip in expected}) > 2


def test_the_bare_loop_cuts_every_clip_once_and_raises_for_a_bad_file(synthetic, monkeypatch):
    c, source = synthetic
    with make_loader(c, source) as batches:
        shape = next(batches)["video"].shape[1:]
    cut = []
    real = bench_loader.pipeline.cut_clip
    monkeypatch.setattr(bench_loader.pipeline, "cut_clip", lambda record, spec, rng: cut.append(real(record, spec, rng)[0].shape))
    bench_loader.bare_loop(source, clip_spec(c), [(number, [number, 0]) for number in range(7)], 3)
    assert cut == [shape] * 7

    def broken(record, spec, rng):
        raise DecodeError("v.mp4", "no frames")

    monkeypatch.setattr(bench_loader.pipeline, "cut_clip", broken)
    with pytest.raises(DecodeError, match="v.mp4"):
        bench_loader.bare_loop(source, clip_spec(c), [(number, [number, 0]) for number in range(7)], 3)


def test_kinds_of_operations_come_from_the_program():
    program = hlo.parse(TPU % {"package": PACKAGE})
    kinds = {i.name: profile.kind_of(program, c, i) for c, i, _ in program.running()}
    assert kinds["product"] == "matrix products" and kinds["gather"] == kinds["all-reduce.5"] == "collectives"
    assert kinds["next"] == "copies, transposes" and kinds["mean"] == "custom calls" and kinds["i.1"] == "elementwise"


def test_parts_of_the_model_are_without_layers_and_with_a_direction():
    forward = "jit(step)/jvp(CrossVideo)/video.decode/decoder/blocks/block3/attention/dot_general"
    assert profile.part_of(forward) == "forward video.decode/decoder/blocks/block*/attention/dot_general"
    assert profile.part_of("jit(step)/transpose(jvp(M))/norm/mul") == "backward norm/mul"
    assert profile.part_of("jit(step)/(jvp(M)/norm/a:jvp(M)/norm/b)") == "forward norm/a"
    assert profile.part_of("") == "without a name"


def test_a_profile_finds_the_matrix_products():
    w = jnp.asarray(np.random.default_rng(0).normal(size=(700, 700)), jnp.float32)
    program = jax.jit(lambda w: jnp.tanh(w @ w @ w)).lower(w).compile()
    profiled = profile.profile(lambda: jax.block_until_ready(program(w)), program.as_text())
    assert max(profiled.kinds, key=profiled.kinds.get) == "matrix products" and profiled.total > 0
    assert any("matrix products" in line for line in profiled.lines())
