import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks import lpips


def _images(seed, *shape):
  return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope='module')
def model():
  module = lpips.LPIPS()
  x = jnp.zeros((1, 16, 16, 3))
  return module, jax.jit(module.init)(jax.random.key(0), x, x)


def test_sizes_are_those_of_vgg16_and_version_0_1(model):
  _, variables = model

  count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
  net = variables['params']['net']

  assert len(net) == 13
  assert count(net) == 14_714_688
  assert count(variables['params']) - count(net) == 1_472


def test_distance_is_symmetric_positive_and_zero_at_equal_images(model):
  module, variables = model
  x, y = _images(0, 2, 16, 24, 3), _images(1, 2, 16, 24, 3)
  distance = jax.jit(module.apply)

  there, back = distance(variables, x, y), distance(variables, y, x)

  assert there.shape == (2,)
  assert np.all(there > 0)
  np.testing.assert_allclose(there, back, rtol=1e-5)
  np.testing.assert_array_equal(distance(variables, x, x), [0, 0])


def test_gradient_is_zero_at_equal_images_even_where_features_vanish(model):
  module, variables = model
  x = np.zeros((1, 16, 16, 3), np.float32)
  vanishing = jax.tree.map(np.array, variables)
  net = vanishing['params']['net']
  net['slice5_28']['kernel'][:] = 0
  net['slice5_28']['bias'][:] = 1e-25  # its square is zero
  loss = lambda y, x, v: module.apply(v, x, y).sum()
  gradient = jax.jit(jax.grad(loss))

  for v in (variables, vanishing):
    # zero but for rounding; elsewhere it is about 3e-5
    np.testing.assert_allclose(gradient(x, x, v), x, atol=1e-8)
  elsewhere = gradient(_images(2, 1, 16, 16, 3), x, vanishing)
  assert np.isfinite(elsewhere).all()


def test_features_have_the_depths_of_vgg16(model):
  module, variables = model

  features = jax.eval_shape(
    lambda v, x: module.apply(v, x, method='features'),
    variables,
    jnp.zeros((1, 32, 16, 3)),
  )

  assert [f.shape[1:] for f in features] == [
    (32, 16, 64),
    (16, 8, 128),
    (8, 4, 256),
    (4, 2, 512),
    (2, 1, 512),
  ]
  assert len(lpips.FEATURE_NAMES) == len(features)


@pytest.mark.parametrize(
  ('x', 'y', 'words'),
  [
    ((1, 16, 16, 3), (1, 16, 32, 3), 'one shape'),
    ((1, 16, 16, 1), (1, 16, 16, 1), r'\(B, H, W, 3\).*\(1, 16, 16, 1\)'),
    ((1, 8, 16, 3), (1, 8, 16, 3), 'at least 16'),
  ],
)
def test_shapes_that_do_not_fit_are_named(model, x, y, words):
  module, variables = model
  with pytest.raises(ValueError, match=words):
    module.apply(variables, jnp.zeros(x), jnp.zeros(y))


@pytest.mark.parametrize('levels', [1, 2, 3])
def test_pyramid_distance_averages_its_levels(levels):
  x, y = _images(0, 2, 8, 12, 3), _images(1, 2, 8, 12, 3)

  got = lpips.pyramid_l1_l2(x, y, levels)

  terms = []
  for level in range(levels):
    f = 2**level
    d = (x - y).reshape(2, 8 // f, f, 12 // f, f, 3).mean((2, 4))
    terms.append((np.abs(d) + d**2).mean((1, 2, 3)))
  np.testing.assert_allclose(got, np.mean(terms, 0), rtol=1e-5)


def test_pyramid_distance_names_levels_that_do_not_divide():
  x = jnp.zeros((1, 8, 12, 3))
  with pytest.raises(ValueError, match=r'levels is 4.*\(1, 8, 12, 3\)'):
    lpips.pyramid_l1_l2(x, x, 4)
