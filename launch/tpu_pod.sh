#!/usr/bin/env bash
# Trains on Cloud TPU VMs: a queued resource with one slice or several, and a
# command on all of its workers, which goes on after a preemption.
#
#   bash launch/tpu_pod.sh run --name=NAME --zone=ZONE --type=v5litepod-16 \
#     --spot python -m pyramid_jax.main --config=FILE.py --workdir=gs://BUCKET/RUN
#
#   run COMMAND...  makes what is not there, runs the command, streams the log of
#                   the first worker, starts again, and deletes the TPU at the
#                   end. A run that goes on there is followed.
#   up              makes the TPU and prepares its workers
#   status          the state of the TPU and of the command on every worker
#   logs            the log of the command (--worker=N, --node=N)
#   stop            SIGTERM to the command: it saves and ends
#   down            deletes the TPU
#
#   --name=NAME --zone=ZONE [--project=PROJECT]
#   --type=TYPE                v5litepod-16 (v5e), v5p-32, v6e-16, v4-32
#   --runtime-version=VERSION  of the VM, if not that of the table below
#   --node-count=N             slices (Multislice); --node-prefix=NAME
#   --spot | --reserved | --guaranteed
#   --internal-ips             no external addresses; ssh goes to internal ones
#   --service-account= --labels= --network= --subnetwork= --tags=
#   --valid-until-duration=6h  how long to wait in the queue
#   --env-file=FILE            lines of NAME=VALUE for the command, such as tokens
#   --keep                     do not delete the TPU at the end
#   --dry-run                  print the commands and run nothing
#
# Ctrl-C or SIGTERM stops the command, which saves, and deletes the TPU unless
# --keep is given; a second one ends this script at once and leaves the TPU, and
# its costs. The exit code is that of the command: 75 and deaths by signals are
# tried again (RESTARTS times in a row), as is a TPU that was taken away.
set -uo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
# shellcheck source=launch/restarts.sh
source "$here/restarts.sh"
# shellcheck source=launch/plan.sh
source "$here/plan.sh"

POLL_SECS="${POLL_SECS:-30}"  # between two looks at the queue
# GCP opens this port between slices; jax would take 8482, which it does not.
SLICES_PORT=8476
# Answers of gcloud that will be the same.
HOPELESS='INVALID_ARGUMENT|PERMISSION_DENIED|UNAUTHENTICATED'
WORKER='bash pyramid_jax/launch/tpu_worker.sh'

fail() {
  echo "$2" >&2
  exit "$1"
}

say() {
  echo "tpu_pod: $*" >&2
}

# runtime_of TYPE: prints the runtime version of an accelerator type.
runtime_of() {
  case "$1" in
    v2-[0-9]* | v3-[0-9]* | v4-[0-9]*) echo tpu-ubuntu2204-base ;;
    v5litepod-[0-9]*) echo v2-alpha-tpuv5-lite ;;
    v5p-[0-9]*) echo v2-alpha-tpuv5 ;;
    v6e-[0-9]*) echo v2-alpha-tpuv6e ;;
    *) return 1 ;;
  esac
}

# -- What is asked for ------------------------------------------------------

name='' zone='' project='' type='' runtime='' count=1 prefix='' tier=''
env_file='' keep='' dry='' worker=0 node=0
create=() access=() command=()
action="${1:-}"
case "$action" in
  run | up | status | logs | stop | down) shift ;;
  *) fail 64 "'$action' is none of run, up, status, logs, stop, down; see the \
head of launch/tpu_pod.sh" ;;
esac
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --) shift; break ;;
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --type=*) type="${1#*=}" ;;
    --runtime-version=*) runtime="${1#*=}" ;;
    --node-count=*) count="${1#*=}" ;;
    --node-prefix=*) prefix="${1#*=}" ;;
    --spot | --reserved | --guaranteed)
      [ -z "$tier" ] || fail 64 "$1 and $tier exclude each other"
      tier="$1"
      ;;
    --internal-ips) create+=("$1"); access+=(--internal-ip) ;;
    --service-account=* | --labels=* | --network=* | --subnetwork=* | \
      --tags=* | --valid-until-duration=*) create+=("$1") ;;
    --env-file=*) env_file="${1#*=}" ;;
    --worker=*) worker="${1#*=}" ;;
    --node=*) node="${1#*=}" ;;
    --keep) keep=1 ;;
    --dry-run) dry=1 ;;
    *) fail 64 "unknown option $1; see the head of launch/tpu_pod.sh" ;;
  esac
  shift
done
command=("$@")

[[ "$name" =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail 64 \
  "--name=$name: lower-case letters, digits and -, beginning with a letter"
[ -n "$zone" ] || fail 64 '--zone=ZONE is needed, such as us-central2-b'
[[ "$count" =~ ^[1-9][0-9]*$ ]] || fail 64 "--node-count=$count is no number"
prefix="${prefix:-$name}"
if [ "$action" = run ] || [ "$action" = up ]; then
  [ -n "$runtime" ] || runtime="$(runtime_of "$type")" || fail 64 \
    "--type=$type is none of v4-N, v5litepod-N (v5e), v5p-N, v6e-N; \
--runtime-version=VERSION goes with another, and TPU7x needs GKE"
  [ -n "$type" ] || fail 64 '--type=TYPE is needed, such as v5litepod-16'
  [ -z "$env_file" ] || [ -r "$env_file" ] ||
    fail 66 "--env-file=$env_file cannot be read"
fi

# Every worker has a disk of its own, and it goes with the TPU.
check_workdir() {
  local n word workdir=''
  for ((n = 0; n < ${#command[@]}; n++)); do
    word="${command[n]}"
    case "$word" in
      --workdir=*) workdir="${word#*=}" ;;
      --workdir) workdir="${command[n + 1]:-}" ;;
    esac
  done
  [[ "$workdir" == gs://?* ]] || fail 64 "the workers share no disk, and what \
they have goes with the TPU: give --workdir=gs://BUCKET/RUN instead of \
'$workdir'"
}

if [ "$action" = run ]; then
  [ ${#command[@]} != 0 ] || fail 64 'run needs a COMMAND'
  check_workdir
elif [ ${#command[@]} != 0 ]; then
  fail 64 "$action takes no command: ${command[*]}"
fi
[ -n "$dry" ] || command -v gcloud > /dev/null ||
  fail 66 'gcloud is not there: install the Google Cloud SDK'

place=("--zone=$zone" --quiet)
[ -z "$project" ] || place+=("--project=$project")
if [ "$count" = 1 ]; then
  nodes=("$name")
  shape=("--node-id=$name")
else
  nodes=()
  for ((n = 0; n < count; n++)); do nodes+=("$prefix-$n"); done
  shape=("--node-count=$count" "--node-prefix=$prefix")
  command=(env "JAX_COORDINATOR_PORT=$SLICES_PORT" "${command[@]}")
fi
wanted=("--accelerator-type=$type" "--runtime-version=$runtime" "${shape[@]}"
  "${create[@]}")
[ -z "$tier" ] || wanted+=("$tier")

# -- The commands of gcloud -------------------------------------------------

# call COMMAND...: runs a command, or prints it.
call() {
  if [ -n "$dry" ]; then
    quoted "$@"
  else
    "$@"
  fi
}

queue() {
  call gcloud compute tpus queued-resources "$1" "$name" "${place[@]}" "${@:2}"
}

# remote NODE WORKERS COMMAND: runs a command on workers of a node. A TPU that
# is taken away does not close its connections.
remote() {
  call gcloud compute tpus tpu-vm ssh "$1" "--worker=$2" "${place[@]}" \
    "${access[@]}" --ssh-flag=-oServerAliveInterval=30 \
    --ssh-flag=-oServerAliveCountMax=4 "--command=$3"
}

# on_all FUNCTION ARGUMENT...: calls FUNCTION NODE ARGUMENT... for all nodes at
# the same time; fails if one of them fails.
on_all() {
  local one pids=() result=0
  for one in "${nodes[@]}"; do
    if [ -n "$dry" ]; then
      "$1" "$one" "${@:2}"
    else
      "$1" "$one" "${@:2}" &
      pids+=($!)
    fi
  done
  for one in "${pids[@]}"; do
    wait_for "$one" || result=1
  done
  return "$result"
}

everywhere() {
  on_all remote all "$1"
}

# state: prints the state of the queued resource, ABSENT if there is none.
state() {
  local answer n
  for ((n = 1; n <= 5; n++)); do
    if answer="$(queue describe '--format=value(state.state)' 2>&1)"; then
      echo "${answer##*$'\n'}"
      return
    fi
    if [[ "$answer" =~ NOT_FOUND|not\ found ]]; then
      echo ABSENT
      return
    fi
    [[ ! "$answer" =~ active\ account|$HOPELESS ]] || break
    sleep "$(pause_before "$n")"
  done
  say "gcloud does not answer: ${answer%%$'\n'*}"
  return 1
}

planned=''

# make: asks for the TPU; returns 64 if asking again would not help.
make() {
  local text code
  [ -n "$planned" ] || print_plan "$dry" "$type" "$count" "${command[@]}"
  planned=1
  if [ -n "$dry" ]; then
    queue create "${wanted[@]}"
    return
  fi
  text="$(queue create "${wanted[@]}" 2>&1)"
  code=$?
  echo "$text" >&2
  [ "$code" != 0 ] || return 0
  # 2 is an option that gcloud does not know.
  if [ "$code" = 2 ] || [[ "$text" =~ $HOPELESS ]]; then
    return 64
  fi
  return 75
}

delete() {
  if [ -z "$dry" ] && [ "$(state)" = ABSENT ]; then
    return 0
  fi
  queue delete --force || {
    say "$name could not be deleted and may cost money: bash" \
      "launch/tpu_pod.sh down --name=$name --zone=$zone"
    return 73
  }
}

# -- What happens to the TPU ------------------------------------------------

stopped=''
is_there=''  # whether it may be, so that it has to be deleted
pause() {
  sleep "$1" &
  wait $!
}

# acquire: waits until the TPU is there, making it if needed. Returns 75 if it
# was refused or taken away meanwhile.
acquire() {
  local now before='' is_ours=''
  if [ -n "$dry" ]; then
    queue describe '--format=value(state.state)'
    make
    is_there=1
    return
  fi
  while [ -z "$stopped" ]; do
    now="$(state)" || return 73
    [ "$now" = "$before" ] || say "$name is $now"
    before="$now"
    is_there=1
    case "$now" in
      ACTIVE) return 0 ;;
      ABSENT) make || return; is_ours=1 ;;
      FAILED | SUSPENDED)
        queue describe '--format=value(state)' >&2
        delete || return
        [ -z "$is_ours" ] || return 75
        ;;
      *) pause "$POLL_SECS" ;;
    esac
  done
  return 75
}

copy() {
  call gcloud compute tpus tpu-vm scp "${files[@]}" "$1:" --worker=all \
    "${place[@]}" "${access[@]}"
}

# prepare: brings the code, the variables and the environment to all workers.
prepare() {
  local files=("$scratch/pyramid_jax.tgz")
  pack "${files[0]}" || return 73
  if [ -n "$env_file" ]; then
    files+=("$scratch/pyramid_jax.env")
    call install -m 600 "$env_file" "${files[1]}" || return 73
  fi
  on_all copy && everywhere "rm -rf pyramid_jax && mkdir pyramid_jax && tar \
-xzf pyramid_jax.tgz -C pyramid_jax && $WORKER prepare" || return 75
}

# pack FILE: packs the files of the repository that git does not ignore.
pack() {
  local root="$here/.."
  if [ -n "$dry" ] || ! git -C "$root" rev-parse 2>/dev/null; then
    call tar -czf "$1" -C "$root" '--exclude=./.*' --exclude=./runs .
  else
    git -C "$root" ls-files -z --cached --others --exclude-standard |
      (cd "$root" && while IFS= read -r -d '' file; do
        [ ! -e "$file" ] || printf '%s\0' "$file"
      done) | tar -czf "$1" -C "$root" --null -T -
  fi
}

# follow LINES: streams the log of the first worker until the command has ended
# on all of them; returns its exit code, 75 if the TPU is gone.
follow() {
  local lines="$1" log code found n start
  for ((n = 1; n <= RESTARTS; n++)); do
    start=$SECONDS
    if [ -n "$dry" ]; then
      remote "${nodes[0]}" 0 "$WORKER logs $lines"
      everywhere "$WORKER wait"
      return
    fi
    remote "${nodes[0]}" 0 "$WORKER logs $lines" &
    log=$!
    # In the background, so that a signal is answered at once.
    everywhere "$WORKER wait" > "$scratch/ends" &
    if wait_for $!; then
      wait_for "$log"
      code=0
      while read -r found; do
        code="$(worse "$code" "$found")"
      done < <(sed -n 's/.*: exit \([0-9]*\).*/\1/p' "$scratch/ends")
      # `stop` in another shell, too, is the last.
      ! grep -q '(stopped)$' "$scratch/ends" || stopped=1
      [ "$code" = 0 ] || cat "$scratch/ends" >&2
      return "$code"
    fi
    kill "$log" 2>/dev/null
    found="$(state)" || return 73
    if [ "$found" != ACTIVE ]; then
      say "$name is $found"
      return 75
    fi
    [ $((SECONDS - start)) -lt "$HEALTHY_SECS" ] || n=1
    say 'the connection was lost; the command goes on'
    pause "$(pause_before "$n")"
    lines=20
  done
  return 75
}

attempts=0

# attempt: one start of the command, or what goes on already; returns its code,
# and sets $began to when it began.
attempt() {
  began=''
  acquire || return
  if [ -z "$dry" ] && [[ "$(everywhere "$WORKER status" 2>/dev/null)" =~ \
    :\ running ]]; then
    say "a command runs there already, and is followed; 'stop' ends it"
    began=$SECONDS
    follow 100
    return
  fi
  prepare || return
  [ -z "$stopped" ] || return 75
  began=$SECONDS
  attempts=$((attempts + 1))
  everywhere "$WORKER start $id.$attempts $(quoted "${command[@]}")" || return 75
  # A signal that came first has stopped nothing.
  [ -z "$stopped" ] || everywhere "$WORKER stop"
  follow start
}

# On the first signal, the command is stopped; it ends by itself. At the second,
# this script ends.
# shellcheck disable=SC2317,SC2329
on_signal() {
  if [ -n "$stopped" ]; then
    say "$name is left as it is, with its costs: bash launch/tpu_pod.sh down" \
      "--name=$name --zone=$zone"
    exit 75
  fi
  stopped=1
  say 'stopping: the command saves and ends'
  everywhere "$WORKER stop" > /dev/null 2>&1 &
}

run() {
  local code
  trap on_signal TERM INT
  while true; do
    attempt
    code=$?
    if [ -n "$dry" ] || [ -n "$stopped" ] ||
      ! restart_after "$code" "$((began ? SECONDS - began : 0))"; then
      break
    fi
    pause "$restart_pause"
  done
  [ -n "$keep" ] || [ -z "$is_there" ] || delete
  exit "$code"
}

if [ -n "$dry" ]; then
  scratch=/tmp/SCRATCH
  id=ID
else
  scratch="$(mktemp -d)" || exit 73
  trap 'rm -rf "$scratch"' EXIT
  id="$(date -u +%Y%m%dT%H%M%S).$$"
fi
case "$action" in
  run) run ;;
  up) acquire && prepare ;;
  status)
    if [ -n "$dry" ]; then
      queue describe '--format=value(state.state)'
    else
      now="$(state)" || exit 73
      echo "$name: $now"
      [ "$now" = ACTIVE ] || exit 0
    fi
    everywhere "$WORKER status"
    ;;
  logs) remote "${nodes[node]}" "$worker" "$WORKER logs" ;;
  stop) everywhere "$WORKER stop" ;;
  down) delete ;;
esac
