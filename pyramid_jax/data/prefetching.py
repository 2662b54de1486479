"""The way of batches to the device: made by threads, ahead of the steps.

The examples of a batch are spread over the threads, one after another, so that
a batch is made as fast as the machine can and few of them are in work. Which
examples a batch has is decided by `batches.Batches` alone: not by the number of
threads, nor by which of them is first.

Threads, not processes: decoders and filters of Pillow release the lock of the
interpreter, and processes have to hand every pixel over. Not `grain`: its
threads keep the order, too, but its position counts what a process has read, so
a run would not go on with another number of processes, and it bounds what is
ahead by number, not bytes.
"""

from collections import deque
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import itertools
import threading
from typing import Generic
from typing import Protocol
from typing import TypeVar
from typing import runtime_checkable

import numpy as np

from pyramid_jax.data import batches as batches_lib
from pyramid_jax.runs import stopping


Arrays = batches_lib.Arrays
Placed = TypeVar('Placed')
DEPTH = 2  # batches ahead of the one in use
BYTES = 4 << 30  # of host arrays ahead of the batch in use


@runtime_checkable
class Rowwise(Protocol):
  """A source whose examples are made one by one, in any thread."""

  def row(self, index: int, draw: np.uint64) -> Arrays:
    """Returns the host arrays of an example."""

  def stacked(self, rows: Sequence[Arrays]) -> Arrays:
    """Returns host arrays (B, ...) of examples: what `batch` would return."""


class _Work(Generic[Placed]):
  """A batch that is being made.

  Attributes:
    result: the batch on the mesh, or the exception of its first example that
      has one.
    nbytes: of the host arrays, once they are there.
    parts: on how many parts threads can work at the same time.
  """

  def __init__(
    self,
    batches: batches_lib.Batches,
    step: int,
    place: Callable[[Arrays], Placed],
  ):
    self.result: futures.Future[Placed] = futures.Future()
    self.nbytes = 0
    self._place = place
    self._lock = threading.Lock()
    self._errors: dict[int, BaseException] = {}
    source = batches.reader
    self._make: Callable[[int], Arrays]
    self._join: Callable[[Sequence[Arrays]], Arrays]
    if isinstance(source, Rowwise):
      indices, draws = batches.order(step)
      row = source.row
      self._make = lambda i: row(int(indices[i]), np.uint64(draws[i]))
      self._join, count = source.stacked, len(indices)
    else:
      self._make = lambda i: batches.at(step)
      self._join, count = lambda parts: parts[0], 1
    self.parts = count
    self._parts: list[Arrays] = [{}] * count
    self._begun = self._done = 0

  def run(self, is_dropped: Callable[[], bool]) -> None:
    """Makes examples until none is left; who makes the last one ends it."""
    while not is_dropped():
      with self._lock:
        part = self._begun
        if part >= self.parts:
          return
        self._begun += 1
      try:
        self._parts[part] = self._make(part)
      except BaseException as error:  # It is raised where the batch is taken.
        with self._lock:
          self._errors[part] = error
          self.parts = self._begun  # What comes before it has begun.
      with self._lock:
        self._done += 1
        is_last = self._done == self.parts
      if is_last:
        self._end()

  def _end(self) -> None:
    try:
      if self._errors:
        raise self._errors[min(self._errors)]
      host = self._join(self._parts)
      self.nbytes = sum(np.asarray(x).nbytes for x in host.values())
      self.result.set_result(self._place(host))
    except BaseException as error:
      self.result.set_exception(error)
    finally:
      self._parts = []


@contextlib.contextmanager
def prefetch(
  batches: batches_lib.Batches,
  first_step: int,
  last_step: int,
  place: Callable[[Arrays], Placed],
  depth: int = DEPTH,
  threads: int = 2,
  most_bytes: int = BYTES,
) -> Iterator[Iterator[Placed]]:
  """Prepares the batches of [first_step, last_step) in threads, in order.

  Within the context they are iterated over; an exception of the reader is
  raised where its batch would have come, and `stopping.Stopped` where a signal
  asked to stop. Leaving it drops what is prepared and waits for the threads,
  but for those that an exception leaves behind: they may hang. `place` puts a
  host batch onto the mesh; it runs in the threads too, so that the transfer
  overlaps the computation.

  `depth` batches are in work or ready, of a source that is not `Rowwise` at
  least one for each thread; of large ones as many as `most_bytes` holds, and
  always one. What a batch takes is known from the first.

  Raises:
    ValueError: depth or threads below 1.
  """
  if depth < 1 or threads < 1:
    raise ValueError(
      f'depth and threads must be at least 1, got {depth} and {threads}.'
    )
  if not isinstance(batches.reader, Rowwise):
    depth = max(depth, threads)
  pool = futures.ThreadPoolExecutor(threads, 'prefetch')
  steps = iter(range(first_step, last_step))
  pending: deque[_Work[Placed]] = deque()
  dropped = threading.Event()

  def start(count: int) -> None:
    for step in itertools.islice(steps, max(0, count)):
      work = _Work(batches, step, place)
      for _ in range(min(threads, work.parts)):
        pool.submit(work.run, dropped.is_set)
      pending.append(work)

  def ready() -> Iterator[Placed]:
    while pending:
      work = pending.popleft()
      batch = stopping.wait(work.result)
      room = most_bytes // max(1, work.nbytes)
      start(min(depth, max(1, room)) - len(pending))
      yield batch

  is_whole = False
  try:
    start(1)
    yield ready()
    is_whole = True
  finally:
    dropped.set()
    pool.shutdown(wait=is_whole, cancel_futures=True)
