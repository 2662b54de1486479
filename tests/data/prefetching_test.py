"""Batches that threads make: their order, their bounds and their faults."""

import threading
import time

import jax
import numpy as np
import pytest

from pyramid_jax.data import batches
from pyramid_jax.data import prefetching


class Rows:
  """A source whose examples are made one by one."""

  def __init__(self, length, delay=0.0):
    self.length = length
    self.delay = delay
    self.names = set()

  def __len__(self):
    return self.length

  def row(self, index, draw):
    self.names.add(threading.current_thread().name)
    if self.delay and index % 2:
      time.sleep(self.delay)
    return {'index': np.int64(index), 'draw': np.uint64(draw)}

  def stacked(self, rows):
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}

  def batch(self, indices, draws):
    return self.stacked(
      [self.row(*x) for x in zip(indices, draws, strict=True)]
    )


class Batches(Rows):
  """A source that makes a batch at a time."""

  row = None  # type: ignore[assignment]

  def batch(self, indices, draws):
    self.names.add(threading.current_thread().name)
    if self.delay and indices[0] % 2:
      time.sleep(self.delay)
    return {'index': indices, 'draw': draws}


def alive():
  names = [thread.name for thread in threading.enumerate()]
  return [name for name in names if name.startswith('prefetch')]


@pytest.mark.parametrize('kind', [Rows, Batches])
@pytest.mark.parametrize('threads', [1, 3, 8])
def test_the_order_is_that_of_the_run(kind, threads):
  source = kind(100, delay=0.002)
  run = batches.Batches(source, 5, seed=2)
  place = lambda batch: jax.device_put(batch['index'])
  with prefetching.prefetch(run, 3, 13, place, 4, threads) as loader:
    got = list(loader)
  assert all(name.startswith('prefetch') for name in source.names)
  assert len(source.names) <= threads
  want = [run.at(step)['index'] for step in range(3, 13)]
  np.testing.assert_array_equal(got, want)
  assert not alive()


def test_the_examples_of_a_batch_are_made_at_the_same_time():
  together = threading.Barrier(4, timeout=20)

  class Meeting(Rows):
    def row(self, index, draw):
      together.wait()
      return super().row(index, draw)

  run = batches.Batches(Meeting(100), 4, seed=2)
  with prefetching.prefetch(run, 0, 2, dict, depth=1, threads=4) as loader:
    assert len(list(loader)) == 2


def test_batches_that_are_made_as_a_whole_have_a_thread_each():
  together = threading.Barrier(3, timeout=20)

  def place(batch):
    if batch['index'][0]:
      together.wait()
    return batch

  run = batches.Batches(Batches(100), 1, seed=2, shuffle=False)
  with prefetching.prefetch(run, 0, 4, place, depth=1, threads=3) as loader:
    assert len(list(loader)) == 4


@pytest.mark.parametrize(
  ('most_bytes', 'ahead'), [(1 << 30, 3), (2 * 16 + 1, 2), (1, 1)]
)
def test_what_is_ahead_is_bounded(most_bytes, ahead):
  started = []

  def place(batch):
    started.append(1)
    return batch

  run = batches.Batches(Rows(100), 1, seed=2)  # 16 bytes a batch
  with prefetching.prefetch(run, 0, 50, place, 3, 2, most_bytes) as loader:
    for taken in range(1, 4):
      next(loader)
      time.sleep(0.1)
      assert len(started) == taken + ahead
  assert len(started) == 3 + ahead


def test_an_exception_comes_where_its_batch_would():
  class Broken(Rows):
    def row(self, index, draw):
      if index in (7, 8):  # The first one counts, whoever is faster.
        time.sleep(0.05 if index == 7 else 0)
        raise OSError(f'{index} is gone')
      if index > 20:
        raise AssertionError('nothing is read after an error')
      return super().row(index, draw)

  run = batches.Batches(Broken(1000), 3, 0, shuffle=False)
  with prefetching.prefetch(run, 0, 9, dict, 1, 2) as loader:
    assert [next(loader)['index'][0] for _ in range(2)] == [0, 3]
    with pytest.raises(OSError, match='7 is gone'):
      next(loader)
    with pytest.raises(StopIteration):
      next(loader)
  assert not alive()


def test_leaving_stops_the_threads_within_a_batch():
  source = Rows(10_000, delay=0.01)
  run = batches.Batches(source, 1000, 0, shuffle=False)
  start = time.monotonic()
  with prefetching.prefetch(run, 0, 9, dict, threads=2):
    pass
  assert time.monotonic() - start < 2  # A batch takes 2.5 s.
  assert not alive()


def test_no_threads_are_refused():
  run = batches.Batches(Rows(10), 1, 0)
  with (
    pytest.raises(ValueError, match='got 2 and 0'),
    prefetching.prefetch(run, 0, 1, dict, 2, 0),
  ):
    pass
