#!/usr/bin/env bash
# The linter and the tests, on the CPU stack of recipes/setup.sh: bash tests/run.sh [pytest arguments]
#   bash tests/run.sh                  everything but the tests marked slow
#   bash tests/run.sh -m slow          those: more clusters, the README's commands, a built wheel
#   bash tests/run.sh tests/test_credit.py
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export VENV=${VENV:-$PWD/.venv}
bash recipes/setup.sh
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
exec "$VENV/bin/python" -m pytest "$@"
