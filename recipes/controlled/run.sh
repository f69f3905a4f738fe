#!/usr/bin/env bash
# The controlled comparison on this machine: RESULTS.md says what it shows.
#   bash recipes/controlled/run.sh            one seed of GRPO, the length penalty and L2T, and their plot
#   bash recipes/controlled/run.sh --full     every run of RESULTS.md; one is kept once it is done, so start it again at will
# OUT=folder says where runs and plots go; anything else on the command line is handed to recipes/controlled/grid.py.
. "$(dirname "${BASH_SOURCE[0]}")/../shell.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export VENV=${VENV:-$PWD/.venv}
out=${OUT:-runs/controlled}
plan=one
if [ "${1:-}" = "--full" ]; then
  plan=all
  shift
fi
bash recipes/setup.sh || exit 1 # it has said why
export OMP_NUM_THREADS=1 VERL_PLATFORM=${VERL_PLATFORM:-cpu}
step "training the runs of plan $plan" "start it again: runs that are done stay done"
"$VENV/bin/python" -m recipes.controlled.grid "$plan" --results "$out/results" "$@"
step "drawing the plot" "the runs are in $out/results"
"$VENV/bin/python" -m recipes.controlled.page --results "$out/results" --plots "$out/plots" --plot-only
