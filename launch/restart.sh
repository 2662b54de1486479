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

RESTARTS="${RESTARTS:-10}"            # in a row, without a healthy run
PAUSE_SECS="${PAUSE_SECS:-5}"         # before the first of them
MOST_PAUSE_SECS="${MOST_PAUSE_SECS:-300}"
HEALTHY_SECS="${HEALTHY_SECS:-600}"

if [ "${1:-}" = --dry-run ]; then
  shift
  printf '%q ' "$@"
  echo
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

# A command in the background ignores SIGINT unless it has handlers of its own;
# the library's commands have.
run() {
  "$@" &
  child=$!
  local code=0
  # A signal interrupts `wait`, which then returns the signal's number.
  while kill -0 "$child" 2>/dev/null; do
    wait "$child"
  done
  wait "$child"
  code=$?
  child=''
  return "$code"
}

pause="$PAUSE_SECS"
count=0
while true; do
  start=$SECONDS
  run "$@"
  code=$?
  if [ -n "$stopped" ]; then
    exit "$code"
  fi
  if [ "$code" != 75 ] && [ "$code" -lt 128 ]; then
    exit "$code"
  fi
  if [ $((SECONDS - start)) -ge "$HEALTHY_SECS" ]; then
    pause="$PAUSE_SECS"
    count=0
  fi
  count=$((count + 1))
  if [ "$count" -gt "$RESTARTS" ]; then
    echo "exit code $code after $RESTARTS restarts in a row: giving up" >&2
    exit "$code"
  fi
  echo "exit code $code: restart $count of $RESTARTS in $pause s" >&2
  sleep "$pause" &
  wait $!
  if [ -n "$stopped" ]; then
    exit 75
  fi
  pause=$((pause * 2 < MOST_PAUSE_SECS ? pause * 2 : MOST_PAUSE_SECS))
done
