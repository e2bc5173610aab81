# shellcheck shell=bash
# To be sourced. Removes --dry-run from the arguments and defines `run COMMAND...`, which prints a command and, without --dry-run, runs it.
dry_run=no
arguments=()
for argument in "$@"; do
  if [[ $argument == --dry-run ]]; then dry_run=yes; else arguments+=("$argument"); fi
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
  [[ $dry_run == yes ]] || "$@"
}
