"""Files of statistics, of the three kinds."""

import pathlib
import pickle
import zipfile

import numpy as np
import pytest

from pyramid_jax.interop import pickled_arrays
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
  pool, spatial = frechet.moments(_rows(6)), frechet.moments(_rows(4, 1))
  path = tmp_path / 'own.npz'
  images = np.full((5, 2, 2, 3), 7, np.uint8)
  found = reference_lib.Statistics(
    mu=pool.mean,
    sigma=pool.covariance,
    mu_s=spatial.mean,
    sigma_s=spatial.covariance,
    features=_rows(6)[:5].astype(np.float32),
    images=images,
    count=30,
    source='ab12',
    resize='clean',
  )
  reference_lib.write(path, found)
  got = reference_lib.read(path, 'clean')
  assert abs(frechet.distance(got.pool, frechet.fit(_rows(6)))) < 1e-10
  assert abs(frechet.distance(got.spatial, frechet.fit(_rows(4, 1)))) < 1e-10
  np.testing.assert_array_equal(got.features, found.features)
  assert (got.count, got.own, got.images) == (30, True, None)
  assert got.resize == 'clean'
  with np.load(path, allow_pickle=False) as file:
    assert str(file['source_sha256']) == 'ab12'
    np.testing.assert_array_equal(file['arr_0'], images)
    assert (str(file['feature']), str(file['resize'])) == (
      'inception-2015-12-05',
      'clean',
    )
  with pytest.raises(ValueError, match="resize is 'clean', config.evaluate.re"):
    reference_lib.read(path)
  with pytest.raises(ValueError, match="'adm' is that of the resize 'tf1'"):
    reference_lib.write(tmp_path / 'adm.npz', found, reference_lib.ADM)
  with pytest.raises(FileExistsError, match='own.npz is there'):
    reference_lib.write(path, found)
  assert [p.name for p in tmp_path.iterdir()] == ['own.npz']


def _of_adm():
  """What openai/guided-diffusion computes of features in float32."""
  pool, spatial = np.float32(_rows(6)), np.float32(_rows(4, 1))
  entries = {
    'mu': np.mean(pool, axis=0),
    'sigma': np.cov(pool, rowvar=False),
    'mu_s': np.mean(spatial, axis=0),
    'sigma_s': np.cov(spatial, rowvar=False),
    'arr_0': np.arange(54, dtype=np.uint8).reshape(2, 3, 3, 3),
  }
  assert entries['mu'].dtype == np.float32
  assert entries['sigma'].dtype == np.float64
  return entries


def _of_edm():
  """What NVlabs/edm: fid.py writes."""
  features = _rows(6)
  mu, sigma = features.sum(0), features.T @ features
  mu /= 30
  sigma -= np.outer(mu, mu) * 30
  return {'mu': mu, 'sigma': sigma / 29}


@pytest.mark.parametrize('layout', ['adm', 'edm'])
def test_files_of_others_are_written_as_they_were(tmp_path, layout):
  """Every entry, its bytes and the order of all, also by way of each other."""
  entries = _of_adm() if layout == 'adm' else _of_edm()
  there, back = tmp_path / 'there.npz', tmp_path / 'back.npz'
  np.savez(there, **entries)
  reference_lib.write(back, reference_lib.statistics(there), layout)
  with zipfile.ZipFile(there) as a, zipfile.ZipFile(back) as b:
    assert a.namelist() == b.namelist()
    for name in a.namelist():
      assert a.read(name) == b.read(name), name
  own = tmp_path / 'own.npz'
  reference_lib.write(own, reference_lib.statistics(there))
  again = tmp_path / 'again.npz'
  reference_lib.write(again, reference_lib.statistics(own), layout)
  with np.load(again) as file:
    assert file.files == list(entries)
    for name, array in entries.items():
      assert file[name].dtype == array.dtype
      np.testing.assert_array_equal(file[name], array)


def test_file_of_edm2(tmp_path):
  entries = _of_edm()
  path = tmp_path / 'stats.pkl'
  dino = {'mu': np.zeros(3), 'sigma': np.eye(3)}
  for protocol in (3, 4):
    stats = {'fid': entries, 'fd_dinov2': dino}
    path.write_bytes(pickle.dumps(stats, protocol))
    got = reference_lib.statistics(path)
    np.testing.assert_array_equal(got.mu, entries['mu'])
    np.testing.assert_array_equal(got.sigma, entries['sigma'])
    assert not got.own
    arrays = pickled_arrays.read(path)
    assert arrays['fd_dinov2/sigma'].tolist() == np.eye(3).tolist()
  back = tmp_path / 'back.npz'
  reference_lib.write(back, got, reference_lib.EDM)
  with np.load(back) as file:
    np.testing.assert_array_equal(file['sigma'], entries['sigma'])


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    ({'fd_dinov2': {'mu': np.zeros(2)}}, 'no fid; it holds fd_dinov2/mu'),
    ([1, 2], 'a pickle that is no dictionary'),
    ({'fid': {'mu': np.array([{}]), 'sigma': 1}}, "an array of type 'O8'"),
    ({'fid': pathlib.PurePosixPath('x')}, "the name 'pathlib"),
  ],
)
def test_other_pickles_are_refused(tmp_path, content, message):
  path = tmp_path / 'stats.pkl'
  path.write_bytes(pickle.dumps(content, 4))
  with pytest.raises(ValueError, match=f'stats.pkl: .*{message}'):
    reference_lib.read(path)
  path.write_bytes(pickle.dumps({'fid': {'mu': np.zeros(9)}}, 4)[:-40])
  with pytest.raises(ValueError, match='stats.pkl: damaged pickle'):
    reference_lib.read(path)


def test_files_of_clean_fid_are_known_by_their_names(tmp_path):
  """Their entries are those of EDM's; nothing in them says the resize."""
  entries = _of_edm()
  clean = tmp_path / 'ffhq_clean_trainval70k_1024.npz'
  legacy = tmp_path / 'ffhq_legacy_tensorflow_trainval70k_1024.npz'
  for path in (clean, legacy):
    np.savez(path, **entries)
  assert reference_lib.read(clean, 'clean').resize == 'clean'
  assert reference_lib.read(legacy, 'tf1').resize == 'tf1'
  with pytest.raises(ValueError, match="resize is 'clean'"):
    reference_lib.read(clean, 'tf1')
  with pytest.raises(ValueError, match="resize is 'tf1'"):
    reference_lib.read(legacy, 'clean')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'mu': None}, 'no mu and sigma; it holds resize, sigma'),
    ({'sigma': np.eye(5)}, r'mu is \(6,\) and sigma \(5, 5\)'),
    ({'mu': np.full(6, np.nan)}, 'mu or sigma is not finite'),
    (
      {'resize': np.str_('clean')},
      "resize is 'clean', config.evaluate.resize is 'tf1'",
    ),
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
