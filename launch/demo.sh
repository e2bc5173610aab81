#!/usr/bin/env bash
# The main job on the embedded default: makes .venv, installs, renders the demo clips, pre-trains, reports. Under 10 minutes on 2 cores.
# Use: ./launch/demo.sh [WORKDIR] [--config.FIELD=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
workdir=workdir/demo
if [[ $# -gt 0 && $1 != -* ]]; then
  workdir=$1
  shift
fi
exec python -m cvmae.main --config=configs/demo.py --workdir="$workdir" "$@"
