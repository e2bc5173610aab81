# shellcheck shell=bash
# To be sourced. Removes --dry-run from the arguments and defines `run COMMAND...`, which prints a command and, without --dry-run, runs it.
# With --help it prints the head of the script and the variables that it reads, and ends it before anything is created, installed or submitted.
dry_run=no
arguments=()
for argument in "$@"; do
  case $argument in
  --dry-run) dry_run=yes ;;
  --dry*)
    echo "error: unknown option $argument: did you mean --dry-run?" >&2
    exit 2
    ;;
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "launch/$(basename "$0")"
    sed -n 's/^\([A-Z][A-Z_]*\)=${\1:\{0,1\}-\(.*\)}\( *#.*\)\{0,1\}$/  \1=\2\3/p' "launch/$(basename "$0")"
    exit 0
    ;;
  *) arguments+=("$argument") ;;
  esac
done
set -- ${arguments[@]+"${arguments[@]}"}

quoted() { # WORDS...: prints one line that a shell parses into these words
  local word line=
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_./:=@%,+-]+$ ]]; then line+=" $word"; else line+=" ${word@Q}"; fi
  done
  echo "${line# }"
}

wrong() { # MESSAGE: ends the script
  echo "error: $1" >&2
  exit 2
}

whole_numbers() { # LEAST NAMES...: ends the script where one of these variables has a word that is no whole number, or less than LEAST
  local name word
  for name in "${@:2}"; do
    for word in ${!name:-''}; do
      if [[ ! $word =~ ^(0|[1-9][0-9]{0,17})$ ]] || ((word < $1)); then
        wrong "$name is ${!name@Q}: expected a whole number, $1 or more"
      fi
    done
  done
}

choice() { # NAME VALUES...: ends the script where the variable is set to another value
  local words=" ${*:2} " given
  [[ -z ${!1} || $words == *" ${!1} "* ]] && return
  given=$(printf ' or %s' "${@:2}")
  wrong "$1 is ${!1@Q}: expected ${given# or }"
}

own_fields() { # ARGUMENTS...: ends the script where they have an option that the script gives from a variable
  local argument
  for argument in "$@"; do
    [[ $argument != --workdir* ]] || wrong "$argument: give it by the variable WORKDIR"
    [[ $argument != --config=* && $argument != --config ]] || wrong "$argument: give it by the variable CONFIG"
  done
}

unread() { # WHY NAMES...: ends the script where the environment has one of these variables, which nothing would read
  local name
  for name in "${@:2}"; do
    [[ -z $(printenv "$name") ]] || wrong "$name is not read with $1: leave it out"
  done
}

is_here() { # COMMAND: succeeds if it can be run, else says what to do
  command -v "$1" >/dev/null && return
  echo "error: there is no command $1 here: install it, or run this where it is" >&2
  return 127
}

run() {
  echo "+ $(quoted "$@")" >&2
  [[ $dry_run == no ]] || return 0
  is_here "$1" || return
  "$@"
}
