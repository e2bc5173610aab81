#!/usr/bin/env bash
# The table of objectives on `motion` easy in configs/RESULTS.md: pre-trains with each objective, then runs a linear probe, kNN, and
# fine-tuning with 1, 5 and 100 % of the labels. A rerun resumes. A few hours on 2 cores.
# Usage: ./launch/motion_evidence.sh [OUT]        OUT/NAME/SEED/TASK
#   SEEDS="0 1 2"   of the weights, the data order and the choice of labels
#   JOBS=2          runs in parallel
# Flags are split from one string, and commands are expanded by another shell, on purpose.
# shellcheck disable=SC2016,SC2046,SC2086
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/venv.sh
out=${1:-workdir/evidence}
seeds=${SEEDS:-0 1 2}
mkdir -p "$out"
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$(realpath "$out")/.compiled}

config() { # TASK WORKDIR FLAGS...: prints the command of a run, unless the run is finished
  local task=$1 workdir=$2
  shift 2
  [[ -e $workdir/report.json || -d $workdir/checkpoints/600 ]] || echo python -m cvmae.main "--config=configs/demo.py:task=$task" "--workdir=$workdir" "$@"
}

objective() { # NAME: prints the flags that change the demo's objective into this one
  local reversed=--config.contrast.time_reversed_negatives=False
  case $1 in
  mae) echo $reversed --config.loss.{mse_image,intra_video,intra_frame,cross_video,cross_frame}=0 ;;
  contrast) echo $reversed --config.loss.{mse_video,mse_image}=0 ;;
  full) echo $reversed ;;
  full-reversed) ;;
  esac
}

all() { # runs the commands on stdin, JOBS in parallel
  xargs -P "${JOBS:-2}" -I{} bash -c '{} 2>>"$0/log" || echo "failed, see $0/log: {}" >&2' "$out"
}

for seed in $seeds; do
  for name in mae contrast full full-reversed; do
    config pretrain "$out/$name/$seed/pretrain" --config.seed="$seed" --config.eval_every=0_steps --config.report.pictures=0 \
      --config.report.labelled=0 $(objective $name)
  done
done | all

for seed in $seeds; do
  for name in untrained mae contrast full full-reversed; do
    start=--config.init_from=$out/$name/$seed/pretrain
    [[ $name != untrained ]] || start=--config.init_from=untrained
    at=$out/$name/$seed
    quick="--config.seed=$seed --config.eval_every=0_steps --config.checkpoint_every=1000_steps --config.optimizer.warmup=10_percent $start"
    config linear "$at/linear" $quick --config.batch_size=64 --config.total=300_steps
    config knn "$at/knn" --config.seed="$seed" $start
    config finetune "$at/finetune-001" $quick --config.total=100_steps "--config.data.split=train[$seed%:$((seed + 1))%]"
    config finetune "$at/finetune-005" $quick --config.total=150_steps "--config.data.split=train[$((5 * seed))%:$((5 * seed + 5))%]"
    config finetune "$at/finetune-100" $quick --config.total=300_steps
  done
done | all
python -m cvmae.report.summary "$out"
