#!/usr/bin/env bash
# Runs a command on all GPUs of one machine, with the restarts of restart.sh.
#
#   bash launch/gpu_node.sh [OPTION...] python -m pyramid_jax.main ...
#
#   --per-gpu   one process for each GPU instead of one for all of them
#   --gpus=N    how many GPUs with --per-gpu (those that nvidia-smi lists)
#   --dry-run   print the commands and run nothing
#
# One process for all GPUs is the simplest and as fast. A process for each GPU
# decodes its part of the data on its own, and finds bugs of many hosts on one.
# CUDA_VISIBLE_DEVICES leaves GPUs out. The exit code is that of the command;
# SIGTERM and SIGINT go to every process.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/restarts.sh
source "$here/restarts.sh"

# With `cuda` in it, jax refuses to fall back to the CPU.
export JAX_PLATFORMS="${JAX_PLATFORMS:-cuda,cpu}"

usage() {
  echo "$1; usage: bash launch/gpu_node.sh [--per-gpu] [--gpus=N]" \
    '[--dry-run] COMMAND...' >&2
  exit 64
}

per_gpu='' gpus='' dry='' once=''
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --per-gpu) per_gpu=1 ;;
    --gpus=*) gpus="${1#*=}" ;;
    --dry-run) dry=1 ;;
    --once) once=1 ;;  # what restart.sh runs again
    *) usage "unknown option $1" ;;
  esac
  shift
done
[ $# != 0 ] || usage 'no command'

listed() {
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    echo "$CUDA_VISIBLE_DEVICES" | tr ',' '\n' | wc -l
  else
    nvidia-smi -L 2>/dev/null | grep -c '^GPU'
  fi
}

if [ -n "$per_gpu" ]; then
  gpus="${gpus:-$(listed)}"
  [[ "$gpus" =~ ^[0-9]+$ ]] || usage "--gpus=$gpus is no number"
  if [ "$gpus" -lt 1 ]; then
    echo 'nvidia-smi lists no GPU: install the driver, or give --gpus=N' >&2
    exit 66
  fi
elif [ -n "$gpus" ]; then
  usage '--gpus needs --per-gpu; CUDA_VISIBLE_DEVICES leaves GPUs out'
fi

# Prints a port on which nothing listens, below those that the system gives out.
free_port() {
  local port
  while true; do
    port=$((20000 + RANDOM % 12000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "$port"
      return
    fi
  done
}

# process INDEX PORT COMMAND...: sets $command to the command of one process.
process() {
  local index="$1" fields='--config.distributed'
  command=(
    "${@:3}" "$fields.mode=explicit" "$fields.coordinator=127.0.0.1:$2"
    "$fields.processes=$gpus" "$fields.process_id=$index"
    "$fields.local_devices=$index"
  )
}

pids=()
forward() {
  local pid
  for pid in "${pids[@]}"; do
    kill -s "$1" "$pid" 2>/dev/null
  done
}

# Runs one process for each GPU. Where one fails, the library ends the others.
run_all() {
  local port index pid code result=0
  port="$(free_port)"
  for ((index = 0; index < gpus; index++)); do
    process "$index" "$port" "$@"
    "${command[@]}" > >(exec sed -u "s/^/[$index] /") \
      2> >(exec sed -u "s/^/[$index] /" >&2) &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do
    wait_for "$pid"
    code=$?
    result="$(worse "$result" "$code")"
  done
  return "$result"
}

if [ -n "$once" ]; then
  trap 'forward TERM' TERM
  trap 'forward INT' INT
  run_all "$@"
  exit
fi
if [ -n "$per_gpu" ]; then
  set -- bash "$here/gpu_node.sh" --once --per-gpu "--gpus=$gpus" "$@"
fi
if [ -n "$dry" ]; then
  quoted env "JAX_PLATFORMS=$JAX_PLATFORMS" bash "$here/restart.sh" "$@"
  if [ -n "$per_gpu" ]; then
    for ((index = 0; index < gpus; index++)); do
      process "$index" PORT "${@:6}"
      quoted "${command[@]}"
    done
  fi
  exit
fi
exec bash "$here/restart.sh" "$@"
