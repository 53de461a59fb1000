#!/usr/bin/env bash
# Many nodes: rank 0, on the first one, is the server; all other ranks host clients.
#
#   sbatch slurm/many-nodes.sh -- --job jobs/quickstart.ini
#   sbatch --nodes=16 --ntasks-per-node=64 slurm/many-nodes.sh -- --job my.ini --cohort 1000
#SBATCH --job-name=fl_sim
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
source "${FL_SIM_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/common.sh"

begin "$@"
run_fl_sim "$SLURM_NTASKS" "${options[@]}"
