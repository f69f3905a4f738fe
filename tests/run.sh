#!/usr/bin/env bash
# The linter and the tests, on the CPU stack of recipes/setup.sh: bash tests/run.sh [pytest arguments]
#   bash tests/run.sh                  everything but the tests marked slow
#   bash tests/run.sh -m slow          those: more clusters, the README's commands, a built wheel
#   bash tests/run.sh tests/test_credit.py
#   WORKERS=4 bash tests/run.sh        processes side by side; 0 is this one alone, for a debugger (default: by cores and memory)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export VENV=${VENV:-$PWD/.venv}
bash recipes/setup.sh
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
exec "$VENV/bin/python" -m pytest -n "${WORKERS:-auto}" "$@"
