"""Processes that race for locks; they start without jax, in milliseconds."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
import time

from pyramid_jax import errors
from pyramid_jax.runs import lock
from pyramid_jax.runs import lock_owner


MARK = 'mark'  # made and removed by whoever believes to be alone
_UNLINK = os.unlink


def race() -> None:
  """Takes locks at given times and keeps each until the next line.

  A line is the folder, the time and the mode: 'keep', 'take' (over), or 'work':
  make and remove the mark for so many rounds, each with a lock of its own.
  """
  say('ready')
  for line in sys.stdin:
    folder, start, mode, seed = line.split()
    random.seed(seed)
    while time.time() < float(start):
      pass
    with contextlib.ExitStack() as stack:
      try:
        if mode == 'work':
          work(folder)
          say('done')
          continue
        held = stack.enter_context(lock.Lock(folder, mode == 'take'))
        with marked(folder, held):
          say('won')
          if mode == 'keep':
            sys.stdin.readline()
          while mode == 'take':  # until the next one takes it
            held.check(now=True)
            if os.path.exists(os.path.join(folder, 'end')):
              break
      except errors.UserError as error:
        say(f'lost {error.code} {error}')
        if mode == 'keep':
          sys.stdin.readline()
    if mode != 'work':
      say('back')


def say(text: str) -> None:
  sys.stdout.write(f'{text}\n')
  sys.stdout.flush()


def work(folder: str, rounds: int = 12) -> None:
  """Takes and returns the lock many times."""
  taken = 0
  while taken < rounds:
    try:
      with lock.Lock(folder) as held, marked(folder, held):
        taken += 1
    except errors.UserError:
      time.sleep(random.uniform(0, 0.004))


@contextlib.contextmanager
def marked(folder: str, held: lock.Lock):
  """Fails if another live process has the mark at the same time."""
  path = os.path.join(folder, MARK)
  held.check(now=True)
  try:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
  except FileExistsError:
    raise AssertionError('two owners') from None
  time.sleep(random.uniform(0, 0.003))
  try:
    yield
  finally:
    _UNLINK(path)


def dawdle() -> None:
  """Makes everybody wait between looking and acting, so that others act."""

  def dawdling(function):
    def later(*args, **kwargs):
      result = function(*args, **kwargs)
      time.sleep(random.uniform(0, 0.02))
      return result

    return later

  lock_owner.is_alive = dawdling(lock_owner.is_alive)
  lock_owner.read = dawdling(lock_owner.read)
  os.link = dawdling(os.link)


def die(share: float = 0.01) -> None:
  """Kills the process now and then, before or after a change of the folder."""

  def mortal(function):
    def call(*args, **kwargs):
      for moment in range(2):
        if random.random() < share:
          os.kill(os.getpid(), signal.SIGKILL)
        if not moment:
          result = function(*args, **kwargs)
      return result

    return call

  for name in ('link', 'replace', 'unlink', 'write', 'utime'):
    setattr(os, name, mortal(getattr(os, name)))
  lock_owner.hold = mortal(lock_owner.hold)


def without_flock() -> None:
  """Takes `flock` away, as some network file systems do."""

  def flock(handle, operation):
    del handle, operation
    raise OSError(errno.ENOLCK, 'No locks available')

  lock_owner.fcntl.flock = flock


class Racers:
  """Processes that wait for lines; use it as a context manager."""

  def __init__(self, count: int, *before: str):
    """`before` are functions of this module, called in each of them first."""
    self._count = count
    calls = ''.join(f'racers.{name}(); ' for name in before)
    self._code = (
      'import sys; from tests.helpers import racers; '
      f"assert 'jax' not in sys.modules; {calls}racers.race()"
    )

  def __enter__(self) -> 'Racers':
    command = [sys.executable, '-c', self._code]
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    self.processes = [
      subprocess.Popen(command, **pipes) for _ in range(self._count)
    ]
    try:
      assert self.hear() == ['ready'] * self._count
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *error: object) -> None:
    for process in self.processes:
      process.kill()
      process.communicate()

  def tell(self, text: str = '') -> None:
    for process in self.processes:
      with contextlib.suppress(BrokenPipeError):
        process.stdin.write(text + '\n')
        process.stdin.flush()

  def start(self, folder: object, mode: str, seed: object = 0) -> None:
    for number, process in enumerate(self.processes):
      with contextlib.suppress(BrokenPipeError):
        start = time.time() + 0.05
        process.stdin.write(f'{folder} {start} {mode} {seed}.{number}\n')
        process.stdin.flush()

  def codes(self) -> list[int]:
    """Returns their exit codes, once they have ended."""
    for process in self.processes:
      process.communicate()
    return [process.returncode for process in self.processes]

  def hear(self) -> list[str]:
    return [process.stdout.readline().strip() for process in self.processes]
