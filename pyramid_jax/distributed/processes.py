"""The processes of a run; no other module asks how many there are.

What processes tell each other goes through the store of keys and values of
jax's coordination service. So no device is involved: a process may hear
something while its devices compute, and waits for as long as another one works.

A message is sent once. All processes call `decided`, `collected` and `barrier`
in the same order within a topic; threads that run at the same time take topics
of their own.
"""

from collections import Counter
from collections.abc import Callable
import socket
import threading
from typing import Any
from typing import TypeVar

import jax
import numpy as np

from pyramid_jax import errors
from pyramid_jax.distributed import messages


PREFIX = 'pyramid_jax'
_POLL_MS = 1000  # of a wait, which then looks whether the process shall stop
_LATE = 'DEADLINE_EXCEEDED'

T = TypeVar('T')
_sent: Counter[str] = Counter()  # by topic, the messages so far
_lock = threading.Lock()


def process_part() -> tuple[int, int]:
  """Returns the index of this process and how many there are."""
  return jax.process_index(), jax.process_count()


def is_main_process() -> bool:
  """Whether this process writes the files that are written once."""
  return jax.process_index() == 0


def is_one_of_many() -> bool:
  """Whether the run has other processes."""
  return jax.process_count() > 1


def name() -> str:
  """Returns 'process INDEX on HOST', of this process."""
  return f'process {jax.process_index()} on {socket.gethostname()}'


def to_host(tree: Any) -> Any:
  """Returns a tree of arrays as NumPy arrays, with their whole content.

  It is the one way to fetch arrays of a mesh. Where one is split over the
  devices of several processes, all of these call it.
  """
  # What is whole here comes at the same time, and no guard of transfers minds.
  return jax.tree.map(np.asarray, jax.device_get(jax.tree.map(_whole, tree)))


def _whole(array: Any) -> Any:
  is_split = isinstance(array, jax.Array) and not array.is_fully_addressable
  if not is_split or array.is_fully_replicated:
    return array
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(array, tiled=True)


def decided(function: Callable[[], T], topic: str = 'main') -> T:
  """Returns what a function returns in process 0, which alone calls it.

  Its `UserError` is raised in all processes. Another exception is raised in
  process 0, whose end is that of the others.

  Args:
    function: returns a value of JSON's types; tuples become lists.
    topic: of threads that talk at the same time.
  """
  if not is_one_of_many():
    return function()
  key = _next_key(topic)
  if not is_main_process():
    return _value(messages.unpacked(_get(key)))
  try:
    message: dict[str, Any] = {'value': function()}
  except errors.UserError as error:
    message = {'error': str(error), 'code': error.code}
    set_key(key, messages.packed(message))
    error.is_shared = True
    raise
  set_key(key, messages.packed(message))
  return message['value']


def _value(message: dict[str, Any]) -> Any:
  if 'error' in message:
    error = errors.UserError(message['error'], message['code'])
    error.is_shared = True
    raise error
  return message['value']


def collected(value: T, topic: str = 'main') -> list[T]:
  """Returns the values of all processes, in their order, to all of them.

  Args:
    value: of JSON's types; tuples become lists.
    topic: of threads that talk at the same time.
  """
  index, count = process_part()
  if count == 1:
    return [value]
  key = _next_key(topic)
  set_key(f'{key}/{index}', messages.packed(value))
  return [messages.unpacked(_get(f'{key}/{other}')) for other in range(count)]


def any_says(flag: bool, topic: str = 'main') -> bool:
  """Whether the flag is set in any process."""
  return any(collected(flag, topic))


def barrier(topic: str = 'main') -> None:
  """Waits until all processes are here."""
  collected(None, topic)


def _next_key(topic: str) -> str:
  with _lock:
    _sent[topic] += 1
    return f'{PREFIX}/sent/{topic}/{_sent[topic]}'


def client() -> Any:
  """Returns the client of the coordination service, None without one."""
  from jax._src import distributed  # jax has no public name for it

  return distributed.global_state.client


def set_key(key: str, value: str) -> None:
  """Puts a text into the store of the coordination service."""
  client().key_value_set(key, value)


def _get(key: str) -> str:
  """Returns the text of a key, once some process has set it."""
  while True:
    try:
      return client().blocking_key_value_get(key, _POLL_MS)
    except jax.errors.JaxRuntimeError as error:
      if not str(error).startswith(_LATE):
        raise
