# shellcheck shell=bash
# To be sourced. Removes --dry-run from the arguments and defines `run COMMAND...`, which prints a command and, without --dry-run, runs it.
# With --help it prints the head of the script, and ends it before anything is created, installed or submitted.
dry_run=no
arguments=()
for argument in "$@"; do
  case $argument in
  --dry-run) dry_run=yes ;;
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "launch/$(basename "$0")"
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

run() {
  echo "+ $(quoted "$@")" >&2
  [[ $dry_run == no ]] || return 0
  if ! command -v "$1" >/dev/null; then
    echo "error: there is no command $1 here: install it, or run this where it is" >&2
    return 127
  fi
  "$@"
}
