#!/usr/bin/env bash
# A recipe on several nodes of a Slurm cluster: a Ray cluster inside the job, then the launcher on its first node.
#   sbatch --nodes=2 --gpus-per-node=8 recipes/slurm.sh RECIPE ARM [Hydra overrides …]
# Started from the checkout's root, which has to be on a file system that all nodes see, with its environment in it
# (VENV, default .venv-gpu; make it with: bash recipes/setup.sh --gpu --flash-attn).
# Whole nodes are asked for, as below; --cpus-per-task=N and --mem=… on sbatch's line take a share of them.
# Half an hour before the job's time is over, or at scancel --batch --signal=TERM JOB, the trainer finishes its step, saves
# and ends; the same line goes on from there. --signal=B:TERM@seconds on sbatch's line is another time before the end.
# NODE_WAIT=seconds is how long Ray may take to come up on all of them (600).
#SBATCH --job-name=l2t
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --signal=B:TERM@1800
root=${SLURM_SUBMIT_DIR:?start this with sbatch, from the root of the checkout}
[ -e "$root/recipes/launch.py" ] || { echo "slurm: $root is not the root of the checkout; start sbatch there" >&2; exit 1; }
. "$root/recipes/shell.sh"
recipe=${1:?RECIPE ARM}
arm=${2:?RECIPE ARM}
shift 2
export VENV=${VENV:-$root/.venv-gpu}
[ -x "$VENV/bin/ray" ] || { echo "slurm: no environment in $VENV; make it with: bash recipes/setup.sh --gpu --flash-attn" >&2; exit 1; }
gpus=${SLURM_GPUS_ON_NODE:-8}
# What the job really has on a node; without --cpus-per-task one task of an exclusive job may use all of it
cpus=${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}
if [ "$cpus" -lt $((2 * gpus)) ]; then
  echo "slurm: $cpus CPUs a node for $gpus GPUs are too few (verl has some two processes for each): sbatch --exclusive, or --cpus-per-task=$((8 * gpus))" >&2
  exit 1
fi
export SRUN_CPUS_PER_TASK=$cpus # srun does not inherit --cpus-per-task
options=(trainer.nnodes="$SLURM_JOB_NUM_NODES" trainer.n_gpus_per_node="$gpus" "$@")
cd "$root"
bash recipes/launch.sh "$recipe" "$arm" --dry-run "${options[@]}" || exit 1 # on this node, before any time is spent

step "listing the job's nodes" "see that scontrol works on the compute nodes"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
# node, command: as a task there, beside those that run already
on=(srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$cpus" -w)
# Slurm names a job's GPUs three times, for AMD's too; verl's workers refuse that
ray=(env -u ROCR_VISIBLE_DEVICES "$VENV/bin/ray")
step "asking $head for its address" "see that srun works inside a job"
# many a distribution gives a machine's own name an address that only it can reach
address=$("${on[@]}" "$head" sh -c 'hostname --ip-address; hostname -I' | tr ' ' '\n' | awk 'NF && !/^(127\.|::1$)/ {print; exit}')
[ -n "$address" ] || { echo "slurm: $head has no address but its own loopback's; see hostname -I there" >&2; exit 1; }
address=$address:${RAY_PORT:-6379}
# Ray asks for a token as soon as any program has left one in ~/.ray; without this it would ask only some of its own parts
export RAY_AUTH_MODE=${RAY_AUTH_MODE:-token}
if [ "$RAY_AUTH_MODE" = token ] && [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
  RAY_AUTH_TOKEN=$("$VENV/bin/python" -c 'import secrets; print(secrets.token_hex(32))') # this job's alone
  export RAY_AUTH_TOKEN
fi
common=(--num-gpus "$gpus" --num-cpus "$cpus" --disable-usage-stats --block)
raylets=()
trap '[ ${#raylets[@]} -eq 0 ] || kill "${raylets[@]}" 2>/dev/null || true; rm -f "${said:-}"' EXIT

end=$((SECONDS + ${NODE_WAIT:-600}))
said=$(mktemp)
wait_for() { # what, what helps, command: until it succeeds, as long as all of Ray's processes live
  until "${@:3}" >"$said" 2>&1; do
    for pid in "${raylets[@]}"; do
      kill -0 "$pid" 2>/dev/null || { echo "slurm: Ray ended on a node before $1; its own message stands above" >&2; exit 1; }
    done
    [ $SECONDS -lt $end ] || { tail -n 3 "$said" >&2; echo "slurm: $1 did not happen within ${NODE_WAIT:-600} s (NODE_WAIT); $2" >&2; exit 1; }
    sleep "${POLL:-2}"
  done
}
"${on[@]}" "$head" "${ray[@]}" start --head --node-ip-address="${address%:*}" --port="${address##*:}" "${common[@]}" &
raylets+=($!)
wait_for "Ray's start on $head" "another RAY_PORT helps where ${address##*:} is taken" "${on[@]}" "$head" "${ray[@]}" status --address "$address"
for node in "${nodes[@]:1}"; do
  "${on[@]}" "$node" "${ray[@]}" start --address "$address" "${common[@]}" &
  raylets+=($!)
done
wait_for "the start of all ${#nodes[@]} nodes" "see that they reach $address" \
  "${on[@]}" "$head" "$VENV/bin/python" -m recipes.nodes "$address" "${#nodes[@]}" "$gpus"
step "training" "its log says why; start the same line again, it goes on from the last checkpoint"
RAY_ADDRESS=$address "${on[@]}" "$head" bash recipes/launch.sh "$recipe" "$arm" "${options[@]}" &
training=$!
trap 'kill -TERM "$training" 2>/dev/null || true' TERM # srun hands it on to the driver
status=0
wait "$training" || status=$?
while kill -0 "$training" 2>/dev/null; do # the signal has ended the wait, and not the training
  status=0
  wait "$training" || status=$?
done
(exit "$status")
