#!/usr/bin/env bash
# The demo: creates .venv, installs, renders clips, pre-trains and reports, in less than 10 minutes on 2 cores.
# The last line of its output is the path of the report, WORKDIR/report.html.
# Usage: ./launch/demo.sh [WORKDIR] [--config.FIELD=VALUE ...]
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
trap 'kill -TERM "$run"' TERM INT # signals to this script are passed to the run, which saves and exits with 0
wait "$run" || wait "$run"        # a signal ends the first wait before the run has ended
trap - TERM INT
exec python -m cvmae.report "$workdir"
