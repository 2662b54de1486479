"""`launch/gke/job.sh` with a `kubectl` that records what it is asked for."""

import json
import shlex
import shutil
import signal
import sys

import pytest

from pyramid_jax import errors
from tests.launch import shell


FLAGS = (
  *('--image=image', '--workdir=gs://bucket/ldm', '--accelerator=v6e-16'),
  '--config=configs/ldm_shapes.py',
)
# Answers in turn with the files KIND.1, KIND.2, ..., the last for ever; their
# first line is the exit code. A manifest that it is given is kept.
FAKE = """
cd "$STATE"
case "$*" in *--filename=-*) cat > manifest ;; esac
for kind in get-jobset get-pods logs delete apply; do
  case "$* " in *"${kind/-/ } "*) break ;; esac
done
n=$(($(cat "$kind.n" 2>/dev/null || echo 0) + 1))
echo "$n" > "$kind.n"
while [ "$n" -gt 0 ] && [ ! -e "$kind.$n" ]; do n=$((n - 1)); done
[ "$n" -gt 0 ] || exit 0
tail -n +2 "$kind.$n"
exit "$(head -n 1 "$kind.$n")"
"""


class Cluster(shell.Fakes):
  """A `kubectl` on PATH, and what it was asked for."""

  def __init__(self, folder):
    super().__init__(folder)
    self.add('kubectl', FAKE)

  def answer(self, kind, *answers):
    """Sets what comes back in turn: exit codes, or texts of exit code 0."""
    for n, value in enumerate(answers, 1):
      text = f'{value}\n' if isinstance(value, int) else f'0\n{value}'
      (self.folder / f'{kind}.{n}').write_text(text)

  def start_job(self, *arguments, **variables):
    quick = {'POLL_SECS': '0', 'FAILURES': '3'}
    return self.start('gke/job.sh', *arguments, **quick | variables)

  def job(self, *arguments, **variables):
    """Returns the exit code, what is printed, and the lines of errors."""
    quick = {'POLL_SECS': '0', 'FAILURES': '3'}
    code, out, err = self.run('gke/job.sh', *arguments, **quick | variables)
    return code, out, err.splitlines()

  def asked(self):
    """Returns the arguments of kubectl, without its output formats."""
    return [
      ' '.join(x for x in shlex.split(line)[1:] if not x.startswith('--output'))
      for line in self.calls('kubectl')
    ]


@pytest.fixture
def cluster(tmp_path):
  return Cluster(tmp_path)


LOOK = 'get jobset ldm --ignore-not-found'
PODS = 'get pods --selector=jobset.sigs.k8s.io/jobset-name=ldm'


def test_a_run_is_applied(cluster):
  assert cluster.job('apply', 'ldm', *FLAGS, '--', '--config.seed=2')[0] == 0
  assert cluster.asked() == [LOOK, 'apply --filename=-']
  manifest = json.loads((cluster.folder / 'manifest').read_text())
  assert manifest['metadata']['name'] == 'ldm'
  (job,) = manifest['spec']['replicatedJobs']
  (container,) = job['template']['spec']['template']['spec']['containers']
  assert container['command'][-1] == '--config.seed=2'


def test_a_dry_run_prints_all_and_changes_nothing(cluster):
  code, text, lines = cluster.job(
    'apply', 'ldm', *FLAGS, '--namespace=team', '--dry-run'
  )
  assert (code, lines, cluster.asked()) == (0, [], [])
  # What is printed does what is not done.
  script = cluster.folder / 'script.sh'
  script.write_text(text)
  assert cluster.run_program('bash', str(script))[0] == 0
  printed = (cluster.folder / 'manifest').read_text()
  assert cluster.asked() == [
    f'--namespace=team {LOOK}',
    '--namespace=team apply --filename=-',
  ]
  cluster.job('apply', 'ldm', *FLAGS, '--namespace=team')
  assert (cluster.folder / 'manifest').read_text() == printed
  assert cluster.asked()[2:] == cluster.asked()[:2]


@pytest.mark.parametrize('verb', ['status', 'wait', 'logs', 'delete'])
def test_a_dry_run_changes_nothing(cluster, verb):
  code, text, lines = cluster.job(verb, 'ldm', '--dry-run')
  assert (code, lines, cluster.asked()) == (0, [], [])
  assert all(x.startswith('kubectl ') for x in text.splitlines())
  assert verb.replace('wait', 'get').replace('status', 'get') in text


@pytest.mark.parametrize('state', ['Completed', 'Failed'])
def test_a_run_that_has_ended_goes_on(cluster, state):
  cluster.answer('get-jobset', f'ldm/{state}/2')
  code, _, (line,) = cluster.job('apply', 'ldm', *FLAGS)
  assert code == 0
  assert f'ldm has ended ({state})' in line
  assert cluster.asked() == [LOOK, 'delete jobset ldm', 'apply --filename=-']


def test_a_run_that_is_running_is_left_alone(cluster):
  cluster.answer('get-jobset', 'ldm//2')
  code, _, (line,) = cluster.job('apply', 'ldm', *FLAGS)
  assert code == errors.OUTPUT
  assert 'ldm is running' in line
  assert cluster.asked() == [LOOK]


@pytest.mark.parametrize('kind', ['get-jobset', 'delete', 'apply'])
def test_a_failure_of_kubectl_is_the_end_of_apply(cluster, kind):
  cluster.answer('get-jobset', 'ldm/Failed/0')
  cluster.answer(kind, 1)
  assert cluster.job('apply', 'ldm', *FLAGS)[0] == 1
  last = {'get-jobset': LOOK, 'delete': 'delete jobset ldm'}
  assert cluster.asked()[-1] == last.get(kind, 'apply --filename=-')


def test_a_mistake_ends_before_kubectl(cluster):
  code, text, (line,) = cluster.job('apply', 'ldm', *FLAGS, '--nodes=2')
  assert (code, text, cluster.asked()) == (errors.USAGE, '', [])
  assert 'v6e-16 takes --slices' in line


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ([], "'' is no command"),
    (['start', 'ldm'], "'start' is no command"),
    (['apply'], 'apply needs a NAME'),
    (['apply', *FLAGS], 'apply needs a NAME'),
    (['wait', 'ldm', 'b'], 'wait does not take b'),
    (['logs', 'ldm', '--al'], 'logs does not take --al'),
  ],
)
def test_a_wrong_command_is_one_line(cluster, arguments, words):
  code, text, (line,) = cluster.job(*arguments)
  assert (code, text, cluster.asked()) == (errors.USAGE, '', [])
  assert words in line


def test_help(cluster):
  for arguments, words in (
    (['--help'], 'job.sh apply NAME'),
    (['apply', '--help'], '--max-restarts'),
    (['apply', 'ldm', '--help'], '--max-restarts'),
  ):
    code, text, _ = cluster.job(*arguments)
    assert code == 0
    assert words in text


def test_without_kubectl_there_is_one_line(cluster):
  (cluster.folder / 'bin' / 'kubectl').unlink()
  for name in ('bash', 'python3', 'dirname'):
    program = cluster.folder / 'bin' / name
    real = sys.executable if name == 'python3' else shutil.which(name)
    program.write_text(f'#!/bin/bash\nexec {real} "$@"\n')
    program.chmod(0o755)
  path = str(cluster.folder / 'bin')
  code, _, (line,) = cluster.job('delete', 'ldm', PATH=path)
  assert code == errors.MISSING
  assert 'kubectl is not on PATH' in line
  assert cluster.job('delete', 'ldm', '--dry-run', PATH=path)[0] == 0
  assert cluster.job('apply', 'ldm', *FLAGS, '--xpk=c', PATH=path)[0] == 0


# -- wait, logs, delete -----------------------------------------------------


def test_wait_ends_with_a_run_that_is_done(cluster):
  cluster.answer('get-jobset', 'ldm//0', 'ldm//0', 'ldm//2', 'ldm/Completed/2')
  code, text, lines = cluster.job('wait', 'ldm')
  assert (code, text) == (0, '')
  assert lines == ['job.sh: ldm: restart 2']
  assert cluster.asked() == [LOOK] * 4


@pytest.mark.parametrize(
  ('codes', 'expected'),
  [
    ('75 66 137', 66),
    ('0 143 76', 76),
    ('75 75', 75),
    ('75 137 134', 137),
    ('0 1 75', 1),
    ('', 1),
  ],
)
def test_wait_ends_with_the_code_of_the_run(cluster, codes, expected):
  cluster.answer('get-jobset', 'ldm/Failed/1', 'jobset failed due to a Job\n')
  cluster.answer('get-pods', codes, 'ldm-workers-0-0: no such file: x.npz\n')
  code, _, lines = cluster.job('wait', 'ldm')
  assert code == expected
  assert lines == [
    'jobset failed due to a Job',
    'ldm-workers-0-0: no such file: x.npz',
    f'job.sh: ldm failed with exit code {expected}',
  ]


def test_wait_goes_on_after_failures_of_kubectl(cluster):
  cluster.answer('get-jobset', 1, 1, 'ldm//0', 1, 1, 'ldm/Completed/0')
  assert cluster.job('wait', 'ldm')[0] == 0
  assert len(cluster.asked()) == 6


def test_wait_gives_up_after_some_failures(cluster):
  cluster.answer('get-jobset', 'ldm//0', 1)
  code, _, (line,) = cluster.job('wait', 'ldm')
  assert code == 1
  assert 'kubectl failed 3 times in a row' in line
  assert len(cluster.asked()) == 4


def test_wait_tries_later_and_later(cluster):
  cluster.add('sleep', '')
  cluster.answer('get-jobset', 'ldm//0', 1)
  cluster.job('wait', 'ldm', POLL_SECS='30', PAUSE_SECS='5', FAILURES='9')
  pauses = [line.removeprefix('sleep ') for line in cluster.calls('sleep')]
  assert ' '.join(pauses) == '30 5 10 20 40 80 160 300 300'


def test_there_is_nothing_to_wait_for(cluster):
  for verb in ('wait', 'logs'):
    code, _, (line,) = cluster.job(verb, 'ldm')
    assert code == errors.MISSING
    assert 'there is no JobSet ldm' in line


def test_logs_follow_a_run_over_restarts(cluster):
  cluster.answer('get-jobset', 'ldm//0', 'ldm//1', 'ldm/Completed/1')
  cluster.answer('logs', 'step 1\n', 1, 'step 2\n')
  code, text, _ = cluster.job('logs', 'ldm')
  assert (code, text) == (0, 'step 1\nstep 2\n')
  calls = [call for call in cluster.asked() if call.startswith('logs')]
  assert ['--tail=-1' in call for call in calls] == [True, False, False]
  assert ['--since-time=' in call for call in calls] == [False, True, True]
  for call in calls:
    assert 'batch.kubernetes.io/job-completion-index=0' in call
    assert 'jobset.sigs.k8s.io/job-index=0' in call


def test_logs_of_all_pods(cluster):
  cluster.answer('get-jobset', 'ldm/Completed/0')
  assert cluster.job('logs', 'ldm', '--all')[0] == 0
  assert 'index' not in cluster.asked()[0]


def test_status_and_delete(cluster):
  assert cluster.job('status', 'ldm', '--context=c')[0] == 0
  assert cluster.job('delete', 'ldm')[0] == 0
  assert cluster.asked() == [
    '--context=c get jobset ldm',
    f'--context=c {PODS}',
    'delete jobset ldm',
  ]
  cluster.answer('delete', 1)
  assert cluster.job('delete', 'ldm')[0] == 1


@pytest.mark.parametrize('verb', ['wait', 'logs'])
def test_a_person_ends_what_waits(cluster, verb):
  cluster.answer('get-jobset', 'ldm//0')
  process = cluster.start_job(verb, 'ldm', POLL_SECS='60')
  while not cluster.asked():
    assert process.poll() is None
  process.send_signal(signal.SIGTERM)
  assert process.wait(10) == -signal.SIGTERM
  shell.kill_all(process)


# -- xpk --------------------------------------------------------------------


def test_the_line_for_xpk_is_one_that_a_shell_runs(cluster):
  cluster.add('xpk')
  code, text, lines = cluster.job('apply', 'ldm', *FLAGS, '--xpk=cluster')
  assert (code, lines, cluster.asked()) == (0, [], [])
  assert cluster.run_program('bash', '-c', text)[0] == 0
  (call,) = cluster.calls()
  assert call.startswith(
    'xpk workload create --cluster=cluster --workload=ldm '
  )
  assert f' --restart-on-exit-codes={errors.RESTART} ' in call
  assert ' --max-restarts=50 ' in call
