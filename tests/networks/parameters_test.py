from flax import errors
from flax import linen as nn
from flax.core import scope
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.networks.layers import parameters
from tests.helpers import quick_params


CALLS = []  # shapes of what was initialised


class Scale(nn.Module):
  """Multiplies by a parameter; notes when it is initialised."""

  @nn.compact
  def __call__(self, x):
    def init(key, shape):
      CALLS.append(shape)
      return jax.random.normal(key, shape)

    return x * parameters.get(self, 'scale', init, x.shape[-1:])


def test_values_are_initialised_once(monkeypatch):
  # The suite's own short cut, which does this for every parameter, is off.
  monkeypatch.setattr(scope.Scope, 'param', quick_params._param)
  module, x = Scale(), jnp.ones((2, 3))
  variables = module.init(jax.random.key(0), x)
  assert variables['params']['scale'].shape == (3,)
  done = len(CALLS)
  assert done > 0
  got = jax.jit(module.apply)(variables, x)
  np.testing.assert_array_equal(got[0], variables['params']['scale'])
  assert len(CALLS) == done  # `init` is not traced to compare shapes


def test_other_shapes_and_missing_values_are_refused():
  module = Scale()
  variables = {'params': {'scale': jnp.ones(4)}}
  with pytest.raises(errors.ScopeParamShapeError, match=r'scale.*\(4,\)'):
    module.apply(variables, jnp.ones((2, 3)))
  with pytest.raises(errors.ScopeParamNotFoundError, match='scale'):
    module.apply({'params': {'other': jnp.ones(3)}}, jnp.ones((2, 3)))
