"""Exact search for the nearest embeddings, and what of files is refused."""

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.data.caches import neighbour_index


VECTORS = np.array(
  [[3, 0], [0, 2], [-1, 0], [1, 1], [0.5, 0], [0, -4]], np.float32
)


def index_of(path, **arrays):
  np.savez(path, **arrays)
  return neighbour_index.NeighbourIndex(str(path), 2)


def test_neighbours_by_hand(tmp_path):
  index = index_of(tmp_path / 'a.npz', embedding=VECTORS, img_id=np.arange(6))
  assert len(index) == 6
  # Of equal cosines the first row comes first, whatever the lengths.
  found = index.search(np.array([[10, 1], [-1, -9]], np.float32), 3)
  np.testing.assert_array_equal(found, [[0, 4, 3], [5, 2, 0]])
  half = np.sqrt(0.5)
  got = index.vectors(np.array([[3, 5]]))
  np.testing.assert_allclose(got, [[[half, half], [0, -1]]], rtol=1e-6)


def test_parts_are_compared_as_one(tmp_path, monkeypatch):
  monkeypatch.setattr(neighbour_index, '_CHUNK', 4)
  random = np.random.RandomState(0)
  vectors = random.randn(23, 5).astype(np.float16)
  (tmp_path / 'index').mkdir()
  for name, part in (('b', vectors[9:]), ('a', vectors[:9])):
    np.savez(tmp_path / 'index' / f'{name}.npz', embedding=part)
  index = neighbour_index.NeighbourIndex(str(tmp_path / 'index'), 5)
  queries = random.randn(7, 5).astype(np.float32)
  whole = vectors.astype(np.float32)
  whole /= np.linalg.norm(whole, axis=1, keepdims=True)
  want = np.argsort(-queries @ whole.T, axis=1)[:, :6]
  np.testing.assert_array_equal(index.search(queries, 6), want)
  np.testing.assert_allclose(index.vectors(want), whole[want], rtol=1e-6)


def test_the_digest_is_that_of_the_embeddings(tmp_path):
  digest = lambda x: index_of(tmp_path / 'x.npz', embedding=x).digest
  first = digest(VECTORS)
  assert digest(VECTORS.astype(np.float16)) == first
  assert digest(VECTORS[::-1]) != first
  assert digest(VECTORS[:5]) != first


@pytest.mark.parametrize(
  ('arrays', 'message'),
  [
    ({'other': VECTORS}, "must have 'embedding', floats of the shape"),
    ({'embedding': np.zeros((2, 2), int)}, 'got int64 of the shape'),
    ({'embedding': VECTORS * [[0], [1], [1], [1], [1], [1]]}, '0 is zero or'),
    ({'embedding': VECTORS + np.inf}, 'embedding 0 is zero or not finite'),
    ({'embedding': np.ones((3, 4))}, 'of the width 4, must be .*dim = 2'),
  ],
)
def test_bad_files_are_one_line(tmp_path, arrays, message):
  with pytest.raises(errors.UserError, match=message):
    index_of(tmp_path / 'x.npz', **arrays)


def test_more_than_there_are_and_files_that_are_not_there(tmp_path):
  index = index_of(tmp_path / 'x.npz', embedding=VECTORS)
  with pytest.raises(errors.UserError, match='7 neighbours .* has 6'):
    index.search(VECTORS, 7)
  (tmp_path / 'empty').mkdir()
  with pytest.raises(errors.UserError, match='empty .* has no .npz'):
    neighbour_index.NeighbourIndex(str(tmp_path / 'empty'), 2)
  (line,) = neighbour_index.missing_inputs(str(tmp_path / 'none.npz'))
  assert 'none.npz' in line
  (line,) = neighbour_index.missing_inputs('')
  assert 'is empty' in line
