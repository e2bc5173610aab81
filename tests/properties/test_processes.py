"""Runs of several real processes: they end in the numbers of one, whatever becomes of any of them."""

import pathlib
import signal

import numpy as np
import pytest

from cvmae.config import ConfigError
from cvmae.parallel import launch
from cvmae.parallel.processes import ProcessShard, shard_of_ranges
from tests.commands import arguments, checkpoint_steps, metric_lines, saved_state
from tests.multiprocess import free_address, run_all
from tests.properties.metric_history import TOTAL, History

HERE = pathlib.Path(__file__).parent
AVERAGE = {"optimizer__ema_decay": 0.5}  # evaluated, and sharded over processes where moments are


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one process that nothing interrupted."""
    history = History(tmp_path_factory.mktemp("whole"))
    [end] = history.go(1, **AVERAGE)
    assert end.returncode == 0, end.stderr
    return history


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    """Four processes until one of them gets SIGTERM, then two, as slices of a pod, until one is killed, then one to the end; {processes: their ends}."""
    history = History(tmp_path_factory.mktemp("pieces"))
    stages = {
        4: history.go(4, (signal.SIGTERM, 2, 1), **AVERAGE, optimizer_sharding="data"),
        2: history.go(2, (signal.SIGKILL, 1, 6), mesh__dcn=2, **AVERAGE, optimizer_sharding="data"),
        1: history.go(1, **AVERAGE),
    }
    return history, stages


@pytest.mark.slow
def test_a_signal_to_one_of_four_makes_all_save_the_same_step_and_exit_with_0(pieces):
    ends = pieces[1][4]
    assert [end.returncode for end in ends] == [0] * 4, [end.stderr[-2000:] for end in ends]
    stopped = int(ends[0].stderr.partition("stopped at step ")[2].partition(" of 8, saved")[0])
    assert 1 <= stopped < TOTAL
    assert f"resumed from the checkpoint of step {stopped}" in pieces[1][2][0].stderr


@pytest.mark.slow
def test_when_one_is_killed_the_other_ends_with_a_reason(pieces):
    survivor, killed = pieces[1][2]
    assert killed.returncode == -signal.SIGKILL and survivor.returncode == 1, survivor.stderr[-2000:]
    assert survivor.at - killed.at < 10 + launch.LAST_WORDS_S + 30  # the heartbeat, and a busy machine
    # JAX's own threads may say more behind it, before the process ends.
    reasons = [line for line in survivor.stderr.splitlines() if line.startswith("error: process 0 of 2: ")]
    assert len(reasons) == 1, survivor.stderr[-2000:]


@pytest.mark.slow
def test_the_run_ends_on_one_process(pieces):
    [end] = pieces[1][1]
    assert end.returncode == 0, end.stderr[-2000:]
    assert int(end.stderr.partition("resumed from the checkpoint of step ")[2][0]) >= 2


@pytest.mark.slow
def test_every_batch_has_the_clips_of_one_process_in_their_order(whole, pieces):
    alone, several = whole.clips(), pieces[0].clips()
    assert sorted(several) == list(range(1, TOTAL + 1))
    assert {count for batches in several.values() for count in batches} == {1, 2, 4}
    for step, batches in several.items():
        assert all(clips == alone[step][1] for clips in batches.values()), step


@pytest.mark.slow
def test_losses_and_evaluations_are_those_of_one_process(whole, pieces):
    alone, several = metric_lines(whole.workdir), metric_lines(pieces[0].workdir)
    assert [line["step"] for line in several] == [line["step"] for line in alone] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 8]
    for one, other in zip(alone, several):
        assert one.keys() == other.keys()
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=2e-5, err_msg=f"{name} of step {one['step']}")


@pytest.mark.slow
def test_the_parameters_are_those_of_one_process(whole, pieces):
    alone, several = saved_state(whole.workdir, TOTAL), saved_state(pieces[0].workdir, TOTAL)
    assert alone.keys() == several.keys() and checkpoint_steps(whole.workdir) == checkpoint_steps(pieces[0].workdir)
    scale = max(np.abs(array).max() for name, array in alone.items() if "nu" not in name)
    for name, array in alone.items():
        np.testing.assert_allclose(several[name], array, rtol=1e-4, atol=1e-6 * scale, err_msg=name)


@pytest.mark.slow
def test_one_process_prints_and_writes(pieces):
    for count in (4, 2):
        first, *others = pieces[1][count]
        assert "8 steps = 1.0 epochs" in first.stderr and f"{count} cpu device(s) of {count} processes" in first.stderr
        said = [line for end in others for line in end.stderr.splitlines() if line and "SIGTERM caught" not in line]
        assert not said
    assert len(list((pieces[0].workdir / "tensorboard").iterdir())) == 3  # a file for every start, not for every process


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What `multiprocess_run.py` found in one process and in two, and how the two ended."""
    folder, address = tmp_path_factory.mktemp("together"), free_address()
    program = str(HERE / "multiprocess_run.py")
    [alone] = run_all([[program, str(folder / "one"), address, "1", "0"]])
    ends = run_all([[program, str(folder / "two"), address, "2", str(one)] for one in range(2)], waited=1)
    assert alone.returncode == 0, alone.stderr
    return {name: dict(np.load(folder / f"{name}.npz")) for name in ("one.0", "two.0", "two.1")}, ends, folder


@pytest.mark.parametrize("process", [0, 1])
def test_evaluation_reads_in_parts_and_gives_the_whole_to_all(together, process):
    found, *_ = together
    one, two = found["one.0"], found[f"two.{process}"]
    assert one["views/readable"].sum() == 43 and len(one["views/readable"]) == 44  # which 8 does not divide
    for name in ("views/labels", "views/readable", "views/failed", "heldout/video"):
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)
    np.testing.assert_allclose(one["views/probabilities"], two["views/probabilities"], rtol=1e-6)
    assert one["heldout/video"].shape == (5, 8)  # of 43 readable clips


@pytest.mark.parametrize("process", [0, 1])
def test_fewer_readable_clips_than_a_batch_are_one_smaller_batch_for_all(together, process):
    found, *_ = together
    one, two = found["one.0"], found[f"two.{process}"]
    assert one["few/video"].shape == (1, 6) and one["few/bad"][:, 0].tolist() == ["broken.mp4"]
    for name in ("few/video", "few/bad"):
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@pytest.mark.parametrize("process", [0, 1])
def test_bad_files_are_counted_and_listed_over_all(together, process):
    found, _, folder = together
    one, two = found["one.0"], found[f"two.{process}"]
    assert one["bad/counts"].sum() > 1 and one["bad/pairs"][:, 0].tolist() == ["broken.mp4"]
    np.testing.assert_array_equal(one["bad/counts"], two["bad/counts"])
    np.testing.assert_array_equal(one["bad/pairs"], two["bad/pairs"])
    assert (folder / "two.list" / "bad_files.csv").read_text() == (folder / "one.list" / "bad_files.csv").read_text()


def test_values_of_any_length_reach_all(together):
    found, *_ = together
    assert found["two.0"]["said"].tolist() == found["two.1"]["said"].tolist() == ["0", "1é"]


def test_a_process_that_falls_silent_ends_the_others_after_the_heartbeat(together):
    left, _ = together[1]
    assert left.returncode not in (0, float("inf")) and left.at < float("inf")
    assert "heartbeat" in left.stderr


def test_a_process_knows_its_part_of_a_batch():
    assert shard_of_ranges([(0, 1), (1, 2)], 8) == ProcessShard(0, 4) and shard_of_ranges([(6, 8), (4, 6)], 8) == ProcessShard(
        1, 2
    )
    assert shard_of_ranges([(4, 8), (4, 8)], 8) == ProcessShard(1, 2)  # two devices of a process hold the same rows
    assert ProcessShard(1, 2).of([1, 2, 3, 4]) == [3, 4]
    for scattered in ([(0, 1), (2, 3)], [(1, 3)], [(0, 3)]):
        with pytest.raises(ValueError, match="config.mesh scatters"):
            shard_of_ranges(scattered, 8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, None), "--processes, --process missing"),
        ((None, 2, 0), "--coordinator missing"),
        (("host", 2, 0), "'host' is not HOST:PORT"),
        (("host:1", 2, 2), "the last of N is N - 1"),
        (("host:1", 0, 0), "--processes=0"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        launch.initialize(*given)


SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1", "SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
LAPTOP = {"TPU_SKIP_MDS_QUERY": "1"}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        (SLURM, "Slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        (SLURM | {"SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell in an allocation for two
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, None),  # a batch script, before srun
        ({"OMPI_MCA_orte_hnp_uri": "x", "OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "0"}, "TPU"),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "TPU"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
    ],
)
def test_the_environment_says_whether_there_are_others(environment, expected):
    assert launch.launcher(LAPTOP | environment) == expected


@pytest.mark.parametrize(("process", "message"), [(0, "the others did not all connect"), (1, "did not reach the coordinator at")])
def test_a_process_that_nobody_joins_says_what_to_check(process, message, tmp_path):
    address = free_address()
    place = [f"--coordinator={address}", "--processes=2", f"--process={process}", "--connect_s=2"]
    [end] = run_all([["-m", "cvmae.main", *place, *arguments(tmp_path / "run")]])
    assert end.returncode == 1 and not (tmp_path / "run").exists()
    assert end.stderr.startswith("error: ") and end.stderr.count("\n") == 1, end.stderr
    assert message in end.stderr and address in end.stderr and "within 2 s" in end.stderr
