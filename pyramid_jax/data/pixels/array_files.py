"""Images in `.npy` files."""

import io

import numpy as np

from pyramid_jax import limits
from pyramid_jax.data.pixels import images
from pyramid_jax.files import arrays


SUFFIX = '.npy'


def decode(data: bytes, where: str) -> np.ndarray:
  """Returns the numbers of an `.npy` file, as many as an image may have.

  Raises:
    BrokenImage: it is no such array.
  """
  stream = io.BytesIO(data)
  try:
    shape, is_fortran, dtype = arrays.header(stream, SUFFIX)
  except ValueError as error:
    raise images.BrokenImage(where, f'no array of NumPy: {error}') from None
  count = int(np.prod(shape, dtype=np.float64))
  if is_fortran or dtype.kind not in 'uif':
    raise images.BrokenImage(
      where, f'an array {shape} of {dtype}, must be uint8 or floats, by rows'
    )
  if not 0 < count <= 3 * limits.IMAGE_PIXELS:
    raise images.BrokenImage(where, f'an array {shape}, which is no image')
  size, rest = count * dtype.itemsize, len(data) - stream.tell()
  if rest != size:
    raise images.BrokenImage(where, f'{rest} of {size} bytes of pixels')
  return np.frombuffer(data, dtype, count, stream.tell()).reshape(shape)
