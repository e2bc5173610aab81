#!/usr/bin/env bash
# A run on a TPU VM or a pod: creates it if it does not exist or was preempted, copies the last commit to it, installs, and starts or resumes
# the run. Ctrl-C stops showing the log, not the run. The TPU is not deleted at the end: gcloud compute tpus tpu-vm delete NAME --zone=ZONE
# Usage: ./launch/tpu_vm.sh [--dry-run] [--config.FIELD=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh

CONFIG=${CONFIG:-configs/ssv2.py:variant=B/16}
NAME=${NAME:-cvmae}
ZONE=${ZONE:-us-central1-a}
TYPE=${TYPE:-v5litepod-8} # v5litepod-256 is a pod of 32 hosts
RUNTIME=${RUNTIME:-v2-alpha-tpuv5-lite} # the image for TYPE in Google's table
SPOT=${SPOT:-no}
BUCKET=${BUCKET:-} # of Cloud Storage, for the workdir. A pod and a spot VM need one
WORKDIR=${WORKDIR:-${BUCKET:+gs://$BUCKET/}workdir/ssv2}

tpu() { # VERB...: runs gcloud's command for this TPU
  run gcloud compute tpus tpu-vm "$1" "$NAME" --zone="$ZONE" "${@:2}"
}

on_all() { # COMMAND: runs it on every host
  tpu ssh --worker=all --command="$1"
}

said=$(mktemp)
trap 'rm -f "$said"' EXIT
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

run git archive --format=tar.gz --output=/tmp/cvmae.tar.gz HEAD
run gcloud compute tpus tpu-vm scp /tmp/cvmae.tar.gz "$NAME": --zone="$ZONE" --worker=all
# The images have Python 3.10.
on_all "mkdir -p cvmae && tar -xzf cvmae.tar.gz -C cvmae && python3 -m pip install --quiet --user uv && ~/.local/bin/uv python install --quiet 3.12"
on_all "cd cvmae && PYTHON=\$(~/.local/bin/uv python find 3.12) EXTRAS=tpu,gcs bash -c 'source launch/venv.sh'"
# What a VM has compiled is lost with it: https://docs.jax.dev/en/latest/persistent_compilation_cache.html
cache=()
[[ -z $BUCKET ]] || cache=(env JAX_COMPILATION_CACHE_DIR="${WORKDIR%/*}/.compiled")
command=$(quoted ${cache[@]+"${cache[@]}"} .venv/bin/python -m cvmae.main --config="$CONFIG" --workdir="$WORKDIR" "$@")
# If the run is in progress, only its log is shown. `wait` gives the code of a run that this starts; and without a command behind it, tail would
# take the place of the shell, which alone can tell tail that the run has ended.
start="{ nohup $command >>run.log 2>&1 </dev/null & run=\$! started=yes; }"
show="tail -n 20 -F run.log --pid=\$run; [ -z \$started ] || wait \$run"
on_all "cd cvmae && started= && { run=\$(pgrep -of '^[^ ]*python -m cvmae.main') || $start; } && { $show; }"
