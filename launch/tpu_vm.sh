#!/usr/bin/env bash
# A run on a TPU VM or a pod: creates it if it does not exist or was preempted, copies the last commit to it, installs, starts or resumes the
# run, and ends with its exit code. Ctrl-C stops showing the log, not the run; the same command then shows the log again, and copies nothing.
# The TPU is not deleted at the end: gcloud compute tpus tpu-vm delete NAME --zone=ZONE
# Usage: ./launch/tpu_vm.sh [--dry-run] [--config.FIELD=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh

CONFIG=${CONFIG:-configs/ssv2.py:variant=B/16}
NAME=${NAME:-cvmae} # of the TPU VM
ZONE=${ZONE:-us-central1-a}
TYPE=${TYPE:-v5litepod-8} # v5litepod-256 is a pod of 32 hosts
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} # the image for TYPE in Google's table
SPOT=${SPOT:-no} # yes | no
BUCKET=${BUCKET:-} # of Cloud Storage, for the workdir; a pod and a spot VM need one
WORKDIR=${WORKDIR:-${BUCKET:+gs://$BUCKET/}workdir/ssv2}

[[ $BUCKET != */* ]] || wrong "BUCKET is $BUCKET: give the name alone"
choice SPOT yes no
[[ $TYPE =~ -[1-9][0-9]*$ ]] || wrong "TYPE is ${TYPE@Q}: expected an accelerator type of Google's, such as v5litepod-8"
# Up to 8 chips, or cores in the names of v2 to v5p, are one host, whose disk has the workdir as long as the VM is not preempted.
if [[ $WORKDIR != *://* ]] && { [[ $SPOT == yes ]] || ((${TYPE##*-} > 8)); }; then
  wrong "WORKDIR is $WORKDIR, on a disk that is lost with a spot VM, and that one host of a pod sees: give BUCKET=NAME, or WORKDIR=gs://..."
fi
own_fields "$@"

tpu() { # VERB...: runs gcloud's command for this TPU
  run gcloud compute tpus tpu-vm "$1" "$NAME" --zone="$ZONE" "${@:2}"
}

on_all() { # COMMAND: runs it on every host
  tpu ssh --worker=all --command="$1"
}

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
said=$temporary/said
source=$temporary/cvmae.tar.gz
# Before there is a VM: what can be wrong here.
run git archive --format=tar.gz --output="$source" HEAD
run git diff --quiet HEAD || echo "note: what was changed since the last commit is not copied" >&2
config=${CONFIG%%:*}
config=${config#./}
[[ $config != /* ]] || wrong "CONFIG is $CONFIG, and the VM has the source in another folder: give it relative to that of the source"
if [[ $dry_run == no && $config == *.py ]] && ! tar -tzf "$source" "$config" >/dev/null 2>&1; then
  wrong "CONFIG is $CONFIG, and the last commit has no $config: commit it, or give one that is there"
fi
[[ $dry_run == yes ]] || is_here gcloud || exit 2
# Only the answer that there is no VM of this name leads to a new one: without permission or a network nothing is known of it.
if ! state=$(tpu describe --format='value(state)' 2>"$said") && [[ $(<"$said") != *NOT_FOUND*"/nodes/$NAME'"* ]]; then
  echo "error: nothing is created, as gcloud does not tell whether there is a TPU VM $NAME in $ZONE: $(grep -v '^+ ' "$said" | tr '\n' ' ')" >&2
  exit 2
fi
cat "$said" >&2
if [[ $state == PREEMPTED || $state == TERMINATED ]]; then
  tpu delete --quiet
  state=
fi
if [[ -z $state ]]; then
  spot=()
  [[ $SPOT == no ]] || spot=(--spot)
  tpu create --accelerator-type="$TYPE" --version="$RUNTIME" ${spot[@]+"${spot[@]}"}
fi

# What a VM has compiled is lost with it: https://docs.jax.dev/en/latest/persistent_compilation_cache.html
cache=()
[[ -z $BUCKET ]] || cache=(env JAX_COMPILATION_CACHE_DIR="${WORKDIR%/*}/.compiled")
command=$(quoted ${cache[@]+"${cache[@]}"} .venv/bin/python -m cvmae.main --config="$CONFIG" --workdir="$WORKDIR" "$@")

# A run in progress keeps the source that it was started from.
running=$(on_all "! pgrep -f 'launch/[d]etached.sh --alone' >/dev/null || echo in progress")
if [[ $running != *"in progress"* ]]; then
  run gcloud compute tpus tpu-vm scp "$source" "$NAME": --zone="$ZONE" --worker=all
  # The images have Python 3.10.
  on_all "mkdir -p cvmae && tar -xzf cvmae.tar.gz -C cvmae && python3 -m pip install --quiet --user uv && ~/.local/bin/uv python install --quiet 3.12"
  on_all "cd cvmae && PYTHON=\$(~/.local/bin/uv python find 3.12) EXTRAS=tpu,gcs bash -c 'source launch/venv.sh'"
fi
on_all "cd cvmae && bash launch/detached.sh $command"
