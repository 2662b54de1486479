import functools
from unittest import mock

from flax import errors
from flax import linen as nn
from flax.core import scope
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.distributed import initial
from tests.helpers import configs
from tests.helpers import quick_params


class Layer(nn.Module):
  """A layer in the form of `nn.scan`."""

  @nn.compact
  def __call__(self, x, _):
    return nn.Dense(4)(x), None


class Net(nn.Module):
  """Parameters of several kinds, some in a loop over layers."""

  @nn.compact
  def __call__(self, x):
    x = nn.remat(nn.Dense)(4)(x) + self.param('b', nn.initializers.ones, (4,))
    layers = nn.scan(
      Layer, {'params': 0}, split_rngs={'params': True}, length=3
    )
    return nn.Dense(2, dtype=jnp.bfloat16)(layers()(x, None)[0])


def test_values_are_those_of_flax():
  arguments = jax.random.key(3), jnp.ones((1, 4))
  with mock.patch.object(scope.Scope, 'param', quick_params._param):
    want = jax.jit(Net().init)(*arguments)
    shapes = jax.eval_shape(lambda *args: Net().init(*args), *arguments)
  assert jax.eval_shape(lambda *args: Net().init(*args), *arguments) == shapes
  init = lambda *args: Net().init(*args)
  jax.tree.map(np.testing.assert_array_equal, jax.jit(init)(*arguments), want)
  for run in (init, functools.partial(initial.evaluate, init)):
    jax.tree.map(
      lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6),
      run(*arguments),
      want,
    )


@pytest.mark.parametrize(
  'file', ['ldm_shapes.py:text,debug', 'diffit_latent_shapes.py:class,debug']
)
def test_a_traced_system_draws_nothing(file):
  system = systems.create(configs.load(file))
  jaxpr = str(jax.make_jaxpr(system.init)(jax.random.key(0)))
  assert jaxpr.count('drawing[') > 10
  assert 'erf_inv' not in jaxpr


def test_a_parameter_of_another_shape_is_refused():
  params = {'kernel': jnp.zeros((3, 4)), 'bias': jnp.zeros(5)}
  with pytest.raises(errors.ScopeParamShapeError, match=r'"bias".*\(5,\)'):
    nn.Dense(4).apply({'params': params}, jnp.zeros((1, 3)))
