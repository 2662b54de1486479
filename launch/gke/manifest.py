"""Prints the JobSet of a training run on GKE, as JSON that kubectl reads.

It needs Python alone, not this package: the machine that launches need not be
able to train. `launch/gke/job.sh` calls it and applies what it prints; its
flags are those of `job.sh apply`.

A TPU slice is a Job of the JobSet, a host of it one pod. Nodes with GPUs are
the pods of one Job, with one process for all GPUs of a node.

What pods end with decides what follows:

  75, and 128 and above   the JobSet restarts, at most --max-restarts times
  other codes but 0       the JobSet fails at once: a restart would not help
  an evicted pod          the JobSet restarts, and that is not counted
"""

import argparse
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import json
import re
import shlex
import sys

import accelerators


USAGE = 64  # pyramid_jax.errors.USAGE
RESTART = 75  # pyramid_jax.errors.RESTART
# A process that a signal ended has 128 and its number: 134 is an abort of jax
# that has lost another process, 137 a kill.
RESTARTED = (RESTART, *range(128, 256))

CONTAINER = 'train'
WORKERS = 'workers'
COORDINATOR_PORT = 8482  # of the process 0 on GPU nodes
GRACE_SECS = 300
# What Kubernetes needs to end a container, beyond what the run takes.
MARGIN_SECS = 5.0
RUN_GRACE_SECS = 25.0  # the default of config.train.grace_secs
TTL_SECS = 7 * 24 * 3600  # how long what has ended can be looked at
MOST_CHARS = 63  # of a host name
# Process numbers and addresses that GKE gives the pods of TPU slices. Values
# that are left from a slice before would have processes wait for ever.
GIVEN_BY_GKE = ('MEGASCALE_', 'TPU_WORKER_', 'TPU_PROCESS_')
GIVEN_HERE = ('mode', 'coordinator', 'processes', 'process_id')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """What is asked for.

  Attributes:
    name: of the JobSet.
    image: the container that has the package.
    command: of every process, without what differs between processes.
    accelerator: of a slice or a node.
    count: of slices or nodes.
    max_restarts: how often the JobSet restarts.
    grace_secs: between SIGTERM and SIGKILL.
    queue: of Kueue; '' for none.
    service_account: of Kubernetes; '' for the default of the namespace.
    is_spot: whether it runs on nodes that may be taken away at any time.
    has_host_network: whether pods share the network of their nodes.
    env: environment variables.
  """

  name: str
  image: str
  command: tuple[str, ...]
  accelerator: accelerators.Accelerator
  count: int
  max_restarts: int
  grace_secs: int
  queue: str
  service_account: str
  is_spot: bool
  has_host_network: bool
  env: dict[str, str]


# -- The manifest -----------------------------------------------------------


def jobset(run: Run) -> dict:
  """Returns the manifest of a run."""
  is_tpu = run.accelerator.is_tpu
  metadata: dict = {'name': run.name}
  if run.queue:
    metadata['labels'] = {'kueue.x-k8s.io/queue-name': run.queue}
  if is_tpu and run.accelerator.hosts > 1:
    # A slice of several hosts is a node pool of its own.
    metadata['annotations'] = {
      'alpha.jobset.sigs.k8s.io/exclusive-topology': (
        'cloud.google.com/gke-nodepool'
      )
    }
  return {
    'apiVersion': 'jobset.x-k8s.io/v1alpha2',
    'kind': 'JobSet',
    'metadata': metadata,
    'spec': {
      'ttlSecondsAfterFinished': TTL_SECS,
      'network': {'enableDNSHostnames': True, 'publishNotReadyAddresses': True},
      'failurePolicy': _failure_policy(run.max_restarts),
      'replicatedJobs': [
        {
          'name': WORKERS,
          'replicas': run.count if is_tpu else 1,
          'template': {'spec': _job(run)},
        }
      ],
    },
  }


def _failure_policy(max_restarts: int) -> dict:
  """Returns what follows the failure of a Job; the first rule that fits counts.

  Both reasons of `_pod_failure_policy` are PodFailurePolicy to the JobSet, so
  that it is the text that tells them apart. Any other failure is a restart.
  """
  reasons = ['PodFailurePolicy']
  return {
    'maxRestarts': max_restarts,
    # No pod of the next start may meet one of the start before.
    'restartStrategy': 'BlockingRecreate',
    'rules': [
      {
        'name': 'final',
        'action': 'FailJobSet',
        'onJobFailureReasons': reasons,
        'onJobFailureMessagePatterns': ['failed with exit code'],
      },
      {
        'name': 'disrupted',
        'action': 'RestartJobSetAndIgnoreMaxRestarts',
        'onJobFailureReasons': reasons,
        'onJobFailureMessagePatterns': ['has condition DisruptionTarget'],
      },
    ],
  }


def _job(run: Run) -> dict:
  """Returns the Job of a slice, or of all nodes with GPUs."""
  hosts = run.accelerator.hosts if run.accelerator.is_tpu else run.count
  return {
    'parallelism': hosts,
    'completions': hosts,
    'completionMode': 'Indexed',
    'backoffLimit': 0,  # one host alone cannot be started again
    'podFailurePolicy': _pod_failure_policy(),
    'template': {'spec': _pod(run)},
  }


def _pod_failure_policy() -> dict:
  return {
    'rules': [
      {
        'action': 'FailJob',
        'onExitCodes': {
          'containerName': CONTAINER,
          'operator': 'NotIn',
          'values': list(RESTARTED),
        },
      },
      {
        'action': 'FailJob',
        'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
      },
    ]
  }


def _pod(run: Run) -> dict:
  spec: dict = {
    'restartPolicy': 'Never',  # podFailurePolicy asks for it
    'terminationGracePeriodSeconds': run.grace_secs,
    # Otherwise the command is process 1 of its container, and Linux spares it:
    # SIGTERM before its handlers is lost, and an abort ends with another code.
    'shareProcessNamespace': True,
    'nodeSelector': dict(run.accelerator.node_selector),
    'tolerations': [
      {
        'key': run.accelerator.resource,
        'operator': 'Exists',
        'effect': 'NoSchedule',
      }
    ],
    'containers': [_container(run)],
  }
  if run.is_spot:
    spot = 'cloud.google.com/gke-spot'
    spec['nodeSelector'][spot] = 'true'
    spec['tolerations'].append(
      {
        'key': spot,
        'operator': 'Equal',
        'value': 'true',
        'effect': 'NoSchedule',
      }
    )
  if run.service_account:
    spec['serviceAccountName'] = run.service_account
  if run.has_host_network:
    spec['hostNetwork'] = True
    spec['dnsPolicy'] = 'ClusterFirstWithHostNet'
  if not run.accelerator.is_tpu:
    # NCCL passes data between processes and threads of a node there; what a
    # container has otherwise is 64 MiB.
    spec['volumes'] = [{'name': 'shm', 'emptyDir': {'medium': 'Memory'}}]
  return spec


def _container(run: Run) -> dict:
  accelerator = run.accelerator
  env = dict(run.env)
  container: dict = {
    'name': CONTAINER,
    'image': run.image,
    'command': command(run),
    'resources': {'limits': {accelerator.resource: accelerator.chips_per_host}},
    # The last lines of the log are then in the status of a pod.
    'terminationMessagePolicy': 'FallbackToLogsOnError',
  }
  if accelerator.is_tpu:
    # To lock the memory of transfers, and to reach the devices.
    container['securityContext'] = {'privileged': True}
  else:
    # Where GKE puts the libraries of the driver.
    env.setdefault('LD_LIBRARY_PATH', '/usr/local/nvidia/lib64')
    container['ports'] = [{'containerPort': COORDINATOR_PORT}]
    container['volumeMounts'] = [{'name': 'shm', 'mountPath': '/dev/shm'}]
  container['env'] = [{'name': k, 'value': v} for k, v in env.items()]
  return container


def command(run: Run) -> list[str]:
  """Returns the command of a container."""
  # Kubernetes replaces $(NAME) by variables, and $$( is written as $(.
  words = [word.replace('$(', '$$(') for word in run.command]
  first = f'{run.name}-{WORKERS}-0-0.{run.name}'
  return [
    *words,
    *_processes(
      run,
      f'{first}:{COORDINATOR_PORT}',
      str(run.count),
      '$(JOB_COMPLETION_INDEX)',
    ),
  ]


def _processes(
  run: Run, coordinator: str, count: str, number: str
) -> list[str]:
  """Returns the flags by which the processes of a run find each other.

  On TPUs, jax asks GKE which processes there are. On GPU nodes it would ask the
  API of Kubernetes, which takes a package of Python and rights of the service
  account; the number of a pod in its Job is enough.
  """
  section = '--config.distributed'
  if run.accelerator.hosts * run.count == 1:
    return [f'{section}.mode=off']
  if run.accelerator.is_tpu:
    return []
  return [
    f'{section}.mode=explicit',
    f'{section}.coordinator={coordinator}',
    f'{section}.processes={count}',
    f'{section}.process_id={number}',
  ]


# -- xpk --------------------------------------------------------------------


def xpk(run: Run, cluster: str) -> str:
  """Returns the line that has xpk start a run.

  Raises:
    ValueError: xpk would not take it as it is asked for.
  """
  # xpk runs the command in a shell, to which it sends SIGTERM; `exec` puts the
  # run in its place.
  words = f'exec {shlex.join(run.command)}'
  is_tpu = run.accelerator.is_tpu
  # Variables that xpk sets; a shell in the container replaces them.
  coordinator = '$JAX_COORDINATOR_ADDRESS:$JAX_COORDINATOR_PORT'
  words = ' '.join(
    [words, *_processes(run, coordinator, '$NNODES', '$NODE_RANK')]
  )
  if re.search(r'["\\]', words):
    raise ValueError(f'xpk takes no " and no \\ in a command: {words}')
  kind, number = (
    ('tpu-type', 'num-slices') if is_tpu else ('device-type', 'num-nodes')
  )
  flags = {
    'cluster': cluster,
    'workload': run.name,
    'docker-image': run.image,
    kind: run.accelerator.name,
    number: run.count,
    'max-restarts': run.max_restarts,
    'restart-on-exit-codes': RESTART,
    'termination-grace-period-seconds': run.grace_secs,
  }
  line = ['xpk', 'workload', 'create']
  line += [f'--{name}={value}' for name, value in flags.items()]
  line += ['--spot'] if run.is_spot else []
  line += [f'--env={name}={value}' for name, value in run.env.items()]
  return shlex.join([*line, f'--command={words}'])


# -- Arguments --------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
  def error(self, message: str):
    """Ends with one line instead of the usage."""
    raise ValueError(message)


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog='job.sh apply',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    epilog='What follows -- goes to pyramid_jax.main as it is.',
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('name', help='of the JobSet, and of its pods')
  add('--image', required=True, help='a container with the package')
  add('--workdir', required=True, help='gs://BUCKET/FOLDER of the run')
  add('--config', default='', help='of the run, as pyramid_jax.main takes it')
  add('--accelerator', required=True, help='v5litepod-256, h100-80gb-8, ...')
  add('--slices', type=int, help='of TPUs, 1 if it is not given')
  add('--nodes', type=int, help='with GPUs, 1 if it is not given')
  add('--queue', default='', help='a LocalQueue of Kueue')
  add('--max-restarts', type=int, default=50, help='evictions not counted')
  add('--grace', type=int, default=GRACE_SECS, help='s, SIGTERM to SIGKILL')
  add('--service-account', default='', help='that may use the bucket')
  add('--spot', action='store_true', help='nodes that may be taken away')
  add('--host-network', action='store_true', help="the node's own network")
  add('--env', action='append', default=[], help='NAME=VALUE; repeatable')
  add('--xpk', metavar='CLUSTER', help='print the line for xpk instead')
  return parser


def parse(words: Sequence[str]) -> tuple[Run, str]:
  """Returns a run and the cluster of xpk, '' if it is not asked for.

  Raises:
    ValueError: one line with the value and what is allowed.
  """
  at = words.index('--') if '--' in words else len(words)
  args = _parser().parse_args(list(words[:at]))
  extra = tuple(words[at + 1 :])
  accelerator = accelerators.find(args.accelerator)
  count = _count(args, accelerator)
  _check(args, extra)
  run = Run(
    name=args.name,
    image=args.image,
    command=_command(args, extra),
    accelerator=accelerator,
    count=count,
    max_restarts=args.max_restarts,
    grace_secs=args.grace,
    queue=args.queue,
    service_account=args.service_account,
    is_spot=args.spot,
    has_host_network=args.host_network,
    env=_default_env(args, accelerator) | dict(_variables(args.env)),
  )
  _check_name(run)
  return run, args.xpk or ''


def _count(
  args: argparse.Namespace, accelerator: accelerators.Accelerator
) -> int:
  """Returns the number of slices or nodes."""
  right, wrong = (
    ('slices', 'nodes')
    if accelerator.is_tpu
    else (
      'nodes',
      'slices',
    )
  )
  if getattr(args, wrong) is not None:
    raise ValueError(f'{accelerator.name} takes --{right}, not --{wrong}')
  count = getattr(args, right)
  if count is not None and count < 1:
    raise ValueError(f'--{right}={count} must be at least 1')
  return count or 1


def _check(args: argparse.Namespace, extra: Iterable[str]) -> None:
  """Checks what does not depend on the accelerator."""
  if not re.fullmatch(r'gs://[^/]+(/.*)?', args.workdir):
    raise ValueError(
      f'--workdir={args.workdir} must be gs://BUCKET/FOLDER: pods share no disk'
    )
  if args.max_restarts < 0:
    raise ValueError(f'--max-restarts={args.max_restarts} must not be negative')
  if args.host_network and args.service_account:
    raise ValueError(
      '--host-network and --service-account exclude each other: a pod with the'
      ' network of its node has the rights of the node, not of an account'
    )
  own = ('queue', 'service_account', 'host_network')
  unused = [f'--{n.replace("_", "-")}' for n in own if getattr(args, n)]
  if args.xpk and unused:
    raise ValueError(f'{unused[0]} is what xpk decides itself; leave it out')
  for flag in extra:
    name = flag.partition('=')[0]
    if not name.startswith('--'):
      raise ValueError(f'{flag!r} after -- must begin with --')
    if name in ('--workdir', '--config'):
      raise ValueError(f'{name} must stand before --')
    section, _, field = name.rpartition('.')
    if section == '--config.distributed' and field in GIVEN_HERE:
      raise ValueError(f'{name} is set for every pod; leave it out')
  has_mode = any(flag.startswith('--mode=') for flag in extra)
  if not args.config and not has_mode:
    raise ValueError(
      '--config is needed, or --mode=sample or evaluate after --'
    )
  least = _run_grace(extra) + MARGIN_SECS
  if args.grace < least:
    raise ValueError(
      f'--grace={args.grace} must be at least {least:g} s: a run takes up to'
      f' config.train.grace_secs={_run_grace(extra):g} to answer a signal, and'
      ' saves then'
    )


def _run_grace(extra: Iterable[str]) -> float:
  """Returns config.train.grace_secs of a run, as far as flags say it."""
  found = RUN_GRACE_SECS
  for flag in extra:
    name, _, value = flag.partition('=')
    if name == '--config.train.grace_secs':
      try:
        found = float(value)
      except ValueError:
        raise ValueError(f'{flag} must be a number') from None
  return found


def _check_name(run: Run) -> None:
  """Checks that names of pods are names of hosts."""
  if not re.fullmatch(r'[a-z]([a-z0-9-]*[a-z0-9])?', run.name):
    raise ValueError(
      f'the name {run.name!r} must have lower-case letters, digits and -, and'
      ' begin with a letter'
    )
  slices = run.count if run.accelerator.is_tpu else 1
  hosts = run.accelerator.hosts if run.accelerator.is_tpu else run.count
  # Kubernetes adds five characters of its own.
  added = len(f'-{WORKERS}-{slices - 1}-{hosts - 1}-xxxxx')
  if len(run.name) + added > MOST_CHARS:
    raise ValueError(
      f'the name {run.name!r} must have at most {MOST_CHARS - added} characters'
    )


def _default_env(
  args: argparse.Namespace, accelerator: accelerators.Accelerator
) -> dict[str, str]:
  """Returns the variables that --env may replace.

  jax refuses to fall back to the CPU, and keeps compiled programs with the run,
  as the disk of a pod ends with it.
  """
  return {
    'JAX_COMPILATION_CACHE_DIR': f'{args.workdir.rstrip("/")}/xla',
    'JAX_PLATFORMS': 'tpu,cpu' if accelerator.is_tpu else 'cuda,cpu',
  }


def _variables(pairs: Iterable[str]) -> Iterable[tuple[str, str]]:
  for pair in pairs:
    name, equals, value = pair.partition('=')
    if not equals or not re.fullmatch(r'[A-Za-z_]\w*', name):
      raise ValueError(f'--env={pair} must be NAME=VALUE')
    if name.startswith(GIVEN_BY_GKE):
      raise ValueError(f'--env={pair}: GKE sets {name} for every pod')
    yield name, value


def _command(
  args: argparse.Namespace, extra: tuple[str, ...]
) -> tuple[str, ...]:
  config = (f'--config={args.config}',) if args.config else ()
  main = ('python', '-m', 'pyramid_jax.main')
  return (*main, *config, f'--workdir={args.workdir}', *extra)


def main(words: Sequence[str]) -> int:
  """Prints a manifest, or the line for xpk; returns an exit code."""
  try:
    run, cluster = parse(words)
    text = xpk(run, cluster) if cluster else json.dumps(jobset(run), indent=2)
  except ValueError as error:
    sys.stderr.write(f'job.sh: {error}\n')
    return USAGE
  sys.stdout.write(text + '\n')
  return 0


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
