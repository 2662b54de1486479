"""`launch/gke/manifest.py`: what it makes of its arguments."""

import contextlib
import importlib
import io
import json
import pathlib
import re
import shlex
import subprocess
import sys
from unittest import mock

import jsonschema
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from tests.helpers import jobset_schema


ROOT = pathlib.Path(__file__).resolve().parents[2]
with mock.patch.object(sys, 'path', [str(ROOT / 'launch' / 'gke'), *sys.path]):
  MANIFEST = importlib.import_module('manifest')
TABLE = MANIFEST.accelerators.TABLE
CODES = {
  value
  for name, value in vars(errors).items()
  if name.isupper() and name[0] != '_' and isinstance(value, int)
}
NEEDED = (
  *('ldm', '--image=gcr.io/p/pyramid:1', '--workdir=gs://bucket/ldm'),
  '--config=configs/ldm_shapes.py',
)
TPU = (*NEEDED, '--accelerator=v5litepod-256')
GPU = (*NEEDED, '--accelerator=h100-80gb-8')
CACHE = {'name': 'JAX_COMPILATION_CACHE_DIR', 'value': 'gs://bucket/ldm/xla'}
# Every flag at once, of TPUs and of GPUs.
FULL_TPU = (
  *(*NEEDED, '--accelerator=v6e-16', '--slices=3', '--queue=team'),
  *('--max-restarts=7', '--service-account=trainer', '--spot', '--grace=600'),
  *('--env=A=b c', '--env=D=', '--', '--config.train.grace_secs=500'),
)
FULL_GPU = (
  *(*NEEDED, '--accelerator=h200-141gb-8', '--nodes=4', '--host-network'),
  *('--spot', '--env=LD_LIBRARY_PATH=/lib', '--env=JAX_PLATFORMS=cuda'),
  *('--', '--config.seed=1'),
)


def run(*arguments):
  """Returns the exit code, what is printed, and the lines of errors."""
  out, err = io.StringIO(), io.StringIO()
  with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
    code = MANIFEST.main([str(argument) for argument in arguments])
  return code, out.getvalue(), err.getvalue().splitlines()


def jobset(*arguments):
  code, text, lines = run(*arguments)
  assert (code, lines) == (0, [])
  return json.loads(text)


def job_of(manifest):
  (job,) = manifest['spec']['replicatedJobs']
  return job


def pod_of(manifest):
  return job_of(manifest)['template']['spec']['template']['spec']


def container_of(manifest):
  (container,) = pod_of(manifest)['containers']
  return container


@pytest.mark.parametrize(
  'arguments',
  [
    TPU,
    GPU,
    FULL_TPU,
    FULL_GPU,
    *([*NEEDED, f'--accelerator={n}'] for n in TABLE),
  ],
  ids=lambda arguments: arguments[4] if len(arguments) < 6 else 'full',
)
def test_manifests_are_of_the_schema(arguments):
  jsonschema.validate(jobset(*arguments), jobset_schema.JOBSET)


def test_the_schema_refuses_what_is_no_field():
  manifest = jobset(*TPU)
  for place in (manifest['spec'], pod_of(manifest), container_of(manifest)):
    place['restartpolicy'] = 'Never'
    with pytest.raises(jsonschema.ValidationError, match='restartpolicy'):
      jsonschema.validate(manifest, jobset_schema.JOBSET)
    del place['restartpolicy']
  jsonschema.validate(manifest, jobset_schema.JOBSET)


# -- What follows an end ----------------------------------------------------


def action(manifest, code, *conditions):
  """Returns what a JobSet does after the end of a pod, as Kubernetes decides.

  Args:
    manifest: of the JobSet.
    code: with which the container ended.
    *conditions: of the pod.
  """
  if code == 0:
    return 'none'
  reason, message = 'BackoffLimitExceeded', 'Job has reached the limit'
  spec = job_of(manifest)['template']['spec']
  for n, rule in enumerate(spec['podFailurePolicy']['rules']):
    exits = rule.get('onExitCodes', {'operator': 'In', 'values': []})
    is_in = code in exits['values']
    if is_in == (exits['operator'] == 'In') and 'onExitCodes' in rule:
      words = f'Container train for pod default/x failed with exit code {code}'
    elif any(c['type'] in conditions for c in rule.get('onPodConditions', [])):
      words = 'Pod default/x has condition DisruptionTarget'
    else:
      continue
    assert rule['action'] == 'FailJob'
    reason, message = 'PodFailurePolicy', f'{words} matching rule at index {n}'
    break
  for rule in manifest['spec']['failurePolicy']['rules']:
    patterns = rule['onJobFailureMessagePatterns']
    if reason in rule['onJobFailureReasons'] and any(
      re.search(pattern, message) for pattern in patterns
    ):
      return rule['action']
  return 'RestartJobSet'


@pytest.mark.parametrize('arguments', [TPU, GPU])
@pytest.mark.parametrize(
  'code', sorted({*CODES, 1, 2, 127, 128, 134, 137, 255})
)
def test_which_codes_restart(arguments, code):
  manifest = jobset(*arguments)
  is_restarted = code == errors.RESTART or code >= 128
  other = 'none' if code == errors.OK else 'FailJobSet'
  expected = 'RestartJobSet' if is_restarted else other
  assert action(manifest, code) == expected
  if code:
    uncounted = 'RestartJobSetAndIgnoreMaxRestarts'
    expected = uncounted if is_restarted else 'FailJobSet'
    assert action(manifest, code, 'DisruptionTarget') == expected
    assert action(manifest, code, 'Ready') == action(manifest, code)


def test_the_listed_codes_are_those_that_restart():
  spec = job_of(jobset(*TPU))['template']['spec']
  exits = spec['podFailurePolicy']['rules'][0]['onExitCodes']
  values = exits['values']
  assert values == sorted(set(values))  # as Kubernetes asks for them
  assert len(values) <= 255
  assert CODES & set(values) == {errors.RESTART}
  assert set(range(128, 256)) < set(values)
  assert exits['operator'] == 'NotIn'
  assert exits['containerName'] == container_of(jobset(*TPU))['name']


@pytest.mark.parametrize('arguments', [TPU, GPU, FULL_TPU, FULL_GPU])
def test_all_pods_of_a_job_live_and_end_together(arguments):
  manifest = jobset(*arguments)
  spec = job_of(manifest)['template']['spec']
  assert spec['parallelism'] == spec['completions']
  assert spec['completionMode'] == 'Indexed'
  assert spec['backoffLimit'] == 0
  assert spec['template']['spec']['restartPolicy'] == 'Never'
  assert manifest['spec']['failurePolicy']['restartStrategy'] == (
    'BlockingRecreate'
  )
  for probe in ('livenessProbe', 'readinessProbe', 'startupProbe'):
    assert probe not in container_of(manifest)  # compilation takes minutes


def test_the_command_is_not_process_1():
  assert pod_of(jobset(*TPU))['shareProcessNamespace'] is True


def test_the_grace_is_longer_than_that_of_the_run():
  ours = config_lib.base('ldm').train.grace_secs
  assert pod_of(jobset(*TPU))['terminationGracePeriodSeconds'] > ours + 5
  assert pod_of(jobset(*FULL_TPU))['terminationGracePeriodSeconds'] == 600
  least = int(ours) + 5
  assert run(*TPU, f'--grace={least}')[0] == 0
  code, _, (line,) = run(*TPU, f'--grace={least - 1}')
  assert code == errors.USAGE
  assert f'--grace={least - 1} must be at least {least} s' in line
  _, _, (line,) = run(*TPU, '--', '--config.train.grace_secs=300')
  assert '--grace=300 must be at least 305 s' in line


# -- Accelerators -----------------------------------------------------------


@pytest.mark.parametrize(
  ('name', 'label', 'topology', 'hosts', 'chips'),
  [
    ('v5litepod-1', 'tpu-v5-lite-podslice', '1x1', 1, 1),
    ('v5litepod-4', 'tpu-v5-lite-podslice', '2x2', 1, 4),
    ('v5litepod-256', 'tpu-v5-lite-podslice', '16x16', 64, 4),
    ('v5p-8', 'tpu-v5p-slice', '2x2x1', 1, 4),
    ('v5p-512', 'tpu-v5p-slice', '4x8x8', 64, 4),
    ('v5p-12288', 'tpu-v5p-slice', '16x16x24', 1536, 4),
    ('v6e-16', 'tpu-v6e-slice', '4x4', 4, 4),
    ('v4-4096', 'tpu-v4-podslice', '8x16x16', 512, 4),
  ],
)
def test_slices(name, label, topology, hosts, chips):
  manifest = jobset(*NEEDED, f'--accelerator={name}', '--slices=2')
  assert job_of(manifest)['replicas'] == 2
  assert job_of(manifest)['template']['spec']['completions'] == hosts
  assert pod_of(manifest)['nodeSelector'] == {
    'cloud.google.com/gke-tpu-accelerator': label,
    'cloud.google.com/gke-tpu-topology': topology,
  }
  container = container_of(manifest)
  assert container['resources'] == {'limits': {'google.com/tpu': chips}}
  assert container['command'] == [
    *('python', '-m', 'pyramid_jax.main', '--config=configs/ldm_shapes.py'),
    '--workdir=gs://bucket/ldm',
  ]
  # MEGASCALE_* and TPU_* are GKE's.
  assert container['env'] == [
    CACHE,
    {'name': 'JAX_PLATFORMS', 'value': 'tpu,cpu'},
  ]
  # Nodes of a slice of several hosts are a pool; those of one host share one.
  annotations = manifest['metadata'].get('annotations', {})
  pool = 'cloud.google.com/gke-nodepool'
  assert (pool in annotations.values()) == (hosts > 1)


@pytest.mark.parametrize(
  ('flags', 'is_one'),
  [
    (['--accelerator=v6e-4'], True),
    (['--accelerator=v6e-4', '--slices=2'], False),
    (['--accelerator=v6e-8'], False),
    (['--accelerator=h100-80gb-8'], True),
    (['--accelerator=h100-80gb-8', '--nodes=2'], False),
  ],
)
def test_one_process_looks_for_no_others(flags, is_one):
  words = container_of(jobset(*NEEDED, *flags))['command']
  assert ('--config.distributed.mode=off' in words) == is_one
  _, command = xpk(*NEEDED, *flags, '--xpk=c')
  assert command.endswith(' --config.distributed.mode=off') == is_one


def test_nodes_with_gpus():
  manifest = jobset(*GPU, '--nodes=4')
  assert job_of(manifest)['replicas'] == 1
  assert job_of(manifest)['template']['spec']['completions'] == 4
  assert pod_of(manifest)['nodeSelector'] == {
    'cloud.google.com/gke-accelerator': 'nvidia-h100-80gb'
  }
  container = container_of(manifest)
  assert container['resources'] == {'limits': {'nvidia.com/gpu': 8}}
  (volume,) = pod_of(manifest)['volumes']
  assert volume == {'name': 'shm', 'emptyDir': {'medium': 'Memory'}}
  assert container['volumeMounts'] == [{'name': 'shm', 'mountPath': '/dev/shm'}]
  assert container['env'] == [
    CACHE,
    {'name': 'JAX_PLATFORMS', 'value': 'cuda,cpu'},
    {'name': 'LD_LIBRARY_PATH', 'value': '/usr/local/nvidia/lib64'},
  ]
  assert 'securityContext' not in container


def test_processes_of_gpu_nodes_are_numbered():
  manifest = jobset(*GPU, '--nodes=4')
  container = container_of(manifest)
  words = [
    word.replace('$(JOB_COMPLETION_INDEX)', '3')
    for word in container['command']
  ]
  flags = dict(
    word.removeprefix('--config.').split('=', 1)
    for word in words
    if word.startswith('--config.')
  )
  # JobSet names pods NAME-JOB-REPLICA-INDEX.SUBDOMAIN, which is its own name.
  first = f'ldm-{job_of(manifest)["name"]}-0-0.ldm'
  (port,) = container['ports']
  assert flags == {
    'distributed.mode': 'explicit',
    'distributed.coordinator': f'{first}:{port["containerPort"]}',
    'distributed.processes': '4',
    'distributed.process_id': '3',
  }


@pytest.mark.parametrize(
  ('name', 'nearest'),
  [
    ('v5litepod-250', 'v5litepod-256'),
    ('v6e-512', 'v6e-256'),
    ('v5p-4', 'v5p-8'),
    ('h100-8', 'h100-80gb-8'),
    ('v5e-256', 'v6e-256'),
    ('', ''),
  ],
)
def test_an_unknown_accelerator_is_one_line(name, nearest):
  code, text, (line,) = run(*NEEDED, f'--accelerator={name}')
  assert (code, text) == (errors.USAGE, '')
  assert f'--accelerator={name} is not known' in line
  assert nearest in line


# -- Everything else --------------------------------------------------------


def test_flags_are_in_the_manifest():
  manifest = jobset(*FULL_TPU)
  pod, container = pod_of(manifest), container_of(manifest)
  labels = manifest['metadata']['labels']
  assert labels == {'kueue.x-k8s.io/queue-name': 'team'}
  assert manifest['spec']['failurePolicy']['maxRestarts'] == 7
  assert pod['serviceAccountName'] == 'trainer'
  assert 'hostNetwork' not in pod  # with it, the account would have no effect
  assert pod['nodeSelector']['cloud.google.com/gke-spot'] == 'true'
  assert {t['key'] for t in pod['tolerations']} == {
    'google.com/tpu',
    'cloud.google.com/gke-spot',
  }
  assert container['env'] == [
    CACHE,
    {'name': 'JAX_PLATFORMS', 'value': 'tpu,cpu'},
    {'name': 'A', 'value': 'b c'},
    {'name': 'D', 'value': ''},
  ]
  assert container['command'][-1] == '--config.train.grace_secs=500'
  pod, container = (f(jobset(*FULL_GPU)) for f in (pod_of, container_of))
  assert container['env'] == [
    CACHE,
    {'name': 'JAX_PLATFORMS', 'value': 'cuda'},
    {'name': 'LD_LIBRARY_PATH', 'value': '/lib'},
  ]
  assert pod['hostNetwork'] is True
  assert pod['dnsPolicy'] == 'ClusterFirstWithHostNet'


def test_kubernetes_replaces_nothing_in_flags():
  flag = '--prompt=$(HOME) $x'
  manifest = jobset(*TPU, '--', '--mode=sample', flag)
  assert container_of(manifest)['command'][-1] == '--prompt=$$(HOME) $x'


@pytest.mark.parametrize(
  ('arguments', 'words'),
  [
    ([*TPU, '--nodes=2'], 'v5litepod-256 takes --slices, not --nodes'),
    ([*GPU, '--slices=2'], 'h100-80gb-8 takes --nodes, not --slices'),
    ([*TPU, '--slices=0'], '--slices=0 must be at least 1'),
    ([*TPU, '--slices=x'], "invalid int value: 'x'"),
    ([*TPU, '--workdir=runs/ldm'], '--workdir=runs/ldm must be gs://BUCKET'),
    ([*TPU, '--workdir=gs://'], '--workdir=gs:// must be gs://BUCKET'),
    ([*TPU, '--max-restarts=-1'], '--max-restarts=-1 must not be negative'),
    (
      [*TPU, '--host-network', '--service-account=a'],
      '--host-network and --service-account exclude each other',
    ),
    ([*TPU, '--env=A'], '--env=A must be NAME=VALUE'),
    ([*TPU, '--env=MEGASCALE_NUM_SLICES=2'], 'GKE sets MEGASCALE_NUM_SLICES'),
    ([*TPU, '--', 'train.steps=1'], "'train.steps=1' after -- must begin"),
    ([*TPU, '--', '--workdir=gs://a/b'], '--workdir must stand before --'),
    (
      [*GPU, '--', '--config.distributed.process_id=1'],
      '--config.distributed.process_id is set for every pod',
    ),
    ([*TPU, '--', '--config.train.grace_secs=x'], 'must be a number'),
    ([*TPU, '--config='], '--config is needed, or --mode=sample'),
    ([*TPU, '--acc=v6e-16'], 'unrecognized arguments: --acc=v6e-16'),
    (['Ldm', *TPU[1:]], "the name 'Ldm' must have lower-case letters"),
    (['a' * 60, *TPU[1:]], 'must have at most 44 characters'),
    ([*TPU, '--xpk=c', '--queue=q'], '--queue is what xpk decides itself'),
    (
      [*GPU, '--xpk=c', '--', '--config.name="a"'],
      'xpk takes no " and no \\ in a command',
    ),
    ([], 'the following arguments are required: name'),
  ],
)
def test_a_mistake_is_one_line(arguments, words):
  code, text, (line,) = run(*arguments)
  assert (code, text) == (errors.USAGE, '')
  assert line.startswith('job.sh: ')
  assert words in line


def test_long_names_are_names_of_hosts():
  manifest = jobset('a' * 44, *TPU[1:])
  hosts = job_of(manifest)['template']['spec']['completions']
  job = job_of(manifest)['name']
  longest = f'{manifest["metadata"]["name"]}-{job}-0-{hosts - 1}-xxxxx'
  assert len(longest) == 63


def test_a_config_is_not_needed_to_sample():
  flags = [flag for flag in TPU if not flag.startswith('--config')]
  manifest = jobset(*flags, '--', '--mode=sample')
  words = container_of(manifest)['command']
  assert words[3:] == ['--workdir=gs://bucket/ldm', '--mode=sample']


# -- xpk --------------------------------------------------------------------


def xpk(*arguments):
  """Returns the flags of the line for xpk, and the command in it."""
  code, text, lines = run(*arguments)
  assert (code, lines) == (0, [])
  name, *verbs = shlex.split(text)
  assert (name, *verbs[:2]) == ('xpk', 'workload', 'create')
  *flags, (last, command) = (
    flag.removeprefix('--').split('=', 1) for flag in verbs[2:]
  )
  assert last == 'command'
  return [(name, value) for name, value in flags], command


def test_xpk_restarts_on_our_code():
  flags, command = xpk(*TPU, '--slices=2', '--xpk=cluster')
  assert flags == [
    ('cluster', 'cluster'),
    ('workload', 'ldm'),
    ('docker-image', 'gcr.io/p/pyramid:1'),
    ('tpu-type', 'v5litepod-256'),
    ('num-slices', '2'),
    ('max-restarts', '50'),
    ('restart-on-exit-codes', str(errors.RESTART)),
    ('termination-grace-period-seconds', '300'),
    ('env', 'JAX_COMPILATION_CACHE_DIR=gs://bucket/ldm/xla'),
    ('env', 'JAX_PLATFORMS=tpu,cpu'),
  ]
  assert command == (
    'exec python -m pyramid_jax.main --config=configs/ldm_shapes.py'
    ' --workdir=gs://bucket/ldm'
  )


def test_a_shell_numbers_the_nodes_of_xpk():
  flags, command = xpk(*GPU, '--nodes=2', '--xpk=c', '--', '--prompt=a $b')
  assert ('device-type', 'h100-80gb-8') in flags
  assert ('num-nodes', '2') in flags
  variables = {
    'JAX_COORDINATOR_ADDRESS': 'ldm-slice-job-0-0.ldm',
    'JAX_COORDINATOR_PORT': '6002',
    'NNODES': '2',
    'NODE_RANK': '1',
  }
  script = command.replace('exec python', "exec printf '%s\\n'", 1)
  printed = subprocess.run(
    ['bash', '-c', script],
    env=variables | {'PATH': '/usr/bin:/bin'},
    capture_output=True,
    text=True,
    check=True,
  ).stdout.splitlines()
  assert printed[-5:] == [
    '--prompt=a $b',
    '--config.distributed.mode=explicit',
    '--config.distributed.coordinator=ldm-slice-job-0-0.ldm:6002',
    '--config.distributed.processes=2',
    '--config.distributed.process_id=1',
  ]
