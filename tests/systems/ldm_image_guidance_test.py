"""Super-resolution that the low-resolution image guides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs


def system_of(distance, file='ldm_superres.py:bsr,debug'):
  fields = {'sample.image_distance': distance}
  return systems.create(configs.load(file, **fields))


def test_the_distance_is_that_of_the_decoded_and_downsampled_estimate():
  system = system_of('l2')
  wanted = jnp.zeros((1, 8, 8, 3))
  condition = system.example_condition()
  assert condition.context.concat.shape == wanted.shape
  enlarged = jnp.full((1, 32, 32, 3), 2.0)  # beyond [-1, 1]

  class Space(type(system.space)):
    def decoded(self, weights, state):
      return enlarged * state[0].mean()

  object.__setattr__(system, 'space', Space(**vars(system.space)))
  found = system._distance(None, condition)(jnp.ones((1, 8, 8, 3)))
  np.testing.assert_allclose(found, [0.5 * 8 * 8 * 3 * 4], rtol=1e-5)


@pytest.mark.parametrize('distance', ['l2', 'lpips'])
def test_stages_are_guided_where_the_spec_says_so(distance):
  system = system_of(distance)
  assert ('lpips' in system.pretrained_parts()) == (distance == 'lpips')
  calls = []

  def stages(scale):
    spec = spec_lib.SamplerSpec(steps=(2,), image_scale=scale)
    key = jax.random.key(0)
    params, extra = system.init(key)
    frozen = {k: x.init(key) for k, x in system.pretrained_parts().items()}
    weights = system_lib.Weights(params, frozen, extra)
    condition = system.example_condition()
    found = system.stages(weights, condition, (1, 32, 32), spec)
    calls.append([len(s.around) for stage in found for s in stage.segments])
    return 0

  for scale in (None, 1.0):
    jax.eval_shape(lambda scale=scale: stages(scale))
  assert calls == [[0], [1]]


def test_what_has_no_low_resolution_image_is_refused():
  with pytest.raises(ValueError, match="image_distance is 'l2', must be ''"):
    system_of('l2', 'ldm_semantic.py:debug')
