#!/usr/bin/env bash
# Runs a command apart from the connection that started it, shows its log until it ends, and ends with its exit code. While it is running, a
# second call with the same command shows the log of the first, and one with another command is refused.
# Usage: ./launch/detached.sh COMMAND...     writes run.log and run.exit_code in the folder of the source; for TPU VMs, see tpu_vm.sh
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ -z ${1:-} || $1 == -h || $1 == --help ]]; then
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' launch/detached.sh
  exit
fi
if [[ $1 == --alone ]]; then # the process that stays
  shift
  trap : TERM # it waits for the command, which may save first
  code=0
  "$@" || code=$?
  echo "$code" >run.exit_code
  exit
fi

running=$(pgrep -oaf 'launch/[d]etached.sh --alone' || true)
process=${running%% *}
command=${running#*--alone }
if [[ -z $running ]]; then
  rm -f run.exit_code
  touch run.log # tail fails where it has to wait for it
  nohup bash launch/detached.sh --alone "$@" >>run.log 2>&1 </dev/null &
  process=$!
elif [[ $command != "$*" ]]; then
  echo "error: another run is in progress on $(hostname): $command" >&2
  echo "  wait for its end, or let it save and end, on each host: pkill -TERM -of '^[^ ]*python -m cvmae.main'" >&2
  exit 2
else
  echo "this run is in progress; this is its log" >&2
fi

# `tail` may not take the place of this shell: an ended child of it counts as a process until the shell waits for it.
tail -n 20 -F run.log --pid="$process"
if [[ ! -s run.exit_code ]]; then
  echo "error: the run ended without an exit code: it was killed, or the machine has no memory left; the same command resumes" >&2
  exit 1
fi
exit "$(<run.exit_code)"
