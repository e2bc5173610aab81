#!/usr/bin/env bash
# GPUs of a Slurm cluster, one process each. On a login node this submits itself; in an allocation (sbatch, salloc) it starts the run.
# Preempted, or SAVE_S before the time is up, the processes save and end; Slurm starts a preempted job again, you one whose time was up.
# Use: ./launch/slurm.sh [--dry-run] [--config.FIELD=VALUE ...]      once before: EXTRAS=gpu bash -c 'source launch/venv.sh'
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" # Slurm runs a copy of this file, from somewhere else
source launch/dry_run.sh

CONFIG=${CONFIG:-configs/ssv2.py:variant=B/16}
WORKDIR=${WORKDIR:-workdir/ssv2} # on a file system that all nodes share
VENV=${VENV:-.venv}
NAME=${NAME:-cvmae}
NODES=${NODES:-1}
GPUS=${GPUS:-8} # of a node; 0 for a cluster without
TASKS=${TASKS:-$((GPUS ? GPUS : 1))} # of a node
CPUS=${CPUS:-12} # of a task; config.data.workers processes decode on them
TIME=${TIME:-24:00:00}
PARTITION=${PARTITION:-}
ACCOUNT=${ACCOUNT:-}
SAVE_S=${SAVE_S:-180}
ARRAY=${ARRAY:-} # indices, where the config is a study: a run of it each

per_node=() binding=()
if ((GPUS)); then
  per_node=(--gpus-per-node="$GPUS") binding=(--gpu-bind=none)
fi
if [[ -z ${SLURM_JOB_ID:-} ]]; then
  run sbatch --job-name="$NAME" --nodes="$NODES" --ntasks-per-node="$TASKS" --cpus-per-task="$CPUS" --time="$TIME" \
    ${PARTITION:+--partition="$PARTITION"} ${ACCOUNT:+--account="$ACCOUNT"} ${ARRAY:+--array="$ARRAY"} \
    ${per_node[@]+"${per_node[@]}"} \
    --signal="TERM@$SAVE_S" --requeue --open-mode=append --output="$NAME-%j.log" launch/slurm.sh "$@"
else
  # Each process sees all GPUs of its node and takes the one of its SLURM_LOCALID; when one process fails, Slurm ends the others.
  run exec srun --cpus-per-task="$CPUS" ${binding[@]+"${binding[@]}"} --kill-on-bad-exit=1 \
    "$VENV/bin/python" -m cvmae.main --config="$CONFIG" --workdir="$WORKDIR" "$@"
fi
