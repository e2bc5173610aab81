"""`motion`: files, cache, splits, exact time reversal, and what a model blind to order can reach."""

import csv
import functools
import hashlib
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import av
import cv2
import numpy as np
import pytest
from scipy import stats

from cvmae.data import baselines, clip_files, motion, worker_pool
from cvmae.data.motion import __main__ as command
from cvmae.data.motion import build, photos, render, scenes
from cvmae.data.motion.spec import PAIRS, digest
from tests.commands import run_own

FACTS = (
    "amount",
    "x",
    "y",
    "radius",
    "easing",
    "distractor",
    "distractor_dx",
    "distractor_dy",
    "drift_x",
    "drift_y",
    "gain",
    "gain_slope",
    "noise",
)


def _rows(manifest):
    with open(manifest, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _hashes(manifest):
    folder = pathlib.Path(manifest).parent
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.*"))}


def _leftovers(cache):
    return [p.name for p in (pathlib.Path(cache) / "motion").iterdir() if p.name.startswith(".")]


@pytest.fixture(scope="session")
def easy(tmp_path_factory):
    return motion.prepare("easy", tmp_path_factory.mktemp("motion"), train_clips=800, test_clips=200)


@pytest.mark.parametrize("size", motion.SIZES)
def test_class_names_are_sorted_and_paired(size):
    names = motion.class_names(size)
    assert list(names) == sorted(names) and len(names) == {"easy": 4, "full": 12}[size]
    assert set(names) == {name for pair in motion.SIZES[size].pairs for name in PAIRS[pair]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "small"}, "unknown size 'small'"),
        ({"side": 33}, "must be even"),
        ({"side": 8}, "at least 16"),
        ({"train_clips": -1}, "negative"),
        ({"seed": -1}, "negative"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        motion.prepare(cache_dir=tmp_path, **arguments)


def test_splits_share_no_photograph(easy):
    contents = {
        name: hashlib.sha256(photos.load(name).tobytes()).hexdigest() for names in photos.PHOTOGRAPHS.values() for name in names
    }
    assert len(set(contents.values())) == len(contents) == sum(map(len, photos.PHOTOGRAPHS.values()))
    used = {
        split: {row[key] for row in _rows(easy) if row["split"] == split for key in ("photograph", "background")}
        for split in build.SPLITS
    }
    for split in build.SPLITS:
        assert used[split] == set(photos.PHOTOGRAPHS[split])


def test_files_are_small_h264_clips(easy):
    rows = _rows(easy)
    assert {(split, sum(r["split"] == split for r in rows)) for split in build.SPLITS} == {("train", 800), ("test", 200)}
    assert all(sum(r["label"] == name for r in rows) == 250 for name in motion.class_names("easy"))
    for row in rows[::97]:
        with av.open(str(pathlib.Path(easy).parent / row["path"])) as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.width, stream.height, stream.frames) == ("h264", 32, 32, 8)
            frames = list(container.decode(stream))
        assert len(frames) == 8 and all(frame.key_frame for frame in frames)
        assert [frame.time for frame in frames] == [i / 8 for i in range(8)]
        index = int(pathlib.Path(row["path"]).stem)
        drawn, _ = render.clip(motion.get_size("easy"), row["split"], index, row["label"], 0)
        # Colour is halved in resolution by 4:2:0; brightness must survive.
        coded = clip_files.read(pathlib.Path(easy).parent / row["path"])
        assert np.abs(coded.mean(-1) - drawn.mean(-1)).mean() < 6


@pytest.mark.slow
def test_same_files_whatever_the_workers(tmp_path):
    one, two, other = (
        motion.prepare("easy", tmp_path / name, 160, 40, seed, workers=workers)
        for name, seed, workers in (("one", 0, 1), ("two", 0, 2), ("other", 1, 1))
    )
    assert _hashes(one) == _hashes(two) != _hashes(other)
    assert len(_hashes(one)) == 201


def test_second_call_renders_nothing(tmp_path, monkeypatch):
    first = motion.prepare("full", tmp_path, 24, 12, side=32)
    monkeypatch.setattr(build, "build", lambda *_: pytest.fail("rendered again"))
    assert motion.prepare("full", tmp_path, 24, 12, side=32) == first
    assert not _leftovers(tmp_path)


def test_any_parameter_changes_the_cache_key(monkeypatch):
    sizes = [
        motion.get_size("easy"),
        motion.get_size("full"),
        motion.get_size("easy", side=64),
        motion.get_size("easy", train_clips=9),
        motion.get_size("easy", test_clips=9),
    ]
    keys = {digest(size, seed, photos.PHOTOGRAPHS) for size in sizes for seed in (0, 1)}
    keys.add(digest(sizes[0], 0, photos.PHOTOGRAPHS | {"test": ("moon.png",)}))
    monkeypatch.setattr("cvmae.data.motion.spec.VERSION", motion.VERSION + 1)
    keys.add(digest(sizes[0], 0, photos.PHOTOGRAPHS))
    assert len(keys) == 2 * len(sizes) + 2


def test_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("CVMAE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert motion.default_cache_dir() == tmp_path / "xdg" / "cvmae"
    monkeypatch.setenv("CVMAE_CACHE", str(tmp_path / "own"))
    assert motion.default_cache_dir() == tmp_path / "own"
    assert motion.prepare("easy", "", 4, 4).startswith(str(tmp_path / "own" / "motion" / "easy-"))


def test_interrupted_build_is_undone(tmp_path, monkeypatch):
    written = itertools.count()

    def write(*args, **kwargs):
        if next(written) == 5:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    real = clip_files.write
    monkeypatch.setattr(clip_files, "write", write)
    with pytest.raises(KeyboardInterrupt):
        motion.prepare("easy", tmp_path, 8, 4)
    assert not list((tmp_path / "motion").iterdir())
    monkeypatch.undo()
    assert len(_rows(motion.prepare("easy", tmp_path, 8, 4))) == 12


@pytest.mark.slow
def test_killed_build_is_repaired(tmp_path):
    code = f"from cvmae.data import motion; motion.prepare('easy', {str(tmp_path)!r}, 600, 8, workers=2)"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("000010.mp4")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.rglob("*.mp4")) and not list(tmp_path.rglob("manifest.csv"))
    # A folder in the final place without a manifest is not mistaken for a set either.
    spec = motion.get_size("easy", train_clips=600, test_clips=8)
    broken = tmp_path / "motion" / f"easy-{digest(spec, 0, photos.PHOTOGRAPHS)}" / "train"
    broken.mkdir(parents=True)
    (broken / "000000.mp4").write_bytes(b"half")
    manifest = motion.prepare("easy", tmp_path, 600, 8)
    assert pathlib.Path(manifest).parent == broken.parent
    assert all((pathlib.Path(manifest).parent / row["path"]).stat().st_size > 1000 for row in _rows(manifest))


INTERRUPTED = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that runs in the background inherits none
runpy.run_module("cvmae.data.motion", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_command_and_leaves_nothing(tmp_path, way):
    command = [sys.executable, "-c", INTERRUPTED, f"--out={tmp_path}", "--workers=2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not list(tmp_path.rglob("000000.mp4")):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, way)
        _, error = process.communicate(timeout=60)  # workers inherit stderr: this waits for all of them
    assert process.returncode == 128 + way and "Traceback" not in error and not list((tmp_path / "motion").iterdir())
    assert (error.splitlines()[-1] == "interrupted: the set is not built") == (way == signal.SIGINT)


def test_failed_worker_is_reported(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(build, "_CLIPS_PER_WORKER", 4)
    real = worker_pool.run
    monkeypatch.setattr(worker_pool, "run", lambda f, jobs, n: real(f, [job | {"folder": "/nonexistent"} for job in jobs], n))
    with pytest.raises(RuntimeError, match="failed"):
        motion.prepare("easy", tmp_path, 8, 4, workers=2)
    assert "FileNotFoundError" in capfd.readouterr().err and not list((tmp_path / "motion").iterdir())


def test_two_builds_at_once(tmp_path):
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(motion.prepare("easy", tmp_path, 16, 8, workers=1))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 3 and len(set(paths)) == 1 and len(_hashes(paths[0])) == 25 and not _leftovers(tmp_path)


@pytest.mark.parametrize("pair", PAIRS)
def test_second_class_is_the_first_backwards(pair, tmp_path):
    size = motion.get_size("full", side=32)
    for index in range(4):
        (first, facts), (second, reversed_facts) = (render.clip(size, "train", index, label, 7) for label in PAIRS[pair])
        assert first.dtype == np.uint8 and first.shape == (16, 32, 32, 3)
        np.testing.assert_array_equal(first[::-1], second)
        assert not np.array_equal(first, second)
        assert facts == {k: -v if k in scenes.TIME_ODD else v for k, v in reversed_facts.items()}
    # And so it is after encoding: no frame of the file knows which frames came before it.
    for name, frames in (("first", first), ("second", second)):
        clip_files.write(tmp_path / name, frames, fps=8, quantizer=size.quantizer)
    np.testing.assert_array_equal(clip_files.read(tmp_path / "first")[::-1], clip_files.read(tmp_path / "second"))


@pytest.mark.parametrize("easing", [-0.4, 0.0, 0.4])
def test_easing_backwards_is_its_opposite(easing):
    np.testing.assert_allclose(scenes.ease(9, easing)[::-1], -scenes.ease(9, -easing), atol=1e-12)


def test_labels_say_what_is_seen():
    size = motion.get_size("full")
    for seed in range(5):
        drawn = {pair: scenes.draw(np.random.default_rng(seed), size, pair, "train") for pair in PAIRS}
        tracks = {pair: scene.layers[-1].track for pair, scene in drawn.items()}
        assert (np.diff(tracks["horizontal"][:, 0]) > 0).all()  # right
        assert (np.diff(tracks["vertical"][:, 1]) > 0).all()  # down: y grows downwards
        assert (np.diff(tracks["depth"][:, 2]) > 0).all()
        assert (np.diff(tracks["turn"][:, 3]) > 0).all()
        one, two = (layer.track[:, :2] for layer in drawn["gather"].layers[-2:])
        assert (np.diff(np.linalg.norm(one - two, axis=-1)) < 0).all()
        scene = drawn["cover"]
        scene.noise = 0.0
        whole = render.frames_of(np.random.default_rng(0), scene, 64).astype(int)
        del scene.layers[-2]
        bare = render.frames_of(np.random.default_rng(0), scene, 64).astype(int)
        hidden = np.abs(whole - bare).mean((1, 2, 3))
        assert hidden[0] > 1 and hidden[-1] < 0.05


def test_growing_angle_is_clockwise():
    sprite = np.zeros((21, 21, 4), np.float32)
    sprite[10, 18] = (255, 255, 255, 1)  # right of the centre
    canvas = np.zeros((21, 21, 3), np.float32)
    render._paste(canvas, sprite, np.array([0.5, 0.5, 0.5, np.pi / 2]), np.zeros(2))
    assert np.unravel_index(canvas.sum(-1).argmax(), (21, 21)) == (18, 10)  # below it


def test_nothing_but_motion_depends_on_the_class(easy):
    rows = _rows(easy)
    labels = [row["label"] for row in rows]
    pvalues = {}
    for fact in FACTS:
        groups = [[float(row[fact]) for row in rows if row["label"] == name] for name in sorted(set(labels))]
        for (i, a), (j, b) in itertools.combinations(enumerate(groups), 2):
            pvalues[fact, i, j] = stats.ks_2samp(a, b).pvalue
    for fact in ("photograph", "background", "split", "distractor"):
        values = sorted({row[fact] for row in rows})
        counts = [[sum(row[fact] == v and row["label"] == name for row in rows) for v in values] for name in sorted(set(labels))]
        pvalues[fact] = stats.chi2_contingency(counts).pvalue
    worst = min(pvalues, key=pvalues.get)
    assert pvalues[worst] > 0.05 / len(pvalues), (worst, pvalues[worst])
    assert 0.4 < np.mean([float(row["distractor"]) for row in rows]) < 0.6


def test_order_free_features_stay_near_their_cap(easy):
    names = ("order-free", "frame-shuffled", "ordered frame difference")
    accuracy = baselines.accuracies(easy, names, tolerance=1e-2)
    assert all(values.shape == (1, 1) for values in accuracy.values())
    assert 0.35 < accuracy["order-free"].item() <= 0.58
    assert accuracy["frame-shuffled"].item() <= 0.58
    assert accuracy["ordered frame difference"].item() > 0.8


def test_the_command_builds_draws_and_measures(tmp_path, capsys, monkeypatch):
    quick = functools.partial(baselines.table, names=("middle frame",), tolerance=1.0)
    monkeypatch.setattr(baselines, "table", quick)
    words = (f"--out={tmp_path}", "--train_clips=8", "--test_clips=8", "--workers=1")
    sheet = tmp_path / "sheet.png"
    assert run_own(command, *words, f"--sheet={sheet}", "--baselines", "--baseline_seeds=2", "--baseline_clips=4") == 0
    manifest, head, _, line = capsys.readouterr().out.splitlines()
    assert len(_rows(manifest)) == 16 and pathlib.Path(manifest).is_relative_to(tmp_path)
    assert head.startswith("4 of 8 training and 8 test clips") and "2 draws" in head and line.startswith("middle frame")
    assert cv2.imread(str(sheet)).shape == (4 * 3 * (2 * 32 + 2), 170 + 8 * (2 * 32 + 2), 3)
    assert run_own(command, *words, "--seed=1") == 0 and len(list((tmp_path / "motion").iterdir())) == 2


@pytest.mark.parametrize(
    "words, code, said",
    [
        (["--size=smal"], 2, "easy|full"),
        (["--side=33"], 2, "must be even"),
        (["easy"], 2, "unexpected argument 'easy'"),
        (["--train_clips=8", "--test_clips=8", "--sheet=absent/sheet.png"], 1, "cannot write absent/sheet.png"),
    ],
)
def test_what_is_wrong_with_the_command_is_one_line(tmp_path, capsys, monkeypatch, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert run_own(command, "--out=sets", *words) == code
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ") and said in last
