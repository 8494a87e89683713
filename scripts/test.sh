#!/usr/bin/env bash
# Lint and tests, as CI runs them; arguments go to pytest:
#
#   bash scripts/test.sh
#   bash scripts/test.sh tests/test_esrgan.py -k speed
set -eu
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup "$ROOT/requirements.txt" "$ROOT/tests/requirements.txt"
cd "$ROOT"
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
export OMP_NUM_THREADS=1  # of each process: they run side by side
# Three, as each waits at times. Each takes a stretch of the tests in their order, so that few
# fixtures are made twice; one that is done takes some of another's.
exec "$PYTHON" -m pytest -n 3 --dist worksteal "$@"
