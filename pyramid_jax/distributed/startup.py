"""The start and the end of a run's processes.

`joined` stands around the work of a command line, before anything asks for a
device. With one process it does nothing.
"""

from collections.abc import Iterator
import contextlib
import logging as std_logging
import os
import socket
import threading

from absl import logging
import jax
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import clusters
from pyramid_jax.distributed import peers
from pyramid_jax.distributed import process_fields as fields
from pyramid_jax.distributed import processes
from pyramid_jax.runs import leaving
from pyramid_jax.runs import stopping


_SHUTDOWN_SECS = 60  # for processes that end together
_MORE_SECS = 60  # that jax waits for longer than the library
_PROXIES = ('http_proxy', 'https_proxy', 'all_proxy', 'grpc_proxy')


@contextlib.contextmanager
def joined(config: ConfigDict) -> Iterator[None]:
  """Has this process take part in a run of several, by a section `distributed`.

  An error within the context ends the other processes too, with its exit code;
  so does their error here.

  Raises:
    UserError: the others are not there in time, or it is not known who they
      are.
  """
  place = _place(config)
  if place is None:
    yield
    return
  _initialize(place, config)
  _report(place)
  try:
    with peers.watching():
      yield
  except BaseException as error:
    if peers.is_shared(error):
      _shut_down()
    raise
  _shut_down()


def _place(config: ConfigDict) -> clusters.Cluster | None:
  """Returns the place of this process, None for a run of one."""
  local = tuple(config.local_devices) or None
  if config.mode == fields.OFF:
    return None
  if config.mode == fields.EXPLICIT:
    if config.processes == 1:
      return None
    return clusters.Cluster(
      name=fields.EXPLICIT,
      coordinator=config.coordinator,
      count=config.processes,
      index=config.process_id,
      local_devices=local,
    )
  found = clusters.find(os.environ, config.init_timeout_secs)
  if found is None or local is None:
    return found
  return clusters.replace_devices(found, local)


def _initialize(place: clusters.Cluster, config: ConfigDict) -> None:
  # Signals are the library's: a handler of jax would take SIGTERM from it.
  jax.config.update('jax_enable_preemption_service', False)
  jax.config.update('jax_check_proxy_envs', False)
  std_logging.getLogger('jax._src.distributed').setLevel(std_logging.WARNING)
  proxies = [x for x in os.environ if x.lower() in _PROXIES]
  if proxies and not os.environ.get('no_proxy', os.environ.get('NO_PROXY')):
    logging.warning(
      '%s is set and no_proxy is not: processes may look for each other at the'
      ' proxy; set no_proxy to their hosts',
      ', '.join(proxies),
    )
  logging.info(
    'process %d of %d (%s): connecting to %s',
    *(place.index, place.count, place.name, place.coordinator),
  )
  with _limited(place, config.init_timeout_secs):
    jax.distributed.initialize(
      place.coordinator,
      place.count,
      place.index,
      local_device_ids=place.local_devices,
      cluster_detection_method='deactivate',
      initialization_timeout=config.init_timeout_secs + _MORE_SECS,
      heartbeat_timeout_seconds=config.heartbeat_secs,
      shutdown_timeout_seconds=_SHUTDOWN_SECS,
    )


@contextlib.contextmanager
def _limited(place: clusters.Cluster, secs: int) -> Iterator[None]:
  """Ends the process if the context takes too long; jax would abort it."""

  def leave() -> None:
    with leaving.LAST_WORD:
      leaving.at_once(
        errors.RESTART,
        f'process {place.index} of {place.count} did not find all others by'
        f' {place.coordinator} within config.distributed.init_timeout_secs='
        f'{secs}. Is the same command started on every host, and is the port'
        ' open between them (JAX_COORDINATOR_PORT chooses another)?',
      )

  timer = threading.Timer(secs, leave)
  timer.daemon = True
  if stopping.is_own():
    timer.start()
  try:
    yield
  finally:
    timer.cancel()


def _report(place: clusters.Cluster) -> None:
  """Logs a table of all processes, their hosts and devices, in process 0."""
  devices = jax.local_devices()
  slices = sorted({getattr(d, 'slice_index', 0) or 0 for d in devices})
  row = {
    'host': socket.gethostname(),
    'pid': os.getpid(),
    'slices': ','.join(map(str, slices)),
    'devices': f'{len(devices)} {devices[0].device_kind}',
  }
  rows = processes.collected(row)
  if place.index:
    return
  lines = [f'{"process":<9}{"host":<32}{"pid":<9}{"slice":<7}devices']
  lines += [
    f'{n:<9}{r["host"]:<32}{r["pid"]:<9}{r["slices"]:<7}{r["devices"]}'
    for n, r in enumerate(rows)
  ]
  text = '\n'.join(lines)
  total = jax.device_count()
  logging.info(f'{place.count} processes with {total} devices:\n{text}')


def _shut_down() -> None:
  """Ends the service of the run once all processes are at their end."""
  try:
    jax.distributed.shutdown()
  except Exception as error:  # the work is done, whoever else is gone
    logging.warning('the end of the other processes: %s', error)
