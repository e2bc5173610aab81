"""An attention kernel that the devices of a run cannot take is refused before anything is compiled or written, by every command."""

import types

import pytest

from cvmae import bench, plan
from cvmae.config import ConfigError
from cvmae.models.attention import runnable
from cvmae.performance import planning
from cvmae.tasks import kernel_checks, run
from cvmae.tasks.kernel_checks import check_kernel
from cvmae.tasks.validate import validate
from tests.commands import caller
from tests.models.test_attention import A100, CPU, RULES, TPU
from tests.tiny_configs import CONFIGS, config, downstream

PARENT = f"{CONFIGS / 'k400.py'}:parent=videomae,runlocal"
REFUSED = r"config.attention='cudnn' cannot run in config.video_branch on this device: it needs a GPU .* set --config.attention=auto, or one of einsum, "


@pytest.mark.parametrize("task", ["pretrain", "knn"])
def test_a_run_is_refused_and_leaves_no_workdir(task, tmp_path):
    with pytest.raises(ConfigError, match=REFUSED):
        run(downstream(task, attention="cudnn"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "program, words",
    [
        (plan, ["--topology=cpu:1", "--clips=8"]),
        (bench, []),
        (bench, ["--attention"]),
        (bench, ["--latency"]),
        (bench, ["--encoder"]),
        (bench, ["--peer=hf"]),
    ],
)
def test_plan_and_bench_end_with_one_line(program, words, monkeypatch, capsys):
    monkeypatch.setattr(planning, "devices_of", lambda topology: None)
    code, out, err = caller(program, monkeypatch, capsys)(*words, "--config.attention=cudnn", config=PARENT)
    assert code == 2 and not out and err.count("\n") == 1 and err.startswith("error: config.attention='cudnn' cannot run in ")


def heads(count: int, **fields):
    """Returns a config whose video decoder is 48 wide, in bfloat16."""
    return config(dtype="bfloat16", video_branch__decoder__width=48, video_branch__decoder__heads=count, **fields)


@pytest.mark.parametrize(
    "device, c, section, reason, remedy",
    [
        (A100, config(attention="cudnn"), "video_branch", "this is float32", "or --config.dtype=bfloat16 with it"),
        (A100, heads(4, attention="cudnn"), "video_branch.decoder", "these have 12", "or one of einsum, blocked, xla$"),
        (A100, config(attention="lanes"), "video_branch", "a TPU's kernel, this is gpu", "or one of einsum, blocked, xla$"),
        (A100, heads(6, attention="splash"), "video_branch", "a TPU's kernel", "or one of einsum, blocked, xla, cudnn$"),
        (
            TPU,
            heads(4, attention="lanes"),
            "video_branch.decoder",
            "multiples of 8 wide",
            "or one of einsum, blocked, xla, splash$",
        ),
        (A100, downstream("attentive", attention="cudnn", dtype="bfloat16", probe__heads=32), "probe", "these have", "auto"),
    ],
)
def test_the_line_has_the_section_the_reason_and_what_runs(device, c, section, reason, remedy, monkeypatch):
    monkeypatch.setattr(kernel_checks, "target_device", lambda rules: device)
    with pytest.raises(ConfigError, match=rf"config.{section} on this device: .*{reason}.*{remedy}"):
        check_kernel(c, RULES)


def test_what_runs_is_let_be(monkeypatch):
    monkeypatch.setattr(kernel_checks, "target_device", lambda rules: A100)
    check_kernel(heads(6, attention="cudnn"), RULES)
    only_frames = config(("mse_image",), dtype="bfloat16", attention="cudnn", video_branch__decoder__width=36)
    check_kernel(only_frames, RULES)  # the video branch has no term
    monkeypatch.undo()
    for kernel in ("auto", "lanes", "splash", "xla"):  # a CPU interprets those of TPUs
        validate(config(attention=kernel))


def test_kernels_that_a_cpu_would_interpret_are_not_recommended():
    assert runnable(CPU, types.SimpleNamespace, 9, 2, 8, None) == ["auto", "einsum", "blocked", "xla"]
