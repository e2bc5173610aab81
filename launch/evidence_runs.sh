# shellcheck shell=bash
# To be sourced, after dry_run.sh. What the scripts of tables share: their arguments, commands of runs that are not finished, and running them.

read_arguments() { # OUT ARGUMENTS...: sets `out`, OUT unless the arguments name another folder, and `fields`, the flags of every run
  local argument
  out=$1
  fields=()
  for argument in "${@:2}"; do
    if [[ $argument == --* ]]; then fields+=("$argument"); else out=$argument; fi
  done
}

unfinished() { # WORKDIR FILE CONFIG FLAGS...: prints the command of a run as a line, unless WORKDIR/FILE says that it is finished
  local workdir=$1 file=$2 config=$3
  shift 3
  [[ -e $workdir/$file ]] || quoted python -m cvmae.main "--config=$config" "--workdir=$workdir" "$@"
}

run_all() { # OUT LINES: runs the commands, JOBS in parallel, with their output in OUT/log; fails at the end if one of them failed
  local out=$1 lines=$2
  [[ -n $lines ]] || return 0
  # shellcheck disable=SC2154  # of dry_run.sh
  if [[ $dry_run == yes ]]; then
    printf '%s\n' "$lines" | sed 's/^/+ /' >&2
    return
  fi
  mkdir -p "$out"
  # shellcheck disable=SC2016  # expanded by the shell of each run
  tr '\n' '\0' <<<"$lines" | xargs -0 -n 1 -P "${JOBS:-1}" bash -c '
    echo "+ $1" | tee -a "$0/log" >&2
    eval "$1" >>"$0/log" 2>&1 || { echo "failed, see $0/log: $1" >&2; exit 1; }' "$out"
}

make_table() { # LINES...: runs the commands of each argument after those of the one before, then prints the table; exits with 1 if a run failed
  local code=0 lines kept=$out
  run source launch/venv.sh
  [[ $kept == /* ]] || kept=$PWD/$kept
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$kept/.compiled}
  for lines in "$@"; do run_all "$out" "$lines" || code=1; done
  run python -m cvmae.report.summary "$out"
  # shellcheck disable=SC2154  # of dry_run.sh
  [[ $dry_run == no ]] || echo "$(grep -c . <<<"$(printf '%s\n' "$@")") runs into $out, ${JOBS:-1} at a time" >&2
  exit $code
}
