import threading
import time

import jax
import numpy as np
import pytest

from pyramid_jax.conditioning import hashing
from pyramid_jax.data import batches


class Numbers:
  """A reader that returns what it is asked for."""

  def __init__(self, length, delay=0.0):
    self.length = length
    self.delay = delay

  def __len__(self):
    return self.length

  def batch(self, indices, draws):
    if self.delay and indices[0] % 2:
      time.sleep(self.delay)
    return {'index': indices, 'draw': draws}


def test_every_epoch_shows_every_example_once():
  run = batches.Batches(Numbers(10), 4, seed=5)
  seen = np.concatenate([run.at(step)['index'] for step in range(10)])
  for epoch in range(4):
    assert sorted(seen[10 * epoch : 10 * epoch + 10]) == list(range(10))
  assert len({tuple(seen[10 * e : 10 * e + 10]) for e in range(4)}) == 4


def test_draws_are_hashes_of_the_position():
  run = batches.Batches(Numbers(10), 4, seed=5)
  got = run.at(3)['draw']
  want = [hashing.hash64(5, 100, 12 + row) for row in range(4)]
  np.testing.assert_array_equal(got, want)
  assert got.dtype == np.uint64


@pytest.mark.parametrize('rows', [[0], [1, 2, 3], [0, 5], range(6)])
def test_rows_are_those_of_the_global_batch(rows):
  whole = batches.Batches(Numbers(7), 6, seed=1)
  part = batches.Batches(Numbers(7), 6, seed=1, rows=np.array(rows))
  for step in (0, 1, 1000):
    got = part.at(step)
    for key, want in whole.at(step).items():
      np.testing.assert_array_equal(got[key], want[np.array(rows)])


def test_without_shuffling_in_order_and_around():
  run = batches.Batches(Numbers(5), 3, seed=0, shuffle=False)
  np.testing.assert_array_equal(run.at(0)['index'], [0, 1, 2])
  np.testing.assert_array_equal(run.at(1)['index'], [3, 4, 0])


def test_virtual_length_and_far_steps():
  run = batches.Batches(Numbers(2**31 - 1), 8, seed=0)
  got = run.at(10**9)['index']
  assert got.dtype == np.int64
  assert got.min() >= 0
  assert got.max() < 2**31 - 1
  assert np.unique(got).size == 8


@pytest.mark.parametrize(
  ('args', 'words'),
  [
    ((Numbers(0), 4, 0), 'no examples'),
    ((Numbers(9), 0, 0), 'batch_size is 0'),
    ((Numbers(9), 4, 0, True, [3, 4]), r'rows are \[3, 4\].*\[0, 4\)'),
    ((Numbers(9), 4, 0, True, [1, 0]), r'rows are \[1, 0\], must rise'),
    ((Numbers(9), 4, 0, True, []), r'rows are \[\]'),
  ],
)
def test_bad_arguments(args, words):
  with pytest.raises(ValueError, match=words):
    batches.Batches(*args)


def test_negative_step():
  with pytest.raises(ValueError, match='step is -1'):
    batches.Batches(Numbers(9), 4, 0).at(-1)


def test_prefetch_keeps_the_order_and_works_in_other_threads():
  run = batches.Batches(Numbers(100, delay=0.02), 1, seed=2)
  names = set()

  def place(batch):
    names.add(threading.current_thread().name)
    return jax.device_put(batch['index'])

  with batches.prefetch(run, 3, 13, place, depth=4, threads=3) as loader:
    got = list(loader)
  want = [run.at(step)['index'] for step in range(3, 13)]
  np.testing.assert_array_equal(got, want)
  assert threading.current_thread().name not in names
  assert all(name.startswith('prefetch') for name in names)


def test_prefetch_is_bounded():
  started = []

  def place(batch):
    started.append(1)
    return batch

  run = batches.Batches(Numbers(100), 1, seed=2)
  with batches.prefetch(run, 0, 50, place, depth=3) as loader:
    next(loader)
    time.sleep(0.2)
    assert len(started) == 4  # one was taken, three are ahead
  assert len(started) == 4


def test_prefetch_gives_every_thread_a_batch():
  together = threading.Barrier(4, timeout=20)

  def place(batch):
    together.wait()
    return batch

  run = batches.Batches(Numbers(100), 1, seed=2)
  with batches.prefetch(run, 0, 4, place, depth=1, threads=4) as loader:
    assert len(list(loader)) == 4


def test_prefetch_raises_in_order_and_stops_its_threads():
  class Broken(Numbers):
    def batch(self, indices, draws):
      if indices[0] == 2:
        raise OSError('gone')
      return {'index': indices}

  run = batches.Batches(Broken(10), 1, 0, shuffle=False)
  with batches.prefetch(run, 0, 9, lambda batch: batch) as loader:
    assert [next(loader)['index'][0] for _ in range(2)] == [0, 1]
    with pytest.raises(OSError, match='gone'):
      next(loader)
    with pytest.raises(StopIteration):
      next(loader)
  alive = [t.name for t in threading.enumerate()]
  assert not any(name.startswith('prefetch') for name in alive)


def test_prefetch_refuses_no_threads():
  run = batches.Batches(Numbers(10), 1, 0)
  with (
    pytest.raises(ValueError, match='got 2 and 0'),
    batches.prefetch(run, 0, 1, lambda batch: batch, 2, 0),
  ):
    pass
