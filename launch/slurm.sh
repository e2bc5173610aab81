#!/usr/bin/env bash
# A run on a Slurm cluster with one process per GPU. On a login node this submits itself; in an allocation (sbatch, salloc) it starts the run.
# When preempted, or SAVE_S before the time limit, the processes save and end. Slurm requeues a preempted job; after the time limit, submit again.
# Usage: ./launch/slurm.sh [--dry-run] [--config.FIELD=VALUE ...]      once before: EXTRAS=gpu bash -c 'source launch/venv.sh'
set -euo pipefail
folder=$(dirname "$0")/..
[[ -f $folder/launch/slurm.sh ]] || folder=${SLURM_SUBMIT_DIR:-.} # sbatch runs a copy of this file in a folder of its own
cd "$folder"
if [[ ! -f launch/dry_run.sh ]]; then
  echo "error: $PWD is not the folder of the source: give sbatch launch/slurm.sh there, or ./launch/slurm.sh, which submits itself" >&2
  exit 2
fi
source launch/dry_run.sh

CONFIG=${CONFIG:-configs/ssv2.py:variant=B/16}
WORKDIR=${WORKDIR:-workdir/ssv2} # on a file system that all nodes share
VENV=${VENV:-.venv} # on that too
NAME=${NAME:-cvmae} # of the job
NODES=${NODES:-1} # machines
GPUS=${GPUS:-8} # per node; 0 for a cluster without GPUs
TASKS=${TASKS:-${GPUS/#0/1}} # processes per node, one for each GPU
CPUS=${CPUS:-12} # per task; config.data.workers processes decode on them
TIME=${TIME:-24:00:00} # limit of the job
PARTITION=${PARTITION:-}
ACCOUNT=${ACCOUNT:-}
SAVE_S=${SAVE_S:-180} # seconds before TIME at which the run saves and ends
ARRAY=${ARRAY:-} # indices of the runs of a study, one job each

whole_numbers 0 GPUS SAVE_S
whole_numbers 1 NODES TASKS CPUS
own_fields "$@"

per_node=() binding=() environment=()
if ((GPUS)); then
  source launch/gpu_environment.sh
  per_node=(--gpus-per-node="$GPUS") binding=(--gpu-bind=none) environment=(env "${gpu_environment[@]}")
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  [[ $dry_run == yes || -x $VENV/bin/python ]] ||
    wrong "VENV is $VENV, which has no bin/python: make .venv by EXTRAS=gpu bash -c 'source launch/venv.sh', or give another"
  run sbatch --job-name="$NAME" --nodes="$NODES" --ntasks-per-node="$TASKS" --cpus-per-task="$CPUS" --time="$TIME" \
    ${PARTITION:+--partition="$PARTITION"} ${ACCOUNT:+--account="$ACCOUNT"} ${ARRAY:+--array="$ARRAY"} \
    ${per_node[@]+"${per_node[@]}"} \
    --signal="TERM@$SAVE_S" --requeue --open-mode=append --output="$NAME-%j.log" launch/slurm.sh "$@"
else
  # Each process sees all GPUs of its node and takes that of its SLURM_LOCALID; when one process fails, Slurm ends the others.
  run exec srun --cpus-per-task="$CPUS" ${binding[@]+"${binding[@]}"} --kill-on-bad-exit=1 \
    ${environment[@]+"${environment[@]}"} "$VENV/bin/python" -m cvmae.main --config="$CONFIG" --workdir="$WORKDIR" "$@"
fi
