"""`launch/slurm.sbatch` in a Slurm of fake programs."""

import os
import re
import signal

import pytest

from pyramid_jax.training import train_fields
from tests.launch import shell


SCRIPT = shell.ROOT / 'launch' / 'slurm.sbatch'
LINE = '--kill-on-bad-exit=0 --wait=300 --label'

# Runs a copy of the script, as Slurm does, and again while it is requeued.
SBATCH = """
cp "$1" "$STATE/spool"
export SLURM_JOB_ID=7 SLURM_SUBMIT_DIR="$PWD" SLURM_JOB_NODELIST='n[1-2]'
export SLURM_JOB_NUM_NODES=2 SLURM_NTASKS_PER_NODE="${TASKS:-4}"
export SLURM_GPUS_ON_NODE=4 SLURM_CPUS_PER_TASK=6 SLURM_CPUS_ON_NODE=24
for ((SLURM_RESTART_COUNT = 0; ; SLURM_RESTART_COUNT++)); do
  export SLURM_RESTART_COUNT
  rm -f "$STATE/requeued"
  bash "$STATE/spool" "${@:2}" & pid=$!
  echo "$pid" > "$STATE/batch"
  wait "$pid"
  code=$?
  [ -e "$STATE/requeued" ] || exit "$code"
done
"""
# A requeue ends the script that asks for it.
SCONTROL = """
case "$1 $2" in
  'show hostnames') printf 'n1\\nn2\\n' ;;
  'show job') echo "JobId=7 JobState=${JOB_STATE:-RUNNING} Reason=None" ;;
  requeue*) touch "$STATE/requeued"; kill -TERM "$PPID" ;;
esac
"""
SCANCEL = 'kill -TERM "$(cat "$STATE/task")"'


def fake_slurm(folder):
  """Returns a Slurm whose srun does nothing."""
  found = shell.Fakes(folder)
  found.add('sbatch', SBATCH)
  found.add('scontrol', SCONTROL)
  found.add('scancel', SCANCEL)
  found.add('srun')
  (folder / 'launch').symlink_to(SCRIPT.parent)
  return found


@pytest.fixture
def slurm(tmp_path):
  return fake_slurm(tmp_path)


def submit(slurm, *command, **variables):
  """Submits the script; returns its code, what it printed, and its errors."""
  return slurm.run_program('sbatch', str(SCRIPT), *command, **variables)


@pytest.mark.parametrize('code', shell.CODES)
def test_which_codes_are_tried_again(slurm, code):
  slurm.add('srun', f'exit {code}')
  found, _, text = submit(slurm, 'work')
  again = code in shell.RESTARTED
  assert found == code
  assert len(slurm.calls('srun')) == (4 if again else 1)
  assert ('giving up' in text) == again
  changes = [x for x in slurm.calls('scontrol') if ' show ' not in x]
  assert changes == again * [
    line
    for secs in (0, 0, 0)
    for line in (
      'scontrol requeue 7',
      f'scontrol update JobId=7 StartTime=now+{secs}seconds',
    )
  ]


def test_the_pause_doubles_and_holds_no_node(slurm):
  slurm.add('srun', 'exit 75')
  submit(slurm, 'work', PAUSE_SECS='100', MOST_PAUSE_SECS='300')
  updates = ' '.join(x for x in slurm.calls('scontrol') if 'update' in x)
  assert re.findall(r'now\+(\d+)seconds', updates) == ['100', '200', '300']


def test_a_healthy_run_starts_the_count_anew(slurm):
  slurm.add('srun', shell.in_turn(*[75] * 9, 0))
  assert submit(slurm, 'work', HEALTHY_SECS='0')[0] == 0
  assert len(slurm.calls('srun')) == 10
  assert not list(slurm.folder.glob('slurm-*'))


def test_what_slurm_ends_is_not_requeued(slurm):
  slurm.add('srun', 'exit 75')
  code, _, text = submit(slurm, 'work', JOB_STATE='COMPLETING')
  assert code == 75
  assert len(slurm.calls('srun')) == 1
  assert 'Slurm ends the job' in text


def test_a_signal_reaches_the_tasks_which_save_and_go_on(slurm):
  # srun itself would answer a SIGTERM with SIGKILL for its tasks.
  slurm.add(
    'srun',
    '[ "$SLURM_RESTART_COUNT" = 0 ] || exit 0\n'
    "trap 'exit 137' TERM\n"
    '"${@:5}" & echo $! > "$STATE/task"\n'
    'wait $!',
  )
  process = slurm.start_program('sbatch', str(SCRIPT), *shell.WAITS)
  try:
    assert process.stdout.readline() == 'ready\n'
    pid = int((slurm.folder / 'batch').read_text())
    os.kill(pid, signal.SIGTERM)
    out, text = process.communicate(timeout=60)
  finally:
    shell.kill_all(process)
  assert process.returncode == 0
  assert out == f'signal {int(signal.SIGTERM)}\n'
  assert slurm.calls('scancel') == ['scancel --signal=TERM 7']
  assert 'exit code 75: restart 1 of 3 in 0 s' in text


def test_processes_of_a_node(slurm):
  submit(slurm, 'work', 'a b')
  submit(slurm, 'work', 'a b', PROCESS_PER='node', TASKS='1')
  assert slurm.calls('srun') == [
    f"srun {LINE} --cpus-per-task=6 work 'a b'",
    f'srun {LINE} --nodes=2 --ntasks=2 --ntasks-per-node=1'
    " --cpus-per-task=24 work 'a b'",
  ]


def test_the_environment_of_the_tasks(slurm):
  slurm.add(
    'srun', 'printenv no_proxy NO_PROXY JAX_PLATFORMS JAX_LOCAL_DEVICE_IDS'
  )
  given = {'JAX_LOCAL_DEVICE_IDS': '0,1', 'JAX_PLATFORMS': '', 'no_proxy': 'x'}
  _, out, _ = submit(slurm, 'work', **given)
  hosts = 'x,localhost,127.0.0.1,n1,n2'
  assert out.splitlines() == [hosts, hosts, 'cuda,cpu']


@pytest.mark.parametrize(
  ('variables', 'code', 'words'),
  [
    ({'TASKS': '2'}, 64, '2 processes and 4 GPUs'),
    ({'SLURM_GPUS_PER_TASK': '1'}, 64, '--gres=gpu:N'),
    ({'PROCESS_PER': 'host'}, 64, 'PROCESS_PER=host'),
  ],
)
def test_what_is_wrong_is_one_line(slurm, variables, code, words):
  found, _, text = submit(slurm, 'work', **variables)
  assert found == code
  assert words in text
  assert len(text.splitlines()) == 1
  assert not slurm.calls('srun')


def test_it_is_submitted_from_the_root(slurm):
  (slurm.folder / 'launch').unlink()
  code, _, text = submit(slurm, 'work')
  assert code == 66
  assert 'submit from the root' in text


def test_it_is_no_program_for_a_shell(slurm):
  code, _, text = slurm.run('slurm.sbatch', 'work')
  assert code == 64
  assert 'sbatch launch/slurm.sbatch' in text
  code, _, text = slurm.run('slurm.sbatch')
  assert code == 64
  assert 'usage' in text


def test_a_dry_run_prints_the_commands_and_runs_none(slurm):
  code, out, _ = slurm.run('slurm.sbatch', '--dry-run', 'work', 'a b')
  assert code == 0
  assert [x for x in out.splitlines() if not x.startswith('#')] == [
    f'env JAX_PLATFORMS=cpu no_proxy=localhost,127.0.0.1 srun {LINE}'
    " --cpus-per-task=8 work 'a b'",
    'scancel --signal=TERM JOB',
    'scontrol requeue JOB',
    'scontrol update JobId=JOB StartTime=now+0seconds',
  ]
  assert slurm.calls() == []


def test_the_request_to_slurm():
  flags = dict(
    re.findall(r'^#SBATCH --([\w-]+)=?(\S*)$', SCRIPT.read_text(), re.M)
  )
  assert flags['gres'] == f'gpu:{flags["ntasks-per-node"]}'
  assert 'requeue' in flags
  assert flags['open-mode'] == 'append'
  seconds = int(flags['signal'].removeprefix('B:TERM@'))
  # A step and its save have to fit, and Slurm is up to a minute late.
  assert seconds >= 60 + train_fields.FIELDS['train.grace_secs'].default
