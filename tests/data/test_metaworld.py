"""Meta-World: tasks and labels, options, clips that are rendered, directions, resuming, and training on them."""

import csv
import hashlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cvmae.config import load
from cvmae.data import clip_files, metaworld
from cvmae.data.manifest import read_manifest
from cvmae.data.metaworld import clips, render, run, simulate, spec, system
from cvmae.data.prepare import PrepareError
from cvmae.tasks import run as run_task
from tests.commands import ROOT, metric_lines
from tests.requirements import missing
from tests.tiny_configs import PLAIN

SMALL = {"tasks": "door-close,door-open", "clips": 3, "val_clips": 1, "test_clips": 1, "side": 32, "frames": 8}


@pytest.fixture(scope="session")
def backend():
    """What MuJoCo renders with here; skips, or fails under CVMAE_REQUIRE=metaworld, where the extra or the library is missing."""
    try:
        name = system.choose_backend()
    except PrepareError as error:
        missing("metaworld", str(error))
    system.set_backend(name)  # before anything imports mujoco in this process
    return name


@pytest.fixture(scope="session")
def small(backend, tmp_path_factory):
    """The folder of a set of two opposite tasks, 12 clips in all."""
    out = tmp_path_factory.mktemp("metaworld")
    metaworld.prepare(metaworld.Options(str(out), workers=2, **SMALL))
    return out


@pytest.fixture(scope="session")
def door(backend):
    """A simulator of door-open, in this process."""
    return simulate.Simulator("door-open")


def rows(folder, labels="task"):
    with open(folder / f"{labels}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def hashes(folder):
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*.mp4"))}


def test_the_tasks_are_those_of_metaworld(backend):
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    assert {f"{task}-v3" for task in spec.TASKS} == set(ALL_V3_ENVIRONMENTS)


def test_a_backend_that_does_not_work_is_noticed(backend, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    with pytest.raises(
        PrepareError, match="invalid value for environment variable MUJOCO_GL: nonsense.*unset MUJOCO_GL=nonsense"
    ):
        system.choose_backend()
    monkeypatch.setenv("MUJOCO_GL", backend)
    assert system.choose_backend() == backend


def test_files_and_manifests(small):
    counts = {"train": 3, "val": 1, "test": 1, "test_unseen": 1}
    for labels, per_clip, names in (
        ("task", 1, ("door-close", "door-open")),
        ("object", 1, ("door",)),
        ("direction", 2, tuple(f"{task}-{way}" for task in ("door-close", "door-open") for way in ("backwards", "forwards"))),
    ):
        for split, count in counts.items():
            manifest = read_manifest(str(small / f"{labels}.csv"), split)
            assert manifest.class_names == names and len(manifest.entries) == 2 * per_clip * count
            for entry in manifest.entries:
                folder = pathlib.Path(entry.path).relative_to(small).parts
                assert folder[1] == split and names[entry.label] in (folder[2], "door")
                assert clip_files.read(entry.path).shape == (8, 32, 32, 3)
    assert len(hashes(small)) == 3 * 2 * sum(counts.values()) and not (small / ".prepare" / "temporary").exists()
    assert len(set(hashes(small).values())) == len(hashes(small))


def test_backwards_is_forwards_in_the_other_order(small):
    listed = {row["path"]: row for row in rows(small, "direction")}
    for path, row in listed.items():
        if "-forwards/" in path:
            back = listed[path.replace("-forwards/", "-backwards/")]
            assert row["label"].removesuffix("-forwards") == back["label"].removesuffix("-backwards")
            assert int(row["first_step"]) < int(row["last_step"])
            assert (row["first_step"], row["last_step"]) == (back["last_step"], back["first_step"])
            np.testing.assert_array_equal(clip_files.read(small / path)[::-1], clip_files.read(small / back["path"]))


def test_forwards_is_the_order_of_the_simulation(small, door):
    """A door that is being opened turns one way; frames are those of the steps in the manifest."""
    studio = render.Studio(door.model, door.data, 32)
    hinge = door.model.joint("doorjoint").qposadr[0]
    listed = [row for row in rows(small, "direction") if row["label"] == "door-open-forwards" and row["split"] == "train"]
    assert len(listed) == 3
    for row in listed:
        number, first, last = (int(row[name]) for name in ("episode", "first_step", "last_step"))
        states = door.episode(0, "train", number).states
        assert len(states) == int(row["steps"]) and 0.29 < first / len(states) < 0.51 and 0.58 < last / len(states) < 0.81
        angles = np.abs(states[first : last + 1, hinge])
        assert angles[-1] > angles[0] + 0.05
        studio.draw_look(spec.SEEN, simulate.generator(0, "train", "door-open", number, "look"))
        ends = studio.render(states[[first, last]]).astype(float)
        shown = clip_files.read(small / row["path"]).astype(float)[[0, -1]]
        errors = np.abs(ends[:, None] - shown[None]).mean((2, 3, 4))
        assert errors[0, 0] < 0.5 * errors[0, 1] and errors[1, 1] < 0.5 * errors[1, 0]
    studio.close()


def test_unseen_has_the_episodes_of_test_and_another_look(small):
    listed = {(row["split"], row["label"], row["episode"]): row for row in rows(small)}
    facts = ("attempt", "steps", "first_step", "last_step")
    for (split, label, episode), row in listed.items():
        if split == "test":
            other = listed["test_unseen", label, episode]
            assert [row[name] for name in facts] == [other[name] for name in facts]
            one, two = (clip_files.read(small / path).astype(float) for path in (row["path"], other["path"]))
            assert np.abs(one - two).mean() > 20
    steps = [row["steps"] for row in listed.values() if row["split"] != "test_unseen"]
    assert len(set(steps)) > 4


WITH_SINGLE_CLIPS = """
import json, sys
from cvmae.data import metaworld
from cvmae.data.metaworld import run
run._CLIPS_PER_JOB = 1
metaworld.prepare(metaworld.Options(**json.loads(sys.argv[1])))
"""


def test_a_run_that_is_killed_is_continued_with_equal_files(small, tmp_path, monkeypatch):
    """kill -9; the clips depend on the seed alone, not on other tasks and clips, nor on the processes."""
    options = SMALL | {"out": str(tmp_path / "out"), "tasks": "door-open", "clips": 2, "workers": 1}
    process = subprocess.Popen(
        [sys.executable, "-c", WITH_SINGLE_CLIPS, json.dumps(options)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "out" / ".prepare" / "answers.jsonl"
    while not journal.exists() or journal.read_text().count("attempt") < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = [json.loads(line)[0] for line in journal.read_text().splitlines() if "attempt" in line]
    assert not (tmp_path / "out" / "task.csv").exists() and len(done) < 5
    # A file that is lost or damaged is rendered again, with its clip alone.
    (tmp_path / "out" / clips.Clip("train", "door-open", 0).directed_path("backwards")).unlink()
    (tmp_path / "out" / clips.Clip("train", "door-open", 1).path).write_bytes(b"")
    kept = hashes(tmp_path / "out")
    jobs, real = [], run._render
    monkeypatch.setattr(run, "_render", lambda options, todo: jobs.extend(todo) or real(options, todo))
    metaworld.prepare(metaworld.Options(**options))
    assert sum(len(job["numbers"]) for job in jobs) == 5 - len(done) + 2
    files, all_files = hashes(tmp_path / "out"), hashes(small)
    assert len(files) == 3 * 5 and files.items() <= all_files.items() and len(kept) < len(files)
    for labels in spec.LABELS:
        assert {tuple(row.values()) for row in rows(tmp_path / "out", labels)} < {
            tuple(row.values()) for row in rows(small, labels)
        }
    jobs.clear()
    metaworld.prepare(metaworld.Options(**options))
    assert not jobs and hashes(tmp_path / "out") == files
    with pytest.raises(PrepareError, match=r"has clips of side 32 \(now 48\): take another folder, or the same options"):
        metaworld.prepare(metaworld.Options(**options | {"side": 48}))


def test_clips_that_other_options_leave_out_of_the_manifests_are_said(tmp_path):
    listed = [f"clips/train/{task}/{number:04d}.mp4,{task},train" for task in ("door-open", "door-close") for number in range(3)]
    (tmp_path / "task.csv").write_text("\n".join(["path,label,split", *listed]) + "\n")
    options = {name: metaworld.Options(str(tmp_path), **SMALL | fields) for name, fields in LATER.items()}
    assert run.left_out(options["more"]) == ""
    assert run.left_out(options["fewer clips"]).startswith(
        f"note: {tmp_path / 'task.csv'} listed 2 clips that these options leave out: "
    )
    assert "listed 3 clips that these options leave out (the tasks door-close among them): " in run.left_out(
        options["one task less"]
    )


LATER = {"more": {"clips": 4}, "fewer clips": {"clips": 2}, "one task less": {"tasks": "door-open"}}


@pytest.mark.parametrize("frames", [1, 301])
def test_frames_are_those_of_an_episode(frames, tmp_path):
    with pytest.raises(PrepareError, match=f"--frames={frames} must be a number of frames, 2 to 300, the steps of the longest"):
        metaworld.Options(str(tmp_path), frames=frames)


def test_another_seed_gives_other_clips(small, backend, tmp_path):
    job = {"out": str(tmp_path), "temporary": str(tmp_path), "backend": backend, "side": 32, "frames": 8}
    job |= {"task": "door-open", "split": "train", "numbers": [0]}
    for seed in (0, 1):
        (facts,) = clips.render_job(job | {"seed": seed})["facts"]
        assert set(hashes(tmp_path).values()).issubset(hashes(small).values()) == (seed == 0) and facts["steps"] > 30


def test_a_clip_that_cannot_be_rendered_ends_the_run_with_a_line(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "FUNCTION", "json:loads")  # fails on any job
    expected = "clips 0 to 2 of door-close in train cannot be rendered: TypeError: the JSON object.* the same command continues"
    with pytest.raises(run.StopRun, match=expected):
        metaworld.prepare(metaworld.Options(str(tmp_path), workers=1, **SMALL))


@pytest.mark.parametrize("task", ["assembly", "box-close"])
def test_policies_succeed_that_need_to_see_their_goal(backend, task):
    simulator = simulate.Simulator(task)
    episodes = [simulator.episode(0, "train", number) for number in range(2)]
    assert all(30 < len(episode.states) <= 301 and episode.attempt < 3 for episode in episodes)
    assert not np.array_equal(episodes[0].states[-1], episodes[1].states[-1])
    np.testing.assert_array_equal(simulator.episode(0, "train", 0).states, episodes[0].states)


def test_thin_meshes_look_like_those_that_are_whole(backend, monkeypatch):
    """Nor does thinning change the physics."""
    shown, states, faces = [], [], []
    for cell in (1e-9, render._CELL):
        monkeypatch.setattr(render, "_CELL", cell)
        simulator = simulate.Simulator("door-open")
        studio = render.Studio(simulator.model, simulator.data, 64)
        faces.append(int(simulator.model.mesh_facenum.sum()))
        states.append(simulator.episode(0, "train", 0).states)
        studio.draw_look(spec.SEEN, np.random.default_rng(0))
        shown.append(studio.render(states[-1][::20]).astype(float))
        studio.close()
    assert faces[1] < faces[0] / 4
    np.testing.assert_array_equal(*states)
    assert np.abs(shown[0] - shown[1]).mean() < 3 and shown[0].std() > 20


def test_pretraining_and_a_task_after_it_run_on_the_set(small, tmp_path):
    config = f"{ROOT / 'configs' / 'metaworld.py'}:variant=test/16"
    fields = {"data.manifest": str(small / "task.csv"), "batch_size": 4, "total": "2_steps", "log_every": "1_steps"}
    fields |= {name.replace("__", "."): value for name, value in PLAIN.items()} | {
        "report.labelled": 6,
        "report.untrained": False,
    }
    run_task(load(config, fields), str(tmp_path / "pretrain"))
    losses = [line["loss"] for line in metric_lines(tmp_path / "pretrain") if "loss" in line]
    assert len(losses) == 2 and np.isfinite(losses).all()
    report = json.loads((tmp_path / "pretrain" / "report.json").read_text())
    assert 0 <= report["metrics"]["probe/accuracy"] <= 1
    fields = {"data.manifest": str(small / "direction.csv"), "init_from": str(tmp_path / "pretrain"), "knn.neighbours": (1,)}
    run_task(load(f"{config},task=knn", fields), str(tmp_path / "knn"))
    report = json.loads((tmp_path / "knn" / "report.json").read_text())
    assert 4 * report["metrics"]["top1/k=1"] in range(5)  # two directions of a test clip of two tasks
