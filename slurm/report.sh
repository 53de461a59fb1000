#!/usr/bin/env bash
# The table of a sweep: `fl_sim compare` over its finished runs, into FOLDER/report.md and the job's
# output.
#
#   sbatch --dependency=afterany:JOB slurm/report.sh slurm/sweep.tsv results/sweep -- --target 0.8
#
# Options after -- go to `fl_sim compare`. Runs of the table that are not finished are named below
# it, and the job fails.
#SBATCH --job-name=report
#SBATCH --ntasks=1
#SBATCH --mem=1G
#SBATCH --time=00:10:00
#SBATCH --output=%x-%j.out
set -euo pipefail
source "${FL_SIM_ROOT:-${SLURM_SUBMIT_DIR:-.}}/slurm/common.sh"

[ $# -ge 2 ] || fail "sbatch slurm/report.sh TABLE FOLDER [-- OPTIONS OF fl_sim compare]"
table=$1
folder=$2
shift 2
begin "$@"
files=()
missing=()
runs=$(count_runs "$table")
for ((k = 1; k <= runs; ++k)); do
  read_run "$table" "$k"
  if [ -e "$folder/$name.finished" ]; then
    files+=("$folder/$name.h5")
  else
    missing+=("- run $k: $name")
  fi
done
{
  if [ ${#files[@]} -gt 0 ]; then "$program" compare --markdown "${files[@]}" "${options[@]}"; fi
  printf '\n%s of %s runs are finished.\n' "${#files[@]}" "$runs"
  if [ ${#missing[@]} -gt 0 ]; then printf '\nNot finished:\n\n'; printf '%s\n' "${missing[@]}"; fi
} | tee "$folder/report.md.tmp"
mv "$folder/report.md.tmp" "$folder/report.md"
[ ${#missing[@]} -eq 0 ]
