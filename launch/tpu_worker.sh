#!/usr/bin/env bash
# What tpu_pod.sh runs on every worker of a TPU, over ssh. A command runs on its
# own, so that a lost connection does not end it: its log, its process and its
# exit code are in ~/pyramid_jax_job.
#
#   bash launch/tpu_worker.sh prepare           the environment, huge pages
#   bash launch/tpu_worker.sh start ID COMMAND...   once for each ID
#   bash launch/tpu_worker.sh wait              until it ends; prints `exit CODE`
#   bash launch/tpu_worker.sh logs [LINES]      follows the log until it ends;
#                                               LINES=start: from the last start
#   bash launch/tpu_worker.sh status
#   bash launch/tpu_worker.sh stop              SIGTERM: it saves and ends
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/restarts.sh
source "$here/restarts.sh"

job="$HOME/pyramid_jax_job"
STOP_SECS="${STOP_SECS:-90}"  # that a command has before SIGKILL
POLL_SECS=0.2
export VENV="$HOME/pyramid_jax_venv"
# With `tpu` in it, jax refuses to fall back to the CPU.
export JAX_PLATFORMS="${JAX_PLATFORMS:-tpu,cpu}"

# pid: prints the process of the command; fails if it does not run.
pid() {
  local found
  found="$(cat "$job/pid" 2>/dev/null)" &&
    grep -aqs tpu_worker "/proc/$found/cmdline" && echo "$found"
}

# Prints how the command ended: 137, SIGKILL, if it is gone without a word.
last_words() {
  local by=''
  [ ! -e "$job/stopped" ] || by=' (stopped)'
  echo "exit $(cat "$job/code" 2>/dev/null || echo 137)$by"
}

prepare() {
  local pages='/sys/kernel/mm/transparent_hugepage/enabled'
  sudo -n sh -c "echo always > $pages" ||
    echo "$pages cannot be set: large arrays will be copied slowly" >&2
  # Sourcing it goes to the root of the repository.
  # shellcheck source=launch/setup.sh
  source "$here/setup.sh"
  # The images of TPU VMs may have an older Python alone.
  if [ ! -x "$PYTHON" ] && ! find_python > /dev/null 2>&1; then
    python3 -m pip install --quiet --user uv || return
    python3 -m uv venv --quiet --seed --python 3.12 "$VENV" || return
  fi
  install_package '[gcs,tpu]' || return
  echo "$(hostname): ready"
}

# Variables of ~/pyramid_jax.env, lines of NAME=VALUE as they are.
read_environment() {
  local line
  while IFS= read -r line || [ -n "$line" ]; do
    case "$line" in
      '' | '#'*) ;;
      *=*) export "${line?}" ;;
    esac
  done < "$HOME/pyramid_jax.env"
}

# The command and, when it has ended, its exit code.
run() {
  local child='' code
  trap '[ -z "$child" ] || kill -TERM "$child"' TERM
  cd "$here/.." || exit
  [ ! -f "$HOME/pyramid_jax.env" ] || read_environment
  ulimit -n 100000 2>/dev/null || ulimit -n "$(ulimit -Hn)"
  PATH="$VENV/bin:$PATH"
  "$@" &
  child=$!
  wait_for "$child"
  code=$?
  echo "$code" > "$job/code.part"
  mv "$job/code.part" "$job/code"
}

# start ID COMMAND...: gcloud repeats a call whose connection was lost.
start() {
  mkdir -p "$job"
  [ "$(cat "$job/id" 2>/dev/null)" != "$1" ] || return 0
  echo "$1" > "$job/id"
  shift
  end
  rm -f "$job/code" "$job/stopped"
  echo "--- $(hostname), $(date -u +%FT%TZ): $(quoted "$@")" >> "$job/log"
  setsid nohup bash "$here/tpu_worker.sh" run "$@" \
    >> "$job/log" 2>&1 < /dev/null &
  echo $! > "$job/pid"
}

# Ends what an earlier start left.
end() {
  local found
  found="$(pid)" || return 0
  kill -TERM "$found"
  timeout "$STOP_SECS" tail -f -s "$POLL_SECS" --pid="$found" /dev/null ||
    pkill -KILL --session "$found"
}

follow() {
  local lines="$1" found
  if [ "$lines" = start ]; then
    lines="+$(grep -n '^--- ' "$job/log" | tail -n 1 | cut -d: -f1)"
  fi
  if found="$(pid)"; then
    exec tail -n "$lines" -F -s "$POLL_SECS" --pid="$found" "$job/log"
  fi
  exec tail -n "$lines" "$job/log"
}

case "${1:-}" in
  prepare) prepare ;;
  start) start "${@:2}" ;;
  run) run "${@:2}" ;;
  stop)
    ! found="$(pid)" || { touch "$job/stopped"; kill -TERM "$found"; }
    ;;
  wait)
    ! found="$(pid)" || tail -f -s "$POLL_SECS" --pid="$found" /dev/null
    echo "$(hostname): $(last_words)"
    ;;
  logs)
    follow "${2:-100}"
    ;;
  status)
    if found="$(pid)"; then
      echo "$(hostname): running, process $found"
    elif [ -f "$job/pid" ]; then
      echo "$(hostname): $(last_words)"
    else
      echo "$(hostname): nothing was started"
    fi
    ;;
  *)
    echo "unknown: ${1:-}; see the head of $0" >&2
    exit 64
    ;;
esac
