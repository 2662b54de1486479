"""One writer per workdir."""

import json
import os
import pathlib
import secrets
import socket
import threading
import time
import types

from absl import logging

from pyramid_jax import errors


NAME = 'lock'
HEARTBEAT_SECS = 10.0
# A lock whose owner has not been heard of for so long is taken over.
STALE_SECS = 60.0
# Tokens of the locks of this process.
_HELD: set[str] = set()


class Lock:
  """A file in the workdir that names its owner, kept fresh by a thread.

  Use it as a context manager.
  """

  def __init__(self, workdir: str | os.PathLike[str], takeover: bool = False):
    """Names the directory; nothing is written yet.

    Args:
      workdir: an existing directory.
      takeover: take the lock whoever holds it.
    """
    self._file = pathlib.Path(workdir) / NAME
    self._takeover = takeover
    self._token = secrets.token_hex(8)
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)

  def __enter__(self) -> 'Lock':
    """Takes the lock.

    Raises:
      UserError: another live process holds it, or the workdir is read-only.
    """
    try:
      self._acquire()
    except OSError as error:
      raise errors.UserError(
        f'cannot write in the workdir: {error}', errors.OUTPUT
      ) from error
    self._thread.start()
    return self

  def _acquire(self) -> None:
    owner = self._owner()
    if owner is not None:
      if not self._takeover and not _is_stale(owner, self._age()):
        raise errors.UserError(
          f'{self._file.parent} is in use by process {owner.get("pid")} on '
          f'{owner.get("host")} (heard of {self._age():.0f} s ago); stop it, '
          'or pass --takeover if it is gone.',
          errors.OUTPUT,
        )
      logging.warning('took over the lock of %s', owner)
      self._file.unlink(missing_ok=True)
    text = json.dumps(
      {'host': socket.gethostname(), 'pid': os.getpid(), 'token': self._token}
    )
    try:
      with self._file.open('x') as file:  # of two that race, one fails here
        file.write(text)
    except FileExistsError:
      raise errors.UserError(
        f'{self._file.parent} was locked by another process just now.',
        errors.OUTPUT,
      ) from None
    _HELD.add(self._token)

  def _owner(self) -> dict[str, object] | None:
    try:
      owner = json.loads(self._file.read_text())
    except FileNotFoundError:
      return None
    except ValueError:
      return {}
    return owner if isinstance(owner, dict) else {}

  def _age(self) -> float:
    try:
      return max(0.0, time.time() - self._file.stat().st_mtime)
    except FileNotFoundError:
      return STALE_SECS

  def _beat(self) -> None:
    while not self._stop.wait(HEARTBEAT_SECS):
      try:
        os.utime(self._file)
      except OSError as error:  # a full or vanished disk must not end training
        logging.warning('cannot renew %s: %s', self._file, error)

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    self._stop.set()
    self._thread.join()
    _HELD.discard(self._token)
    owner = self._owner()
    if owner is not None and owner.get('token') == self._token:
      self._file.unlink(missing_ok=True)


def _is_stale(owner: dict[str, object], age: float) -> bool:
  """Whether the owner is dead: known on this host, by silence elsewhere."""
  if age >= STALE_SECS:
    return True
  pid = owner.get('pid')
  if owner.get('host') != socket.gethostname() or not isinstance(pid, int):
    return False
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    return False
  # A container that restarts gives its processes the same numbers again.
  return pid == os.getpid() and owner.get('token') not in _HELD
