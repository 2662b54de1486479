"""`launch/plan.sh`: what the launchers print before they ask for a pod."""

import shlex
import sys

import pytest

from pyramid_jax.commands import options
from tests.launch import shell


MAIN = 'python -m pyramid_jax.main --config=configs/ldm_shapes.py'
PLAN = {'PLAN_SECS': '60'}


@pytest.fixture
def fakes(tmp_path):
  found = shell.Fakes(tmp_path / 'fakes')
  for name in ('gcloud', 'kubectl'):
    found.add(name, 'exit 99')
  return found


def pod(fakes, kind, command, *flags, **variables):
  place = ('--name=pod', '--zone=z', f'--type={kind}', *flags)
  words = shlex.split(command)
  return fakes.run(
    'tpu_pod.sh', 'run', '--dry-run', *place, *words, **PLAN | variables
  )


@pytest.mark.parametrize(
  ('kind', 'flags', 'expected'),
  [
    ('v5litepod-256', (), ['--topology=v5e:16x16']),
    ('v5p-128', (), ['--topology=v5p:4x4x4']),
    ('v6e-16', ('--node-count=2',), ['--topology=v6e:4x4', '--slices=2']),
  ],
)
def test_the_command_of_the_plan_comes_first(fakes, kind, flags, expected):
  command = f'{MAIN} --workdir=gs://b/r --config.mesh.fsdp=8'
  code, out, err = pod(fakes, kind, command, *flags)
  assert (code, err) == (0, '')
  (line,) = [x for x in out.splitlines() if '--mode=plan' in x]
  words = shlex.split(line)
  assert words[:3] == ['python3', '-m', 'pyramid_jax.main']
  assert [w for w in words if w[:3] in ('--t', '--s')] == expected
  given = options.parse(words[3:])
  assert given.values['config'] == 'configs/ldm_shapes.py'
  assert given.overrides == {'mesh.fsdp': '8'}
  assert given.values['workdir'] is None
  assert out.index('--mode=plan') < out.index('queued-resources create')


@pytest.mark.parametrize(
  ('kind', 'command'),
  [
    ('v4-32', f'{MAIN} --workdir=gs://b/r'),
    ('v6e-16', f'{MAIN} --workdir=gs://b/r --mode=sample'),
    ('v6e-16', 'python -m pyramid_jax.main --workdir=gs://b/r'),
    ('v6e-16', 'work --config=a.py --workdir=gs://b/r'),
  ],
)
def test_nothing_else_is_planned(fakes, kind, command):
  code, out, err = pod(fakes, kind, command)
  assert (code, err) == (0, '')
  assert '--mode=plan' not in out


def test_no_seconds_are_no_plan(fakes):
  command = f'{MAIN} --workdir=gs://b/r'
  assert '--mode=plan' not in pod(fakes, 'v6e-16', command, PLAN_SECS='0')[1]


@pytest.mark.parametrize(
  ('accelerator', 'expected'),
  [
    ('--accelerator=v5litepod-16 --slices=4', '--topology=v5e:4x4 --slices=4'),
    ('--accelerator=h100-80gb-8 --nodes=4', '--topology=h100:8x4'),
  ],
)
def test_a_run_on_gke_is_planned(fakes, accelerator, expected):
  words = (
    *('--image=i', '--workdir=gs://b/r', '--config=configs/ldm_shapes.py'),
    *shlex.split(accelerator),
    *('--', '--config.mesh.fsdp=4'),
  )
  run = lambda **named: fakes.run(
    'gke/job.sh', 'apply', 'ldm', '--dry-run', *words, **named
  )
  code, out, err = run(**PLAN)
  assert (code, err) == (0, '')
  first = out.splitlines()[0]
  assert f' --mode=plan {expected} ' in first
  assert first.endswith('--config=configs/ldm_shapes.py --config.mesh.fsdp=4')
  assert '--mode=plan' not in run(PLAN_SECS='0')[1]


@pytest.mark.parametrize(
  ('script', 'expected'),
  [
    ('echo TABLE', 'TABLE'),
    ('echo why >&2; exit 66', 'no plan: exit code 66: why'),
    ('exec sleep 30', 'no plan: exit code 124: '),
  ],
)
def test_a_run_starts_with_or_without_a_plan(fakes, script, expected):
  fakes.add(
    'python3',
    f'case "$1" in -m) {script} ;; *) exec {sys.executable} "$@" ;; esac',
  )
  names = ('restarts', 'plan')
  library = '; '.join(f'source {shell.ROOT}/launch/{n}.sh' for n in names)
  code, out, err = fakes.run_program(
    *('bash', '-c', f'{library}; print_plan "" v6e-16 1 {MAIN}'),
    **{'PLAN_SECS': '1'},
  )
  assert (code, out) == (0, '')
  assert err.splitlines() == [
    'the plan of the run; PLAN_SECS=0 leaves it out',
    expected,
  ]
