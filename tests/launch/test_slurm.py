"""`launch/slurm.sh` with a stand-in for srun: processes of one job work together, and a job with fewer of them goes on."""

import json
import os
import re
import socket
import subprocess
import sys

from tests.commands import ROOT, arguments

SRUN = """#!/usr/bin/env bash
# Starts SLURM_NTASKS copies of a command, as srun does, and ends with the worst of their codes.
while [[ $1 == -* ]]; do shift; done
jobs=()
for ((task = 0; task < SLURM_NTASKS; task++)); do
  SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_STEP_NUM_TASKS=$SLURM_NTASKS SLURM_STEP_NODELIST=localhost "$@" &
  jobs+=($!)
done
trap 'kill "${jobs[@]}"' TERM
code=0
for job in "${jobs[@]}"; do wait "$job" || code=$?; done
exit $code
"""


def free_job() -> str:
    """A job number whose port, as JAX makes one of it, nobody listens on."""
    for number in range(4096):
        with socket.socket() as found:
            if found.connect_ex(("127.0.0.1", 61440 + number)):
                return str(number)
    raise AssertionError("no port is free")


def slurm(tmp_path, tasks: int):
    """launch/slurm.sh inside an allocation of so many tasks on this machine: extraction from 8 clips."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text(SRUN)
    (tools / "srun").chmod(0o755)
    job = {"SLURM_JOB_ID": free_job(), "SLURM_NTASKS": str(tasks), "SLURM_SUBMIT_DIR": str(ROOT), "GPUS": "0"}
    job |= {"CONFIG": "configs/ssv2.py:task=extract,runlocal", "WORKDIR": str(tmp_path / "run"), "VENV": sys.prefix}
    path = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    fields = [word for word in arguments("", data__synthetic__clips=8) if word.startswith("--config.")]
    done = subprocess.run(
        [str(ROOT / "launch" / "slurm.sh"), *fields], env=os.environ | path | job, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done, json.loads((tmp_path / "run" / "report.json").read_text())["metrics"]


def test_slurm_for_real_and_a_rerun_with_fewer_tasks_goes_on(tmp_path):
    done, report = slurm(tmp_path, 2)
    assert done.stderr.count("2 processes") == 1 and len(re.findall("^written ", done.stdout, re.M)) == 1
    assert (report["videos"], report["written"], report["skipped"]) == (8, 8, 0)
    written = sorted((tmp_path / "run" / "features").rglob("*.npz"))
    assert len(written) == 8
    written[3].unlink()
    done, report = slurm(tmp_path, 1)
    assert "processes" not in done.stderr and (report["written"], report["skipped"]) == (1, 7)
