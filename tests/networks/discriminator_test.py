import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import discriminator
from pyramid_jax.networks.layers import norms


def _shapes(module, *shape):
  return jax.eval_shape(
    module.init_with_output, jax.random.key(0), jnp.zeros(shape)
  )


@pytest.mark.parametrize(
  ('layers', 'count', 'side'), [(2, 663_361, 62), (3, 2_765_633, 30)]
)
def test_published_sizes(layers, count, side):
  module = discriminator.PatchDiscriminator(n_layers=layers)

  logits, variables = _shapes(module, 1, 256, 256, 3)

  assert logits.shape == (1, side, side, 1)
  assert sum(x.size for x in jax.tree.leaves(variables['params'])) == count


@pytest.mark.parametrize(
  ('fields', 'shape', 'logits'),
  [
    ({'n_layers': 1}, (2, 16, 24, 3), (2, 6, 10, 1)),
    ({'n_layers': 2, 'use_actnorm': True}, (2, 32, 40, 3), (2, 6, 8, 1)),
    ({'n_layers': 5, 'input_nc': 1}, (1, 96, 96, 1), (1, 1, 1, 1)),
    ({'dtype': jnp.bfloat16}, (1, 48, 48, 3), (1, 4, 4, 1)),
  ],
)
def test_shapes(fields, shape, logits):
  module = discriminator.PatchDiscriminator(ndf=4, **fields)

  got, variables = _shapes(module, *shape)

  assert got.shape == logits
  assert got.dtype == jnp.float32
  assert ('batch_stats' in variables) != fields.get('use_actnorm', False)
  layers = fields.get('n_layers', 3)
  last = variables['params'][f'main_{3 * layers + 2}']['kernel']
  assert last.shape[2] == 4 * min(2**layers, 8)


def test_initialisation_is_the_official_one():
  module = discriminator.PatchDiscriminator(ndf=32, n_layers=2)

  variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

  params = variables['params']
  np.testing.assert_allclose(
    np.std(params['main_5']['kernel']), 0.02, rtol=0.03
  )
  assert 'bias' not in params['main_2']
  assert np.abs(params['main_0']['bias']).max() <= 48**-0.5
  scale = params['main_6']['scale']
  np.testing.assert_allclose(np.mean(scale), 1, atol=0.01)
  np.testing.assert_allclose(np.std(scale), 0.02, rtol=0.3)
  assert not np.any(params['main_6']['bias'])
  np.testing.assert_array_equal(
    variables['batch_stats']['main_6']['var'], np.ones(128)
  )


def _batch_norm():
  x = np.random.default_rng(0).standard_normal((3, 4, 2, 5)) * 2 + 1
  variables = {
    'params': {
      'scale': np.linspace(0.5, 2, 5, dtype='f'),
      'bias': np.linspace(-1, 1, 5, dtype='f'),
    },
    'batch_stats': {
      'mean': np.linspace(0, 1, 5, dtype='f'),
      'var': np.linspace(1, 3, 5, dtype='f'),
    },
  }
  return x.astype(np.float32), variables


def _normalised(x, mean, var, params):
  x = (np.asarray(x, np.float64) - mean) / np.sqrt(var + 1e-5)
  return x * params['scale'] + params['bias']


def test_batch_norm_in_training_uses_the_batch_and_renews_the_statistics():
  x, variables = _batch_norm()

  got, after = norms.BatchNorm().apply(
    variables, x, True, mutable=['batch_stats']
  )

  flat = x.reshape(-1, 5).astype(np.float64)
  want = _normalised(x, flat.mean(0), flat.var(0), variables['params'])
  np.testing.assert_allclose(got, want, atol=1e-5)
  old, new = variables['batch_stats'], after['batch_stats']
  np.testing.assert_allclose(
    new['mean'], 0.9 * old['mean'] + 0.1 * flat.mean(0), atol=1e-6
  )
  np.testing.assert_allclose(
    new['var'], 0.9 * old['var'] + 0.1 * flat.var(0, ddof=1), atol=1e-5
  )


def test_batch_norm_in_evaluation_uses_the_running_statistics():
  x, variables = _batch_norm()

  got, after = norms.BatchNorm().apply(
    variables, x, False, mutable=['batch_stats']
  )

  old = variables['batch_stats']
  want = _normalised(x, old['mean'], old['var'], variables['params'])
  np.testing.assert_allclose(got, want, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, after['batch_stats'], old)


def test_training_mode_works_with_fixed_statistics():
  x, variables = _batch_norm()

  fixed = norms.BatchNorm().apply(variables, x, True)
  renewed, _ = norms.BatchNorm().apply(
    variables, x, True, mutable=['batch_stats']
  )

  np.testing.assert_array_equal(fixed, renewed)


def test_other_channels_are_named():
  with pytest.raises(ValueError, match=r'\(B, H, W, 3\), got \(1, 32, 32, 4\)'):
    _shapes(discriminator.PatchDiscriminator(), 1, 32, 32, 4)
