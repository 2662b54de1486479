from flax import errors
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from tests.helpers import configs


@pytest.mark.parametrize(
  'file', ['ldm_shapes.py:text,debug', 'diffit_latent_shapes.py:class,debug']
)
def test_shapes_are_those_of_initial_values(file):
  system = systems.create(configs.load(file))
  drawn = jax.make_jaxpr(system.init, return_shape=True)
  _, want = drawn(jax.random.key(0), {})
  got = jax.eval_shape(system.init, jax.random.key(0), {})
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert all(jax.tree.leaves(jax.tree.map(same, got, want)))


def test_elsewhere_parameters_are_drawn():
  x = jnp.zeros((1, 3))
  jax.eval_shape(nn.Dense(4).init, jax.random.key(0), x)
  params = nn.Dense(4).init(jax.random.key(0), x)['params']
  assert np.std(params['kernel']) > 0.1


def test_a_parameter_of_another_shape_is_refused():
  params = {'kernel': jnp.zeros((3, 4)), 'bias': jnp.zeros(5)}
  with pytest.raises(errors.ScopeParamShapeError, match=r'"bias".*\(5,\)'):
    nn.Dense(4).apply({'params': params}, jnp.zeros((1, 3)))
