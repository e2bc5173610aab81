# shellcheck shell=bash
# Sourced: takes --dry-run out of the arguments, and gives `run COMMAND...`, which prints a command and then, unless it was there, runs it.
dry_run=no
arguments=()
for argument in "$@"; do
  if [[ $argument == --dry-run ]]; then dry_run=yes; else arguments+=("$argument"); fi
done
set -- ${arguments[@]+"${arguments[@]}"}

quoted() { # WORDS...: one line that a shell reads as these words
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
