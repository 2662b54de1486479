import numpy as np
import pytest

from pyramid_jax.conditioning import hashing
from pyramid_jax.data import batches


class Numbers:
  """A reader that returns what it is asked for."""

  def __init__(self, length):
    self.length = length

  def __len__(self):
    return self.length

  def batch(self, indices, draws):
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
