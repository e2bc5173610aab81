#!/usr/bin/env bash
# A table of objectives, and of starts of the image branch, on `metaworld` (cvmae/data/README.md): pre-trains the image MAE (stage 0), then
# with each objective, then runs the downstream tasks on every encoder. Heads are chosen on val, the table is of test. A rerun resumes.
# Usage: ./launch/evidence.sh [--dry-run] [OUT] [--config.FIELD=VALUE ...]        OUT/NAME/SEED/TASK; fields of every run
#   MANIFESTS=metaworld    folder of task.csv, object.csv and direction.csv
#   SEEDS="0 1 2"          of the weights, the data order and the choice of labels
#   VARIANTS="mae full"    some of those below; default: those up to full-color
#     untrained; mae: reconstruction alone; intra, cross, full: with the contrastive terms of a modality, across both, and all (the paper)
#     full-stage0, full-frozen: the image branch begins as an image MAE, and stays that; full-reversed: reversed clips as negatives
#     mae-color, full-color: colors of both views change strongly
#     cross-frozen: as full-frozen, with the terms of cross
#     mae-after, full-after: as mae and as full-frozen, and the video encoder begins as that seed's mae
#     mae-fast: with what the argument `fast` of the configs changes
#     mae-half: half of the tokens visible; intra-closed, full-closed: that, the colors, small crops, and another crop of the frame:
#       views have as little as possible in common but what they show; full-shift: and they begin up to 4 frames apart
#     latent: the features of a frozen teacher, that seed's mae, in place of pixels
#   TASKS="linear-task"    some of {attentive,linear,knn,retrieval}-{task,object,direction}, finetune-N (labels a class), finetune-all; " ": none
#   STEPS=1500 BATCH=64    of every pre-training
#   PROBE_STEPS=600 FINETUNE_STEPS=300    of every probe, and of fine-tuning with few labels; with all, STEPS
#   WEIGHT=1               of the contrastive terms
#   JOBS=1                 runs in parallel
#   GPU=yes                S/16 on 64x64, BATCH=512, STEPS=6000: by estimate 25 minutes a pre-training on one H100 (not run)
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh
source launch/evidence_runs.sh
read_arguments workdir/evidence-metaworld "$@"
manifests=${MANIFESTS:-metaworld}
weight=${WEIGHT:-1}
SEEDS=${SEEDS:-0 1 2}
JOBS=${JOBS:-1}
GPU=${GPU:-}
choice GPU yes no
whole_numbers 0 SEEDS
whole_numbers 1 JOBS
read -ra seeds <<<"$SEEDS"
read -ra variants <<<"${VARIANTS:-untrained mae intra cross full full-stage0 full-frozen full-reversed mae-color full-color}"
tasks="attentive-task attentive-object attentive-direction linear-task knn-task retrieval-task finetune-5 finetune-10"
classes=50 # of task.csv, or of that of fewer tasks
[[ ! -e $manifests/task.csv ]] || classes=$(awk -F, '$3 == "train" && !seen[$2]++ { count++ } END { print count + 0 }' "$manifests/task.csv")

size=
every=() # flags of every run
sized=() # and of every pre-training
if [[ $GPU == yes ]]; then
  # 4x4 patches a frame, as the defaults have. The learning rate is 1e-3 at this batch too; decoders have a width for patches of 16x16.
  # 16 cores that decode 130 clips/s each give 6000 batches in 25 minutes; one such core was measured on a CPU of another machine.
  STEPS=${STEPS:-6000} BATCH=${BATCH:-512}
  size=,side=64,variant=S/16
  every=(--config.dtype=bfloat16 --config.data.workers=16)
  sized=(--config.optimizer.base_lr=5e-4 --config.contrast.width=256)
  sized+=(--config.{video,image}_branch.decoder.{width=192,heads=3,depth=2})
  export EXTRAS=${EXTRAS:-gpu}
  source launch/gpu_environment.sh
  export "${gpu_environment[@]}"
fi
STEPS=${STEPS:-1500}
BATCH=${BATCH:-64}
PROBE_STEPS=${PROBE_STEPS:-600}
FINETUNE_STEPS=${FINETUNE_STEPS:-300}
whole_numbers 1 STEPS BATCH PROBE_STEPS FINETUNE_STEPS

metaworld() { # ARGUMENT MANIFEST SEED WORKDIR FILE FLAGS...
  unfinished "$4" "$5" "configs/metaworld.py:task=$1$size" "--config.data.manifest=$manifests/$2.csv" --config.seed="$3" \
    ${every[@]+"${every[@]}"} "${@:6}" ${fields[@]+"${fields[@]}"}
}

pretrain() { # ARGUMENT NAME SEED FLAGS...
  metaworld "$1" task "$3" "$out/$2/$3/pretrain" "checkpoints/$STEPS" --config.batch_size="$BATCH" --config.total="${STEPS}_steps" \
    --config.log_every=1_percent --config.checkpoint_every=10_percent --config.eval_every=0_steps --config.report.pictures=0 \
    --config.report.labelled=0 ${sized[@]+"${sized[@]}"} "${@:4}"
}

half=(--config.video_branch.mask.ratio=0.5)
colors=(--config.augment.first_view=color --config.augment.{brightness,contrast,saturation}"=0.8")
colors+=(--config.augment.{hue,grayscale}"=0.2")
closed=("${half[@]}" "${colors[@]}" "--config.augment.scale=(0.3,1.0)" "--config.augment.plus_scale=(0.3,1.0)")

objective() { # NAME SEED: sets `changes`, the flags of a pre-training
  local after=(--config.video_branch.init_from="$out/mae/$2/pretrain")
  case $1 in
  mae | mae-* | latent) changes=(--config.loss.{mse_image,intra_video,intra_frame,cross_video,cross_frame}"=0") ;;
  intra | intra-*) changes=(--config.loss.{intra_video,intra_frame}"=$weight" --config.loss.{mse_image,cross_video,cross_frame}"=0") ;;
  cross | cross-*) changes=(--config.loss.{cross_video,cross_frame}"=$weight" --config.loss.{intra_video,intra_frame}"=0") ;;
  full | full-*) changes=(--config.loss.{intra_video,intra_frame,cross_video,cross_frame}"=$weight") ;;
  esac
  case $1 in
  mae | intra | cross | full) ;;
  full-stage0) changes+=(--config.image_branch.init_from="$out/stage0/$2/pretrain" --config.image_branch.train=full) ;;
  full-frozen | full-after | cross-frozen)
    changes+=(--config.image_branch.init_from="$out/stage0/$2/pretrain" --config.image_branch.train=frozen)
    [[ $1 != full-after ]] || changes+=("${after[@]}")
    ;;
  mae-after) changes+=("${after[@]}") ;;
  full-reversed) changes+=(--config.contrast.time_reversed_negatives=True) ;;
  mae-color | full-color) changes+=("${colors[@]}") ;;
  latent)
    changes+=(--config.loss.mse_video=0 --config.video_branch.target=latent)
    changes+=(--config.video_branch.teacher.init_from="$out/mae/$2/pretrain")
    ;;
  mae-fast) changes+=(--config.video_branch.{mlp=gelu_tanh,decoder.heads=1,decoder.share=0.5}) ;;
  mae-half) changes+=("${half[@]}") ;;
  intra-closed) changes+=("${closed[@]}") ;;
  full-closed) changes+=("${closed[@]}" --config.image_branch.crop=independent) ;;
  full-shift) changes+=("${closed[@]}" --config.image_branch.crop=independent --config.augment.plus_shift=4) ;;
  *)
    echo "error: VARIANTS has $1, which is none of those that the head of $0 lists" >&2
    return 2
    ;;
  esac
}

has() { # NAME: succeeds if it is one of the variants
  [[ " ${variants[*]} " == *" $1 "* ]]
}

starts_from_mae() { # succeeds if a variant starts from a seed's mae, or learns its features
  has latent || has mae-after || has full-after
}

starts() { # what others start from, or learn from
  local seed
  for seed in "${seeds[@]}"; do
    if has full-stage0 || has full-frozen || has full-after || has cross-frozen; then
      pretrain pretrain,stage=image stage0 "$seed"
    fi
    if starts_from_mae; then
      objective mae "$seed"
      pretrain pretrain mae "$seed" "${changes[@]}"
    fi
  done
}

pretrainings() {
  local seed name
  for seed in "${seeds[@]}"; do
    for name in "${variants[@]}"; do
      [[ $name != untrained ]] || continue
      if [[ $name == mae ]] && starts_from_mae; then continue; fi # it is there
      objective "$name" "$seed" || return
      pretrain pretrain "$name" "$seed" "${changes[@]}"
    done
  done
}

one_task() { # NAME SEED TASK
  local name=$1 seed=$2 task=$3 kind=${3%%-*} of=${3#*-} start trained
  start=(--config.init_from="$out/$name/$seed/pretrain")
  [[ $name != untrained ]] || start=(--config.init_from=untrained)
  trained=(--config.batch_size=64 --config.eval_every=0_steps --config.checkpoint_every=50_percent)
  case $task in
  attentive-task | attentive-object | attentive-direction | linear-task | linear-object | linear-direction)
    start+=("${trained[@]}" --config.total="${PROBE_STEPS}_steps" --config.optimizer.warmup=10_percent)
    ;;
  knn-task | knn-object | knn-direction | retrieval-task | retrieval-object | retrieval-direction) ;;
  finetune-all | finetune-[1-9] | finetune-[1-9][0-9])
    start+=("${trained[@]}" --config.optimizer.warmup=10_percent)
    # Smaller rates for the first layers are for weights that have been trained.
    [[ $name != untrained ]] || start+=(--config.optimizer.layer_decay=1.0)
    if [[ $of == all ]]; then
      start+=(--config.total="${STEPS}_steps")
    else
      start+=(--config.total="${FINETUNE_STEPS}_steps")
      start+=("--config.data.split=train[$((seed * of * classes)):$(((seed + 1) * of * classes))]") # of other clips for each seed
    fi
    of=task
    ;;
  *)
    echo "error: TASKS has $task, which is none of those that the head of $0 lists" >&2
    return 2
    ;;
  esac
  metaworld "$kind" "$of" "$seed" "$out/$name/$seed/$task" report.json "${start[@]}"
}

downstream() {
  local seed name task of_name
  for seed in "${seeds[@]}"; do
    for name in "${variants[@]}"; do
      of_name=${TASKS:-$tasks}
      # The supervised model, from scratch with all labels; of other variants only where TASKS asks for it.
      [[ $name != untrained || -n ${TASKS:-} ]] || of_name+=" finetune-all"
      for task in $of_name; do one_task "$name" "$seed" "$task" || return; done
    done
  done
}

first=$(starts)
second=$(pretrainings)
third=$(downstream)
make_table "$first" "$second" "$third"
