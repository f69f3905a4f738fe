#!/usr/bin/env bash
# The type checker (settings: pyproject.toml), the method's packages strict: bash tests/types.sh [mypy arguments]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export VENV=${VENV:-$PWD/.venv}
bash recipes/setup.sh
exec "$VENV/bin/mypy" --python-executable "$VENV/bin/python" "$@"
