"""The command `cvmae.plan`: output, errors, programs that do not fit, the estimate, and the search."""

import importlib.metadata
import importlib.util
import json
import math
import types
from unittest.mock import ANY

import jax
import pytest

from cvmae import plan
from cvmae.config import ConfigError, load
from cvmae.data.published import COUNTS
from cvmae.models import vit
from cvmae.parallel import processes
from cvmae.parallel.mesh import batch_sharding, make_mesh
from cvmae.performance import chips, plan_report, planning, search, traced_step
from cvmae.performance.compile import ProgramCost, compile_step, estimate
from cvmae.performance.hlo_cost import Collective, Op
from cvmae.performance.memory import Memory
from cvmae.performance.oom import TooLarge
from tests.commands import RUNLOCAL, caller, run
from tests.data.test_tar_shards import write_tar
from tests.requirements import missing
from tests.tiny_configs import CONFIGS, TERMS, config

jax.devices()  # a process that uses jax cannot take on other devices, wherever these tests begin
ALONE = [f"--config.loss.{term}=0" for term in TERMS if term != "mse_video"]  # one term compiles in a few seconds


@pytest.fixture
def command(monkeypatch, capsys):
    return caller(plan, monkeypatch, capsys)


REFUSED = [
    (["--topology=v9e:2x2"], "'v9e' is unknown; known are v4, v5e, v5p, v6e, a100-80, h100, h200, b200, l4, cpu"),
    (["--topology=v5e:4"], "expected v5e:AxB"),
    (["--topology=v4:2x2"], "expected v4:AxBxC"),
    (["--topology=cpu:0"], "expected cpu:N with N the number of devices, 1 or more, such as cpu:8"),
    (["--topology=h100:2x4"], "expected h100:N"),
    (["--topology=l4:0"], "expected l4:N with N the number of GPUs of a host, 1 or more, such as l4:8"),
    (["--topology=h100:-1"], "expected h100:N with"),
    (["--topology=h100:many"], "expected h100:N with "),
    (["--topology=v5p:2x2x0"], "expected v5p:AxBxC, the chips along each dimension, each 1 or more, such as v5p:2x2x1"),
    (["--topology=H100:8"], "'H100' is unknown (did you mean 'h100'?); known are v4"),
    (["--topology=cpu:1", "--slices=2"], "only TPUs come in slices"),
    ([], "--topology is missing: python -m cvmae.plan"),
    (["--topology=cpu:99"], "this process has"),
    (["--topology=cpu:1", "--mesh=dta:1"], "did you mean 'data'?"),
    (["--topology=cpu:1", "--mesh=data"], "'data' is not AXIS:SIZE"),
    (["--topology=cpu:1", "--mesh=data:2"], "config.mesh.data=2 config.mesh.fsdp=1"),
    (["--topology=cpu:1", "--config.accumulate=3"], "take 6 or 9"),
    (["--topology=cpu:1", "--config.bach_size=3"], "did you mean 'batch_size'?"),
    (["--topology=cpu:1", "more"], "unexpected argument 'more'"),
    (["--topology=cpu:1", "--search", *ALONE], "--hbm_gib=N"),
    (["--topology=cpu:1", "--batch=65"], "has 64 clips, fewer than config.batch_size=65"),
    (["--topology=cpu:1", "--clips=7", "--config.batch_size=8"], "has 7 clips, fewer than config.batch_size=8"),
]


@pytest.mark.parametrize(("args", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_an_error_is_one_line(command, args, message):
    code, _, err = command(*args)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_help_explains_the_command(command):
    code, out, _ = command("--help")
    assert code == 0 and plan.__doc__ in out


def test_without_libtpu_the_extra_is_named(command, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = command("--topology=v5e:4x4")
    assert code == 2 and "pip install 'crossvideomae[plan]'" in err


def test_without_the_compiler_for_gpus_its_extra_is_named(command, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, _, err = command("--topology=h100:8")
    assert code == 2 and err.count("\n") == 1 and "pip install 'crossvideomae[plan-gpu]'" in err


def test_a_task_without_a_step_is_refused(command):
    code, _, err = command("--topology=cpu:1", config=f"{CONFIGS / 'ssv2.py'}:task=knn,runlocal")
    assert code == 2 and "config.task='knn' trains nothing" in err


def parameter_bytes(c) -> int:
    built = traced_step.TracedStep(c, jax.devices()[:1])
    return sum(math.prod(a.shape) * 4 for a in jax.tree.leaves(built.task.abstract_state().params))


def test_a_plan_has_memory_and_work(command, tmp_path):
    file = tmp_path / "plan.json"
    code, out, _ = command("--topology=cpu:1", f"--json={file}", "--config.optimizer.ema_decay=0.9", *ALONE)
    data = json.loads(file.read_text())
    size = parameter_bytes(config(only=("mse_video",)))
    memory = data["memory"]
    assert code == 0 and data["fits"]
    assert (memory["parameters"], memory["ema"]) == (size, size) and 2 * size <= memory["optimizer"] < 2 * size + 64
    assert memory["batch"] == 8 * (4 * 40 * 40 * 3 + 4) and memory["temporary"] > 0
    assert memory["total"] == sum(memory[name] for name in ("arguments", "temporary", "outputs", "code"))
    assert data["flops"] == pytest.approx(data["run"]["traced_flops"], rel=0.05)
    assert data["run"]["model_flops"] == data["run"]["traced_flops"] and data["run"]["steps"] == 8
    assert data["collectives"] == {} and data["estimate"] is None
    for words in (
        "parameters",
        "optimizer state",
        "EMA of the parameters",
        "activations",
        "no collectives",
        "no estimate of time",
    ):
        assert words in out


def test_a_program_that_does_not_fit_names_its_largest_arrays_and_what_to_change(command):
    code, out, _ = command("--topology=cpu:1", "--hbm_gib=0.001", *ALONE)
    assert code == 3 and "does not fit in the memory of a chip: it needs" in out
    assert [f"    {n}. " in out for n in (1, 2, 3, 4)] == [True, True, True, False]
    for words in (
        "--batch",
        "--config.accumulate=2",
        "--config.remat=full",
        "--mesh=data:-1,fsdp:N",
        "--config.dtype=bfloat16",
        "--search",
    ):
        assert words in out


def test_a_refusal_without_allocations_looks_for_them_with_a_smaller_batch(monkeypatch, command):
    tried = []

    def compile_step(step, topology):
        tried.append(step.config.batch_size)
        return fake(0.5) if step.config.batch_size <= 2 else TooLarge(40 * 2**30, 16 * 2**30, ())

    monkeypatch.setattr(planning, "compile_step", compile_step)
    code, out, _ = command("--topology=cpu:1", *ALONE)
    assert code == 3 and tried == [8, 3, 1] and "it needs 40.00 GiB of 16.00 GiB" in out and "at the peak of batch 1" in out


@pytest.mark.slow
def test_on_two_devices_gradients_are_reduced(tmp_path):
    file = tmp_path / "plan.json"
    args = [f"--config={RUNLOCAL}", "--topology=cpu:2", "--mesh=data:-1", "--batch=16", f"--json={file}", *ALONE]
    done = run(*args, program=("-m", "cvmae.plan"), env={"XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text())
    assert data["run"]["mesh"] == {"data": 2, "fsdp": 1, "model": 1} and data["run"]["batch"] == 16
    _count, size, sent = data["collectives"]["all-reduce"]
    assert size >= data["memory"]["parameters"] * 0.9 and sent == pytest.approx(size)
    assert data["memory"]["batch"] == 8 * (4 * 40 * 40 * 3 + 4)
    assert 2 * data["flops"] == pytest.approx(data["run"]["traced_flops"], rel=0.1)


def test_a_sharded_optimizer_state_is_shown_as_sharded(tmp_path):
    file = tmp_path / "plan.json"
    fields = ["--config.optimizer_sharding=data", "--config.optimizer.ema_decay=0.9", *ALONE]
    args = [f"--config={RUNLOCAL}", "--topology=cpu:2", f"--json={file}", *fields]
    done = run(*args, program=("-m", "cvmae.plan"), env={"XLA_FLAGS": ""})
    assert done.returncode == 0, done.stderr
    memory = json.loads(file.read_text())["memory"]
    half = memory["parameters"] / 2
    assert memory["ema"] == pytest.approx(half, rel=0.01) and memory["optimizer"] == pytest.approx(2 * half, rel=0.01)
    assert memory["sharding_saves"] == pytest.approx(3 * half, rel=0.01)
    parts = sum(memory[name] for name in ("parameters", "optimizer", "ema", "other", "batch"))
    assert memory["arguments"] == pytest.approx(parts, rel=0.01)  # by the compiler's own count
    [line] = [line for line in done.stdout.splitlines() if "sharded over the data axis" in line]
    saved = f"{memory['sharding_saves'] / 2**20:.2f} MiB"
    assert line == f"    optimizer state and EMA are sharded over the data axis: {saved} less (config.optimizer_sharding)"


def test_a_program_for_tpus(command, tmp_path):
    """The step of `runlocal`, compiled by the TPU compiler."""
    if importlib.util.find_spec("libtpu") is None:
        missing("plan", "libtpu comes with the extra: pip install '.[plan]'")
    file = tmp_path / "plan.json"
    code, out, _ = command("--topology=v5e:2x2", "--clips=1000", f"--json={file}", *ALONE)
    data = json.loads(file.read_text())
    assert code == 0 and "estimate, not a measurement" in out and "chip-hours" in out
    assert data["collectives"]["all-reduce"][1] >= data["memory"]["parameters"] * 0.9
    assert 4 * data["flops"] == pytest.approx(data["run"]["traced_flops"], rel=0.1)
    assert 0 < data["estimate"]["roofline"] < data["estimate"]["step"]
    assert data["memory"]["total"] < 16 * 2**30
    code, _, err = command("--topology=v5e:3x3")
    assert code == 2 and "the TPU compiler knows no such slice" in err


def plan_gpu(*args: str):
    """Runs a plan of `runlocal` in bfloat16 in a process of its own, where the GPU's plugin stays loaded."""
    if importlib.util.find_spec("jax_cuda13_plugin") is None:
        missing("gpu-compiler", "the GPU's compiler comes with the extra: pip install '.[gpu-compiler]'")
    args = (f"--config={RUNLOCAL}", "--topology=h100:1", "--config.dtype=bfloat16", *ALONE, *args)
    return run(*args, program=("-m", "cvmae.plan"), env={"XLA_FLAGS": "", "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"})


def has_cudnn() -> bool:
    return any(distribution.name == "nvidia-cudnn-cu13" for distribution in importlib.metadata.distributions())


def test_a_program_for_gpus_by_the_compiler_alone(tmp_path):
    file = tmp_path / "plan.json"
    done = plan_gpu("--config.attention=xla", "--config.loss.intra_video=1", f"--json={file}")
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text())
    assert data["flops"] == pytest.approx(data["run"]["traced_flops"], rel=0.1)
    assert 0 < data["estimate"]["roofline"] <= data["estimate"]["step"] and data["memory"]["total"] < 80e9
    assert {use["kernel"] for use in data["gpu"]["attention"]} == {"xla"} and data["gpu"]["kernels"]["cuDNN and cuBLAS"][0] > 0
    slow = {(row["line"].partition(":")[0], row["precision"]) for row in data["gpu"]["slow"]}
    assert ("cvmae/objective/losses.py", "float32") in slow  # the similarities of the contrast


def test_a_plan_of_cudnn_without_it_says_how_to_get_it():
    if has_cudnn():
        pytest.skip("cuDNN is installed here")
    done = plan_gpu()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "cuDNN is not installed: pip install 'crossvideomae[plan-gpu]'" in done.stderr.splitlines()[-1]


@pytest.mark.device
def test_a_program_for_gpus(tmp_path):
    """With cuDNN's attention."""
    if not has_cudnn():
        missing("plan-gpu", "cuDNN comes with the extra: pip install '.[plan-gpu]'")
    file = tmp_path / "plan.json"
    done = plan_gpu(f"--json={file}")
    assert done.returncode == 0, done.stderr
    data = json.loads(file.read_text())
    assert data["flops"] == pytest.approx(data["run"]["traced_flops"], rel=0.1)
    assert 0 < data["estimate"]["roofline"] <= data["estimate"]["step"] and data["estimate"]["cycles"] == 0
    assert {use["kernel"] for use in data["gpu"]["attention"]} == {"cudnn"}
    assert data["gpu"]["kernels"]["cuDNN and cuBLAS"][0] > 0 and not data["notes"]
    assert not data["gpu"]["slow"]  # the resize in bfloat16 too


def fake(gib: float, flops: int = 1) -> ProgramCost:
    memory = Memory(0, 0, 0, 0, 0, 2**30, round((gib - 1) * 2**30), 0, 0)
    return ProgramCost(memory, flops, 0.0, 0, {}, None, (), (), 0.0)


@pytest.mark.parametrize(
    "given, ends",
    [
        (False, " of 71.20 GiB, 3 % (0.9 of the GPU's, which launch/gpu.sh gives to JAX)"),
        (True, " of 4.00 GiB, 50 % (--hbm_gib)"),
    ],
)
def test_the_limit_of_memory_is_the_one_that_was_compared(given, ends, monkeypatch):
    monkeypatch.setattr(plan, "FLAGS", types.SimpleNamespace(topology="h100:1", slices=1, hbm_gib=4.0 if given else 0.0))
    [total] = [line for line in plan_report.memory_lines(fake(2), plan.topology_from_flags()) if line.startswith("    total")]
    assert total.endswith(ends)


def test_a_refusal_of_the_compiler_has_the_memory_that_was_given(monkeypatch):
    """Which the compiler does not know: it refuses by the memory of the chip."""

    def refuse():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.0G of 15.75G hbm.")

    step = types.SimpleNamespace(traced=types.SimpleNamespace(lower=refuse))
    for gib, available in ((0.0, 15.75), (1.0, 1.0)):
        monkeypatch.setattr(plan, "FLAGS", types.SimpleNamespace(topology="v5e:1x1", slices=1, hbm_gib=gib))
        refusal = compile_step(step, plan.topology_from_flags())
        assert (refusal.used, refusal.available) == (20 * 2**30, round(available * 2**30))


class Chips:
    """Replaces the compiler: memory is a function of the clips per chip and the policy."""

    def __init__(self, monkeypatch, memory):
        self.memory, self.tried = memory, []
        monkeypatch.setattr(search, "TracedStep", lambda config, devices: config)
        monkeypatch.setattr(search, "compile_step", self.compile)

    def compile(self, c, topology):
        self.tried.append(c.batch_size)
        gib = self.memory(c.batch_size, c.remat)
        return fake(gib) if gib <= 15.75 else TooLarge(0, 0, ())


def searched(clips=0, only=TERMS, **overrides):
    return search.Search(config(only, **overrides), chips.parse_topology("v5e:1x1"), jax.devices()[:1], lambda line: None, clips)


def test_the_search_says_what_it_compiles_before_it_does(monkeypatch):
    said = []

    def memory(batch, remat):
        said.append("compiled")
        return 1.75 + 14 * batch / 16

    Chips(monkeypatch, memory)
    monkeypatch.setattr(search, "POLICIES", ("none", "full"))
    search.Search(config(), chips.parse_topology("v5e:1x1"), jax.devices()[:1], said.append).run()
    assert said[:2] == ["search, policy 1 of 2, compilation 1: batch 8, 8 per chip, remat none ...", "compiled"]
    assert said[2].startswith("batch 8, 8 per chip, remat none: 8.75 GiB, fits, after ")
    assert said.count("compiled") == len(said) // 3 and any(
        line.startswith("search, policy 2 of 2, compilation ") for line in said
    )


@pytest.mark.parametrize("start, clips, best", [(8, 9, 9), (400, 20, 16), (2, 100, 16)])
def test_a_contrastive_batch_holds_no_clip_twice(monkeypatch, start, clips, best):
    tried = Chips(monkeypatch, lambda batch, remat: 1.75 + 14 * batch / 16).tried
    monkeypatch.setattr(search, "POLICIES", ("none",))
    [trial] = searched(clips, batch_size=start).run()
    assert best * 0.9 <= trial.batch <= best and max(tried) <= clips
    if clips < 16:
        assert searched(clips, ("mse_video",), batch_size=start).run()[0].batch > clips


@pytest.mark.parametrize("start", [8, 400, 2])
@pytest.mark.parametrize("largest", [4, 10, 73, 150])
def test_the_search_ends_within_a_tenth_of_the_largest_batch(monkeypatch, start, largest):
    chips = Chips(monkeypatch, lambda batch, remat: 1.75 + 14 * batch / largest)
    monkeypatch.setattr(search, "POLICIES", ("none",))
    [trial] = searched(batch_size=start).run()
    assert trial.batch <= largest < trial.batch + max(2, math.ceil(0.11 * trial.batch)) + 1
    assert len(chips.tried) <= 14


def test_the_search_ends_where_the_smallest_batch_does_not_fit(monkeypatch):
    chips = Chips(monkeypatch, lambda batch, remat: 17)
    assert searched().run() == [] and chips.tried == [8, 4, 2] * 5  # one clip has no negative


def test_the_cheapest_policy_that_fits_is_named(monkeypatch):
    limits = {"none": 20, "all_dots": 24, "dots": 64, "kernels": 90, "full": 200}
    assert set(limits) == set(search.POLICIES) == set(vit.REMATS)
    Chips(monkeypatch, lambda batch, remat: 1.75 + 14 * batch / limits[remat])
    trials = searched(batch_size=32).run()
    assert [trial.remat for trial in trials] == list(search.POLICIES)
    assert search.cheapest(trials, 32).remat == "dots" and search.cheapest(trials, 500) is None


@pytest.mark.parametrize("remat, policy", [("none", "all_dots"), ("all_dots", "dots"), ("dots", "kernels"), ("kernels", "full")])
@pytest.mark.slow
def test_policies_are_ordered_by_their_recomputation(remat, policy):
    def traced(remat):
        return traced_step.TracedStep(config(only=("mse_video",), remat=remat), jax.devices()[:1]).flops.total

    built = traced_step.TracedStep(config(only=("mse_video",), remat=policy, attention="xla"), jax.devices()[:1])
    assert traced_step.model_flops(built) == traced("none") <= built.flops.total
    assert traced(remat) <= traced(policy) and search.POLICIES.index(remat) + 1 == search.POLICIES.index(policy)


def test_the_estimate_is_the_sum_of_the_bounds_of_operations():
    v5e = chips.parse_topology("v5e:2x2")
    ops = [Op("fusion", "", 197 * 10**9, 819 * 10**5, 0, 2), Op("fusion", "", 0, 819 * 10**6, 15 * 10**5, 3)]
    seconds = estimate(ops, [Collective("all-reduce", 200 * 10**6, 4, 2, "")], v5e)
    assert seconds.roofline == pytest.approx(2e-3 + 3e-3) and seconds.cycles == pytest.approx(3e-3 + seconds.no_cycles)
    assert seconds.no_cycles == pytest.approx(2e-3)  # of the first, which XLA gives no cycles
    assert seconds.collectives == pytest.approx(2 * 1.5e-3) and seconds.step == pytest.approx(8e-3)
    reduce = Op("all-reduce", "", 0, 819 * 10**6, 0, 1)
    assert estimate([*ops, reduce], [], v5e).cycles == seconds.cycles  # its time is that of the links
    v6e = estimate(ops, [], chips.parse_topology("v6e:2x2"))
    assert v6e.cycles == v6e.no_cycles == 0 and "vector units" in plan_report.not_counted(v6e, chips.CHIPS["v6e"])
    with_kernels = estimate(ops, [], v5e, kernel_flops=4 * 197 * 10**9)  # of four chips
    assert with_kernels.kernels == pytest.approx(1e-3) and with_kernels.step == pytest.approx(6e-3)


def planned(hosts: int = 1, decoders: int = 0, read_together: int = 1) -> plan_report.PlannedRun:
    return plan_report.PlannedRun("c", {}, 600, 1, 1, "", 1, 1, hosts, decoders, read_together)


def test_the_clips_that_a_host_decodes_are_announced():
    rate = plan_report.CLIPS_PER_CPU_SECOND
    [line] = plan_report.input_lines(planned(hosts=4, decoders=8), step=2.0)
    assert "each of 4 hosts decodes 75 clips/s" in line and f"{math.ceil(75 / rate)} cores" in line
    _, warning = plan_report.input_lines(planned(decoders=8), step=0.5)
    assert f"reach at most {8 * rate} clips/s" in warning and f"--config.data.workers={math.ceil(1200 / rate)}" in warning
    assert plan_report.input_lines(planned(decoders=0), step=0.5) == []  # rendered clips
    [line] = plan_report.input_lines(planned(hosts=4, decoders=80, read_together=8), step=2.0)
    assert "each of 4 hosts decodes 600 clips/s" in line


def test_decoders_are_workers_times_threads():
    c = load(f"{CONFIGS / 'ssv2.py'}")
    assert traced_step.decoders(c) == 8
    c.data.workers, c.data.threads = 0, 3
    assert traced_step.decoders(c) == 3
    c.data.source = "webdataset"
    assert traced_step.decoders(c) == 3
    assert traced_step.decoders(load(f"{CONFIGS / 'motion.py'}")) == 0
    c = load(f"{CONFIGS / 'ssv2.py'}:sources=a+b,runlocal")
    assert traced_step.decoders(c) == 0
    c.data.sources.b.source = "hf"
    assert traced_step.decoders(c) == 1


def test_training_clips_come_from_the_flag_the_data_or_the_published_number(tmp_path):
    c = load(f"{CONFIGS / 'ssv2.py'}")
    assert traced_step.training_clips(c, 0) == (COUNTS["ssv2"]["manifest"]["train"], "published for ssv2")
    assert traced_step.training_clips(c, 7) == (7, "--clips")
    manifest = tmp_path / "m.csv"
    manifest.write_text("path,label,split\na.mp4,x,train\nb.mp4,y,train\nc.mp4,y,val\n")
    c.data.manifest = str(manifest)
    assert traced_step.training_clips(c, 0)[0] == 2
    shard = write_tar(tmp_path / "train-0.tar", [(f"{name}.mp4", b"x") for name in "abcde"])
    shards = {"data.source": "webdataset", "data.webdataset.shards": str(shard)}
    assert traced_step.training_clips(load(f"{CONFIGS / 'ssv2.py'}", shards), 0)[0] == 5
    assert traced_step.training_clips(load(f"{CONFIGS / 'motion.py'}:size=full"), 0)[0] == 12000
    with pytest.raises(ConfigError, match="give --clips=N"):
        traced_step.training_clips(load(f"{CONFIGS / 'ssv2.py'}", {"data.name": "mine"}), 0)


@pytest.mark.parametrize(
    "name", ["ssv2", "k400", "ucf101", "hmdb51", "imagenet", "diving48", "jester", "metaworld", "motion", "demo"]
)
@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_every_config_names_its_data_set(name, task):
    c = load(f"{CONFIGS / name}.py:task={task}")
    assert c.data.name == ("motion" if name == "demo" else name)
    if name not in ("motion", "demo"):
        assert traced_step.training_clips(c, 0) == (next(iter(COUNTS[name].values()))["train"], ANY)


def test_a_config_from_before_the_field_has_no_published_numbers():
    c = load(f"{CONFIGS / 'ssv2.py'}")
    with c.unlocked():
        del c.data.name
    with pytest.raises(ConfigError, match="the number of training clips of this config is not known"):
        traced_step.training_clips(c, 0)


def test_published_classes_replace_labels():
    c = load(f"{CONFIGS / 'ssv2.py'}:task=finetune")
    data = traced_step.without_data(c).data
    assert (data.source, data.synthetic.classes, data.synthetic.clips) == ("synthetic", 174, 174)


@pytest.mark.parametrize(
    "topology, sizes",
    [("v5e:4x4", {}), ("v5e:4x4", {"fsdp": 4}), ("v6e:4x8", {"fsdp": 2, "model": 2}), ("v4:2x2x4", {"model": 2})],
)
def test_processes_read_contiguous_rows_on_real_slices(topology, sizes):
    """Meshes that follow the chips' links scatter the rows of a process over the batch, and do not exist for some sizes."""
    if not importlib.util.find_spec("libtpu"):
        missing("plan", "libtpu comes with the extra: pip install '.[plan]'")
    c = config(**{f"mesh__{axis}": size for axis, size in sizes.items()})
    mesh = make_mesh(c.mesh, chips.devices_of(chips.parse_topology(topology, 1)))
    hosts = {device.process_index for device in mesh.devices.flat}
    shards = {processes.shard_of_process(batch_sharding(mesh), process) for process in hosts}
    assert {shard.index for shard in shards} == set(range(next(iter(shards)).count))
