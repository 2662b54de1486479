"""One writer per workdir.

`WORKDIR/lock` names its owner, who holds `flock` on it and touches it from a
thread; `lock_owner` says who lives. The file is made by `link` and replaced by
`rename` of a private file, both atomic on local and network file systems: it is
whole, and held, from its first moment.

An owner looks whether the lock is still its own before it writes. Where
`flock` does not reach other hosts, one that was silent for a minute and is
replaced may be in the middle of a write; it stops at its next look. A workdir
in a store has a `store_lock`.
"""

from collections.abc import Iterator
import contextlib
import errno
import json
import os
import pathlib
import re
import secrets
import threading
import time
from typing import Protocol

from absl import logging

from pyramid_jax import errors
from pyramid_jax.files import releases
from pyramid_jax.files import stores
from pyramid_jax.runs import lock_owner
from pyramid_jax.runs import store_lock


NAME = 'lock'
HEARTBEAT_SECS = 10.0
LOOK_SECS = 1.0  # between two looks of `check`
PATIENCE_SECS = 2.0  # for others who are just changing the lock
# Private files and claims, which a process that was killed leaves.
_LEFT = re.compile(rf'{NAME}\.([0-9a-f]{{16}}|[0-9a-f-]+(\.next)+)')
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EMLINK)
_TOPIC = 'lock'  # of what processes tell each other
_HELD: dict[str, 'Lock'] = {}  # by token, those of this process


class Lock:
  """A file in the workdir that names its owner.

  Use it as a context manager, and call `check` before anything is written.
  """

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    takeover: bool = False,
    is_owner: bool = True,
  ):
    """Names an existing directory; nothing is written yet.

    Args:
      workdir: the directory.
      takeover: whether the lock is taken whoever holds it; an owner that can be
        watched is given the time to stop.
      is_owner: False for the processes of a run that leave the lock to another
        of them; they hold and check nothing.
    """
    self._file = pathlib.Path(workdir) / NAME
    self._takeover = takeover
    self._is_owner = is_owner
    self._is_local = False
    self._token = secrets.token_hex(8)
    self._private = self._file.with_name(f'{NAME}.{self._token}')
    self._handles: list[int] = []  # The lock and its copies, with `flock`.
    self._is_taken = False
    self._lost = ''
    self._looked = time.monotonic()
    self._warned = -float('inf')
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._at_end = contextlib.ExitStack()

  def __enter__(self) -> 'Lock':
    """Takes the lock.

    Raises:
      UserError: another live process holds it, or the workdir is read-only.
    """
    if not self._is_owner:
      return self
    _HELD[self._token] = self
    self._at_end.enter_context(releases.released(self._release))
    try:
      with errors.writing(self._file.parent):
        self._is_local = lock_owner.is_local(self._file.parent)
        self._acquire()
    except BaseException:
      self._release()
      raise
    self._thread.start()
    return self

  def __exit__(self, *error: object) -> None:
    # A child that was forked has no part in it.
    if self._is_owner and self._token in _HELD:
      self._stop.set()
      self._thread.join()
      self._release()

  def check(self, now: bool = False) -> None:
    """Raises a UserError once the lock was taken over or removed.

    It looks at the file if the last look was a while ago, as after the process
    was stopped, or with `now`: before a write.
    """
    if not self._is_owner:
      return
    if now or time.monotonic() - self._looked > LOOK_SECS:
      self._look()
    if self._lost:
      raise errors.UserError(self._lost, errors.OUTPUT)

  def _acquire(self) -> None:
    """Publishes a private file as the lock, in place of one that is left."""
    folder, end = self._file.parent, time.monotonic() + PATIENCE_SECS
    with self._private_file(self._token) as handle:
      while not self._publish(self._file, handle):
        with lock_owner.opened(self._file) as seen:
          if seen is None:  # It was given back just now.
            continue
          owner = lock_owner.read(seen)
          if not self._takeover and self._lives(seen, owner, handle):
            raise errors.UserError(
              f'{folder} is in use by process {owner.get("pid")} on'
              f' {owner.get("host")} (heard of {_age(seen, handle):.0f} s ago);'
              ' stop it, or pass --takeover if it is gone.',
              errors.OUTPUT,
            )
          with self._claimed(owner['token'], handle) as is_claimed:
            if is_claimed:
              os.replace(self._private, self._file)
          if is_claimed:
            self._is_taken = True
            logging.warning('took over the lock of %s', owner)
            _await(seen, owner)
            break
        if time.monotonic() > end:
          raise errors.UserError(
            f'{folder} was locked by another process just now.', errors.OUTPUT
          )
        time.sleep(0.01)
      self._is_taken = True
    self._clean()

  @contextlib.contextmanager
  def _private_file(self, token: str) -> Iterator[int]:
    """Writes and holds a file that can be linked or renamed.

    Its name is gone afterwards; it stays open until the lock is given back.
    """
    self._private = self._file.with_name(f'{NAME}.{token}')
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
      handle = os.open(self._private, flags, 0o644)
      self._handles.append(handle)
      owner = lock_owner.this_process(token, lock_owner.hold(handle))
      _write(handle, json.dumps(owner).encode())
      yield handle
    finally:
      with contextlib.suppress(OSError):
        self._private.unlink(missing_ok=True)

  def _publish(self, target: pathlib.Path, handle: int) -> bool:
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
      return self._copy(target, handle)
    return True

  def _copy(self, target: pathlib.Path, handle: int) -> bool:
    """Writes and holds a copy of the private file, where there are no links."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
      copy = os.open(target, flags, 0o644)
    except FileExistsError:
      return False
    self._handles.append(copy)
    try:
      lock_owner.hold(copy)
      _write(copy, os.pread(handle, 1 << 16, 0))
    except OSError:
      target.unlink(missing_ok=True)
      raise
    return True

  @contextlib.contextmanager
  def _claimed(self, token: str, handle: int) -> Iterator[bool]:
    """Claims the right to change the lock of an owner; yields whether it may.

    Of all processes that find the owner dead, one makes the claim
    `lock.TOKEN.next`; the claim of one that died in between is claimed in turn.
    A lock never comes back once it is replaced, so whoever holds the last claim
    while the lock and the other claims are still those of the dead is alone.
    """
    names = [NAME]  # of the lock and of claims
    dead = [token]  # whose they are, but for the last
    is_claimed = is_alone = False
    try:
      while not is_claimed:
        # An owner that died as it gave the lock back has claimed its own.
        again = '.next' * dead.count(dead[-1])
        names.append(f'{NAME}.{dead[-1]}{again}')
        is_claimed = self._publish(self._file.with_name(names[-1]), handle)
        if not is_claimed:
          other = self._dead(names[-1], handle)
          if not other:
            break
          dead.append(other)
      found = [self._token_of(name) for name in names[:-1]]
      is_alone = is_claimed and found == dead
      yield is_alone
    finally:
      # Unless it was alone, the other claims may be those of somebody alive.
      own = names[1:] if is_alone else names[-1:]
      for name in own if is_claimed else ():
        self._file.with_name(name).unlink(missing_ok=True)

  def _dead(self, name: str, own: int) -> str:
    """Returns the token of a claim whose owner is dead, '' otherwise."""
    with lock_owner.opened(self._file.with_name(name)) as seen:
      if seen is None:
        return ''
      owner = lock_owner.read(seen)
      return '' if self._lives(seen, owner, own) else owner['token']

  def _token_of(self, name: str) -> str:
    """Returns the token in the lock or a claim, '' if it is not there."""
    with lock_owner.opened(self._file.with_name(name)) as seen:
      return '' if seen is None else lock_owner.read(seen)['token']

  def _lives(self, seen: int, owner: lock_owner.Owner, own: int) -> bool:
    age, is_ours = _age(seen, own), owner['token'] in _HELD
    return lock_owner.is_alive(seen, owner, age, self._is_local, is_ours)

  def _clean(self) -> None:
    """Removes what processes that were killed left of taking the lock."""
    with contextlib.suppress(OSError), os.scandir(self._file.parent) as entries:
      for entry in entries:
        if not _LEFT.fullmatch(entry.name):
          continue
        with lock_owner.opened(pathlib.Path(entry.path)) as seen:
          if seen is None:
            continue
          if not self._lives(seen, lock_owner.read(seen), self._handles[0]):
            os.unlink(entry.path)

  def _beat(self) -> None:
    while not self._lost and not self._stop.wait(HEARTBEAT_SECS):
      self._look()

  def _look(self) -> None:
    """Touches the lock, or notes that it is another's."""
    self._looked = time.monotonic()
    try:
      with lock_owner.opened(self._file) as seen:
        if seen is None:
          self._lost = f'{self._file} was removed; stopped.'
          return
        owner = lock_owner.read(seen)
        if owner['token'] == self._token:
          os.utime(seen)
        elif 'pid' not in owner:
          self._lost = f'{self._file} was overwritten; stopped.'
        else:
          self._lost = (
            f'{self._file.parent} was taken over by process {owner["pid"]} on'
            f' {owner.get("host")}; stopped.'
          )
    except OSError as error:
      # A full or slow disk must not end training.
      if self._looked - self._warned > lock_owner.STALE_SECS:
        self._warned = self._looked
        logging.warning('cannot renew %s: %s', self._file, error)

  def _release(self) -> None:
    """Removes the lock, if it is this one's, and closes it."""
    try:
      if self._is_taken:
        with (
          self._private_file(secrets.token_hex(8)) as handle,
          self._claimed(self._token, handle) as is_mine,
        ):
          if is_mine:
            self._file.unlink(missing_ok=True)
    except OSError as problem:  # Nobody's lock is taken by the next.
      logging.warning('cannot remove %s: %s', self._file, problem)
    finally:
      _HELD.pop(self._token, None)
      self._close()
      self._at_end.close()

  def _close(self) -> None:
    for handle in self._handles:
      os.close(handle)
    self._handles.clear()

  def _leave(self) -> None:
    """Lets go of the lock in a child: closing it there frees nothing here."""
    self._lost = f'{self._file} belongs to the parent of this process.'
    self._close()


class Held(Protocol):
  """A lock that this run holds, see `shared`."""

  def check(self, now: bool = False) -> None:
    """Raises a UserError once the lock is another's, see `Lock.check`."""


@contextlib.contextmanager
def shared(
  workdir: str | os.PathLike[str], takeover: bool = False
) -> Iterator[Held]:
  """Has process 0 of a run hold the lock of a folder, see `Lock`.

  All processes of the run enter the context; a UserError is one in each.
  """
  from pyramid_jax.distributed import processes  # loads jax

  kind = store_lock.StoreLock if stores.is_remote(workdir) else Lock
  held = kind(workdir, takeover, processes.is_main_process())
  with contextlib.ExitStack() as stack:

    def take() -> None:
      stack.enter_context(held)

    processes.decided(take, _TOPIC)
    yield held


def _leave_all() -> None:
  for held in _HELD.values():
    held._leave()
  _HELD.clear()


os.register_at_fork(after_in_child=_leave_all)


def _write(handle: int, data: bytes) -> None:
  with open(handle, 'wb', closefd=False) as file:
    file.write(data)


def _age(seen: int, own: int) -> float:
  """Returns the seconds since a file was touched, on the file system's clock.

  `own` is an open file of this process in the same folder.
  """
  os.utime(own)
  return max(0.0, os.fstat(own).st_mtime - os.fstat(seen).st_mtime)


def _await(handle: int, owner: lock_owner.Owner) -> None:
  """Waits until an owner that lost its lock has stopped, within limits."""
  end = time.monotonic() + lock_owner.STALE_SECS
  if lock_owner.is_held(handle):
    logging.warning('waiting for process %s to stop', owner.get('pid'))
  while lock_owner.is_held(handle):
    if time.monotonic() > end:
      logging.warning('process %s has not stopped', owner.get('pid'))
      return
    time.sleep(0.05)
