"""One writer for a workdir in a store of objects.

`WORKDIR/lock/N` names the owner N, counted from 1; the largest N is the one.
Who wants the lock creates the object after the largest: a store lets one of
all who try do so. An owner writes its object again every `HEARTBEAT_SECS`, and
in the end once more, saying that it is released; so numbers never come back.

An owner is dead if its process is seen to be on this machine, or if its object
is `STALE_SECS` old by the clock of the store; whoever finds another owner waits
for so long, unless that one writes its object meanwhile. An owner that was
silent for a minute and is replaced may be in the middle of a write; it stops at
its next look, which comes before every checkpoint and every file, and otherwise
every second of training.
"""

import json
import os
import secrets
import threading
import time
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax.files import json_text
from pyramid_jax.files import releases
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.runs import lock_owner


NAME = 'lock'
HEARTBEAT_SECS = 10.0
LOOK_SECS = 1.0  # between two looks of `check`
POLL_SECS = 1.0  # between two looks of who waits
_RELEASED = 'released'
_HELD: set[str] = set()  # tokens of this process
_ASK = 'ask-'  # an object whose time is now, on the clock of the store


class StoreLock:
  """The same as `lock.Lock`, for a workdir in a store."""

  def __init__(
    self,
    workdir: str | os.PathLike[str],
    takeover: bool = False,
    is_owner: bool = True,
  ):
    """Names the workdir; nothing is written yet. See `lock.Lock`."""
    self._workdir = stores.path(workdir)
    self._folder = self._workdir / NAME
    self._takeover = takeover
    self._is_owner = is_owner
    self._owner = lock_owner.this_process(secrets.token_hex(8), False)
    self._number = 0  # while it is held
    self._lost = ''
    self._looked = self._warned = -float('inf')
    self._gate = threading.Lock()  # of the looks
    self._stop = threading.Event()
    self._thread = threading.Thread(target=self._beat, daemon=True)
    self._release_at_end = releases.released(self._release)

  def __enter__(self) -> 'StoreLock':
    """Takes the lock.

    Raises:
      UserError: another live process holds it, or the store does not answer.
    """
    if self._is_owner:
      with errors.writing(self._workdir):
        self._acquire()
      _HELD.add(self._owner['token'])
      self._release_at_end.__enter__()
      self._thread.start()
    return self

  def __exit__(self, *error: Any) -> None:
    if self._is_owner and self._owner['pid'] == os.getpid():
      self._stop.set()
      self._thread.join()
      self._release_at_end.__exit__(None, None, None)
      self._release()

  def check(self, now: bool = False) -> None:
    """Raises a UserError once the lock was taken over or removed.

    It looks at the store if the last look was a while ago, or with `now`.
    """
    if not self._is_owner:
      return
    if self._owner['pid'] != os.getpid():
      self._lost = f'{self._folder} belongs to the parent of this process.'
    elif now or time.monotonic() - self._looked > LOOK_SECS:
      self._look()
    if self._lost:
      raise errors.UserError(self._lost, errors.OUTPUT)

  def _acquire(self) -> None:
    """Creates the object after the largest number, once nobody lives there."""
    last = 0
    while True:
      last = max(last, self._largest())
      if last:
        self._await_end(last)
      path = self._folder / str(last + 1)
      if self._create(path):
        break
      last += 1  # another process was faster
    self._number = last + 1
    if last:
      owner = self._read(last)
      if not owner.get(_RELEASED):
        logging.warning('took over the lock of %s', owner)
        self._await_stop(last, owner)
    for name in stores.names(self._folder):
      if name.isdecimal() and int(name) <= last:
        stores.remove(self._folder / name)

  def _create(self, path: stores.Path) -> bool:
    """Makes an object; it is ours even if the answer to a request was lost."""
    data = json.dumps(self._owner).encode()
    if retries.repeat(lambda: stores.create(path, data), path):
      return True
    return self._read(int(path.name)).get('token') == self._owner['token']

  def _largest(self) -> int:
    names = stores.names(self._folder)
    return max((int(name) for name in names if name.isdecimal()), default=0)

  def _read(self, number: int) -> lock_owner.Owner:
    """Returns an owner, one that released it if the object is gone."""
    path = self._folder / str(number)
    try:
      owner = json_text.read(path)
    except FileNotFoundError:
      return {_RELEASED: True}
    except ValueError:
      return {}
    return owner if isinstance(owner, dict) else {}

  def _is_ours(self, owner: lock_owner.Owner) -> bool:
    return owner.get('token') in _HELD

  def _await_end(self, number: int) -> None:
    """Returns once an owner has lost its lock; a live one is a UserError."""
    first: float | None = None
    while True:
      owner = self._read(number)
      lives = lock_owner.process_lives(owner, self._is_ours(owner))
      if owner.get(_RELEASED) or self._takeover or lives is False:
        return
      seen, age = self._seen(number)
      if first is None:
        first = seen
      if age >= lock_owner.STALE_SECS:
        return
      if lives or seen != first:
        raise errors.UserError(
          f'{self._workdir} is in use by process {owner.get("pid")} on'
          f' {owner.get("host")} (heard of {age:.0f} s ago); stop it, or pass'
          ' --takeover if it is gone.',
          errors.OUTPUT,
        )
      logging.log_every_n_seconds(
        logging.INFO,
        'waiting for the lock of process %s on %s, silent for %.0f s',
        lock_owner.STALE_SECS / 4,
        *(owner.get('pid'), owner.get('host'), age),
      )
      time.sleep(POLL_SECS)

  def _seen(self, number: int) -> tuple[float, float]:
    """Returns when an owner wrote its object, and how many seconds ago."""
    path = self._folder / f'{_ASK}{self._owner["token"]}'
    stores.put(path, b'')
    try:
      now = stores.modified(path) or 0.0
      then = stores.modified(self._folder / str(number))
    finally:
      stores.remove(path)
    then = now - lock_owner.STALE_SECS if then is None else then
    return then, max(0.0, now - then)

  def _await_stop(self, number: int, owner: lock_owner.Owner) -> None:
    """Waits until an owner that lost its lock has said so, within limits."""
    end = time.monotonic() + lock_owner.STALE_SECS
    while time.monotonic() < end:
      if self._read(number).get(_RELEASED) or self._seen(number)[1] >= (
        lock_owner.STALE_SECS
      ):
        return
      if lock_owner.process_lives(owner, self._is_ours(owner)) is False:
        return
      time.sleep(POLL_SECS)
    logging.warning('process %s has not stopped', owner.get('pid'))

  def _beat(self) -> None:
    while not self._lost and not self._stop.wait(HEARTBEAT_SECS):
      self._look(renew=True)

  def _look(self, renew: bool = False) -> None:
    """Notes that the lock is another's, or says that this process lives."""
    with self._gate:
      self._looked = time.monotonic()
      path = self._folder / str(self._number)
      try:
        numbers = {int(x) for x in stores.names(self._folder) if x.isdecimal()}
        largest = max(numbers, default=0)
        if largest > self._number:
          owner = self._read(largest)
          self._lost = (
            f'{self._workdir} was taken over by process {owner.get("pid")} on'
            f' {owner.get("host")}; stopped.'
          )
        elif self._number not in numbers:
          self._lost = f'{path} was removed; stopped.'
        elif renew:
          stores.put(path, json.dumps(self._owner).encode())
      except OSError as error:
        # A store that is away for a while must not end training.
        if self._looked - self._warned > lock_owner.STALE_SECS:
          self._warned = self._looked
          logging.warning('cannot renew %s: %s', path, error)

  def _release(self) -> None:
    """Says that the lock is free; also of one that was lost."""
    _HELD.discard(self._owner['token'])
    number, self._number = self._number, 0
    if not number:
      return
    path = self._folder / str(number)
    try:
      if stores.modified(path) is not None:
        owner = {**self._owner, _RELEASED: True}
        stores.put(path, json.dumps(owner).encode())
    except OSError as problem:
      logging.warning('cannot release %s: %s', path, problem)
