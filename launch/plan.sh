#!/usr/bin/env bash
# The launchers source this: the plan of a run, printed before its pod is asked
# for. What cannot be planned here is started all the same, and a line says why.

PLAN_SECS="${PLAN_SECS:-600}"  # of a plan, at most; 0 makes none
plan_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# plan_command ACCELERATOR COUNT COMMAND...: sets $plan to the command of the
# plan; it is empty where the command does not train a --config=FILE.
plan_command() {
  local word is_main='' config='' flags place
  plan=()
  [ "$PLAN_SECS" != 0 ] || return 0
  place="$(python3 "$plan_root/launch/gke/accelerators.py" "$1" "$2")" || return
  flags=()
  for word in "${@:3}"; do
    case "$word" in
      pyramid_jax.main) is_main=1 ;;
      --mode=train) ;;
      --mode=*) return 0 ;;
      --config=*) config="$word" ;;
      --config.*) flags+=("$word") ;;
    esac
  done
  [ -n "$is_main" ] && [ -n "$config" ] && [ -n "$place" ] || return 0
  # shellcheck disable=SC2206
  plan=(python3 -m pyramid_jax.main --mode=plan $place --programs=train
    --until=partitioner --one_batch "$config" "${flags[@]}")
}

# print_plan DRY ACCELERATOR COUNT COMMAND...: prints the plan, or the command
# that makes it if DRY is not empty.
print_plan() {
  local dry="$1" errors plan
  shift
  plan_command "$@"
  [ ${#plan[@]} != 0 ] || return 0
  if [ -n "$dry" ]; then
    quoted "${plan[@]}"
    return
  fi
  errors="$(mktemp)" || return
  echo "the plan of the run; PLAN_SECS=0 leaves it out" >&2
  PYTHONPATH="$plan_root${PYTHONPATH:+:$PYTHONPATH}" timeout --kill-after=10 \
    "$PLAN_SECS" "${plan[@]}" >&2 2> "$errors" ||
    echo "no plan: exit code $?: $(tail -n 1 "$errors")" >&2
  rm -f "$errors"
}
