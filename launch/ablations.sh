#!/usr/bin/env bash
# The ablation tables of configs/RESULTS.md: studies on `motion` easy, every variant with every seed. A rerun resumes. About 2 hours on
# 2 cores.
# Usage: ./launch/ablations.sh [--dry-run] [--config.pretrain.FIELD=VALUE ...]        OUT/STUDY/table.md, table.csv, table.png
#   STUDIES="masking frames objectives negatives"   also decoder, views, first_view
#   BASE=demo       any base of configs/ablate.py with its arguments, such as motion,size=full
#   SEEDS="0 1 2"   of the weights and the data order
#   JOBS=2          studies in parallel; 1 if they share an accelerator
#   SLURM=yes       submits every study as a job array with one run and one GPU per job, through launch/slurm.sh and its variables
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh
source launch/evidence_runs.sh

OUT=${OUT:-workdir/ablations}
BASE=${BASE:-demo}
SEEDS=${SEEDS:-0 1 2}
JOBS=${JOBS:-2}
SLURM=${SLURM:-}
choice SLURM yes no
whole_numbers 1 JOBS
whole_numbers 0 SEEDS
read -ra studies <<<"${STUDIES:-masking frames objectives negatives}"
read -ra seeds <<<"$SEEDS"
fields=("--config.study.seeds=($(printf '%s,' "${seeds[@]}"))" "$@")

last_run() { # CONFIG: prints the index of the study's last run
  "${PYTHON:-${VENV:-.venv}/bin/python}" -c 'if True:
    import sys
    from cvmae.config import load
    print(int(sys.argv[2]) * len(load(sys.argv[1]).study.variants) - 1)' "$1" "${#seeds[@]}"
}

if [[ $SLURM == yes ]]; then
  again=()
  [[ $dry_run == no ]] || again=(--dry-run)
  export GPUS=${GPUS:-1}
  for study in "${studies[@]}"; do
    config=configs/ablate.py:study=$study,base=$BASE
    last=$(last_run "$config")
    CONFIG=$config WORKDIR=$OUT/$study NAME=cvmae-$study ARRAY=0-$last \
      ./launch/slurm.sh ${again[@]+"${again[@]}"} "${fields[@]}"
  done
  exit
fi

commands() {
  local study
  for study in "${studies[@]}"; do
    quoted python -m cvmae.main "--config=configs/ablate.py:study=$study,base=$BASE" "--workdir=$OUT/$study" "${fields[@]}"
  done
}

run source launch/venv.sh
commands | sed 's/^/+ /' >&2
if [[ $dry_run == no ]]; then
  keep_compiled "$OUT"
  each_line "$JOBS" eval "$(commands)"
fi
