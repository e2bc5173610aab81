#!/usr/bin/env bash
# Regenerates the pictures of the READMEs in launch/pictures: those of the demo, figures of its encoder on held-out clips and on real
# videos, the report (with Chromium), and the plots of the studies.
# Usage: ./launch/figures.sh [WORKDIR]       WORKDIR of a finished ./launch/demo.sh; trained first if it does not exist
#   VIDEOS=DIR       folder of the real videos, which are fetched if absent (28 MB, see test_videos.sh)
#   ABLATIONS=DIR    OUT of a finished ./launch/ablations.sh
set -euo pipefail
cd "$(dirname "$0")/.."
workdir=${1:-workdir/demo}
ablations=${ABLATIONS:-workdir/ablations}
pictures=launch/pictures
mkdir -p "$pictures"
[[ -e $workdir/report.json ]] || ./launch/demo.sh "$workdir"
source launch/venv.sh
videos=${VIDEOS:-$workdir/videos}
./launch/test_videos.sh "$videos"

draw() { # NAME FLAGS...: draws figures of the demo's encoder in WORKDIR/NAME/figures
  python -m cvmae.main --config=configs/demo.py:task=visualize --config.init_from="$workdir" --workdir="$workdir/$1" "${@:2}"
}

cp "$workdir/curves.png" "$pictures/demo_curves.png"
cp "$workdir/reconstruction.png" "$pictures/demo_reconstruction.png"

# At the mask ratio of its training, and at the paper's.
draw motion --config.visualize.records='(533,)' --config.visualize.ratios='(0.5,0.9)' --config.visualize.queries=6
cp "$workdir/motion/figures/clip00_masked50.png" "$pictures/figure_motion.png"
cp "$workdir/motion/figures/clip00_masked50.gif" "$pictures/figure_motion.gif"
cp "$workdir/motion/figures/clip00_masked90.png" "$pictures/figure_motion_90.png"
cp "$workdir/motion/figures/embedding.png" "$pictures/embedding.png"
cp "$workdir/motion/figures/retrieval.png" "$pictures/retrieval.png"

# Real videos, at twice the length and side of the training clips: a person walking (from Sports2D, BSD-3), and a city (CC0).
mkdir -p "$workdir/real"
ln -sf "$(realpath "$videos")"/{demo.mp4,cityCC0.mpg} "$workdir/real/"
draw real-figures --config.data.source=files --config.data.manifest="$workdir/real" --config.data.num_frames=16 --config.data.stride=2 \
  --config.data.frame_size='(64,64)' --config.augment.size='(64,64)' --config.visualize.ratios='(0.5,)' --config.visualize.embedded=0 \
  --config.visualize.queries=0
cp "$workdir/real-figures/figures/clip01_masked50.png" "$pictures/figure_real.png"
cp "$workdir/real-figures/figures/clip01_masked50.gif" "$pictures/figure_real.gif"
cp "$workdir/real-figures/figures/tokens.png" "$pictures/tokens_real.png"

# The report's charts, in a headless browser.
if command -v chromium >/dev/null; then
  python -m cvmae.report "$workdir" --out="$workdir/report.html"
  chromium --headless=new --no-sandbox --disable-gpu --hide-scrollbars --disable-background-networking --window-size=1000,2350 \
    --user-data-dir="$(mktemp -d)" --screenshot="$pictures/report.png" "file://$(realpath "$workdir/report.html")"
else
  echo "no chromium: $pictures/report.png is not updated" >&2
fi

for study in masking frames objectives negatives; do
  if [[ -e $ablations/$study/table.png ]]; then
    cp "$ablations/$study/table.png" "$pictures/ablation_$study.png"
  else
    echo "no $ablations/$study/table.png: $pictures/ablation_$study.png is not updated, see launch/ablations.sh" >&2
  fi
done
ls -l "$pictures"
