"""Reference files as others write them, and the resize of clean-fid."""

import jax
import numpy as np
import pytest
from scipy import linalg

from pyramid_jax import errors
from pyramid_jax.commands import evaluate
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import inception_input
from tests.helpers import inception_weights
from tests.helpers import pictures


COUNT = 21  # images: with 8 devices the last batch is filled up


@pytest.fixture
def weights(monkeypatch, tmp_path):
  return pictures.small_inception(monkeypatch, tmp_path)


draw, paint, score = pictures.draw, pictures.paint, pictures.score
make_config = pictures.make_config


@pytest.mark.parametrize('layout', ['adm', 'edm'])
def test_references_as_others_write_them(weights, tmp_path, layout):
  """sFID against a file of ADM is the formula of its evaluator."""
  path, features = weights
  ours, real = draw(COUNT, 1), draw(30, 2)
  paint(tmp_path / 'real', real)
  file = tmp_path / 'real.npz'
  config = make_config(path).unlock()
  config.evaluate.reference_layout = layout
  asked = {'samples': str(tmp_path / 'real'), 'write_reference': str(file)}
  evaluate.run(config.lock(), tmp_path, asked)
  with np.load(file) as arrays:
    found = dict(arrays)
  names = ['mu', 'sigma', 'mu_s', 'sigma_s', 'arr_0']
  assert list(found) == (names if layout == 'adm' else names[:2])
  assert found['mu'].dtype == (np.float32 if layout == 'adm' else np.float64)
  folder = paint(tmp_path / 'ours', ours)
  table, _ = score(make_config(path, file), folder, samples=str(folder))

  def distance(rows, mu, sigma):
    rows = np.float64(rows)
    own = np.cov(rows, rowvar=False)
    root = linalg.sqrtm(own.dot(sigma))
    far = np.square(rows.mean(0) - mu).sum()
    return far + np.trace(own) + np.trace(sigma) - 2 * np.trace(root).real

  a = features(ours)
  want = distance(a.pool, found['mu'], found['sigma'])
  got = table[f'fid_tf1_{COUNT}']['value']
  np.testing.assert_allclose(got, want, rtol=1e-4)
  assert (f'sfid_tf1_{COUNT}' in table) == (layout == 'adm')
  if layout == 'adm':
    want = distance(a.spatial, found['mu_s'], found['sigma_s'])
    got = table[f'sfid_tf1_{COUNT}']['value']
    np.testing.assert_allclose(got, want, rtol=1e-4)
    assert f'precision_{COUNT}' in table


def test_the_resize_of_clean_fid(weights, tmp_path):
  path, _ = weights
  network = inception_weights.Small()
  variables = inception_weights.variables(network)
  run = jax.jit(lambda x: network.apply(variables, (x - 128) / 128))
  features = lambda x: run(inception_input.resized(x, 'clean'))
  ours, real = draw(COUNT, 1), draw(30, 2, side=12)
  folder = paint(tmp_path / 'ours', ours)
  config = make_config(path, paint(tmp_path / 'real', real)).unlock()
  config.evaluate.resize = 'clean'
  table, _ = score(config.lock(), folder, samples=str(folder))
  a, b = features(ours), features(real)
  for name, x, y in (('fid', a.pool, b.pool), ('sfid', a.spatial, b.spatial)):
    got = table[f'{name}_clean_{COUNT}']['value']
    want = frechet.feature_distance(np.asarray(x), np.asarray(y))
    np.testing.assert_allclose(got, want, rtol=1e-4)
  assert f'fid_tf1_{COUNT}' not in table

  file = tmp_path / 'tf1.npz'
  asked = {'samples': str(tmp_path / 'real'), 'write_reference': str(file)}
  evaluate.run(make_config(path), tmp_path, asked)
  with config.unlocked():
    config.evaluate.reference = str(file)
  with pytest.raises(errors.UserError) as error:
    score(config, folder, samples=str(folder))
  assert str(error.value) == (
    f"{file}: resize is 'tf1', config.evaluate.resize is 'clean'"
  )
  assert error.value.code == errors.DATA
