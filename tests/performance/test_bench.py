"""The command `cvmae.bench`: its numbers for a small config, the formula of MFU, and its error messages."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from cvmae import bench, plan
from cvmae.config import load
from cvmae.performance import bench_report, bench_step, bench_videos, measurements, planning
from cvmae.performance.timing import Times
from tests.commands import RUNLOCAL, caller
from tests.performance.test_plan import ALONE
from tests.requirements import missing
from tests.tiny_configs import CONFIGS, config

PARENT = f"{CONFIGS / 'k400.py'}:parent=videomae,runlocal"


@pytest.fixture
def command(monkeypatch, capsys):
    return caller(bench, monkeypatch, capsys)


def test_everything_is_measured(command, tmp_path):
    file = tmp_path / "bench.json"
    args = ["--steps=3", "--peak_tflops=0.001", "--loader_batches=2", "--profile", f"--json={file}", *ALONE]
    code, out, _ = command(*args)
    data = json.loads(file.read_text())
    assert code == 0 and data["devices"]["count"] == jax.device_count() and data["batch"] == 8
    step, flops = data["step"], data["flops"]
    assert len(step["wall"]) == 3 and data["clips_per_second"] == pytest.approx(8 / step["median_wall"])
    assert flops["model"] == flops["traced"] and flops["compiled"] == pytest.approx(flops["traced"], rel=0.05)
    mfu = 100 * flops["model"] / (step["median_wall"] * 1e9)
    assert f"MFU            {mfu:.1f} % of 1 GFLOP/s" in out
    assert 0 < data["with_loader"]["waited"] < data["with_loader"]["seconds"]
    assert data["memory"]["parameters"] > 0 and data["memory"]["peak"]["process"] > 2**27
    assert all(seconds > 0 for seconds in data["seconds"].values())
    assert data["loader"]["clips"] == 16 and data["loader"]["clips_per_second"] > 0
    for words in ("compile", "input wait", "loader only", "where the time goes", "matrix products"):
        assert words in out


def test_help_explains_the_command(command):
    code, out, _ = command("--help")
    assert code == 0 and bench.__doc__ in out


def test_the_loader_can_be_measured_by_itself(command):
    code, out, _ = command("--loader_only", "--loader_batches=1", config=f"{CONFIGS / 'ssv2.py'}:task=knn,runlocal")
    assert code == 0 and "loader only" in out and "step" not in out
    code, out, _ = command("--loader_only", "--steps=2")
    assert code == 0 and "; medians of 3 rounds of 16 clips" in out  # two batches of 8 a round


def test_without_data_clips_are_synthetic():
    c, note = measurements.with_synthetic_fallback(config(data__source="files"))
    assert c.data.source == "synthetic" and c.data.synthetic.classes == 174 and "synthetic" in note
    with_manifest = config(data__source="files", data__manifest="m.csv")
    assert measurements.with_synthetic_fallback(with_manifest) == (with_manifest, "")


def test_an_error_is_one_line(command):
    for args, path, message in (
        (["--peer=hf"], RUNLOCAL, "take a config with parent=videomae"),
        ([], f"{CONFIGS / 'ssv2.py'}:task=knn,runlocal", "config.task='knn' trains nothing"),
        (["--config.data.source=files", "--config.data.manifest=nowhere.csv"], RUNLOCAL, "nowhere.csv"),
        (
            ["--config.data.manifest=any.csv"],
            RUNLOCAL,
            "config.data.manifest='any.csv' is not read with config.data.source='synthetic'",
        ),
        (["--loader_only", "--config.data.manifest=any.csv"], RUNLOCAL, "is not read with config.data.source='synthetic'"),
        (["--steps=1"], RUNLOCAL, "steps"),
        (["more"], RUNLOCAL, "unexpected argument"),
        (["--loader_only", "--steps=2", "--loader_batches=3"], RUNLOCAL, "give one of them"),
        (["--loader_only", "--loader_batches=0"], RUNLOCAL, "leaves nothing to measure: give 1 or more"),
        (
            ["--loader_only", "--profile"],
            RUNLOCAL,
            "--profile is not read by --loader_only, which reads --steps, --loader_batches",
        ),
        (["--decode", "--warmup=5"], RUNLOCAL, "--warmup is not read by --decode, which reads --steps: leave it out"),
        (["--threads=2"], RUNLOCAL, "--threads is not read by the training step"),
        (["--latency", "--config.dtype=float"], RUNLOCAL, "config.dtype='float' cannot be used"),
        (["--latency", "--config.video_branch.variant=Q/16"], RUNLOCAL, "error: config.video_branch.variant: variant is 'Q/16'"),
        (["--encoder", "--config.video_branch.variant=Q/16"], RUNLOCAL, "error: config.video_branch.variant: variant is 'Q/16'"),
    ):
        code, _, err = command(*args, config=path)
        assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err


@pytest.mark.parametrize(
    ("device_kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5e", 197e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("cpu", 0),
    ],
)
def test_peaks_are_of_the_device(device_kind, peak):
    assert bench_step.peak_flops(device_kind) == peak


@pytest.fixture
def parity():
    """Skips, or fails where the extra is required, without torch and transformers."""
    if not all(map(importlib.util.find_spec, ("torch", "transformers"))):
        missing("parity", "torch and transformers come with the extra: pip install '.[parity]'")


@pytest.mark.slow
def test_hugging_face_does_the_same_work(parity):
    """The same weights, clips and masks give the same loss; both learn from it."""
    from cvmae.performance import bench_huggingface

    c = load(PARENT)
    times, ours = bench_huggingface.compare(c, rounds=2, warmup=1, threads=1)
    assert times.losses[0] == pytest.approx(times.losses[1], rel=1e-5)
    assert ours() < times.losses[0] and isinstance(times.ours, Times) and times.threads == 1
    lines, data = bench_report.comparison(times, c.batch_size)
    assert data["ratio_wall"] > 0 and data["theirs"]["median_wall"] > 0 and "Hugging Face" in " ".join(lines)


def test_the_peer_is_compiled_on_request(parity, monkeypatch):
    import torch

    from cvmae.performance import bench_huggingface

    c, compiled = load(PARENT), []
    pixels, masked = np.zeros((1, c.data.num_frames, *c.augment.size, 3), np.float32), np.ones((1, 8), bool)
    monkeypatch.setattr(bench_huggingface, "load_videomae", lambda *_: torch.nn.Linear(1, 1))
    monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
    for compile_peer in (False, True):
        peer = bench_huggingface.TorchStep(c, {}, pixels, masked, 1, compile_peer)
        assert compiled == [peer.model] * compile_peer


@pytest.mark.parametrize(
    "place, reason",
    [("absent/bench.json", "No such file or directory"), ("file/bench.json", "Not a directory"), (".", "is a folder")],
)
@pytest.mark.parametrize("program", [bench, plan])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    program, place, reason, monkeypatch, capsys, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(measurements, "open_data", None)
    monkeypatch.setattr(planning, "training_clips", None)
    words = ["--topology=cpu:1"] if program is plan else ["--loader_only"]
    code, out, err = caller(program, monkeypatch, capsys)(*words, f"--json={tmp_path / place}")
    assert code == 2 and not out and err.count("\n") == 1 and reason in err and f"error: --json={tmp_path / place} " in err


def test_every_measurement_has_the_flags_that_it_reads():
    assert bench.READS.keys() == measurements.MEASUREMENTS.keys()


@pytest.mark.parametrize(
    "error, reason",
    [
        (AssertionError(), "this machine has no such device"),
        (
            RuntimeError("Unable to initialize backend 'tpu': no TPU. (set JAX_PLATFORMS='' to choose one)"),
            "backend 'tpu': no TPU.",
        ),
    ],
)
def test_a_platform_that_is_not_here_is_one_line(error, reason, command, monkeypatch):
    def devices():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    monkeypatch.setattr(jax, "devices", devices)
    code, _, err = command("--latency")
    assert code == 2 and err.count("\n") == 1
    assert "JAX finds no device with JAX_PLATFORMS='tpu' (" in err and f"{reason}): set it to cpu, or to nothing" in err


def test_videos_that_cannot_be_read_are_named(command, tmp_path):
    good = bench_videos.write_videos(tmp_path, bench_videos.H264, bench_videos.VideoSpec(1, 40, height=64, width=64))["mp4"][0]
    (tmp_path / "damaged.mp4").write_bytes(good.read_bytes()[:500])
    args = ["--loader_only", "--steps=2", "--config.data.source=files", f"--config.data.manifest={tmp_path}"]
    code, out, err = command(*args)
    assert code == 1 and not out and err.count("\n") == 1
    assert "1 of 3 videos cannot be read, more than config.data.max_bad_fraction=0.01: " in err and "damaged.mp4 (" in err
    code, out, _ = command(*args, "--config.data.max_bad_fraction=0.5")
    assert code == 0 and "note: 1 video cannot be read, and others were decoded instead: " in out and "damaged.mp4 (" in out
