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

starts_from() { # LINE: prints the workdirs in OUT that a run starts from
  local word words
  eval "words=($1)"
  for word in "${words[@]}"; do [[ $word != *init_from="$out"/* ]] || echo "${word#*=}"; done
}

commands_of() { # LINE: prints the command, however OUT is spelled, and those of the runs in OUT that it starts from
  local parent
  echo "${1//"=$out/"/"=OUT/"}"
  while read -r parent; do
    [[ ! -e $parent.command ]] || cat "$parent.command"
  done < <(starts_from "$1")
}

first_missing() { # NUMBER WORDS...: prints the first of NUMBER words that is not among the others
  local word others=" ${*:$1 + 2} "
  for word in "${@:2:$1}"; do
    [[ $others == *" $word "* ]] || { echo "$word" && return; }
  done
}

check_unchanged() { # WORKDIR LINE: ends the script where the run in WORKDIR was begun by another command: its results are of other settings
  local begun now before after parent one="$1, or a run that it starts from, was begun"
  [[ -e $1 && -e $1.command ]] || return 0
  while read -r parent; do
    [[ -e $parent ]] || wrong "$1 starts from $parent, which is gone: delete $1 too"
  done < <(starts_from "$2")
  eval "begun=($(<"$1.command")) now=($(commands_of "$2"))"
  before=$(first_missing ${#begun[@]} "${begun[@]}" "${now[@]}")
  after=$(first_missing ${#now[@]} "${now[@]}" "${begun[@]}")
  [[ -n $before$after ]] || return 0
  if [[ -n $before && -n $after ]]; then
    one+=" with $before, not with $after"
  else
    one+=" with${after:+out} $before$after"
  fi
  wrong "$one: give what it was begun with, give another folder than $out, or delete $1"
}

each_line() { # JOBS COMMAND LINES: runs COMMAND with each line as its argument, JOBS at a time; fails at the end if one of them failed
  local name group='' signal='' code=0
  # A process group of its own, so that a signal to this script can be passed to the runs, which save their work, and to xargs.
  # shellcheck disable=SC2064  # the name of the signal, now
  for name in INT TERM HUP; do trap "signal=$name; kill -s $name -- \"-\$group\" 2>/dev/null || true" "$name"; done
  set -m
  xargs -0 -n 1 -P "$1" bash -c "$2 \"\$1\"" bash < <(tr '\n' '\0' <<<"$3") &
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

one_run() { # LINE: runs the command, with its output in OUT/log
  local word words
  echo "+ $1" | tee -a "$out/log" >&2
  eval "words=($1)"
  for word in "${words[@]}"; do
    [[ $word != --workdir=* ]] || { mkdir -p "$(dirname "${word#*=}")" && commands_of "$1" >"${word#*=}.command"; }
  done
  eval "$1" >>"$out/log" 2>&1 || { echo "failed, see $out/log: $1" >&2 && return 1; }
}

run_all() { # LINES: runs the commands, JOBS in parallel; fails at the end if one of them failed
  [[ -n $1 ]] || return 0
  # shellcheck disable=SC2154  # of dry_run.sh
  if [[ $dry_run == yes ]]; then
    printf '%s\n' "$1" | sed 's/^/+ /' >&2
    return
  fi
  mkdir -p "$out"
  export out
  export -f starts_from commands_of one_run
  each_line "${JOBS:-1}" one_run "$1"
}

keep_compiled() { # OUT: makes the runs share compiled programs, in OUT unless JAX_COMPILATION_CACHE_DIR names another folder
  local kept=$1
  [[ $kept == /* ]] || kept=$PWD/$kept
  export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$kept/.compiled}
}

make_table() { # LINES...: runs the commands of each argument after those of the one before, then prints the table; exits with 1 if a run failed
  local code=0 lines
  run source launch/venv.sh
  keep_compiled "$out"
  for lines in "$@"; do run_all "$lines" || code=1; done
  run python -m cvmae.report.summary "$out"
  # shellcheck disable=SC2154  # of dry_run.sh
  [[ $dry_run == no ]] || echo "$(grep -c . <<<"$(printf '%s\n' "$@")") runs into $out, ${JOBS:-1} at a time" >&2
  exit $code
}
