#!/usr/bin/env bash
# The demo: creates .venv, installs, renders clips, pre-trains and reports, in less than 10 minutes on 2 cores.
# The last line of its output is the path of the report, WORKDIR/report.html.
# Usage: ./launch/demo.sh [--dry-run] [WORKDIR] [--config.FIELD=VALUE ...]
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh
run source launch/venv.sh
# JAX on a CPU allocates the memory of a step anew in every step. By default glibc takes such blocks from the system and gives them back, which clears
# every page each time; with these settings it keeps them. https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184}
workdir=workdir/demo
if [[ $# -gt 0 && $1 != -* ]]; then
  workdir=$1
  shift
fi
run exec python -m cvmae.main --config=configs/demo.py --workdir="$workdir" "$@" &
process=$!
trap 'kill -TERM "$process"' TERM INT # signals to this script are passed to the run, which saves and exits with 0
wait "$process" || wait "$process"    # a signal ends the first wait before the run has ended
trap - TERM INT
run exec python -m cvmae.report "$workdir"
