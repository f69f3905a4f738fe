#!/usr/bin/env bash
# A recipe on several nodes of a Slurm cluster: a Ray cluster inside the job, then the launcher on its first node.
#   sbatch --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64 recipes/slurm.sh RECIPE ARM [Hydra overrides …]
# Started from the checkout's root, which has to be on a file system that all nodes see, with its environment in it
# (VENV, default .venv-gpu; make it with: bash recipes/setup.sh --gpu --flash-attn).
#SBATCH --job-name=l2t
#SBATCH --ntasks-per-node=1
root=${SLURM_SUBMIT_DIR:?start this with sbatch, from the root of the checkout}
[ -e "$root/recipes/launch.py" ] || { echo "slurm: $root is not the root of the checkout; start sbatch there" >&2; exit 1; }
. "$root/recipes/shell.sh"
recipe=${1:?RECIPE ARM}
arm=${2:?RECIPE ARM}
shift 2
export VENV=${VENV:-$root/.venv-gpu}
[ -x "$VENV/bin/ray" ] || { echo "slurm: no environment in $VENV; make it with: bash recipes/setup.sh --gpu --flash-attn" >&2; exit 1; }
gpus=${SLURM_GPUS_ON_NODE:-8}
options=(trainer.nnodes="$SLURM_JOB_NUM_NODES" trainer.n_gpus_per_node="$gpus" "$@")
cd "$root"
bash recipes/launch.sh "$recipe" "$arm" --dry-run "${options[@]}" # on this node, before any time is spent

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname --ip-address | awk '{print $1}'):${RAY_PORT:-6379}
common=(--num-gpus "$gpus" --num-cpus "${SLURM_CPUS_PER_TASK:-64}" --disable-usage-stats --block)
srun --nodes=1 --ntasks=1 -w "$head" "$VENV/bin/ray" start --head --node-ip-address="${address%:*}" --port="${address##*:}" "${common[@]}" &
until srun --overlap --nodes=1 --ntasks=1 -w "$head" "$VENV/bin/ray" status --address "$address" >/dev/null 2>&1; do sleep 2; done
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 -w "$node" "$VENV/bin/ray" start --address "$address" "${common[@]}" &
done
RAY_ADDRESS=$address srun --overlap --nodes=1 --ntasks=1 -w "$head" bash recipes/launch.sh "$recipe" "$arm" "${options[@]}"
