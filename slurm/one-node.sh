#!/usr/bin/env bash
# One node: rank 0 is the server, the other ranks host clients.
#
#   sbatch slurm/one-node.sh -- --job jobs/quickstart.ini
#   sbatch --ntasks=33 --time=1-00:00:00 slurm/one-node.sh -- --job my.ini --rounds 1000
#SBATCH --job-name=fl_sim
#SBATCH --nodes=1
#SBATCH --ntasks=9
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
