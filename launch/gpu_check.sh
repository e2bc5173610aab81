#!/usr/bin/env bash
# Measures one GPU within nine minutes, installation included: tests, training step, PyTorch, attention, encoder, loader, memory against the plan.
# Writes OUT/gpu_check.json and OUT/gpu_check.md, a table for configs/RESULTS.md. A part that fails is a line of it, and the others run.
# Usage: ./launch/gpu_check.sh [--dry-run] [--small] [--parts=step,peer] [...]      the options of python -m cvmae.performance.gpu_check
#   WHEELS=DIR      installs the wheels in DIR, and nothing else, beside the packages of PYTHON: for a machine without a network
#   PYTHON=python3  the Python for that; without WHEELS the package index and .venv are used, as by the other scripts
#   SITE=DIR        folder to install them in
#   OUT=DIR         folder of the results
#   LIMIT_S=540     seconds for all of it
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh

OUT=${OUT:-workdir/gpu_check}
LIMIT_S=${LIMIT_S:-540}
whole_numbers 1 LIMIT_S
if [[ -n ${WHEELS:-} ]]; then
  python=${PYTHON:-python3}
  site=${SITE:-$PWD/workdir/gpu_check_site}
  wheels=("$WHEELS"/*.whl)
  # As many files as were chosen, whatever they ask for: what PYTHON has already, such as jax with CUDA, stays in use.
  run "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$site" "${wheels[@]}"
  export PYTHONPATH="$PWD:$site${PYTHONPATH:+:$PYTHONPATH}"
else
  export EXTRAS=${EXTRAS:-gpu,test,parity}
  run source launch/venv.sh
  python=python
fi
source launch/gpu_environment.sh
run exec env "${gpu_environment[@]}" "$python" -m cvmae.performance.gpu_check --seconds="$((LIMIT_S - SECONDS))" --out="$OUT" "$@"
