#!/usr/bin/env bash
# A run on all GPUs of one machine, in one process. A rerun resumes from the newest checkpoint; SIGTERM saves before the run ends.
# Usage: ./launch/gpu.sh [--dry-run] [--config.FIELD=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh

CONFIG=${CONFIG:-configs/ssv2.py:variant=B/16}
WORKDIR=${WORKDIR:-workdir/ssv2}
own_fields "$@"
export EXTRAS=${EXTRAS:-gpu}
source launch/gpu_environment.sh

run source launch/venv.sh
run exec env "${gpu_environment[@]}" python -m cvmae.main --config="$CONFIG" --workdir="$WORKDIR" "$@"
