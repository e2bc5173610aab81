#!/usr/bin/env bash
# Makes .venv, installs the test extras, runs pytest.
# Use: ./launch/test.sh [PYTEST ARGUMENTS]
#   EXTRAS=test,parity   also compares with transformers and pytorch-metric-learning (installs torch)
#   CVMAE_TEST_VIDEOS=DIR  also reads real videos; launch/test_videos.sh DIR puts them there
#   CVMAE_REQUIRE=parity,videos  fails where those would be skipped
#   JOBS=4               processes to test with; 2 by default, about 6 GB of memory each
set -euo pipefail
cd "$(dirname "$0")/.."
export EXTRAS=${EXTRAS:-test}
source launch/venv.sh
# In the order of the files: the few long tests of a file would else come last, one process waiting for the other.
exec python -m pytest --numprocesses="${JOBS:-2}" --dist=loadfile --no-loadscope-reorder "$@"
