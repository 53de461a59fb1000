# shellcheck shell=bash
# What the batch scripts of this folder share; they source it inside a Slurm job. Environment
# variables that it reads:
#
#   FL_SIM_LAUNCHER=mpirun|srun     what starts the ranks [mpirun]; srun needs a Slurm with PMIx
#   FL_SIM_LAUNCHER_OPTIONS=WORDS   further options for it, such as "--bind-to core"
#   FL_SIM_SETUP=FILE               sourced first, for what your site needs: module load ...
#   FL_SIM_PROGRAM=FILE             the program [build/fl_sim of this repository]
#   FL_SIM_MAX_REQUEUES=N           how often a run may go back into the queue [100]

readonly kCheckpointed=75  # fl_sim's exit code after it was told to stop and wrote a checkpoint

fail() {
  printf 'slurm: %s\n' "$*" >&2
  exit 1
}

say() { printf '%s  %s\n' "$(date '+%F %T')" "$*"; }

# begin ARGUMENT...: the start of a batch script. Sets `program`, and `options` to the arguments
# after an optional --.
begin() {
  [ -n "${SLURM_JOB_ID:-}" ] || fail "a batch script (sbatch slurm/NAME.sh; see slurm/README.md)"
  if [ "${1:-}" = -- ]; then shift; fi
  # shellcheck disable=SC2034  # for the scripts that source this one
  options=("$@")
  # shellcheck source=/dev/null
  if [ -n "${FL_SIM_SETUP:-}" ]; then source "$FL_SIM_SETUP"; fi
  program=${FL_SIM_PROGRAM:-${FL_SIM_ROOT:-$SLURM_SUBMIT_DIR}/build/fl_sim}
  [ -x "$program" ] ||
    fail "there is no program $program (scripts/build makes it; FL_SIM_PROGRAM names another one)"
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  # Open MPI's mpiruns of one user on one node share a folder in $TMPDIR, and one that ends may
  # remove it while another one starts. Jobs on several nodes do without: the folder is on this one
  # only.
  if [ "$SLURM_JOB_NUM_NODES" = 1 ]; then export TMPDIR=$scratch; fi
  # Ranks that wait let others have the core. mpirun sets this where ranks are more than cores; srun
  # never does.
  export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
}

# run_fl_sim RANKS OPTION...: starts the ranks, hands Slurm's warning on to them, and puts the job
# back into the queue if they stopped with a checkpoint. Returns if the run is finished; else the
# job ends here. `layout` may say how many ranks each node gets: (node:ranks ...).
layout=()
run_fl_sim() {
  local ranks=$1
  shift
  has_option --resume "$@" || set -- "$@" --resume auto
  local words
  launcher_words "$ranks"
  say "$ranks ranks on $SLURM_JOB_NODELIST, start number $((${SLURM_RESTART_COUNT:-0} + 1))"
  printf '%q ' "${words[@]}" "$program" "$@" && printf '\n'

  # A trap ends `wait` early, and the launcher may have ended or not: wait again until no trap came
  # between.
  local pid='' interrupted stopping=no code
  trap 'interrupted=yes; pass_warning_on' USR1
  # scancel, or the time limit itself: Slurm tells the ranks; the job does not go back into the
  # queue.
  trap 'interrupted=yes; stopping=yes' TERM
  "${words[@]}" "$program" "$@" < /dev/null &
  pid=$!
  while true; do
    interrupted=no
    code=0
    wait "$pid" || code=$?
    [ $interrupted = yes ] || break
  done
  trap - USR1 TERM

  if [ $code = 0 ]; then return 0; fi
  if [ $code != $kCheckpointed ] || [ $stopping = yes ]; then
    say "ended with code $code"
    exit $code
  fi
  local limit=${FL_SIM_MAX_REQUEUES:-100}
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "$limit" ]; then
    fail "requeued $limit times and still not finished" \
      "(give it more time, or a greater FL_SIM_MAX_REQUEUES)"
  fi
  say "checkpoint written, back into the queue"
  scontrol requeue "$SLURM_JOB_ID" ||
    fail "this Slurm does not requeue the job: submit it again as it was, and it continues"
  exit $code
}

# With `pid`, the launcher's, once it has one.
pass_warning_on() {
  say "Slurm warns: the ranks write a checkpoint"
  [ -z "$pid" ] || kill -USR1 "$pid"
}

# place_ranks N: N ranks on every node, and the server's rank beside them on the first.
place_ranks() {
  local node ranks=$(($1 + 1))
  for node in $(scontrol show hostnames "$SLURM_JOB_NODELIST"); do
    layout+=("$node:$ranks")
    ranks=$1
  done
}

# Sets `words` to the command that starts so many ranks.
launcher_words() {
  local ranks=$1 more=() node i
  read -ra more <<< "${FL_SIM_LAUNCHER_OPTIONS:-}"
  case ${FL_SIM_LAUNCHER:-mpirun} in
    mpirun)
      # Slurm keeps the job on its cores; ranks that compute with several threads must not be tied
      # to one of them.
      words=(mpirun -n "$ranks" --bind-to none)
      if [ ${#layout[@]} -gt 0 ]; then words+=(--host "$(IFS=,; echo "${layout[*]}")"); fi ;;
    srun)
      # All ranks leave with the same code within moments. If one dies, the others get a minute to
      # say why.
      words=(srun --mpi=pmix --ntasks="$ranks" --kill-on-bad-exit=0 --wait=60)
      if [ -n "${SLURM_CPUS_PER_TASK:-}" ]; then words+=(--cpus-per-task="$SLURM_CPUS_PER_TASK"); fi
      if [ ${#layout[@]} -gt 0 ]; then
        words+=(--distribution=arbitrary)
        export SLURM_HOSTFILE=$scratch/hosts
        for node in "${layout[@]}"; do
          for ((i = 0; i < ${node#*:}; ++i)); do echo "${node%:*}"; done
        done > "$SLURM_HOSTFILE"
      fi ;;
    *) fail "FL_SIM_LAUNCHER is '$FL_SIM_LAUNCHER' (must be mpirun or srun)" ;;
  esac
  words+=("${more[@]}")
}

# has_option NAME OPTION...: whether NAME is among the options, as --name value or --name=value.
has_option() {
  local name=$1 option
  shift
  for option in "$@"; do
    if [ "$option" = "$name" ] || [[ "$option" == "$name="* ]]; then return 0; fi
  done
  return 1
}

# A sweep's table: words with tabs between them. The first line names options, every other line is a
# run, and '-' leaves the option out of it. Empty lines and those that begin with '#' do not count.
table_lines() { tr -d '\r' < "$1" | grep -v -e '^#' -e '^[[:space:]]*$'; }

count_runs() { echo $(($(table_lines "$1" | wc -l) - 1)); }

# read_run TABLE K: sets `run` to the options of the K-th run and `name` to its values, for the
# results file.
read_run() {
  local keys values i
  IFS=$'\t' read -ra keys < <(table_lines "$1")
  IFS=$'\t' read -ra values < <(table_lines "$1" | sed -n "$(($2 + 1))p")
  [ ${#values[@]} -gt 0 ] || fail "$1 has no run $2 (it has $(count_runs "$1"))"
  [ ${#values[@]} -eq ${#keys[@]} ] ||
    fail "run $2 of $1 has ${#values[@]} values for ${#keys[@]} options" \
      "(one tab between them, '-' for none)"
  run=()
  name=
  for i in "${!keys[@]}"; do
    if [ "${values[i]}" = - ]; then continue; fi
    run+=("--${keys[i]}" "${values[i]}")
    name+=${name:+-}${values[i]//[!A-Za-z0-9._]/_}
  done
}
