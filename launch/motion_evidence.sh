#!/usr/bin/env bash
# The table of objectives on `motion` easy in configs/RESULTS.md: pre-trains with each objective, then runs a linear probe, kNN, and
# fine-tuning with 1, 5 and 100 % of the labels. A rerun resumes. A few hours on 2 cores.
# Usage: ./launch/motion_evidence.sh [--dry-run] [OUT] [--config.FIELD=VALUE ...]        OUT/NAME/SEED/TASK; fields of every run
#   SEEDS="0 1 2"   of the weights, the data order and the choice of labels
#   JOBS=2          runs in parallel
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh
source launch/evidence_runs.sh
read_arguments workdir/evidence "$@"
SEEDS=${SEEDS:-0 1 2}
export JOBS=${JOBS:-2}
whole_numbers 0 SEEDS
whole_numbers 1 JOBS
read -ra seeds <<<"$SEEDS"

demo() { # TASK WORKDIR FILE FLAGS...
  unfinished "$2" "$3" "configs/demo.py:task=$1" "${@:4}" ${fields[@]+"${fields[@]}"}
}

objective() { # NAME: sets `changes`, the flags that change the demo's objective into this one
  changes=(--config.contrast.time_reversed_negatives=False)
  case $1 in
  mae) changes+=(--config.loss.{mse_image,intra_video,intra_frame,cross_video,cross_frame}"=0") ;;
  contrast) changes+=(--config.loss.{mse_video,mse_image}"=0") ;;
  full) ;;
  full-reversed) changes=() ;;
  esac
}

pretrainings() {
  local seed name
  for seed in "${seeds[@]}"; do
    for name in mae contrast full full-reversed; do
      objective $name
      demo pretrain "$out/$name/$seed/pretrain" checkpoints/600 --config.seed="$seed" --config.eval_every=0_steps \
        --config.report.pictures=0 --config.report.labelled=0 ${changes[@]+"${changes[@]}"}
    done
  done
}

downstream() {
  local seed name start at quick
  for seed in "${seeds[@]}"; do
    for name in untrained mae contrast full full-reversed; do
      start=--config.init_from=$out/$name/$seed/pretrain
      [[ $name != untrained ]] || start=--config.init_from=untrained
      at=$out/$name/$seed
      quick=(--config.seed="$seed" --config.eval_every=0_steps --config.checkpoint_every=1000_steps)
      quick+=(--config.optimizer.warmup=10_percent "$start")
      demo linear "$at/linear" report.json "${quick[@]}" --config.batch_size=64 --config.total=300_steps
      demo knn "$at/knn" report.json --config.seed="$seed" "$start"
      demo finetune "$at/finetune-001" report.json "${quick[@]}" --config.total=100_steps \
        "--config.data.split=train[$seed%:$((seed + 1))%]"
      demo finetune "$at/finetune-005" report.json "${quick[@]}" --config.total=150_steps \
        "--config.data.split=train[$((5 * seed))%:$((5 * seed + 5))%]"
      demo finetune "$at/finetune-100" report.json "${quick[@]}" --config.total=300_steps
    done
  done
}

first=$(pretrainings)
second=$(downstream)
make_table "$first" "$second"
