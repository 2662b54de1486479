"""Files of statistics, of the three kinds."""

import zipfile

import numpy as np
import pytest

from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import inception_reference as reference_lib


def _rows(size, seed=0):
  return np.random.default_rng(seed).normal(size=(30, size))


def _gaussian(x):
  return x.mean(0), np.cov(x.T)


def test_file_of_adm(tmp_path):
  pool, spatial = _rows(6), _rows(4, 1)
  images = np.arange(2 * 3 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3, 3)
  path = tmp_path / 'VIRTUAL.npz'
  mu, sigma = _gaussian(pool)
  mu_s, sigma_s = _gaussian(spatial)
  np.savez(path, mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s, arr_0=images)
  got = reference_lib.read(path)
  other = _rows(6, 2) + 1
  np.testing.assert_allclose(
    frechet.distance(got.pool, frechet.fit(other)),
    frechet.feature_distance(pool, other),
  )
  np.testing.assert_allclose(got.spatial.root.T @ got.spatial.root, sigma_s)
  np.testing.assert_array_equal(got.images, images)
  assert got.features is None
  assert not got.own


def test_file_of_edm(tmp_path):
  mu, sigma = _gaussian(_rows(6))
  np.savez(tmp_path / 'edm.npz', mu=mu, sigma=sigma)
  got = reference_lib.read(tmp_path / 'edm.npz')
  np.testing.assert_array_equal(got.pool.mean, mu)
  assert (got.spatial, got.features, got.images, got.count) == (None,) * 4


def test_own_file_there_and_back(tmp_path):
  pool, spatial = _rows(6), _rows(4, 1)
  path = tmp_path / 'own.npz'
  images = np.full((5, 2, 2, 3), 7, np.uint8)
  reference_lib.write(
    path,
    frechet.moments(pool),
    frechet.moments(spatial),
    pool[:5].astype(np.float32),
    images,
    'ab12',
  )
  got = reference_lib.read(path)
  assert abs(frechet.distance(got.pool, frechet.fit(pool))) < 1e-10
  assert abs(frechet.distance(got.spatial, frechet.fit(spatial))) < 1e-10
  np.testing.assert_array_equal(got.features, pool[:5].astype(np.float32))
  assert (got.count, got.own, got.images) == (30, True, None)
  with np.load(path, allow_pickle=False) as file:
    assert str(file['source_sha256']) == 'ab12'
    np.testing.assert_array_equal(file['arr_0'], images)
    assert (str(file['feature']), str(file['resize'])) == (
      'inception-2015-12-05',
      'tf1',
    )
  with pytest.raises(FileExistsError, match='own.npz is there'):
    reference_lib.write(
      path, frechet.moments(pool), frechet.moments(spatial), pool, images, ''
    )
  assert [p.name for p in tmp_path.iterdir()] == ['own.npz']


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'mu': None}, 'no mu and sigma; it holds resize, sigma'),
    ({'sigma': np.eye(5)}, r'mu is \(6,\) and sigma \(5, 5\)'),
    ({'mu': np.full(6, np.nan)}, 'mu or sigma is not finite'),
    ({'resize': np.str_('clean')}, "resize is 'clean', needed 'tf1'"),
    ({'mu': np.array([{}])}, 'holds Python objects'),
  ],
)
def test_other_files_are_refused(tmp_path, change, message):
  path = tmp_path / 'stats.npz'
  mu, sigma = _gaussian(_rows(6))
  entries = {'mu': mu, 'sigma': sigma, 'resize': np.str_('tf1')} | change
  np.savez(path, **{k: v for k, v in entries.items() if v is not None})
  with pytest.raises(ValueError, match=f'stats.npz: .*{message}'):
    reference_lib.read(path)


def test_one_array_is_refused(tmp_path):
  np.save(tmp_path / 'stats.npy', np.zeros((3, 4)))
  with pytest.raises(ValueError, match=r'stats\.npy: a single array'):
    reference_lib.read(tmp_path / 'stats.npy')
  with pytest.raises(FileNotFoundError):
    reference_lib.read(tmp_path / 'none.npz')


def test_a_damaged_file_is_refused(tmp_path):
  path = tmp_path / 'stats.npz'
  path.write_bytes(b'PK\x03\x04 and no more')
  with pytest.raises(ValueError, match=r'stats\.npz: '):
    reference_lib.read(path)
  for array in (
    b'no array',
    b'\x93NUMPY\x01\x00\x04\x00((((',
    b"\x93NUMPY\x01\x00\x41\x00{'descr': '<f8', 'fortran_order': False,"
    b" 'shape': (9999999999999,)}",
  ):
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('mu.npy', array)
      archive.writestr('sigma.npy', array)
    with pytest.raises(ValueError, match=r'stats\.npz: '):
      reference_lib.read(path)
