#!/usr/bin/env bash
# Regenerates the pictures of the READMEs in launch/pictures: those of the demo, figures of its encoder on held-out clips and on real
# videos, the report (with Chromium), and the plots of the studies.
# Usage: ./launch/figures.sh [--dry-run] [WORKDIR]       WORKDIR of a finished ./launch/demo.sh; trained first if it does not exist
#   VIDEOS=DIR       folder of the real videos, which are fetched if absent (28 MB, see test_videos.sh)
#   ABLATIONS=DIR    OUT of a finished ./launch/ablations.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh

for argument in "$@"; do
  if [[ $argument == -* || $# -gt 1 ]]; then
    echo "error: unexpected argument ${argument@Q}; usage: $0 [--dry-run] [WORKDIR]" >&2
    exit 2
  fi
done
workdir=${1:-workdir/demo}
ablations=${ABLATIONS:-workdir/ablations}
pictures=launch/pictures
run mkdir -p "$pictures"
[[ -e $workdir/report.json ]] || run ./launch/demo.sh "$workdir"
run source launch/venv.sh
videos=${VIDEOS:-$workdir/videos}
run ./launch/test_videos.sh "$videos"

draw() { # NAME FLAGS...: draws figures of the demo's encoder in WORKDIR/NAME/figures
  run python -m cvmae.main --config=configs/demo.py:task=visualize --config.init_from="$workdir" --workdir="$workdir/$1" "${@:2}"
}

run cp "$workdir/curves.png" "$pictures/demo_curves.png"
run cp "$workdir/reconstruction.png" "$pictures/demo_reconstruction.png"

# At the mask ratio of its training, and at the paper's.
draw motion --config.visualize.records='(533,)' --config.visualize.ratios='(0.5,0.9)' --config.visualize.queries=6
run cp "$workdir/motion/figures/clip00_masked50.png" "$pictures/figure_motion.png"
run cp "$workdir/motion/figures/clip00_masked50.gif" "$pictures/figure_motion.gif"
run cp "$workdir/motion/figures/clip00_masked90.png" "$pictures/figure_motion_90.png"
run cp "$workdir/motion/figures/embedding.png" "$pictures/embedding.png"
run cp "$workdir/motion/figures/retrieval.png" "$pictures/retrieval.png"

# Real videos, at twice the length and side of the training clips: a person walking (from Sports2D, BSD-3), and a city (CC0).
run mkdir -p "$workdir/real"
run ln -sf "$(realpath -m "$videos")"/{demo.mp4,cityCC0.mpg} "$workdir/real/"
draw real-figures --config.data.source=files --config.data.manifest="$workdir/real" --config.data.num_frames=16 --config.data.stride=2 \
  --config.data.frame_size='(64,64)' --config.augment.size='(64,64)' --config.visualize.ratios='(0.5,)' --config.visualize.embedded=0 \
  --config.visualize.queries=0
run cp "$workdir/real-figures/figures/clip01_masked50.png" "$pictures/figure_real.png"
run cp "$workdir/real-figures/figures/clip01_masked50.gif" "$pictures/figure_real.gif"
run cp "$workdir/real-figures/figures/tokens.png" "$pictures/tokens_real.png"

# The report's charts, in a headless browser.
if command -v chromium >/dev/null; then
  run python -m cvmae.report "$workdir" --out="$workdir/report.html"
  profile=$(mktemp -d)
  trap 'rm -rf "$profile"' EXIT
  run chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking --window-size=1000,2350 \
    --user-data-dir="$profile" --screenshot="$pictures/report.png" "file://$(realpath -m "$workdir/report.html")"
else
  echo "no chromium: $pictures/report.png is not updated" >&2
fi

for study in masking frames objectives negatives; do
  if [[ -e $ablations/$study/table.png ]]; then
    run cp "$ablations/$study/table.png" "$pictures/ablation_$study.png"
  else
    echo "no $ablations/$study/table.png: $pictures/ablation_$study.png is not updated, see launch/ablations.sh" >&2
  fi
done
run ls -l "$pictures"
