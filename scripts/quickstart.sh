#!/usr/bin/env bash
# From a fresh clone to a trained ESRGAN on real photos, in minutes, on a CPU or a GPU:
#
#   bash scripts/quickstart.sh
#
# Sets up .venv, trains on photos that come inside scikit-image's package, measures on two others.
# Flags go to scripts/quickstart.py (--help names them).
set -eu
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup "$ROOT/requirements.txt"
exec "$PYTHON" "$ROOT/scripts/quickstart.py" "$@"
