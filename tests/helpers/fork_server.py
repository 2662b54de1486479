"""Command lines in processes of their own that start in milliseconds.

A server has imported the library and forks for each command, before jax makes
a backend. The child is what `python -m pyramid_jax.main` is from its imports
on, its end included. What concerns the imports needs a process from the start,
`Server.fresh`.
"""

from collections.abc import Mapping
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any
from typing import NoReturn

from pyramid_jax.runs import entry


ROOT = pathlib.Path(__file__).resolve().parents[2]
FAKE = ROOT / 'tests' / 'helpers' / 'fake_run.py'
LIMIT_SECS = 120.0


class Child:
  """A process: its number, its output, its end."""

  def __init__(self, server: 'Server', pid: int, output: pathlib.Path):
    self.pid = pid
    self.output = output
    self._server = server

  def poll(self) -> int | None:
    """Returns the exit code, minus the signal that ended it, None before."""
    return self._server.code(self.pid)

  def wait(self, secs: float = LIMIT_SECS) -> int:
    """Returns the exit code; a process that stays is killed and fails."""
    end = time.monotonic() + secs
    while (code := self.poll()) is None:
      if time.monotonic() > end:
        self.send(signal.SIGKILL)
        raise AssertionError(f'alive after {secs} s:\n{self.text()}')
      time.sleep(0.005)
    return code

  def until(self, condition: Any, secs: float = LIMIT_SECS) -> None:
    """Waits until `condition()` holds or the process has ended."""
    end = time.monotonic() + secs
    while not condition() and self.poll() is None:
      assert time.monotonic() < end, f'nothing happened:\n{self.text()}'
      time.sleep(0.005)

  def send(self, number: int) -> None:
    """Sends a signal; one that has ended takes none."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def text(self) -> str:
    """Returns what it wrote to stdout and stderr so far."""
    return self.output.read_text(errors='replace')


class Server:
  """Starts commands; use it as a context manager."""

  def __enter__(self) -> 'Server':
    self._folder = tempfile.TemporaryDirectory(prefix='fork_server')
    self._codes: dict[int, int] = {}
    self._fresh: dict[int, subprocess.Popen[bytes]] = {}
    self._started: list[int] = []
    self._changed = threading.Condition()
    self._process = subprocess.Popen(
      [sys.executable, '-m', 'tests.helpers.fork_server'],
      cwd=ROOT,
      env=environment(),
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    threading.Thread(target=self._listen, daemon=True).start()
    return self

  def __exit__(self, *error: object) -> None:
    for pid in (*self._started, *self._fresh):
      if self.code(pid) is None:
        os.kill(pid, signal.SIGKILL)
    self._process.stdin.close()
    self._process.wait(LIMIT_SECS)
    self._folder.cleanup()

  def start(
    self,
    *arguments: Any,
    cwd: Any = ROOT,
    env: Mapping[str, str] | None = None,
    before: str = 'tests.helpers.fake_run:install',
  ) -> Child:
    """Forks a process that runs a command line.

    Args:
      *arguments: of the command line; their texts are taken.
      cwd: its folder.
      env: variables to set beside those of the tests.
      before: 'module:function', called in the process before the command, to
        put fakes and faults in place; '' for none.
    """
    output = self._output()
    request = {
      'arguments': [str(x) for x in arguments],
      'cwd': str(cwd),
      'env': dict(env or {}),
      'before': before,
      'output': str(output),
    }
    with self._changed:
      count = len(self._started)
      self._process.stdin.write(json.dumps(request) + '\n')
      self._process.stdin.flush()
      started = lambda: len(self._started) > count
      assert self._changed.wait_for(started, LIMIT_SECS), 'no process'
      return Child(self, self._started[-1], output)

  def fake(self, workdir: Any, *arguments: Any, **options: Any) -> Child:
    """Starts a command line with the config of `fake_run`, see `start`."""
    given = (f'--config={FAKE}', f'--workdir={workdir}')
    return self.start(*given, *arguments, **options)

  def fresh(self, *arguments: Any, cwd: Any = ROOT) -> Child:
    """Starts `python ARGUMENTS` in a new interpreter."""
    output = self._output()
    with output.open('wb') as file:
      process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdout=file,
        stderr=file,
      )
    self._fresh[process.pid] = process
    return Child(self, process.pid, output)

  def code(self, pid: int) -> int | None:
    """Returns the exit code of a process, None while it runs."""
    if pid in self._fresh:
      return self._fresh[pid].poll()
    return self._codes.get(pid)

  def _output(self) -> pathlib.Path:
    handle, name = tempfile.mkstemp(dir=self._folder.name)
    os.close(handle)
    return pathlib.Path(name)

  def _listen(self) -> None:
    for line in self._process.stdout:
      event = json.loads(line)
      with self._changed:
        if 'code' in event:
          self._codes[event['pid']] = event['code']
        else:
          self._started.append(event['pid'])
        self._changed.notify_all()


def environment() -> dict[str, str]:
  """Returns the environment of the processes: one device, a program cache."""
  flags = os.environ.get('XLA_FLAGS', '').split()
  cache = os.path.join(tempfile.gettempdir(), 'pyramid_jax_fault_cache')
  return {
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    **os.environ,
    'XLA_FLAGS': ' '.join(x for x in flags if 'device_count' not in x),
    'JAX_PLATFORMS': 'cpu',
    'PYTHONPATH': os.fspath(ROOT),
  }


def _become(request: Mapping[str, Any]) -> NoReturn:
  """Runs a command in the forked process."""
  import importlib

  output = os.open(request['output'], os.O_WRONLY | os.O_APPEND)
  os.dup2(output, 1)
  os.dup2(output, 2)
  os.close(output)
  os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
  os.environ.update(request['env'])
  os.chdir(request['cwd'])
  module, _, function = request['before'].partition(':')
  if module:
    getattr(importlib.import_module(module), function)()
  entry.run('pyramid_jax.main', 'run', request['arguments'])


def _preload() -> None:
  """Imports what commands import; no backend may start."""
  import importlib
  import warnings

  import jax

  for name in ('train', 'sample', 'evaluate'):
    importlib.import_module(f'pyramid_jax.commands.{name}')
  for name in ('tensorboardX', 'orbax.checkpoint', 'tests.helpers.fake_run'):
    importlib.import_module(name)
  warnings.filterwarnings('ignore', '.*os.fork.*')
  if jax._src.xla_bridge._backends:
    raise RuntimeError('a backend was started before the fork')


def serve() -> int:
  """Forks for each line of stdin until it ends; tells starts and ends."""
  import select

  _preload()
  alive, buffer, is_open = set(), b'', True
  while is_open or alive:
    ready = select.select([0] if is_open else [], [], [], 0.005)[0]
    if ready:
      data = os.read(0, 1 << 16)
      is_open = bool(data)
      buffer += data
    *lines, buffer = buffer.split(b'\n')
    for line in lines:
      pid = os.fork()
      if not pid:
        _become(json.loads(line))
      alive.add(pid)
      _tell(pid=pid)
    if alive:
      pid, status = os.waitpid(-1, os.WNOHANG)
      if pid:
        alive.discard(pid)
        _tell(pid=pid, code=os.waitstatus_to_exitcode(status))
  return 0


def _tell(**event: int) -> None:
  sys.stdout.write(json.dumps(event) + '\n')
  sys.stdout.flush()


if __name__ == '__main__':
  sys.exit(serve())
