"""A run of several processes on this machine, over its loopback address.

Processes of `jax.distributed` outlive what usually ends a process, so each has
a limit after which it is killed.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any

from tests.helpers import processes


LIMIT_SECS = 240.0


@dataclasses.dataclass(frozen=True)
class Ended:
  """A process that has ended."""

  code: int  # minus the signal that ended it
  text: str  # what it wrote to stdout and stderr


class Cluster:
  """Processes of one command; use it as a context manager."""

  def __init__(
    self,
    count: int,
    *arguments: Any,
    devices: int = 1,
    env: Mapping[str, str] | None = None,
    module: str = 'pyramid_jax.main',
    is_explicit: bool = True,
  ):
    """Names the processes; entering the context starts them.

    Args:
      count: of processes.
      *arguments: of the command line of all.
      devices: of each process.
      env: variables to set in all.
      module: of Python, which is run.
      is_explicit: whether they know of each other by the command line.
    """
    self._count = count
    self._arguments = list(map(str, arguments))
    self._devices = devices
    self._env = dict(env or {})
    self._module = module
    self._is_explicit = is_explicit
    self.port = free_port()
    self.processes: list[subprocess.Popen[bytes]] = []

  def __enter__(self) -> 'Cluster':
    self._folder = tempfile.TemporaryDirectory(prefix='cluster')
    for index in range(self._count):
      self.processes.append(self._start(index))
    return self

  def __exit__(self, *error: object) -> None:
    for process in self.processes:
      if process.poll() is None:
        process.kill()
      process.wait()
    self._folder.cleanup()

  def _start(self, index: int) -> subprocess.Popen[bytes]:
    env = processes.environment()
    flags = env['XLA_FLAGS']
    env |= {
      'NPROC': '16',
      'XLA_FLAGS': (
        f'{flags} --xla_force_host_platform_device_count={self._devices}'
      ),
      **self._env,
      **self.variables(index),
    }
    with open(self._output(index), 'wb') as output:
      return subprocess.Popen(
        [sys.executable, '-m', self._module, *self._of(index)],
        cwd=processes.ROOT,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
      )

  def variables(self, index: int) -> dict[str, str]:
    """Returns the variables of one process, such as those of a launcher."""
    del index
    return {}

  def _of(self, index: int) -> list[str]:
    """Returns the arguments of one process."""
    if not self._is_explicit:
      return self._arguments
    return [
      *self._arguments,
      '--config.distributed.mode=explicit',
      f'--config.distributed.coordinator=127.0.0.1:{self.port}',
      f'--config.distributed.processes={self._count}',
      f'--config.distributed.process_id={index}',
    ]

  def _output(self, index: int) -> pathlib.Path:
    return pathlib.Path(self._folder.name) / f'{index}.txt'

  def text(self, index: int) -> str:
    """Returns what a process wrote to stdout and stderr so far."""
    return self._output(index).read_text(errors='replace')

  def until(self, condition: Any, secs: float = LIMIT_SECS) -> None:
    """Waits until `condition()` holds or a process has ended."""
    end = time.monotonic() + secs
    while not condition():
      if any(x.poll() is not None for x in self.processes):
        return
      assert time.monotonic() < end, f'nothing happened:\n{self.text(0)}'
      time.sleep(0.02)

  def send(self, index: int, number: int) -> None:
    """Sends a signal to a process."""
    if self.processes[index].poll() is None:
      os.kill(self.processes[index].pid, number)

  def wait(self, secs: float = LIMIT_SECS) -> list[Ended]:
    """Returns how all ended; those that stay are killed, and it fails."""
    end = time.monotonic() + secs
    late = []
    for index, process in enumerate(self.processes):
      try:
        process.wait(max(0.1, end - time.monotonic()))
      except subprocess.TimeoutExpired:
        late.append(index)
        process.send_signal(signal.SIGKILL)
        process.wait()
    ended = [
      Ended(process.returncode, self.text(index))
      for index, process in enumerate(self.processes)
    ]
    assert not late, f'alive after {secs} s: {late}\n{report(ended)}'
    return ended


def run(count: int, *arguments: Any, **options: Any) -> list[Ended]:
  """Runs a command line in several processes; see `Cluster`.

  Args:
    count: of processes.
    *arguments: of the command line of all.
    **options: of `Cluster`; `secs`, after which the processes are killed and
      the test fails.
  """
  secs = options.pop('secs', LIMIT_SECS)
  with Cluster(count, *arguments, **options) as cluster:
    return cluster.wait(secs)


def report(ended: Sequence[Ended]) -> str:
  """Returns the ends of all processes for a message, without stack traces."""
  lines = []
  for index, one in enumerate(ended):
    text = re.sub(r'\n    @ .*', '', one.text)
    lines.append(f'--- process {index}: {one.code}\n{text[-3000:]}')
  return '\n'.join(lines)


def free_port() -> int:
  """Returns a port that nobody listens to."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
