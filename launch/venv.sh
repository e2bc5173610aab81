# shellcheck shell=bash
# To be sourced. Creates .venv with Python 3.11 to 3.13 if there is none, activates it, and installs this package with the extras in $EXTRAS.
python=${PYTHON:-}
for candidate in python3.11 python3.12 python3.13 python3; do
  if [[ -z $python ]] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
    python=$candidate
  fi
done
if [[ -z $python ]]; then
  echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or give its path: PYTHON=/path/to/python $0" >&2
  exit 2
fi
[[ -f .venv/bin/activate ]] || "$python" -m venv .venv # which writes that last
# shellcheck source=/dev/null
source .venv/bin/activate
# uv installs several times faster than pip; what pip's variables say of where packages are counts for it too.
command -v uv >/dev/null || pip install --quiet uv
[[ -z ${PIP_FIND_LINKS:-} ]] || export UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}
[[ -z ${PIP_INDEX_URL:-} ]] || export UV_INDEX_URL=${UV_INDEX_URL:-$PIP_INDEX_URL}
[[ -z ${PIP_CONSTRAINT:-} ]] || export UV_CONSTRAINT=${UV_CONSTRAINT:-$PIP_CONSTRAINT}
uv pip install --quiet --editable ".${EXTRAS:+[$EXTRAS]}"
