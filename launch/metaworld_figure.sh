#!/usr/bin/env bash
# Draws the front page's figure of Meta-World, launch/pictures/figure_metaworld.png and .gif: pre-trains a small encoder on 96x96 clips by
# reconstruction alone, in pixels as they are, so that a person can judge what it fills in; then draws a clip of test. A rerun resumes.
# Usage: ./launch/metaworld_figure.sh [--dry-run] [OUT] [--config.FIELD=VALUE ...]      fields of pre-training, whose messages are in OUT/log
#   MANIFESTS=metaworld    folder of task.csv, see python -m cvmae.data.prepare --dataset=metaworld
#   STEPS=1500             of pre-training: 11 minutes on two CPU cores
#   CLIP=0                 number of the clip in test
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh
source launch/evidence_runs.sh
read_arguments workdir/figure-metaworld "$@"
manifest=${MANIFESTS:-metaworld}/task.csv
STEPS=${STEPS:-1500}
CLIP=${CLIP:-0}
whole_numbers 1 STEPS
whole_numbers 0 CLIP
if [[ -e $manifest ]]; then
  clips=$(awk -F, '$3 == "test"' "$manifest" | wc -l)
  ((CLIP < clips)) || wrong "CLIP is $CLIP: test has $((clips)) clips in $manifest, numbered from 0"
fi

pretrain=(--config.data.manifest="$manifest" --config.batch_size=16 --config.total="${STEPS}_steps" --config.optimizer.base_lr=1.6e-2)
pretrain+=(--config.eval_every=0_steps --config.checkpoint_every=10_percent --config.report.{labelled,pictures}"=0")
pretrain+=(--config.loss.{intra_video,intra_frame,cross_video,cross_frame}"=0")
for branch in video_branch image_branch; do
  pretrain+=("--config.$branch."{target_norm=none,decoder.width=128,decoder.heads=2,decoder.depth=2,decoder.share=0.5})
done
line=$(unfinished "$out/pretrain" "checkpoints/$STEPS" configs/metaworld.py:side=96 "${pretrain[@]}" ${fields[@]+"${fields[@]}"})
run source launch/venv.sh
run_all "$line"
run python -m cvmae.main --config=configs/metaworld.py:task=visualize,side=96 --config.init_from="$out/pretrain" --config.data.manifest="$manifest" \
  --config.visualize.records="($CLIP,)" --config.visualize.ratios='(0.75,)' --config.visualize.queries=0 --config.visualize.embedded=0 \
  --config.visualize.fps=4 --workdir="$out/figures"
for kind in png gif; do
  run cp "$out/figures/figures/clip00_masked75.$kind" launch/pictures/figure_metaworld.$kind
done
