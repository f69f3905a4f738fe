#!/usr/bin/env bash
# The linter and the tests, on the CPU stack of recipes/setup.sh: bash tests/run.sh [--stack gpu] [pytest arguments]
#   bash tests/run.sh                  everything but the tests marked slow
#   bash tests/run.sh -m slow          those: more clusters, the README's commands, a built wheel
#   bash tests/run.sh tests/test_credit.py
#   bash tests/run.sh --stack gpu      the stack for GPUs (.venv-gpu, 11 GB), GPU or not: all tests that start no cluster
#   VERL=folder bash tests/run.sh tests/test_contracts.py   another checkout of verl: each symbol that moved is named
#   WORKERS=4 bash tests/run.sh        processes side by side; 0 is this one alone, for a debugger (default: by cores and memory)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ "${1:-}" = --stack ] && [ "${2:-}" = gpu ]; then
  shift 2
  export VENV=${VENV:-$PWD/.venv-gpu}
  bash recipes/setup.sh --gpu
  set -- -m "not slow and not cluster" "$@"
elif [ "${1:-}" = --stack ]; then
  echo "run: there is no stack ${2:-}; known: --stack gpu, and the CPU's without the option" >&2
  exit 2
else
  export VENV=${VENV:-$PWD/.venv}
  bash recipes/setup.sh
fi
if [ -n "${VERL:-}" ]; then
  [ -e "$VERL/verl/__init__.py" ] || { echo "run: VERL=$VERL is no checkout of verl: it has no verl/__init__.py" >&2; exit 2; }
  VERL=$(cd "$VERL" && pwd)
  export PYTHONPATH=$VERL${PYTHONPATH:+:$PYTHONPATH} # before the environment's own
fi
unset PYTHONDONTWRITEBYTECODE # images of containers set it: each of some thousand processes would compile all of this anew
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .
exec "$VENV/bin/python" -m pytest -n "${WORKERS:-auto}" "$@"
