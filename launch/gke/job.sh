#!/usr/bin/env bash
# A run on GKE as a JobSet: TPU slices, or nodes with GPUs.
#
#   bash launch/gke/job.sh apply NAME --image=IMAGE --workdir=gs://BUCKET/FOLDER
#     --config=CONFIG --accelerator=v5litepod-256 [--slices=N | --nodes=N]
#     [--queue=Q] [--max-restarts=N] [--service-account=SA] [--spot] [--grace=S]
#     [--host-network] [--env=NAME=VALUE] [--xpk=CLUSTER]
#     [-- FLAGS of pyramid_jax.main]
#   bash launch/gke/job.sh status|wait|delete NAME
#   bash launch/gke/job.sh logs NAME [--all]
#
# Everywhere: --dry-run prints what would be done and changes nothing;
# --namespace=, --context= and --kubeconfig= go to kubectl. `apply` of a run
# that has ended goes on with it, and --xpk=CLUSTER prints the line that starts
# it with xpk. `wait` returns the exit code of the run. `logs` shows process 0.
#
# What is applied is made by manifest.py; `apply --help` has all flags.
set -uo pipefail

POLL_SECS="${POLL_SECS:-30}"     # between two looks at a run
FAILURES="${FAILURES:-8}"        # of kubectl in a row, before `wait` gives up
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/restarts.sh
source "$HERE/../restarts.sh"
# shellcheck source=launch/plan.sh
source "$HERE/../plan.sh"
JOBSET_LABEL=jobset.sigs.k8s.io/jobset-name

fail() {
  echo "job.sh: $2" >&2
  exit "$1"
}

usage() {
  fail 64 "$1; bash launch/gke/job.sh apply|status|wait|logs|delete NAME [FLAGS]"
}

kubectl_flags=()
kube() {
  kubectl "${kubectl_flags[@]}" "$@"
}

# Prints a command, or runs it.
run() {
  if [ -n "$dry_run" ]; then
    quoted kubectl "${kubectl_flags[@]}" "$@"
  else
    kube "$@"
  fi
}

# NAME/STATE/RESTARTS: the state is Completed, Failed, or empty while it runs.
# Prints nothing where there is no such JobSet; fails where kubectl does.
look() {
  run get jobset "$name" --ignore-not-found --output=jsonpath='{.metadata.name}/{.status.terminalState}/{.status.restarts}'
}

state_of() {
  local rest="${1#*/}"
  echo "${rest%%/*}"
}

# Prints the plan of what `apply` starts.
planned() {
  local word accelerator='' count=1
  for word in "${others[@]}"; do
    case "$word" in
      --accelerator=*) accelerator="${word#*=}" ;;
      --slices=* | --nodes=*) count="${word#*=}" ;;
    esac
  done
  print_plan "$dry_run" "$accelerator" "$count" pyramid_jax.main "${others[@]}"
}

apply() {
  local manifest found state
  manifest="$(python3 "$HERE/manifest.py" "$name" "${others[@]}")" || exit $?
  case "$manifest" in
    '{'*) ;;
    *) echo "$manifest"; return ;;  # the line for xpk
  esac
  if [ -n "$dry_run" ]; then
    planned
    look
    echo "# if it has ended: $(run delete jobset "$name")"
    printf "%s <<'END'\n%s\nEND\n" "$(run apply --filename=-)" "$manifest"
    return
  fi
  # A JobSet that has ended does not start again, whatever is applied to it.
  found="$(look)" || exit 1
  state="$(state_of "$found")"
  if [ -n "$state" ]; then
    echo "job.sh: $name has ended ($state); it is deleted, and the run goes on" >&2
    kube delete jobset "$name" || exit 1
  elif [ -n "$found" ]; then
    fail 73 "$name is running; 'job.sh delete $name' stops it, and it saves first"
  fi
  planned
  kube apply --filename=- <<< "$manifest"
}

# The exit code of the run: the one of its pods that decides.
code_of_pods() {
  local codes code worst=0
  codes="$(kube get pods --selector="$JOBSET_LABEL=$name" --output=jsonpath='{.items[*].status.containerStatuses[*].state.terminated.exitCode}')"
  for code in $codes; do
    worst="$(worse "$worst" "$code")"
  done
  echo $((worst > 0 ? worst : 1))
}

wait_for_run() {
  local found state restarts seen='' failures=0 code
  if [ -n "$dry_run" ]; then
    look
    return
  fi
  while true; do
    if ! found="$(look)"; then
      failures=$((failures + 1))
      [ "$failures" -lt "$FAILURES" ] || fail 1 "kubectl failed $failures times in a row"
      sleep "$(pause_before "$failures")"
      continue
    fi
    failures=0
    [ -n "$found" ] || fail 66 "there is no JobSet $name"
    state="$(state_of "$found")"
    restarts="${found##*/}"
    if [ "$restarts" != "$seen" ]; then
      [ -z "$seen" ] || echo "job.sh: $name: restart $restarts" >&2
      seen="$restarts"
    fi
    case "$state" in
      Completed) return 0 ;;
      Failed)
        code="$(code_of_pods)"
        kube get jobset "$name" --output=jsonpath='{.status.conditions[?(@.type=="Failed")].message}{"\n"}' >&2
        kube get pods --selector="$JOBSET_LABEL=$name" --output=jsonpath='{range .items[*]}{.metadata.name}{": "}{.status.containerStatuses[*].state.terminated.message}{"\n"}{end}' >&2
        fail "$code" "$name failed with exit code $code"
        ;;
    esac
    sleep "$POLL_SECS"
  done
}

# Follows the pods of a run, and those of its restarts.
logs() {
  local selector="$JOBSET_LABEL=$name" since=--tail=-1 found
  if [ "${others[*]}" != --all ]; then
    selector+=',jobset.sigs.k8s.io/job-index=0,batch.kubernetes.io/job-completion-index=0'
  fi
  while true; do
    run logs --follow --prefix --container=train --max-log-requests=4096 "$since" --selector="$selector"
    [ -z "$dry_run" ] || return 0
    since="--since-time=$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    found="$(look)" || return 1
    [ -n "$found" ] || fail 66 "there is no JobSet $name"
    [ -z "$(state_of "$found")" ] || return 0
    sleep "$POLL_SECS"
  done
}

verb="${1:-}"
case "$verb" in
  apply | status | wait | logs | delete) shift ;;
  -h | --help | help) sed -n '2,18s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0 ;;
  *) usage "'$verb' is no command" ;;
esac
if [ "$verb" = apply ] && [[ " $* " == *' --help '* ]]; then
  exec python3 "$HERE/manifest.py" --help
fi
name="${1:-}"
case "$name" in
  '' | -*) usage "$verb needs a NAME" ;;
esac
shift

dry_run=''
others=()
while [ $# -gt 0 ]; do
  case "$1" in
    --dry-run) dry_run=1 ;;
    --namespace=* | --context=* | --kubeconfig=*) kubectl_flags+=("$1") ;;
    --) others+=("$@"); break ;;
    *) others+=("$1") ;;
  esac
  shift
done
case "$verb:${others[*]}" in
  apply:* | *: | logs:--all) ;;
  *) usage "$verb does not take ${others[*]}" ;;
esac
needs_kubectl=1
case " ${others[*]} " in *' --xpk='*) needs_kubectl='' ;; esac
if [ -z "$dry_run" ] && [ -n "$needs_kubectl" ] && ! command -v kubectl > /dev/null; then
  fail 66 'kubectl is not on PATH'
fi

case "$verb" in
  apply) apply ;;
  status)
    run get jobset "$name" || exit $?
    run get pods --output=wide --selector="$JOBSET_LABEL=$name"
    ;;
  wait) wait_for_run ;;
  logs) logs ;;
  delete) run delete jobset "$name" ;;
esac
