"""Damaged checkpoints: named and set aside, never deleted; the newest whole step is taken, by a run and by interop.

Files are deleted, cut and bit-flipped at random. CVMAE_FUZZ_SECONDS says for how long after the first seeds.
"""

import contextlib
import errno
import json
import os
import pathlib
import random
import shutil

import jax
import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.training.checkpoint import Checkpoints
from cvmae.workdir.saved_steps import find_damage, is_step, saved_steps, whole_steps
from tests.fuzz import seeds
from tests.training.test_checkpoint import abstract, names, restore, save, state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with checkpoints of steps 2 and 4, larger than what the index holds in place."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(str(folder), 2)
    for step in (2, 4):
        checkpoints.save(step, state(1000, step), {"step": step, "seconds": 0.5, "replaced": 0, "seed": 0})
    checkpoints.close()
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    return tmp_path


def delete(*names):
    def damage(step: pathlib.Path):
        for name in names:
            path = step / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def rewrite(name, change):
    def damage(step: pathlib.Path):
        (step / name).write_bytes(change((step / name).read_bytes()))

    return damage


def change_values(step: pathlib.Path):
    """Flips bits of the largest file of values; numbers do not compress, so that most of it is theirs."""
    file = max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    for quarter in (1, 2, 3):
        data[len(data) * quarter // 4] ^= 4
    file.write_bytes(data)


def garble_values(step: pathlib.Path):
    """Replaces all values by what no decompressor takes."""
    for file in step.glob("state/ocdbt.process_0/d/*"):
        file.write_bytes(b"\x55" * file.stat().st_size)


def edit_position(**changes):
    return rewrite("position/metadata", lambda text: json.dumps(json.loads(text) | changes).encode())


def cut_values(step: pathlib.Path):
    file = max(step.glob("state/**/d/*"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:1000])


DAMAGES = {
    "no position": delete("position"),
    "no state": delete("state"),
    "no index": delete("state/manifest.ocdbt"),
    "no arrays": delete("state/d"),
    "no values": delete("state/ocdbt.process_0"),
    "no list of arrays": delete("state/_METADATA"),
    "empty": lambda step: [delete(path.name)(step) for path in list(step.iterdir())],
    "position cut": rewrite("position/metadata", lambda data: data[:20]),
    "position empty": rewrite("position/metadata", lambda data: b""),
    "position is a list": rewrite("position/metadata", lambda data: b"[]"),
    "position no text": rewrite("position/metadata", lambda data: b"\xff\xfe\x00"),
    "position of another step": edit_position(step=3),
    "position without a time": edit_position(seconds=None),
    "position changed": edit_position(seed=1),
    "list of arrays cut": rewrite("state/_METADATA", lambda data: data[:100]),
    "list of arrays empty": rewrite("state/_METADATA", lambda data: b"{}"),
    "index cut": rewrite("state/manifest.ocdbt", lambda data: data[:-10]),
    "index empty": rewrite("state/manifest.ocdbt", lambda data: b""),
    "index changed": rewrite("state/manifest.ocdbt", lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:]),
    "values cut": cut_values,
    "values changed": change_values,
    "values garbled": garble_values,
    "checksums cut": rewrite("checksums/metadata", lambda data: data[:15]),
    "no checksums": delete("checksums"),
    "checksums of nothing": rewrite("checksums/metadata", lambda data: json.dumps(json.loads(data) | {"arrays": {}}).encode()),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_whole_step_before_goes_on(folder, name, capsys):
    DAMAGES[name](folder / "checkpoints" / "4")
    restored, position = restore(folder, state(1000))
    assert position["step"] == 2
    jax.tree.map(np.testing.assert_array_equal, restored, state(1000, 2))
    assert names(folder) == ["2", "4.damaged"]
    said = capsys.readouterr().err.strip()
    assert "checkpoints/4 is damaged (" in said and "set aside as 4.damaged, resuming from step 2" in said and "\n" not in said
    assert "<bound" not in said and "TensorStore details" not in said
    # What was set aside is no step, for the next step of this number and for the next damage.
    save(folder, 4)
    assert names(folder) == ["2", "4", "4.damaged"]
    delete("position")(folder / "checkpoints" / "4")
    restore(folder, state(1000))
    assert names(folder) == ["2", "4.damaged", "4.damaged.1"]


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "commit_success.txt", "state/_sharding", "state/array_metadatas"])
def test_what_is_not_needed_may_be_missing(folder, name):
    """Checksums tell that all values are those that were saved."""
    delete(name)(folder / "checkpoints" / "4")
    assert restore(folder, state(1000))[1]["step"] == 4 and names(folder) == ["2", "4"]


def test_a_checkpoint_of_an_earlier_version_has_no_checksums(folder):
    step = folder / "checkpoints" / "4"
    position = json.loads((step / "position/metadata").read_text())
    assert position.pop("checksums")
    (step / "position/metadata").write_text(json.dumps(position))
    delete("checksums")(step)
    assert restore(folder, state(1000))[1]["step"] == 4 and names(folder) == ["2", "4"]


# Damage, and the words that name the part of the checkpoint and what is wrong with it.
REASONS = {
    "checksums/metadata {}": "checksums/metadata lists no checksums of arrays",
    "checksums/metadata []": "checksums/metadata lists no checksums of arrays",
    "checksums/metadata null": "checksums/metadata lists no checksums of arrays",
    'checksums/metadata {"arrays": {"/step": "x"}}': "checksums/metadata lists no checksums of arrays",
    "checksums/metadata \x00": "checksums/metadata is damaged (Expecting value",
    "position/metadata ": "position/metadata is damaged (Expecting value",
    "state/_METADATA ": "state/_METADATA is damaged (Expecting value",
    "state/array_metadatas/process_0 ": "state is damaged (Expecting value",
    "state/array_metadatas/process_0 []": "state does not hold what was written there",
}


@pytest.mark.parametrize("damage", REASONS)
def test_a_reason_names_the_part(folder, capsys, damage):
    name, _, text = damage.partition(" ")
    (folder / "checkpoints/4" / name).write_text(text)
    restore(folder, state(1000))
    assert f"checkpoints/4 is damaged ({REASONS[damage]}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["values garbled", "values cut", "no values"])
def test_a_reason_names_the_array_that_cannot_be_read(folder, capsys, name):
    DAMAGES[name](folder / "checkpoints" / "4")
    restore(folder, state(1000))
    said = capsys.readouterr().err
    assert "slice(" not in said and any(f'reading "{array}/0"' in said for array in ARRAYS)


ARRAYS = [f"{tree}.{name}" for tree in ("params", "ema", "opt_state.0.mu", "opt_state.0.nu") for name in ("kernel", "bias")]


@pytest.mark.parametrize("name", ["no position", "values changed", "list of arrays empty"])
def test_without_a_whole_step_nothing_begins_and_nothing_moves(folder, name):
    for step in ("2", "4"):
        DAMAGES[name](folder / "checkpoints" / step)
    with pytest.raises(ConfigError, match=r"holds no whole checkpoint: 4 \(.*\); 2 \(.*move that folder away") as refused:
        restore(folder, state(1000))
    assert "\n" not in str(refused.value) and names(folder) == ["2", "4"]


def test_a_step_of_other_arrays_than_the_one_before_is_damaged(folder, capsys):
    def rename(data):
        return data.replace(b"kernel", b"kernal")

    rewrite("state/_METADATA", rename)(folder / "checkpoints" / "4")
    assert restore(folder, state(1000))[1]["step"] == 2
    assert "4.damaged" in names(folder) and "kern" in capsys.readouterr().err


def test_another_config_sets_nothing_aside(folder):
    with pytest.raises(ConfigError, match="checkpoints/4 does not fit this config"):
        restore(folder, state(1001))
    checkpoints = Checkpoints(str(folder), 2)
    with pytest.raises(ConfigError, match="made with seed=0, this run has 1"):
        checkpoints.restore(abstract(state(1000)), {"seed": 1})
    assert names(folder) == ["2", "4"]


def test_steps_are_names_as_orbax_writes_them(tmp_path):
    for name in ("10", "2", "02", "4.damaged", "6.orbax-checkpoint-tmp-1", "x", "²", "٣"):
        (tmp_path / name).mkdir()
    (tmp_path / "8").write_text("a file")
    assert saved_steps(tmp_path) == [2, 10] and whole_steps(tmp_path) == [] and saved_steps(tmp_path / "absent") == []
    assert not is_step("") and find_damage(tmp_path / "10") == "position/metadata is missing"


def damage_at_random(step: pathlib.Path, draw: random.Random) -> str:
    """Damages a file of a checkpoint, and says how."""
    file = draw.choice(sorted(path for path in step.rglob("*") if path.is_file()))
    data = bytearray(file.read_bytes())
    kind = draw.choice(["delete", "cut", "flip", "flip", "bytes", "empty"])
    if kind == "delete":
        file.unlink()
    elif kind == "flip" and data:
        for _ in range(draw.choice([1, 1, 8])):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == "bytes" and data:
        start = draw.randrange(len(data))
        data[start : start + 50] = draw.randbytes(len(data[start : start + 50]))
    else:
        del data[draw.randrange(len(data) + 1) if kind == "cut" else 0 :]
    if kind != "delete":
        file.write_bytes(data)
    return f"{kind} {file.relative_to(step)}"


def test_damage_at_random_is_survived(saved, tmp_path):
    """Only our own errors come out, and what is restored is what was saved, of one of the two steps."""
    expected = {step: jax.tree.leaves(state(1000, step)) for step in (2, 4)}
    taken = []
    for seed in seeds(20):
        draw, folder = random.Random(seed), tmp_path / str(seed)
        shutil.copytree(saved / "checkpoints", folder / "checkpoints")
        done = [damage_at_random(folder / "checkpoints" / "4", draw) for _ in range(draw.choice([1, 1, 3]))]
        if draw.random() < 0.2:
            done.append(damage_at_random(folder / "checkpoints" / "2", draw) + " of 2")
        with contextlib.suppress(ConfigError):
            try:
                restored, position = restore(folder, state(1000))
                taken.append(position["step"])
                for a, b in zip(jax.tree.leaves(restored), expected[position["step"]], strict=True):
                    np.testing.assert_array_equal(a, b)
                save(folder, 6)
            except Exception as error:
                error.add_note(f"seed {seed}: {', '.join(done)}")
                raise
        shutil.rmtree(folder)
    assert {2, 4} <= set(taken)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE, errno.ETIMEDOUT])
def test_a_disk_that_does_not_answer_is_no_damage(folder, number, monkeypatch):
    usual = pathlib.Path.read_text

    def unanswered(self, *args, **kwargs):
        if self.parent.name == "position":
            raise OSError(number, os.strerror(number), str(self))
        return usual(self, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "read_text", unanswered)
    with pytest.raises(ConfigError, match="cannot be read .*, and may be whole: give the command again"):
        restore(folder, state(1000))
    assert names(folder) == ["2", "4"]
