import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax.conditioning import request


def _config():
  config = config_lib.base('ldm')
  config.data.image_size = 16
  config.condition.map_classes = 5
  return config


def test_maps():
  classes = np.arange(4, dtype=np.uint8).reshape(2, 2)
  rows = request.from_map(classes, _config())
  np.testing.assert_array_equal(rows['mask'], classes[None])
  with pytest.raises(ValueError, match=r'class 5, the model takes 0\.\.4'):
    request.from_map(classes + np.uint8(2), _config())


def test_low_resolution():
  image = np.zeros((4, 4, 3), np.uint8)
  rows = request.from_low_resolution(image, _config(), (16, 16))
  assert rows['lr_image'].shape == (1, 4, 4, 3)
  with pytest.raises(
    ValueError, match='is 5 x 4 px; the model enlarges 4 x 4 px to 16 x 16 px'
  ):
    request.from_low_resolution(
      np.zeros((4, 5, 3), np.uint8), _config(), (16, 16)
    )
  rows = request.from_low_resolution(
    np.zeros((4, 5, 3), np.uint8), _config(), (16, 20)
  )
  assert rows['lr_image'].shape == (1, 4, 5, 3)


def test_holes():
  image = np.zeros((4, 4, 3), np.uint8)
  mask = np.eye(4) > 0
  rows = request.from_holes(image, mask)
  np.testing.assert_array_equal(rows['inpaint_mask'][0], np.eye(4))
  assert rows['inpaint_mask'].dtype == np.uint8
  with pytest.raises(ValueError, match='has no hole'):
    request.from_holes(image, mask & False)
