# shellcheck shell=bash
# To be sourced, after dry_run.sh. What the scripts of tables share: their arguments, commands of runs that are not finished, and running them.
# WORKDIR.command has the command of a run that was begun, and those of the runs that it starts from.

read_arguments() { # OUT ARGUMENTS...: sets `out`, OUT unless the arguments name another folder, and `fields`, the flags of every run
  local argument given=
  out=$1
  fields=()
  for argument in "${@:2}"; do
    if [[ $argument == --* ]]; then
      fields+=("$argument")
    else
      [[ -z $given ]] || wrong "two folders are given, $given and $argument: give one"
      given=$argument
      out=$argument
    fi
  done
}

unfinished() { # WORKDIR FILE CONFIG FLAGS...: prints the command of a run as a line, unless WORKDIR/FILE says that it is finished
  local line
  line=$(quoted python -m cvmae.main "--config=$3" "--workdir=$1" "${@:4}")
  check_unchanged "$1" "$line"
  [[ -e $1/$2 ]] || echo "$line"
}

commands_of() { # LINE: prints the command, however OUT is spelled, and those of the runs in OUT that it starts from
  local word words
  echo "${1//"=$out/"/"=OUT/"}"
  eval "words=($1)"
  for word in "${words[@]}"; do
    [[ $word != *init_from="$out"/* || ! -e ${word#*=}.command ]] || cat "${word#*=}.command"
  done
}

check_unchanged() { # WORKDIR LINE: ends the script where the run in WORKDIR was begun by another command: its results are of other settings
  local begun now word before='' after='' one="$1, or a run that it starts from, was begun"
  [[ -e $1 && -e $1.command ]] || return 0
  eval "now=($2)"
  for word in "${now[@]}"; do
    [[ $word != *init_from="$out"/* || -e ${word#*=} ]] || wrong "$1 starts from ${word#*=}, which is gone: delete $1 too"
  done
  eval "begun=($(<"$1.command")) now=($(commands_of "$2"))"
  for word in "${begun[@]}"; do [[ -n $before || " ${now[*]} " == *" $word "* ]] || before=$word; done
  for word in "${now[@]}"; do [[ -n $after || " ${begun[*]} " == *" $word "* ]] || after=$word; done
  [[ -n $before$after ]] || return 0
  if [[ -n $before && -n $after ]]; then
    one+=" with $before, not with $after"
  else
    one+=" with${after:+out} $before$after"
  fi
  wrong "$one: give what it was begun with, give another folder than $out, or delete $1"
}

each_line() { # JOBS COMMAND LINES: runs COMMAND for each line, as its $1, JOBS at a time; fails at the end if one of them failed
  local group='' signal='' code=0
  # A process group of its own, so that a signal to this script can be passed to the runs, which save their work, and to xargs.
  # shellcheck disable=SC2064  # the name of the signal, now
  for name in INT TERM HUP; do trap "signal=$name; kill -s $name -- \"-\$group\" 2>/dev/null || true" "$name"; done
  set -m
  xargs -0 -n 1 -P "$1" bash -c "$2" bash < <(tr '\n' '\0' <<<"$3") &
  group=$!
  set +m
  wait "$group" 2>/dev/null || code=$?
  if [[ -n $signal ]]; then
    while kill -0 -- "-$group" 2>/dev/null; do sleep 0.1; done
    exit "$((128 + $(kill -l "$signal")))"
  fi
  trap - INT TERM HUP
  return "$code"
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
  export -f commands_of
  # shellcheck disable=SC2016  # expanded by the shell of each run
  out=$out each_line "${JOBS:-1}" '
    echo "+ $1" | tee -a "$out/log" >&2
    eval "words=($1)"
    for word in "${words[@]}"; do
      [[ $word != --workdir=* ]] || { mkdir -p "$(dirname "${word#*=}")" && commands_of "$1" >"${word#*=}.command"; }
    done
    eval "$1" >>"$out/log" 2>&1 || { echo "failed, see $out/log: $1" >&2; exit 1; }' "$lines"
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
