import functools

from flax import errors
from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.distributed import initial
from tests.helpers import configs
from tests.helpers import quick_params


@pytest.mark.parametrize(
  'file', ['ldm_shapes.py:text,debug', 'diffit_latent_shapes.py:class,debug']
)
def test_shapes_are_those_of_initial_values(file):
  system = systems.create(configs.load(file))
  drawn = jax.make_jaxpr(system.init, return_shape=True)
  _, want = drawn(jax.random.key(0))
  got = quick_params.shapes(system.init, jax.random.key(0))
  same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
  assert all(jax.tree.leaves(jax.tree.map(same, got, want)))


def test_the_same_function_draws_afterwards():
  init, arguments = nn.Dense(4).init, (jax.random.key(0), jnp.zeros((1, 3)))
  quick_params.shapes(init, *arguments)
  for run in (init, jax.jit(init), functools.partial(initial.evaluate, init)):
    assert np.std(run(*arguments)['params']['kernel']) > 0.1


def test_a_parameter_of_another_shape_is_refused():
  params = {'kernel': jnp.zeros((3, 4)), 'bias': jnp.zeros(5)}
  with pytest.raises(errors.ScopeParamShapeError, match=r'"bias".*\(5,\)'):
    nn.Dense(4).apply({'params': params}, jnp.zeros((1, 3)))
