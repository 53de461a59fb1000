#!/usr/bin/env bash
# GPUs: one rank that hosts clients on each, and the server's rank on the first node beside them. A
# node's ranks take its GPUs in turn, so that the server, which evaluates, shares the first GPU of
# its node with one host.
#
#   sbatch slurm/gpus.sh -- --job jobs/quickstart.ini --device cuda
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=9 slurm/gpus.sh -- --job my.ini
#
# Ask for one task more than GPUs on every node: room for the server, wherever it goes.
#SBATCH --job-name=fl_sim
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=5
#SBATCH --mem-per-cpu=8G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
source "${FL_SIM_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/common.sh"

begin "$@"
gpus=${SLURM_GPUS_ON_NODE:-0}
[ "$gpus" -gt 0 ] || fail "this job has no GPUs (sbatch --gpus-per-node=4 --ntasks-per-node=5 ...)"
[ "${SLURM_NTASKS_PER_NODE:-0}" -gt "$gpus" ] ||
  fail "$gpus GPUs a node need --ntasks-per-node=$((gpus + 1)), one for the server" \
    "(it is ${SLURM_NTASKS_PER_NODE:-not given})"
place_ranks "$gpus"
run_fl_sim $((SLURM_JOB_NUM_NODES * gpus + 1)) "${options[@]}"
