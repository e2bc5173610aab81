#!/usr/bin/env bash
# The main job on the embedded default: makes .venv, installs, renders the demo clips, pre-trains, reports. Under 10 minutes on 2 cores.
# The last line that it prints is the path of the report, WORKDIR/report.html.
# Use: ./launch/demo.sh [WORKDIR] [--config.FIELD=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
workdir=workdir/demo
if [[ $# -gt 0 && $1 != -* ]]; then
  workdir=$1
  shift
fi
python -m cvmae.main --config=configs/demo.py --workdir="$workdir" "$@" &
run=$!
trap 'kill -TERM "$run"' TERM INT # a signal to this script is one to the run, which saves and ends with 0
wait "$run" || wait "$run" # a signal ends the first wait before the run has ended
trap - TERM INT
exec python -m cvmae.report "$workdir"
