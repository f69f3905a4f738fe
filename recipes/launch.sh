#!/usr/bin/env bash
# Makes the environment and launches a recipe's arm: bash recipes/launch.sh RECIPE ARM [--dry-run] [Hydra overrides …]
# VENV=folder names an environment of your own that has verl and this package; it is then left as it is.
. "$(dirname "${BASH_SOURCE[0]}")/shell.sh"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${VENV:-}" ]; then
  gpu=
  if has_gpu; then gpu=--gpu; fi
  export VENV=$root/.venv${gpu:+-gpu}
  bash "$root/recipes/setup.sh" $gpu ${gpu:+--flash-attn} || exit 1 # it has said why
fi
[ -x "$VENV/bin/python" ] || { echo "launch: there is no environment in VENV=$VENV; unset it, and one is made" >&2 && exit 1; }
cd "$root"
exec "$VENV/bin/python" -m recipes.launch "$@"
