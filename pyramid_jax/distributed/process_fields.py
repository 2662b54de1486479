"""Fields of the start of a run's processes; no file of a run has them."""

from pyramid_jax.config import field as field_lib
from pyramid_jax.config.field import Field


AUTO, OFF, EXPLICIT = 'auto', 'off', 'explicit'
SECTION = 'distributed'
_EXPLICIT_ONLY = 'mode=explicit alone needs it.'

FIELDS = {
  'distributed.mode': Field(
    AUTO,
    'How the processes of a run find each other: auto asks the cluster (TPU VM,'
    ' GKE, Slurm, Kubernetes, Open MPI) and does nothing where there is none;'
    ' off is one process; explicit takes the other fields.',
    choices=(AUTO, OFF, EXPLICIT),
    resumable=True,
  ),
  'distributed.coordinator': Field(
    '',
    f'HOST:PORT of process 0, which the others reach; {_EXPLICIT_ONLY}',
    resumable=True,
  ),
  'distributed.processes': Field(
    1,
    f'The number of processes; {_EXPLICIT_ONLY}',
    low=1,
    high=2**20,
    resumable=True,
  ),
  'distributed.process_id': Field(
    0,
    'The number of this process, from 0; process 0 writes the files.'
    f' {_EXPLICIT_ONLY}',
    low=0,
    high=2**20,
    resumable=True,
  ),
  'distributed.local_devices': Field(
    (),
    'The numbers of the GPUs that this process takes, separated by commas;'
    ' empty for what the launcher gives it.',
    items=int,
    low=0,
    high=1023,
    resumable=True,
  ),
  'distributed.init_timeout_secs': Field(
    1800,
    'The seconds that a process waits for the others when it starts.',
    low=1,
    high=10**6,
    resumable=True,
  ),
  'distributed.heartbeat_secs': Field(
    30,
    'The seconds after which a process that is not heard of is lost, and the'
    ' others end.',
    low=2,
    high=10**6,
    resumable=True,
  ),
}


def _explicit(values: field_lib.Values) -> field_lib.Broken | None:
  if values['distributed.mode'] != EXPLICIT:
    return None
  host, colon, port = values['distributed.coordinator'].rpartition(':')
  if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
    return field_lib.Broken(
      'distributed.coordinator', 'HOST:PORT of process 0 with mode=explicit'
    )
  count = values['distributed.processes']
  if values['distributed.process_id'] >= count:
    return field_lib.Broken(
      'distributed.process_id', f'in [0, {count - 1}], as processes={count}'
    )
  return None


CHECKS = (_explicit,)
