"""The resize of clean-fid beside Pillow itself."""

import numpy as np
from PIL import Image
import pytest

from pyramid_jax.metrics import inception_input


@pytest.mark.parametrize('shape', [(64, 48), (299, 299), (400, 310), (16, 500)])
def test_clean_is_what_pillow_makes_of_every_channel(shape):
  rng = np.random.default_rng(0)
  images = rng.choice([0, 3, 250, 255], (2, *shape, 3)).astype(np.uint8)
  got = inception_input.resized(images, 'clean')
  assert (got.shape, got.dtype) == ((2, 299, 299, 3), np.float32)
  for image, mine in zip(images, got, strict=True):
    for channel in range(3):
      one = Image.fromarray(image[:, :, channel].astype(np.float32), mode='F')
      small = np.asarray(one.resize((299, 299), resample=Image.BICUBIC))
      np.testing.assert_array_equal(mine[:, :, channel], small.clip(0, 255))
  assert (got.min(), got.max()) == (0, 255)
  is_whole = (got == got.round()).all()
  assert is_whole == (shape == (299, 299))  # nothing is rounded


def test_tf1_leaves_the_resize_to_the_network():
  images = np.zeros((2, 8, 8, 3), np.uint8)
  assert inception_input.resized(images, 'tf1') is images
