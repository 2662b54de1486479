#!/usr/bin/env bash
# The launchers source this: when a command is started again, and how late.

RESTARTS="${RESTARTS:-10}"            # in a row, without a healthy run
PAUSE_SECS="${PAUSE_SECS:-5}"         # before the first of them; then it doubles
MOST_PAUSE_SECS="${MOST_PAUSE_SECS:-300}"
HEALTHY_SECS="${HEALTHY_SECS:-600}"   # a run of these starts the count anew

# is_restartable CODE: 75 (stopped, the same command goes on) or a death by a
# signal. Starting again would not change other codes.
is_restartable() {
  [ "$1" = 75 ] || [ "$1" -ge 128 ]
}

# worse CODE CODE: prints the code that decides of two processes of a run: a
# failure that starting again would not change, a death, a stop, success.
worse() {
  local code
  for code in "$@"; do
    if [ "$code" != 0 ] && ! is_restartable "$code"; then
      echo "$code"
      return
    fi
  done
  echo $(($1 > $2 ? $1 : $2))
}

# pause_before NUMBER: prints the seconds before restart NUMBER, from 1.
pause_before() {
  local secs="$PAUSE_SECS" n
  for ((n = 1; n < $1 && secs < MOST_PAUSE_SECS; n++)); do
    secs=$((secs * 2))
  done
  echo $((secs < MOST_PAUSE_SECS ? secs : MOST_PAUSE_SECS))
}

restart_count=0
restart_pause=0

# restart_after CODE SECS: announces the restart of a command that ended with
# CODE after SECS, and sets $restart_pause; fails if there is none.
restart_after() {
  is_restartable "$1" || return 1
  [ "$2" -lt "$HEALTHY_SECS" ] || restart_count=0
  restart_count=$((restart_count + 1))
  if [ "$restart_count" -gt "$RESTARTS" ]; then
    echo "exit code $1 after $RESTARTS restarts in a row: giving up" >&2
    return 1
  fi
  restart_pause="$(pause_before "$restart_count")"
  echo "exit code $1: restart $restart_count of $RESTARTS in" \
    "$restart_pause s" >&2
}

# wait_for PID: waits for a process through signals; returns its exit code. A
# signal interrupts `wait`, which then returns the signal's number.
wait_for() {
  while kill -0 "$1" 2>/dev/null; do
    wait "$1"
  done
  wait "$1"
}

# quoted WORD...: prints a command as a shell reads it.
quoted() {
  local word line=''
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="${word@Q}"
    line+="${line:+ }$word"
  done
  echo "$line"
}
