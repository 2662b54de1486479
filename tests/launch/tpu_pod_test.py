"""`launch/tpu_pod.sh` on a Cloud TPU of fake programs."""

import signal
import time

import pytest

from tests.launch import shell
from tests.launch import tpu_cloud


RUN = ('run', '--type=v5litepod-16')
WORK = ('work', '--workdir=gs://b/run')
FAST = {'POLL_SECS': '0', 'STOP_SECS': '5'}


@pytest.fixture
def cloud(tmp_path):
  found = tpu_cloud.Cloud(tmp_path)
  yield found
  found.end()


def run(cloud, *options, **variables):
  return cloud.pod(*RUN, *options, *WORK, **FAST | variables)


def test_a_run_from_nothing_to_nothing(cloud):
  cloud.plan(0, 'ACCEPTED', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE')
  code, out, err = run(cloud)
  assert code == 0, err
  assert 'work --workdir=gs://b/run in pod.0' in out
  assert 'in pod.1' not in out  # the log of the first worker alone
  for state in ('ABSENT', 'WAITING_FOR_RESOURCES', 'PROVISIONING', 'ACTIVE'):
    assert f'pod is {state}' in err
  assert cloud.queue() == ['create', 'delete']
  assert sorted(cloud.starts()) == ['pod.0', 'pod.1']


@pytest.mark.parametrize('code', shell.CODES)
def test_which_codes_are_tried_again(cloud, code):
  (cloud.folder / 'workers').write_text('1')
  cloud.codes('pod.0', *[code] * 9)
  found, _, err = run(cloud, RESTARTS='1')
  again = code in shell.RESTARTED
  assert found == code, err
  assert len(cloud.starts()) == (2 if again else 1)
  assert ('giving up' in err) == again
  assert cloud.queue() == ['create', 'delete']


def test_a_failure_decides_over_deaths_of_the_others(cloud):
  cloud.codes('pod.0', 134)
  cloud.codes('pod.1', 65)
  code, _, err = run(cloud)
  assert code == 65
  assert '1: exit 65' in err


def test_a_tpu_that_is_taken_away_is_made_again(cloud):
  cloud.codes('pod.0', 'preempt', 0)
  cloud.codes('pod.1', 'wait', 0)
  code, _, err = run(cloud, '--spot')
  assert code == 0, err
  assert 'pod is SUSPENDED' in err
  assert cloud.queue() == ['create', 'delete', 'create', 'delete']
  assert len(cloud.starts()) == 4


@pytest.mark.parametrize('state', ['SUSPENDED', 'FAILED'])
def test_a_tpu_that_is_never_there_is_given_up(cloud, state):
  for n in range(9):
    cloud.plan(n, 'PROVISIONING', state)
  code, _, err = run(cloud, RESTARTS='2')
  assert code == 75
  assert cloud.queue() == ['create', 'delete'] * 3
  assert 'giving up' in err
  assert not cloud.starts()


def test_what_was_left_suspended_is_replaced(cloud):
  (cloud.folder / 'state').write_text('SUSPENDING\nSUSPENDED\n')
  code, _, err = run(cloud)
  assert code == 0, err
  assert cloud.queue() == ['delete', 'create', 'delete']


@pytest.mark.parametrize(
  ('words', 'code', 'times'),
  [('PERMISSION_DENIED: no', 64, 1), ('RESOURCE_EXHAUSTED: none', 75, 3)],
)
def test_what_gcloud_refuses(cloud, words, code, times):
  for n in range(9):
    (cloud.folder / 'plan' / f'{n}.error').write_text(f'ERROR: {words}\n')
  found, _, err = run(cloud, RESTARTS='2')
  assert found == code
  assert cloud.queue() == ['create'] * times
  assert words in err


def test_nothing_is_tried_without_an_account(cloud):
  cloud.add('gcloud', 'echo "ERROR: no active account" >&2; exit 1')
  code, _, err = run(cloud)
  assert code == 73
  assert err == 'tpu_pod: gcloud does not answer: ERROR: no active account\n'
  assert len(cloud.calls('gcloud')) == 1


def test_the_tpu_is_kept_if_asked(cloud):
  assert run(cloud, '--keep')[0] == 0
  assert cloud.queue() == ['create']
  _, out, _ = cloud.pod('status', **FAST)
  assert out.splitlines()[0] == 'pod: ACTIVE'
  assert sorted(out.splitlines()[1:]) == ['0: exit 0', '1: exit 0']
  assert 'work --workdir' in cloud.pod('logs', '--worker=1', **FAST)[1]
  assert run(cloud)[0] == 0
  assert cloud.queue() == ['create', 'delete']
  assert cloud.pod('status', **FAST)[1] == 'pod: ABSENT\n'


def test_all_slices_run_the_command(cloud):
  code, _, err = run(cloud, '--node-count=2', '--node-prefix=s')
  assert code == 0, err
  assert sorted(cloud.starts()) == ['s-0.0', 's-0.1', 's-1.0', 's-1.1']
  (create,) = [x for x in cloud.calls('gcloud') if ' create ' in x]
  assert '--node-count=2 --node-prefix=s' in create
  # GCP opens another port between slices than jax takes.
  started = [x for x in cloud.calls('gcloud') if ' start ' in x]
  assert len(started) == 2
  assert all(' env JAX_COORDINATOR_PORT=8476 work ' in x for x in started)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_command_on_all_workers(cloud, number):
  cloud.codes('pod.0', 'wait')
  cloud.codes('pod.1', 'wait')
  process = cloud.start_program(*cloud.pod_command(*RUN, *WORK), **FAST)
  try:
    while 'work ' not in (line := process.stdout.readline()):
      assert line
    while len(cloud.starts()) < 2:  # the other worker has no line here
      time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
  finally:
    shell.kill_all(process)
  assert process.returncode == 75, err
  assert 'saved' in out
  assert sorted(x for x in err.splitlines() if ': exit' in x) == [
    '0: exit 75 (stopped)',
    '1: exit 75 (stopped)',
  ]
  assert cloud.queue() == ['create', 'delete']


def test_a_run_that_goes_on_is_followed(cloud):
  cloud.codes('pod.0', 'wait')
  cloud.codes('pod.1', 'wait')
  first = cloud.start_program(*cloud.pod_command(*RUN, *WORK), **FAST)
  while 'work ' not in (line := first.stdout.readline()):
    assert line
  shell.kill_all(first)  # the laptop is gone; the command is not
  second = cloud.start_program(*cloud.pod_command(*RUN, *WORK), **FAST)
  try:
    while 'is followed' not in (line := second.stderr.readline()):
      assert line
    assert cloud.pod('stop', **FAST)[0] == 0
    second.communicate(timeout=60)
  finally:
    shell.kill_all(second)
  assert second.returncode == 75
  assert sorted(cloud.starts()) == ['pod.0', 'pod.1']
  assert cloud.queue() == ['create', 'delete']


def test_variables_reach_the_command_and_no_argument(cloud, tmp_path):
  file = tmp_path / 'secrets'
  file.write_text('# ours\nHF_TOKEN=a "b" $c\n')
  cloud.add('work', 'echo "token: $HF_TOKEN, $JAX_PLATFORMS"')
  code, out, _ = run(cloud, f'--env-file={file}', JAX_PLATFORMS='')
  assert code == 0
  assert 'token: a "b" $c, tpu,cpu' in out
  assert not any('"b"' in call for call in cloud.calls())


@pytest.mark.parametrize(
  ('arguments', 'code', 'words'),
  [
    ((), 64, 'none of run, up'),
    (('start',), 64, 'none of run, up'),
    (('run',), 64, '--name='),
    (('run', '--name=Pod', '--zone=z'), 64, '--name=Pod'),
    (('run', '--name=p'), 64, '--zone='),
    (('run', '--name=p', '--zone=z', '--type=v5e-16'), 64, 'v5litepod-N'),
    (('run', '--name=p', '--zone=z', '--type=tpu7x-8'), 64, 'GKE'),
    (('up', '--name=p', '--zone=z', '--spot', '--reserved'), 64, '--reserved'),
    (('up', '--name=p', '--zone=z', '--nodes=2'), 64, '--nodes=2'),
    (('up', '--name=p', '--zone=z', '--node-count=x'), 64, '--node-count=x'),
    (('down', '--name=p', '--zone=z', 'python'), 64, 'no command: python'),
    (('run', '--name=p', '--zone=z', '--type=v4-8'), 64, 'COMMAND'),
    (
      ('up', '--name=p', '--zone=z', '--type=v4-8', '--env-file=nowhere'),
      66,
      '--env-file=nowhere',
    ),
    (
      (
        'run',
        '--name=p',
        '--zone=z',
        '--type=v4-8',
        'work',
        '--workdir=runs/a',
      ),
      64,
      "'runs/a'",
    ),
    (('run', '--name=p', '--zone=z', '--type=v4-8', 'work'), 64, 'gs://'),
  ],
)
def test_what_is_wrong_is_one_line(cloud, arguments, code, words):
  found, out, err = cloud.run('tpu_pod.sh', *arguments)
  assert (found, out) == (code, '')
  assert words in err
  assert len(err.splitlines()) == 1
  assert not cloud.calls('gcloud')


@pytest.mark.parametrize(
  ('type', 'version'),
  [
    ('v4-32', 'tpu-ubuntu2204-base'),
    ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
    ('v5p-32', 'v2-alpha-tpuv5'),
    ('v6e-16', 'v2-alpha-tpuv6e'),
  ],
)
def test_the_runtime_of_a_type(cloud, type, version):
  _, out, _ = cloud.pod('up', f'--type={type}', '--dry-run')
  assert f' --accelerator-type={type} --runtime-version={version} ' in out
  given = ('--type=new-8', '--runtime-version=v9')
  _, out, _ = cloud.pod('up', *given, '--dry-run')
  assert ' --accelerator-type=new-8 --runtime-version=v9 ' in out


def test_a_dry_run_prints_the_commands_and_runs_none(cloud):
  options = (
    *('--project=p', '--spot', '--internal-ips', '--labels=a=b'),
    *('--network=n', '--subnetwork=m', '--service-account=me@x'),
    *('--dry-run', f'--env-file={shell.ROOT}/setup.py'),
  )
  code, out, err = run(cloud, *options)
  assert (code, err) == (0, '')
  assert not cloud.calls()
  place = '--zone=z --quiet --project=p'
  ssh = (
    f'{place} --internal-ip --ssh-flag=-oServerAliveInterval=30'
    ' --ssh-flag=-oServerAliveCountMax=4'
  )
  vm = 'gcloud compute tpus tpu-vm'
  queue = 'gcloud compute tpus queued-resources'
  worker = 'bash pyramid_jax/launch/tpu_worker.sh'
  temporary = '/tmp/SCRATCH/pyramid_jax'
  assert out.splitlines() == [
    f"{queue} describe pod {place} '--format=value(state.state)'",
    f'{queue} create pod {place} --accelerator-type=v5litepod-16'
    ' --runtime-version=v2-alpha-tpuv5-lite --node-id=pod --internal-ips'
    ' --labels=a=b --network=n --subnetwork=m --service-account=me@x --spot',
    f'tar -czf {temporary}.tgz -C {cloud.repository}/launch/..'
    " '--exclude=./.*' --exclude=./runs .",
    f'install -m 600 {shell.ROOT}/setup.py {temporary}.env',
    f'{vm} scp {temporary}.tgz {temporary}.env pod: --worker=all {place}'
    ' --internal-ip',
    f"{vm} ssh pod --worker=all {ssh} '--command=rm -rf pyramid_jax && mkdir"
    f' pyramid_jax && tar -xzf pyramid_jax.tgz -C pyramid_jax && {worker}'
    " prepare'",
    f"{vm} ssh pod --worker=all {ssh} '--command={worker} start ID.1 work"
    " --workdir=gs://b/run'",
    f"{vm} ssh pod --worker=0 {ssh} '--command={worker} logs start'",
    f"{vm} ssh pod --worker=all {ssh} '--command={worker} wait'",
    f'{queue} delete pod {place} --force',
  ]


@pytest.mark.parametrize('action', ['status', 'logs', 'stop', 'down'])
def test_a_dry_run_of_every_action(cloud, action):
  code, out, _ = cloud.pod(action, '--dry-run')
  assert code == 0
  assert out.startswith('gcloud compute tpus ')
  assert not cloud.calls()
