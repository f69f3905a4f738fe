#!/usr/bin/env bash
# Trains the arms of a recipe one after the other, evaluates the last checkpoint of each on all GPUs, and makes the table:
#   bash recipes/sweep.sh RECIPE [--dry-run] [Hydra overrides …]
# ARMS="grpo l2t", BENCHMARKS="aime24 math500=PATH", EVALUATE="--samples 4" change what is done. Started again it goes on: an
# arm that is trained is not trained twice, and training and evaluation resume where they stopped.
. "$(dirname "${BASH_SOURCE[0]}")/shell.sh"
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
recipe=${1:?usage: bash recipes/sweep.sh RECIPE [--dry-run] [Hydra overrides …]}
shift
[ -e "$root/recipes/$recipe/$recipe.yaml" ] || { bash "$root/recipes/launch.sh" "$recipe" grpo --dry-run; exit 1; }
for argument in "$@"; do
  case $argument in trainer.experiment_name=* | trainer.default_local_dir=*)
    echo "sweep: $argument: a sweep names its arms' runs itself" >&2
    exit 2
    ;;
  esac
done
arms=${ARMS:-grpo l2t l2t_paper length_penalty mrt gain_only}
# shellcheck disable=SC2086,SC2116
arms=$(echo ${arms//,/ }) # words with one space between
case $recipe in qwen2_7b_code) usual=humaneval ;; gsm8k_3b) usual=gsm8k_test ;; *) usual="aime24 aime25 amc23 math500 minerva_math" ;; esac
benchmarks=()
for benchmark in ${BENCHMARKS:-$usual}; do benchmarks+=(--benchmark "$benchmark"); done

bash "$root/recipes/$recipe/run.sh" "${arms// /,}" "$@" --dry-run || exit 1 # all before any is trained; it has said why
for argument in "$@"; do [ "$argument" != --dry-run ] || exit 0; done

venv=${VENV:-$root/.venv}
if [ -z "${VENV:-}" ] && has_gpu; then venv=$root/.venv-gpu; fi
folders=()
cd "$root"
for arm in $arms; do
  run=runs/$recipe-$arm
  if [ "$(cat "$run/trained" 2>/dev/null)" != "trained: $*" ]; then
    step "training the arm $arm" "its log says why; start the same sweep again, what is done stays done"
    bash "recipes/$recipe/run.sh" "$arm" "$@"
    echo "trained: $*" >"$run/trained"
  fi
  folders+=("runs/$recipe-sweep/$arm")
  step "evaluating the arm $arm" "its message says why; start the same sweep again, what is sampled stays"
  # shellcheck disable=SC2086
  "$venv/bin/python" -m l2t_verl.evaluate run "$run/checkpoints" --out "runs/$recipe-sweep/$arm" "${benchmarks[@]}" --data-parallel auto ${EVALUATE:-}
done
if [ ${#folders[@]} -gt 1 ]; then
  exec "$venv/bin/python" -m l2t_verl.evaluate compare "${folders[@]}" --out "runs/$recipe-sweep"
fi
