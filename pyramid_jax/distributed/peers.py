"""The end of one process of a run is that of all.

A process that fails tells the others, which a thread of theirs hears: their
devices would wait for it for ever. One that is killed tells nobody. Where the
devices exchange arrays by sockets (CPUs), an operation of the others fails as
its connection closes, and they end with RESTART; elsewhere jax misses its
heartbeat and aborts them (exit code 134).
"""

from collections.abc import Iterator
import contextlib
import threading
import time
from typing import Any

import jax

from pyramid_jax import errors
from pyramid_jax.distributed import messages
from pyramid_jax.distributed import processes
from pyramid_jax.files import releases
from pyramid_jax.runs import entry
from pyramid_jax.runs import leaving


POLL_SECS = 0.5
# Process 0 has the service by which the others hear: it waits for them.
_LINGER_SECS = 5.0
_ENDED = f'{processes.PREFIX}/ended'
_HEARD = f'{processes.PREFIX}/heard'
_TOPIC = 'end'
_follows = threading.Event()  # whether this process ends with another
_MORE = 500  # characters of another process's message
_CLOSED = ('closed by peer', 'reset by peer', 'Broken pipe')


@contextlib.contextmanager
def watching() -> Iterator[None]:
  """Tells the other processes of an error in the context, and hears of theirs.

  The context ends when the work of all has ended, or when one has failed. An
  error that all of them raise is not sent.
  """
  done = threading.Event()
  thread = threading.Thread(
    target=_listen, args=(done,), name='peers', daemon=True
  )
  with releases.released(_tell_end):
    thread.start()
    try:
      yield
      processes.barrier(_TOPIC)
    except BaseException as error:
      if is_shared(error):
        processes.barrier(_TOPIC)
        raise
      done.set()
      if is_lost_connection(error):
        _follow_another()
        error = _lost(error)
      _tell(getattr(error, 'code', errors.BUG), _words(error))
      _stay_away()
      raise error
    finally:
      done.set()


def is_shared(error: BaseException) -> bool:
  """Whether all processes raise an error at the same place."""
  return getattr(error, 'is_shared', False)


def is_lost_connection(error: BaseException) -> bool:
  """Whether an operation failed because another process is not there.

  Gloo, by which CPUs exchange arrays, names the state of its socket.
  """
  if not isinstance(error, jax.errors.JaxRuntimeError):
    return False
  text = str(error)
  return 'gloo' in text.lower() and any(x in text for x in _CLOSED)


def _lost(error: BaseException) -> errors.UserError:
  """Returns the error of a process whose connection to another is lost."""
  first = str(error).partition('\n')[0]
  lost = errors.UserError(
    f'the connection to another process is lost: {first}', errors.RESTART
  )
  lost.__cause__ = error
  return lost


def _follow_another() -> None:
  """Ends this process with the code of another that said why it ended."""
  index, _ = processes.process_part()
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    ended = dict(processes.client().key_value_dir_get(_ENDED))
    ended.pop(f'{_ENDED}/{index}', None)
    if ended:
      _follow(messages.unpacked(ended[min(ended)]))


def _words(error: BaseException) -> str:
  return str(error) or type(error).__name__


def _tell_end() -> None:
  """Tells why this process ends at once, unless it follows another."""
  if leaving.ending is not None and not _follows.is_set():
    _tell(*leaving.ending)


def _tell(code: int, message: str) -> None:
  """Tells the others, and in process 0 waits until they have heard."""
  index, _ = processes.process_part()
  text = messages.packed(
    {'code': code, 'from': processes.name(), 'why': message}
  )
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    processes.set_key(f'{_ENDED}/{index}', text)
    _linger()


def _linger() -> None:
  """Keeps the service of process 0 until the others know that they end.

  Those that end by themselves take a moment, in which jax would abort them.
  """
  index, count = processes.process_part()
  end = time.monotonic() + _LINGER_SECS
  while index == 0 and time.monotonic() < end:
    heard = processes.client().key_value_dir_get(_HEARD)
    ended = dict(processes.client().key_value_dir_get(_ENDED))
    known = {key.rpartition('/')[2] for key in (*dict(heard), *ended)}
    if len(known | {'0'}) == count:
      if ended.keys() - {f'{_ENDED}/0'}:
        time.sleep(entry.LEAVE_SECS + POLL_SECS)
      return
    time.sleep(0.05)


def _stay_away() -> None:
  """Keeps jax from waiting, when the process ends, for those that are gone."""
  from jax._src import distributed  # jax has no public name for it

  distributed.global_state.shutdown = lambda: None  # type: ignore


def _listen(done: threading.Event) -> None:
  index, _ = processes.process_part()
  while not done.wait(POLL_SECS):
    try:
      ended = dict(processes.client().key_value_dir_get(_ENDED))
    except Exception:  # jax says what happened to the service
      continue
    ended.pop(f'{_ENDED}/{index}', None)  # sent as this process leaves
    if ended and not done.is_set():
      _follow(messages.unpacked(ended[min(ended)]))
      return


def _follow(message: dict[str, Any]) -> None:
  """Ends this process with the code of the one that ended."""
  index, _ = processes.process_part()
  text = f'{message["from"]} ended: {message["why"][:_MORE]}'
  _follows.set()
  with contextlib.suppress(jax.errors.JaxRuntimeError):
    processes.set_key(f'{_HEARD}/{index}', '')
    _linger()
  with leaving.LAST_WORD:
    leaving.at_once(message['code'], text)
