"""One writer per workdir.

`WORKDIR/lock` names its owner and is touched by a thread of the owner. It is
made by `link` and replaced by `rename` of a private file: both are atomic on
local and network file systems, and the file is whole from its first moment.
`flock` is not used: some network file systems keep it within one host, and
then it excludes no other host.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
import pathlib
import secrets
import socket
import threading
import time
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax.files import json_text


NAME = 'lock'
HEARTBEAT_SECS = 10.0
# An owner on another host that is silent for so long has lost its lock.
STALE_SECS = 60.0
# Tokens of the locks of this process.
_HELD: set[str] = set()
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK)

# The content of the lock file: host, boot, pid, start, token.
_Owner = dict[str, Any]
_NOBODY: _Owner = {'token': ''}  # of a file that is not there


class Lock:
  """A file in the workdir that names its owner, kept fresh by a thread.

  Use it as a context manager, and call `check` before anything is written.
  """

  def __init__(self, workdir: str | os.PathLike[str], takeover: bool = False):
    """Names an existing directory; nothing is written yet.

    With `takeover` the lock is taken whoever holds it.
    """
    self._file = pathlib.Path(workdir) / NAME
    self._takeover = takeover
    self._token = secrets.token_hex(8)
    self._private = self._file.with_name(f'{NAME}.{self._token}')
    self._lost = ''
    self._looked = time.monotonic()
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)

  def __enter__(self) -> 'Lock':
    """Takes the lock.

    Raises:
      UserError: another live process holds it, or the workdir is read-only.
    """
    _HELD.add(self._token)
    try:
      with self._private_file():
        self._acquire()
    except BaseException as error:
      _HELD.discard(self._token)
      if isinstance(error, OSError):
        raise errors.UserError(
          f'cannot write in {self._file.parent}: {error.strerror or error}.',
          errors.OUTPUT,
        ) from error
      raise
    self._thread.start()
    return self

  def check(self) -> None:
    """Raises a UserError once the lock was taken over or removed."""
    # A process that was stopped for a while looks before it continues.
    if time.monotonic() - self._looked > 2 * HEARTBEAT_SECS:
      self._look()
    if self._lost:
      raise errors.UserError(self._lost, errors.OUTPUT)

  @contextlib.contextmanager
  def _private_file(self) -> Iterator[None]:
    """Writes the file that is linked or renamed; it is gone afterwards."""
    try:
      self._private.write_text(json.dumps(_this_process(self._token)))
      yield
    finally:
      self._private.unlink(missing_ok=True)

  def _acquire(self) -> None:
    owner, age = _NOBODY, 0.0
    while owner is _NOBODY:  # which was given back just now
      if self._publish(self._file):
        return
      owner, age = self._read(self._file)
    if not self._takeover and not _is_stale(owner, age):
      raise errors.UserError(
        f'{self._file.parent} is in use by process {owner.get("pid")} on '
        f'{owner.get("host")} (heard of {age:.0f} s ago); stop it, or pass '
        '--takeover if it is gone.',
        errors.OUTPUT,
      )
    with self._claimed(owner['token']) as is_claimed:
      if is_claimed:
        os.replace(self._private, self._file)
    if not is_claimed:
      raise errors.UserError(
        f'{self._file.parent} was locked by another process just now.',
        errors.OUTPUT,
      )
    logging.warning('took over the lock of %s', owner)

  @contextlib.contextmanager
  def _claimed(self, token: str) -> Iterator[bool]:
    """Claims the right to change the lock of an owner; yields whether it may.

    Of all processes that find the owner dead, one makes the claim
    `lock.TOKEN.next`; the claim of one that died in between is claimed in turn.
    A lock never comes back once it is replaced, so whoever holds the claim
    while the lock is still that owner's is alone.
    """
    claims, claimed = [], False
    try:
      last = token
      while not claimed:
        claims.append(self._file.with_name(f'{NAME}.{last}.next'))
        claimed = self._publish(claims[-1])
        if not claimed:
          other, age = self._read(claims[-1])
          if not _is_stale(other, age):
            break
          last = other['token']
      yield claimed and self._read(self._file)[0]['token'] == token
    finally:
      for claim in claims if claimed else ():
        claim.unlink(missing_ok=True)

  def _publish(self, target: pathlib.Path) -> bool:
    """Gives the private file a second name, unless that name is taken."""
    try:
      os.link(self._private, target)
    except FileExistsError:
      # Network file systems answer so to a repeated request.
      with contextlib.suppress(FileNotFoundError):
        return target.samefile(self._private)
      return False
    except OSError as error:
      if error.errno not in _NO_LINKS:
        raise
      try:
        with target.open('x') as file:
          file.write(self._private.read_text())
      except FileExistsError:
        return False
    return True

  def _read(self, file: pathlib.Path) -> tuple[_Owner, float]:
    """Returns the owner and the seconds since it was touched.

    The clock is the file system's. A file that is empty or half written has an
    owner without a name, whose token is the file's identity.
    """
    try:
      os.utime(self._private)
      now = self._private.stat().st_mtime
      stat, text = file.stat(), file.read_text(errors='replace')
    except FileNotFoundError:
      return _NOBODY, 0.0
    owner = None
    with contextlib.suppress(ValueError):
      owner = json_text.loads(text)
    if not isinstance(owner, dict) or not _is_name(owner.get('token')):
      owner = {'token': f'{stat.st_ino:x}-{stat.st_mtime_ns:x}'}
    return owner, max(0.0, now - stat.st_mtime)

  def _beat(self) -> None:
    while not self._lost and not self._stop.wait(HEARTBEAT_SECS):
      self._look()

  def _look(self) -> None:
    """Touches the lock, or notes that it is another's."""
    self._looked = time.monotonic()
    try:
      owner = json_text.loads(self._file.read_text())
      if owner['token'] == self._token:
        os.utime(self._file)
      else:
        self._lost = (
          f'{self._file.parent} was taken over by process '
          f'{owner.get("pid")} on {owner.get("host")}; stopped.'
        )
    except FileNotFoundError:
      self._lost = f'{self._file} was removed; stopped.'
    except (OSError, ValueError, LookupError, TypeError) as error:
      # A full or slow disk must not end training.
      logging.warning('cannot renew %s: %s', self._file, error)

  def __exit__(self, *error: object) -> None:
    self._stop.set()
    self._thread.join()
    _HELD.discard(self._token)
    try:
      with self._private_file(), self._claimed(self._token) as is_mine:
        if is_mine:
          self._file.unlink(missing_ok=True)
    except OSError as problem:  # dead owners lose their lock
      logging.warning('cannot remove %s: %s', self._file, problem)


def _this_process(token: str) -> _Owner:
  return {
    'host': socket.gethostname(),
    'boot': _boot(),
    'pid': os.getpid(),
    'start': _start(os.getpid()),
    'token': token,
  }


def _boot() -> str | None:
  """Returns the id of the boot, by which machines of one name differ."""
  with contextlib.suppress(OSError):
    return pathlib.Path('/proc/sys/kernel/random/boot_id').read_text().strip()
  return None


def _start(pid: int) -> str | None:
  """Returns when a process began, by which two of one number differ."""
  with contextlib.suppress(OSError, IndexError):
    text = pathlib.Path(f'/proc/{pid}/stat').read_text()
    return text.rpartition(')')[2].split()[19]
  return None


def _is_name(token: object) -> bool:
  return isinstance(token, str) and token.isalnum() and len(token) < 100


def _is_stale(owner: _Owner, age: float) -> bool:
  """Whether the owner is dead; elsewhere than here it is if it is silent."""
  pid, boot = owner.get('pid'), owner.get('boot', _boot())
  is_here = owner.get('host') == socket.gethostname() and boot == _boot()
  if not is_here or not isinstance(pid, int):
    return age >= STALE_SECS
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except PermissionError:
    pass  # it is alive, and another user's
  start = _start(pid)
  if start is not None and owner.get('start', start) != start:
    return True
  # A container that restarts gives its processes the same numbers again.
  return pid == os.getpid() and owner['token'] not in _HELD
