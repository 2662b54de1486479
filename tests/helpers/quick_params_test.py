from flax import errors
from flax import linen as nn
import jax
import jax.numpy as jnp
import pytest

from pyramid_jax import systems
from tests.helpers import configs
from tests.helpers import quick_params


@pytest.mark.parametrize(
  'file', ['ldm_shapes.py:text,debug', 'diffit_latent_shapes.py:class,debug']
)
def test_shapes_are_those_of_initial_values(file):
  system = systems.create(configs.load(file))
  arguments = (system.init, jax.random.key(0), {})
  assert quick_params.shapes(*arguments) == jax.eval_shape(*arguments)


def test_a_parameter_of_another_shape_is_refused():
  params = {'kernel': jnp.zeros((3, 4)), 'bias': jnp.zeros(5)}
  with pytest.raises(errors.ScopeParamShapeError, match=r'"bias".*\(5,\)'):
    nn.Dense(4).apply({'params': params}, jnp.zeros((1, 3)))
