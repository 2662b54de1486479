import io

import numpy as np
from PIL import Image
import pytest

from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import ppm


def _file(pixels, kind='PPM'):
  stream = io.BytesIO()
  Image.fromarray(pixels).save(stream, kind)
  return stream.getvalue()


def _noise(height=5, width=7):
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (height, width, 3), np.uint8)


def test_pixels_are_those_of_pillow():
  want = _noise()
  got = ppm.pixels(_file(want))
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(images.decode(_file(want), 'x'), want)
  assert not got.flags.writeable


@pytest.mark.parametrize(
  'data',
  [
    _file(_noise(), 'PNG'),
    _file(_noise()[..., 0]),  # grey: P5
    _file(_noise())[:-1],
    _file(_noise()) + b'\0',
    _file(_noise()).replace(b'P6\n', b'P6\n# made by\n'),
    b'P6\n0 5\n255\n',
    b'P6\n1 1\n65535\n' + bytes(3),
    b'P6\n99999 1\n255\n' + bytes(3 * 99999),
    b'',
  ],
)
def test_all_else_is_left_to_pillow(data):
  assert ppm.pixels(data) is None
