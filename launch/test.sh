#!/usr/bin/env bash
# Creates .venv, installs the test extras and runs pytest.
# Usage: ./launch/test.sh [--dry-run] [PYTEST ARGUMENTS]
#   EXTRAS=test,parity   also compares with transformers and pytorch-metric-learning (installs torch)
#   CVMAE_TEST_VIDEOS=DIR  also reads real videos; launch/test_videos.sh DIR fetches them
#   CVMAE_REQUIRE=parity,videos  makes these tests fail where they would be skipped
#   CVMAE_FUZZ=20          damages 20 times as many manifests, label files and videos; CVMAE_FUZZ_SECONDS=600 weights for as long
#   CVMAE_SLOW=1           also runs the tests marked as slow, which takes about twice as long
#   CVMAE_LARGE=1          also compares models of published sizes, with their gradients: minutes and 8 GB of memory
#   JAX_DISABLE_MOST_OPTIMIZATIONS=0  compiles programs as a user's are, which takes longer than they run
#   JOBS=4               parallel test processes; 2 by default, about 6 GB of memory each
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/dry_run.sh
export EXTRAS=${EXTRAS:-test}
run source launch/venv.sh
unset PYTHONDONTWRITEBYTECODE # some hundred processes import the same thousand modules
# In the order of the files: otherwise the few long tests of a file would come last, and one process would wait for the other.
run exec python -m pytest --numprocesses="${JOBS:-2}" --dist=loadfile --no-loadscope-reorder "$@"
