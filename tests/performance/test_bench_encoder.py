"""`cvmae.bench --encoder`: time and memory of the encoder for clips of several lengths."""

import json
import math
import os

import jax
import numpy as np
import pytest

from cvmae import bench
from cvmae.models.build import build_encoder, grid_of
from cvmae.performance import bench_latency
from tests.commands import caller
from tests.tiny_configs import config

FRAMES = (4, 8)


@pytest.fixture
def command(monkeypatch, capsys):
    return caller(bench, monkeypatch, capsys)


def test_lengths_are_timed_and_their_memory_is_that_of_the_arrays(command, tmp_path):
    file = tmp_path / "encoder.json"
    code, out, err = command("--encoder", "--encoder_frames=4,8", "--steps=2", "--warmup=1", f"--json={file}")
    assert code == 0, err
    data, c = json.loads(file.read_text()), config()
    assert data["size"] == [32, 32] and data["dtype"] == "float32" and len(data["lengths"]) == 2
    for row, frames in zip(data["lengths"], FRAMES):
        encoder = build_encoder(c, c.video_branch, grid_of(c.video_branch, frames, (32, 32)))
        clip = jax.ShapeDtypeStruct((1, frames, 32, 32, 3), np.float32)
        params = jax.eval_shape(encoder.init, jax.random.key(0), clip)
        size = sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
        assert (row["frames"], row["tokens"]) == (frames, encoder.grid.tokens + 1)
        assert row["parameters"] == size
        arrays = size + 4 * math.prod(clip.shape) + 4 * encoder.grid.tokens * 32
        assert arrays <= row["total"] - row["temporary"] <= arrays + 4096 and row["temporary"] > 0
        assert len(row["times"]["wall"]) == 2 and row["problem"] == ""
        assert f"{frames} frames, {encoder.grid.tokens + 1} tokens" in out and "MiB" in out
    assert data["lengths"][1]["temporary"] > data["lengths"][0]["temporary"]


def test_a_factorized_encoder_has_the_tokens_of_its_grid(command, tmp_path):
    file = tmp_path / "encoder.json"
    fields = {"backbone": "factorized", "tubelet": 1, "positions": "separable", "cls_token": False, "temporal_blocks": 1}
    words = [f"--config.video_branch.{name}={value}" for name, value in fields.items()]
    code, _, err = command("--encoder", "--encoder_frames=4,8", "--steps=2", "--warmup=1", f"--json={file}", *words)
    assert code == 0, err
    assert [row["tokens"] for row in json.loads(file.read_text())["lengths"]] == [4 * 4, 8 * 4]


def test_a_length_that_does_not_fit_is_said(command, monkeypatch, tmp_path):
    """On a CPU before it runs, since the system would end the process; elsewhere by the device's error."""
    monkeypatch.setattr(bench_latency.os, "sysconf", lambda name: 4096 if name == "SC_PAGE_SIZE" else 10, raising=False)
    code, out, _ = command("--encoder", "--encoder_frames=4", "--steps=2", "--warmup=1")
    assert code == 0 and "does not fit in the 0.0 GiB of this machine" in out
    monkeypatch.undo()

    def exhausted(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")

    monkeypatch.setattr(bench_latency.CompiledEncoder, "caller", exhausted)
    [cost] = bench_latency.measure_lengths(config(), [4], rounds=2, warmup=1)
    assert cost.times is None and cost.problem == "does not fit in the memory of the device" and cost.total > 0
    assert os.sysconf("SC_PHYS_PAGES") > 0


@pytest.mark.parametrize(
    "flag, message",
    [
        ("--encoder_frames=4,x", "--encoder_frames has 'x': expected whole numbers above 0"),
        ("--encoder_frames=0", "--encoder_frames has '0'"),
        ("--encoder_frames=5", "--encoder_frames=5: "),
        ("--latency", "--latency and --encoder are two measurements"),
    ],
)
def test_errors_are_one_line(command, flag, message):
    code, _, err = command("--encoder", flag, "--steps=2")
    assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.parametrize("mode", ["--encoder", "--latency"])
def test_weights_of_a_branch_are_not_what_is_timed(command, mode):
    """They are those of another encoder where the fields are not set to them."""
    code, _, err = command(mode, "--steps=2", "--config.video_branch.init_from=videoprism")
    assert code == 2 and err.count("\n") == 1
    assert (
        "config.video_branch.init_from='videoprism' is not read here: " in err
        and "task=linear and --config.init_from=videoprism" in err
    )
