"""A Cloud TPU of fake programs: a queue, nodes, and workers that run commands.

Every worker is a folder, which is the home of what is run there.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import sys

from tests.launch import shell


# `plan/N`: the states of the TPU that is made as number N, in turn; the last
# stays. `plan/N.error`: what gcloud says instead of making it.
GCLOUD = """
state() { head -n 1 "$STATE/state" 2>/dev/null; }
not_found() { echo "ERROR: NOT_FOUND: $1 was not found" >&2; exit 1; }
on_worker() {
  export HOME="$1" PATH="$STATE/worker_bin:$PATH"
  cd "$HOME" && exec bash -c "$2"
}
for word in "$@"; do
  case "$word" in
    --worker=*) workers="${word#*=}" ;;
    --command=*) command="${word#*=}" ;;
  esac
done
case "$3 $4" in
  'queued-resources describe')
    [ -e "$STATE/state" ] || not_found "$5"
    state
    [ "$(wc -l < "$STATE/state")" = 1 ] || sed -i 1d "$STATE/state"
    ;;
  'queued-resources create')
    n=$(cat "$STATE/made" 2>/dev/null || echo 0)
    echo $((n + 1)) > "$STATE/made"
    if [ -e "$STATE/plan/$n.error" ]; then
      cat "$STATE/plan/$n.error" >&2
      exit 1
    fi
    if [ -e "$STATE/plan/$n" ]; then
      cp "$STATE/plan/$n" "$STATE/state"
    else
      echo ACTIVE > "$STATE/state"
    fi
    ;;
  'queued-resources delete')
    for pid in $(cat "$STATE"/nodes/*/*/pyramid_jax_job/pid 2>/dev/null); do
      kill -KILL -- "-$pid" 2>/dev/null
    done
    rm -rf "$STATE/state" "$STATE/nodes"
    ;;
  'tpu-vm scp')
    files=()
    for word in "${@:5}"; do
      case "$word" in
        --*) ;;
        *:) node="${word%:}" ;;
        *) files+=("$word") ;;
      esac
    done
    for ((w = 0; w < $(cat "$STATE/workers"); w++)); do
      mkdir -p "$STATE/nodes/$node/$w"
      cp -p "${files[@]}" "$STATE/nodes/$node/$w/"
      cp -r "$STATE/venv" "$STATE/nodes/$node/$w/pyramid_jax_venv"
    done
    ;;
  'tpu-vm ssh')
    [ "$(state)" = ACTIVE ] || exit 255
    pids=() result=0
    for ((w = 0; w < $(cat "$STATE/workers"); w++)); do
      [ "$workers" = all ] || [ "$workers" = "$w" ] || continue
      mkdir -p "$STATE/nodes/$5/$w"
      (on_worker "$STATE/nodes/$5/$w" "$command") &
      pids+=($!)
    done
    (
      trap 'kill $!; exit' TERM
      until [ "$(< "$STATE/state")" = SUSPENDED ]; do sleep 0.3 & wait $!; done
      kill "${pids[@]}"
    ) 2>/dev/null &
    watch=$!
    for pid in "${pids[@]}"; do wait "$pid" || result=$?; done
    kill "$watch" 2>/dev/null
    [ "$(state)" = ACTIVE ] || exit 255
    exit "$result"
    ;;
esac
"""
# What a worker runs: its codes are in `codes/NODE.WORKER`, one for each start.
WORK = """
worker="$(basename "$(dirname "$HOME")").$(basename "$HOME")"
touch "$STATE/starts"
n=$(($(grep -cx "$worker" "$STATE/starts") + 1))
code="$(sed -n "${n}p" "$STATE/codes/$worker" 2>/dev/null)"
if [ "$code" = wait ]; then
  trap 'echo saved; kill $!; exit 75' TERM
  sleep 60 &
fi
echo "$worker" >> "$STATE/starts"
echo "work $* in $worker"
case "$code" in
  wait) wait ;;
  preempt) echo SUSPENDED > "$STATE/state"; sleep 60 ;;
  *) exit "${code:-0}" ;;
esac
"""


class Cloud(shell.Fakes):
  """Fake programs, and a small repository with the launchers."""

  def __init__(self, folder: pathlib.Path, workers: int = 2):
    super().__init__(folder)
    (folder / 'workers').write_text(str(workers))
    for name in ('plan', 'codes', 'worker_bin', 'repository'):
      (folder / name).mkdir()
    self.repository = folder / 'repository'
    shutil.copytree(shell.ROOT / 'launch', self.repository / 'launch')
    shutil.copy(shell.ROOT / 'setup.py', self.repository)
    self.add('gcloud', GCLOUD)
    self.add('ssh-add')
    self.add('work', WORK)
    self.add('sudo')
    self.add('hostname', 'basename "$HOME"')
    self._environment()

  def _environment(self) -> None:
    """An environment in which the package is installed, for every worker."""
    folder = self.folder / 'venv' / 'bin'
    folder.mkdir(parents=True)
    (folder / 'python').symlink_to(sys.executable)
    setup = self.repository / 'setup.py'
    _, out, _ = self.run_program('bash', '-c', f'cksum < {setup}')
    (folder.parent / '.installed').write_text(f'[gcs,tpu] {out}')

  def end(self) -> None:
    """Ends what still runs on the workers."""
    for file in self.folder.glob('nodes/*/*/pyramid_jax_job/pid'):
      with contextlib.suppress(ProcessLookupError):
        os.killpg(int(file.read_text()), signal.SIGKILL)

  def plan(self, number: int, *states: str) -> None:
    """Says which states the TPU of a number has, in turn."""
    text = ''.join(f'{state}\n' for state in states)
    (self.folder / 'plan' / str(number)).write_text(text)

  def codes(self, worker: str, *codes: int | str) -> None:
    """Says with which codes the starts of the command end on a worker."""
    text = ''.join(f'{code}\n' for code in codes)
    (self.folder / 'codes' / worker).write_text(text)

  def starts(self) -> list[str]:
    """Returns the workers on which the command was started, in order."""
    file = self.folder / 'starts'
    return file.read_text().split() if file.exists() else []

  def queue(self) -> list[str]:
    """Returns what was asked of the queue but its state: create, delete."""
    words = [x.split()[4] for x in self.calls('gcloud') if ' queued-' in x]
    return [x for x in words if x != 'describe']

  def pod(self, *arguments: str, **variables: str):
    """Runs tpu_pod.sh; returns its code, what it printed, and its errors."""
    return self.run_program(*self.pod_command(*arguments), **variables)

  def pod_command(self, action: str, *arguments: str) -> tuple[str, ...]:
    script = str(self.repository / 'launch' / 'tpu_pod.sh')
    return 'bash', script, action, '--name=pod', '--zone=z', *arguments
