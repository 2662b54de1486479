from collections.abc import Callable

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.networks.layers import caching


class _Layer(nn.Module):
  """Scales x by a value of the condition that may be cached."""

  count: Callable

  @nn.compact
  def __call__(self, x, cond):
    def value():
      self.count()
      return {'factor': nn.Dense(1, name='dense')(cond)}

    return x * caching.cached(self, 'value', value)['factor']


class _Net(nn.Module):
  count: Callable

  @nn.compact
  def __call__(self, x, cond):
    for i in range(2):
      x = nn.remat(_Layer)(self.count, name=f'layer_{i}')(x, cond)
    return x


def _net():
  calls = []
  net = _Net(lambda: calls.append(1))
  x, cond = jnp.ones((2, 1)), jnp.arange(6.0).reshape(2, 3)
  variables = net.init(jax.random.key(0), x, cond)
  calls.clear()
  return net, variables, x, cond, calls


def test_a_fresh_model_has_no_cache():
  _, variables, _, _, _ = _net()

  assert set(variables) == {'params'}


def test_a_stored_value_is_used_and_not_computed_again():
  net, variables, x, cond, calls = _net()

  direct, cache = net.apply(variables, x, cond, mutable=['cache'])
  calls.clear()
  reused = net.apply({**variables, **cache}, x, -cond)

  assert not calls
  np.testing.assert_array_equal(reused, direct)
  assert cache['cache']['layer_0']['value']['factor'].shape == (2, 1)


def test_a_mutable_cache_is_renewed():
  net, variables, x, cond, _ = _net()

  _, old = net.apply(variables, x, -cond, mutable=['cache'])
  got, _ = net.apply({**variables, **old}, x, cond, mutable=['cache'])

  np.testing.assert_array_equal(got, net.apply(variables, x, cond))


def test_without_a_cache_the_value_is_computed():
  net, variables, x, cond, calls = _net()

  net.apply(variables, x, cond)

  assert len(calls) == 2
