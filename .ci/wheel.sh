#!/usr/bin/env bash
# Installs the wheel of DIST into a fresh environment outside of the checkout, and uses it there as a newcomer would.
# Use: .ci/wheel.sh DIST
set -euo pipefail
wheel=$(realpath "$1"/*.whl)
here=$(cd "$(dirname "$0")/.." && pwd)
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
unset PYTHONPATH
python3 -m venv env
if command -v uv >/dev/null; then
  uv pip install --quiet --python env/bin/python "$wheel"
else
  env/bin/pip install --quiet "$wheel"
fi
# Programs of a few tiny steps take longer to optimize than to run.
export PATH=$dir/env/bin:$PATH JAX_PLATFORMS=cpu JAX_DISABLE_MOST_OPTIMIZATIONS=1
cvmae --config=ssv2:runlocal --workdir=run
test -s run/report.html
cvmae-report run >/dev/null
for command in "cvmae workdir" "cvmae-prepare videos" "cvmae-weights to" "cvmae-plan topology" "cvmae-bench steps" "cvmae-report out"; do
  ${command% *} --help >help.txt
  grep --quiet -e "--.*${command#* }" help.txt
done
# The example of the front page, with the workdir and a video that are here.
python - <<'PYTHON'
import av, numpy as np
with av.open("video.mp4", "w") as file:
    stream = file.add_stream("libx264", rate=12)
    stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
    for number in range(20):
        pixels = np.full((48, 64, 3), 12 * number, np.uint8)
        file.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    file.mux(stream.encode())
PYTHON
python - "$here/README.md" <<'PYTHON'
import pathlib, sys, textwrap
text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
block = text.partition("## From a video to a vector")[2].partition("Notebooks:")[0]
code = textwrap.dedent("\n".join(line for line in block.splitlines() if line.startswith("    ") or not line))
names = {"frames": __import__("numpy").zeros((4, 40, 40, 3), "uint8")}
exec(code.replace('"DIR"', '"run"'), names)
assert names["vector"].shape == (32,) and names["vectors"].shape[1] == 32 and names["tokens"].shape == (1, 8, 32)
print("the example of README.md ran:", names["vectors"].shape, names["tokens"].shape)
PYTHON
