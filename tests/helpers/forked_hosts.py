"""Runs of several processes that start in milliseconds, see `fork_server`."""

import signal
import time

from tests.helpers import cluster
from tests.helpers import fork_server


LIMIT_SECS = 120.0


class Hosts:
  """The processes of one run; use it as a context manager.

  Those that are left in the end are killed.
  """

  def __init__(
    self,
    server: fork_server.Server,
    count: int,
    *arguments,
    devices=1,
    of=lambda index: (),
    before='tests.helpers.fake_run:install',
    env=None,
  ):
    """Starts them.

    Args:
      server: forks them.
      count: of processes.
      *arguments: of the command line of all.
      devices: of each process.
      of: returns the arguments of one process alone, by its index.
      before: see `fork_server.Server.start`.
      env: variables to set in all.
    """
    flags = fork_server.environment()['XLA_FLAGS']
    flags += f' --xla_force_host_platform_device_count={devices}'
    port = cluster.free_port()
    self.children = [
      server.start(
        *arguments,
        *of(index),
        '--config.distributed.mode=explicit',
        f'--config.distributed.coordinator=127.0.0.1:{port}',
        f'--config.distributed.processes={count}',
        f'--config.distributed.process_id={index}',
        env={'NPROC': '16', 'XLA_FLAGS': flags, **(env or {})},
        before=before,
      )
      for index in range(count)
    ]

  def __enter__(self) -> 'Hosts':
    return self

  def __exit__(self, *error) -> None:
    for child in self.children:
      child.send(signal.SIGKILL)

  def until(self, condition, secs=LIMIT_SECS) -> None:
    """Waits until `condition()` holds or a process has ended."""
    end = time.monotonic() + secs
    while not condition() and all(x.poll() is None for x in self.children):
      assert time.monotonic() < end, f'nothing happened:\n{self.text()}'
      time.sleep(0.005)

  def codes(self, secs=LIMIT_SECS) -> list[int]:
    """Returns the exit codes; what stays is killed, and the test fails."""
    end = time.monotonic() + secs
    while any(x.poll() is None for x in self.children):
      if time.monotonic() > end:
        left = [x.poll() for x in self.children]
        self.__exit__()
        raise AssertionError(f'alive after {secs} s: {left}\n{self.text()}')
      time.sleep(0.005)
    return [x.poll() for x in self.children]

  def text(self) -> str:
    """Returns what all of them wrote to stdout and stderr."""
    return '\n'.join(
      f'--- process {index}: {child.poll()}\n{child.text()[-6000:]}'
      for index, child in enumerate(self.children)
    )


def fake(server, count, workdir, *arguments, **options) -> Hosts:
  """Starts a run of `fake_run`."""
  given = (f'--config={fork_server.FAKE}', f'--workdir={workdir}')
  return Hosts(server, count, *given, *arguments, **options)


def ended(server, count, workdir, *arguments, **options) -> None:
  """Runs `fake_run` to its end, which must be a good one."""
  with fake(server, count, workdir, *arguments, **options) as hosts:
    assert hosts.codes() == [0] * count, hosts.text()
