import numpy as np
import pytest

from pyramid_jax.data.pixels import buckets


class Numbers:
  """A reader that returns what it is asked for."""

  def __init__(self, length):
    self.length = length

  def __len__(self):
    return self.length

  def batch(self, indices, draws):
    return {'index': indices, 'draw': draws}


def test_shapes_have_about_one_area_and_divisible_sides():
  found = buckets.shapes(256, 32, 2.0)
  assert (256, 256) in found
  assert (192, 352) in found  # 341.3 would be exact
  assert sorted((w, h) for h, w in found) == sorted(found)
  for height, width in found:
    assert height % 32 == width % 32 == 0
    assert 0.5 <= height / width <= 2
    assert abs(height * width / 256**2 - 1) < 0.1
  assert buckets.shapes(64, 64, 1.0) == [(64, 64)]
  assert buckets.shapes(8, 8, 3.0) == [(8, 8)]


def test_shapes_that_do_not_exist():
  with pytest.raises(ValueError, match=r'is 100, must .*buckets = 32'):
    buckets.shapes(100, 32, 2.0)
  with pytest.raises(ValueError, match='ratio is 0.5, must be at least 1'):
    buckets.shapes(64, 32, 0.5)


def test_the_nearest_shape_is_that_of_the_nearest_ratio():
  allowed = [(2, 4), (3, 3), (4, 2)]
  sizes = [(100, 100), (100, 139), (100, 144), (900, 100), (144, 100)]
  got = buckets.nearest(np.array(sizes), allowed)
  assert got.tolist() == [1, 1, 0, 2, 2]  # the border is sqrt(2)


def _made(counts=(9, 5, 14), batch_size=4):
  allowed = [(2, 4), (3, 3), (4, 2)]
  sizes = np.concatenate(
    [[s] * n for s, n in zip(allowed, counts, strict=True)]
  )
  sizes = sizes[np.random.default_rng(0).permutation(len(sizes))]
  return sizes, buckets.assign(sizes, allowed, batch_size)


def test_pictures_come_to_their_buckets():
  sizes, made = _made()
  assert made.shapes == ((2, 4), (3, 3), (4, 2))
  assert [len(m) for m in made.members] == [9, 5, 14]
  assert sorted(np.concatenate(made.members)) == list(range(28))
  for i, size in enumerate(sizes):
    assert made.shape(i) == tuple(size)


def test_a_bucket_without_a_batch_is_closed():
  _, made = _made(counts=(9, 3, 14))
  assert made.shapes == ((2, 4), (4, 2))
  assert sum(len(m) for m in made.members) == 26
  _, made = _made(counts=(3, 3, 3), batch_size=9)
  assert len(made.shapes) == 1
  assert len(made.members[0]) == 9
  with pytest.raises(ValueError, match='batch_size is 10, must be at most 9'):
    _made(counts=(3, 3, 3), batch_size=10)


def _run(made, batch_size=4, seed=5, rows=None):
  length = len(made.of)
  return buckets.BucketBatches(Numbers(length), made, batch_size, seed, rows)


def test_every_batch_is_of_one_bucket_and_an_epoch_repeats_nothing():
  _, made = _made()
  run = _run(made)
  epochs = []
  for epoch in range(40):  # of 2 + 1 + 3 batches
    steps = [run.at(6 * epoch + i)['index'] for i in range(6)]
    of = [set(made.of[indices]) for indices in steps]
    assert all(len(s) == 1 for s in of)
    assert sorted(s.pop() for s in of) == [0, 0, 1, 2, 2, 2]
    seen = np.concatenate(steps)
    assert len(set(seen)) == 24
    epochs.append(seen)
  # What is left out is not the same in every epoch.
  assert set(np.concatenate(epochs)) == set(range(28))
  assert len({tuple(made.of[seen]) for seen in epochs}) > 10


def test_batches_are_a_function_of_the_step_and_have_rows_alone():
  _, made = _made()
  run = _run(made)
  for step in (0, 7, 10**6):
    whole = run.at(step)
    again = _run(made).at(step)
    part = _run(made, 4, 5, np.array([1, 2])).at(step)
    for key in whole:
      np.testing.assert_array_equal(whole[key], again[key])
      np.testing.assert_array_equal(whole[key][1:3], part[key])
  draws = np.concatenate([run.at(step)['draw'] for step in range(50)])
  assert len(set(draws)) == 200
  assert draws.dtype == np.uint64
  other = _run(made, 4, 6)
  assert any(
    (run.at(s)['index'] != other.at(s)['index']).any() for s in range(3)
  )
  with pytest.raises(ValueError, match='step is -1'):
    run.at(-1)
