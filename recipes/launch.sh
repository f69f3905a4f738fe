#!/usr/bin/env bash
# Makes the environment and launches a recipe's arm: bash recipes/launch.sh RECIPE ARM [--dry-run] [Hydra overrides …]
# VENV=folder names an environment of your own that has verl and this package; it is then left as it is.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${VENV:-}" ]; then
  gpu=
  if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then gpu=--gpu; fi
  export VENV=$root/.venv${gpu:+-gpu}
  bash "$root/recipes/setup.sh" $gpu ${gpu:+--flash-attn}
fi
cd "$root"
exec "$VENV/bin/python" -m recipes.launch "$@"
