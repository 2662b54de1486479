"""A LaDM that is tuned to enlarge, with a ControlNet for its small image."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import systems
from pyramid_jax.conditioning import low_resolution
from pyramid_jax.diffusion import laplacian
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.ladm import control as ladm_control
from tests.helpers import configs
from tests.helpers import system_weights


B, SIDE = 2, 32
SMALL = {
  'data__image_size': SIDE,
  'network__model_channels': 32,
  'train__batch_size': B,
  'laplacian__stage_batch': '(1, 1)',
  'sample__steps': 1,
}
BATCH = {
  name: jax.random.uniform(jax.random.key(i), (B, side, side, 3)) * 2 - 1
  for i, (name, side) in enumerate({'image': SIDE, 'lr_image': 16}.items())
}


def create(phase='tuned', **fields):
  return systems.create(
    configs.load(f'ladm_upsampler.py:shapes,{phase},debug', **SMALL, **fields)
  )


def shapes_of(tree):
  return jax.tree.map(lambda x: x.shape, tree)


@pytest.mark.pods
def test_the_base_is_the_model_of_a_quarter_of_the_side():
  small = systems.create(configs.load('ladm_text.py:1k'))
  system = systems.create(configs.load('ladm_upsampler.py:tuned'))
  assert (small.image_size, system.image_size) == (1024, 4096)
  weights = system_weights.shapes_of(system)
  params, _ = jax.eval_shape(small.init, jax.random.key(0))
  want = shapes_of(params['generator'])
  assert shapes_of(weights.frozen[ladm_control.BASE]) == want
  own = weights.params['generator']
  assert shapes_of(own['base']) == want
  assert set(own['branches']) == {'stage_1', 'stage_2', 'stage_3'}
  # The same noise hides less of a larger image.
  assert system.process.sigma_max == 4 * small.process.sigma_max
  rows = {
    **system.example_rows(),
    'image': jax.ShapeDtypeStruct((1, 4096, 4096, 3), jnp.float32),
  }
  batch = {
    name: jax.ShapeDtypeStruct((16, *x.shape[1:]), x.dtype)
    for name, x in rows.items()
  }
  losses, _ = jax.eval_shape(
    lambda w, b: system.losses(w, jax.random.key(0), jnp.int32(0), b),
    weights,
    batch,
  )
  assert losses['generator'][0].shape == ()


def test_the_map_is_the_low_resolution_image_with_its_noise():
  system = create('control')
  batch = system.encoder.augmented(BATCH, jax.random.key(3))
  inputs = system.encoder.encode({}, batch)
  ((fine, coarse),) = system.inputs(inputs, BATCH).control
  noise = batch[low_resolution.DEVIATION][:, None, None, None]
  small = BATCH['lr_image'] + noise * batch[low_resolution.NOISE]
  np.testing.assert_allclose(fine, low_resolution.enlarged(small, 2), atol=1e-5)
  np.testing.assert_allclose(coarse, laplacian.down(fine), atol=1e-5)


@pytest.mark.turns(3, group='systems')
@pytest.mark.slow
def test_base_and_branches_are_trained_from_the_base():
  system = create()
  params, extra = system_weights.initial_values(system)
  shapes = system_weights.shapes_of(system)
  frozen = {'base': system_weights.fill(shapes.frozen[ladm_control.BASE])}
  weights = system_lib.Weights(params=params, frozen=frozen, extra=extra)
  tree = system.generator(weights)
  for name, own in frozen['base']['networks'].items():
    jax.tree.map(
      np.testing.assert_array_equal, tree['networks'][name]['base'], own
    )

  def total(params):
    tree = system.generator(weights.replace(params=params))
    return sum(x.sum() for x in jax.tree.leaves(tree))

  grads = jax.grad(total)(params)['generator']
  assert all((x == 1).all() for x in jax.tree.leaves(grads))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'control__also': 'B'}, r"\('B',\), must be \(\) with .*train_base"),
    ({'condition__task': 'none'}, "must be 'superres', not 'none' and ''"),
  ],
)
def test_what_does_not_fit_is_refused(fields, message):
  with pytest.raises(ValueError, match=message):
    create(**fields)
