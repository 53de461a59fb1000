#!/usr/bin/env bash
# A sweep: each task of a job array is one run of a table (see slurm/sweep.tsv), and task K is its
# K-th run.
#
#   sbatch --array=1-18 slurm/sweep.sh slurm/sweep.tsv results/sweep -- --job jobs/quickstart.ini
#
# Results files are named after the run's values: results/sweep/fedavg-0.1-0.h5. Submitting the
# sweep again does what is missing. slurm/submit-sweep submits the array and the report that follows
# it.
#SBATCH --job-name=sweep
#SBATCH --nodes=1
#SBATCH --ntasks=5
#SBATCH --mem-per-cpu=2G
#SBATCH --time=04:00:00
#SBATCH --output=%x-%A_%a.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
set -euo pipefail
source "${FL_SIM_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/common.sh"

[ $# -ge 2 ] || fail "sbatch --array=1-N slurm/sweep.sh TABLE FOLDER -- OPTIONS"
[ -n "${SLURM_ARRAY_TASK_ID:-}" ] ||
  fail "not a job array (sbatch --array=1-$(count_runs "$1") slurm/sweep.sh ...)"
table=$1
folder=$2
shift 2
begin "$@"
read_run "$table" "$SLURM_ARRAY_TASK_ID"
mkdir -p "$folder"
run_fl_sim "$SLURM_NTASKS" "${options[@]}" "${run[@]}" --output "$folder/$name.h5"
touch "$folder/$name.finished"  # for the report: an unfinished run has a results file, too
