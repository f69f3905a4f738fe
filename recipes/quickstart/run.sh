#!/usr/bin/env bash
# L2T on a real model, from nothing: makes .venv, gets a small model and GSM8K, trains with stock verl, shows the result.
#   bash recipes/quickstart/run.sh                       a few steps; about a quarter of an hour on two cores
#   STEPS=1 MODEL=path/or/hub/name bash recipes/quickstart/run.sh actor_rollout_ref.actor.optim.lr=1e-6
# RUN=folder says where the run is written; anything else on the command line is a Hydra override of quickstart.yaml.
. "$(dirname "${BASH_SOURCE[0]}")/../shell.sh"
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
export START=${START:-$(date +%s)}
say() { printf '[%4ds] %s\n' $(($(date +%s) - START)) "$*"; }

gpu=
if has_gpu; then gpu=--gpu; fi
export VENV=${VENV:-$root/.venv${gpu:+-gpu}}
say "environment in ${VENV#"$root"/} — a few minutes the first time"
bash "$root/recipes/setup.sh" $gpu || exit 1 # it has said why
python=$VENV/bin/python

kept=${KEPT:-$root/runs/quickstart}
step "making $kept" "see that the disk has room and the folder can be written, or name another by KEPT="
mkdir -p "$kept"
say "model and data"
"$python" "$here/prepare.py" --folder "$kept" ${MODEL:+--model "$MODEL"} 2>"$kept/prepare.log" || {
  tail -5 "$kept/prepare.log" >&2
  echo "run.sh: model and data could not be had ($kept/prepare.log has all of it); MODEL=folder names a model that is here" >&2
  exit 1
}
exec "$python" "$here/train.py" --prepared "$kept/prepared.json" --run "${RUN:-$kept/$(date +%Y%m%d-%H%M%S)}" \
  --steps "${STEPS:-4}" "$@"
