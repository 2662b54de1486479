#!/usr/bin/env bash
# Runs a command again for as long as that helps: after exit code 75 (stopped,
# the same command goes on) and after a death by a signal (128 and above). Other
# codes are passed on at once: starting again would not change them.
#
#   bash launch/restart.sh [--dry-run] COMMAND...
#
# A SIGTERM or SIGINT goes to the command and is the last: nothing is started
# after it. The pause between two starts doubles; a run of HEALTHY_SECS starts
# the count and the pause anew.
set -uo pipefail
# shellcheck source=launch/restarts.sh
source "$(dirname "${BASH_SOURCE[0]}")/restarts.sh"

if [ "${1:-}" = --dry-run ]; then
  shift
  quoted "$@"
  exit 0
fi
if [ $# = 0 ]; then
  echo 'usage: bash launch/restart.sh [--dry-run] COMMAND...' >&2
  exit 64
fi

child=''
stopped=''
forward() {
  stopped="$1"
  [ -z "$child" ] || kill -s "$1" "$child" 2>/dev/null
}
trap 'forward TERM' TERM
trap 'forward INT' INT

# The command has a process group of its own: Ctrl-C reaches it through this
# script alone, not twice, and is not ignored, as in other background commands.
run() {
  set -m
  "$@" &
  child=$!
  set +m
  local code=0
  wait_for "$child"
  code=$?
  child=''
  return "$code"
}

while true; do
  start=$SECONDS
  run "$@"
  code=$?
  if [ -n "$stopped" ] || ! restart_after "$code" $((SECONDS - start)); then
    exit "$code"
  fi
  sleep "$restart_pause" &
  wait $!
  if [ -n "$stopped" ]; then
    exit 75
  fi
done
