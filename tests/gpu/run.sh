#!/usr/bin/env bash
# The check of a machine with a GPU, before a cluster is booked: what works, what does not, what differs from the CPU's.
# At most 8 minutes on one H100, once the environment is there.
#   bash tests/gpu/run.sh          writes result.json and page.md into runs/gpu-check
#   bash tests/gpu/run.sh --cpu    tries every section as far as it goes without a GPU
#   OUT=folder     where they are written
#   WHEELS=folder  every package from there: no network; MODEL=folder then names the quickstart's model
# Exit status: 0 if everything works, 1 if something does not or differs, 2 if there is no GPU to try.
. "$(dirname "${BASH_SOURCE[0]}")/../../recipes/shell.sh"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
gpu=--gpu
case "$*" in
--cpu) gpu='' && export VERL_PLATFORM=cpu ;;
'') has_gpu || { echo "run.sh: nvidia-smi lists no GPU here; bash tests/gpu/run.sh --cpu tries what goes without one" >&2; exit 2; } ;;
*) echo "run.sh: $* is not known; known: --cpu" >&2 && exit 2 ;;
esac
export VENV=${VENV:-$root/.venv${gpu:+-gpu}}
bash "$root/recipes/setup.sh" $gpu || exit 1 # it has said why
if [ -n "${WHEELS:-}" ]; then export PIP_NO_INDEX=1 PIP_FIND_LINKS=$WHEELS; fi
exec "$VENV/bin/python" "$root/tests/gpu/check.py" --device "$([ -n "$gpu" ] && echo cuda || echo cpu)" --out "${OUT:-$root/runs/gpu-check}"
