"""Larger images and oblong ones than those of LDM's training."""

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.pipeline import conditions
from pyramid_jax.pipeline import request as request_lib
from pyramid_jax.systems import system as system_lib
from tests.helpers import configs


@pytest.fixture(scope='module')
def semantic():
  return systems.create(configs.load('ldm_semantic.py:debug'))


def made(system, batch, shape, windows=(0, 0)):
  """The shape of the images of a batch of shapes."""
  spec = spec_lib.SamplerSpec(solver='ddim', steps=(2,), windows=windows)

  def sampled(batch):
    key = jax.random.key(0)
    params, extra = system.init(key)
    frozen = {
      name: part.init(key) for name, part in system.pretrained_parts().items()
    }
    weights = system_lib.Weights(params, frozen, extra)
    extent = system_lib.Extent(shape=shape)
    keys = jax.random.split(key, 1)
    images, _ = system_lib.generate(
      system, weights, keys, batch, spec, None, extent
    )
    return images

  return jax.eval_shape(sampled, batch).shape


def map_of(*shape):
  return {'mask': jax.ShapeDtypeStruct((1, *shape), jnp.uint8)}


def test_convolutions_make_images_of_any_multiple(semantic):
  assert semantic.any_shape
  assert made(semantic, map_of(64, 40), (64, 40)) == (1, 64, 40, 3)
  # The latent has 4 px a place, the U-Net two levels.
  with pytest.raises(errors.UserError, match='36 x 52 px .* multiples of 8'):
    made(semantic, map_of(36, 52), (36, 52))


def test_windows_need_whole_places_of_the_latent_alone(semantic):
  got = made(semantic, map_of(36, 52), (36, 52), windows=(8, 4))
  assert got == (1, 36, 52, 3)
  with pytest.raises(errors.UserError, match='38 x 52 px .* multiples of 4'):
    made(semantic, map_of(38, 52), (38, 52), windows=(8, 4))


def test_a_condition_of_another_grid_is_refused(semantic):
  message = 'grid of 8 x 8, images of 64 x 40 px have 16 x 10'
  with pytest.raises(errors.UserError, match=message):
    made(semantic, map_of(32, 32), (64, 40))


def rows(config, **values):
  return conditions.read(request_lib.Request(**values), config, ()).rows


def test_maps_and_holes_get_the_shape_of_the_images(caplog):
  values = np.arange(24, dtype=np.uint8).reshape(4, 6)
  config = configs.of_task('map')
  got = rows(config, map=Image.fromarray(values), shape=(8, 12))['mask']
  np.testing.assert_array_equal(got[0], values.repeat(2, 0).repeat(2, 1))
  assert 'cropped' not in caplog.text
  # The middle three rows have the ratio of 1 : 2.
  got = rows(config, map=Image.fromarray(values), shape=(3, 6))['mask']
  np.testing.assert_array_equal(got[0], values[[1, 2, 3]])
  assert 'cropped to the part of 6 : 3 in its middle' in caplog.text


def test_low_resolution_images_have_their_part_of_the_shape():
  config = configs.of_task('superres')
  small = np.zeros((5, 10, 3), np.uint8)
  got = rows(config, image=small, shape=(20, 40))['lr_image']
  assert got.shape == (1, 5, 10, 3)
  with pytest.raises(errors.UserError, match='enlarges 8 x 8 px to 32 x 32'):
    rows(config, image=small)
