"""An object of a store that grows by whole records, such as lines.

A store cannot append. What was added is kept in memory, and the whole object is
sent again every `PUT_SECS`, by `flush`, and in the end. A process that is
killed with SIGKILL, or whose machine is lost, loses what it added since the
object was sent last. A store that does not answer for a while is a warning, for
longer than `PATIENCE_SECS` an error. An object that somebody else wrote since
then is left to them.
"""

import errno
import os
import threading
import time

from absl import logging

from pyramid_jax import errors
from pyramid_jax.files import releases
from pyramid_jax.files import retries
from pyramid_jax.files import stores


PUT_SECS = 30.0
PATIENCE_SECS = 300.0


class GrownObject:
  """The same as `grown_file.GrownFile`, in a store."""

  def __init__(self, path: stores.Path, is_new: bool = False):
    """Takes what is there, and writes the object.

    Args:
      path: of the object.
      is_new: whether it must not be there.

    Raises:
      UserError: it cannot be read or written.
    """
    self._path = path
    self._gate = threading.Lock()  # of the data
    self._sending = threading.Lock()
    self._problem: BaseException | None = None
    self._end = threading.Event()
    with errors.writing(path):
      found = retries.repeat(lambda: self._begin(is_new), path)
      self._version = stores.version(path)
    self._data = bytearray(found)
    self._is_sent = True
    self._sent = time.monotonic()
    self._thread = threading.Thread(target=self._repeat, daemon=True)
    self._thread.start()

  def _begin(self, is_new: bool) -> bytes:
    """Returns what is there; writes an empty object where nothing is."""
    if stores.create(self._path, b''):
      return b''
    if is_new:
      raise FileExistsError(errno.EEXIST, '', os.fspath(self._path))
    return self._path.read_bytes()

  @property
  def size(self) -> int:
    """Bytes of all records."""
    with self._gate:
      return len(self._data)

  def add(self, record: bytes) -> None:
    """Appends a record, which is sent later.

    Raises:
      UserError: the object could not be sent for long.
    """
    self._check()
    with self._gate:
      self._data += record
      self._is_sent = False

  def flush(self) -> None:
    """Sends what was added; UserError once that has failed for long."""
    self._try()
    self._check()

  def _check(self) -> None:
    problem = self._problem
    is_late = time.monotonic() - self._sent > PATIENCE_SECS
    if problem and (is_late or isinstance(problem, errors.UserError)):
      with errors.writing(self._path):
        raise problem

  def close(self) -> None:
    """Sends what was added, once; UserError if that fails."""
    if not self._end.is_set():
      self._end.set()
      with errors.writing(self._path):
        retries.repeat(self._send, self._path)

  def _send(self) -> None:
    with self._sending:
      with self._gate:
        if self._is_sent:
          self._problem, self._sent = None, time.monotonic()
          return
        data = bytes(self._data)
        self._is_sent = True
      try:
        self._check_owner(data)
        stores.put(self._path, data)
        self._version = stores.version(self._path)
      except BaseException:
        self._is_sent = False
        raise
      self._problem, self._sent = None, time.monotonic()

  def _check_owner(self, data: bytes) -> None:
    """Raises a UserError for an object that is not what was sent from here.

    What was sent, without an answer, is the beginning of the data.
    """
    if stores.version(self._path) == self._version:
      return
    if not data.startswith(self._path.read_bytes()):
      raise errors.UserError(
        f'{self._path} was written by another process; stopped.', errors.OUTPUT
      )

  def _try(self) -> None:
    try:
      retries.repeat(self._send, self._path)
    except Exception as error:
      self._problem = error
      logging.warning('cannot write %s for now: %s', self._path, error)

  def _repeat(self) -> None:
    """Sends what was added from time to time."""
    with releases.released(self._send):
      while not self._end.wait(PUT_SECS):
        self._try()
