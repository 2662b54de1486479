"""A folder of finished images of one size: samples, or what they resemble."""

import os

import numpy as np

from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import listing
from pyramid_jax.files import stores


class ImageFiles:
  """The images below a folder, by name (see `batches.Source`).

  Unlike those of a data set they are taken as they are, and a broken one is
  an error: scores of the others would not be scores of the folder.
  """

  def __init__(self, folder: str | os.PathLike[str]):
    """Lists the files; raises a UserError if there are none."""
    self._folder = stores.path(folder)
    self._files = listing.find_images(self._folder, str(folder))
    self._shape = self._read(0).shape

  def __len__(self) -> int:
    return len(self._files)

  @property
  def names(self) -> list[str]:
    """The paths of the files, below the folder."""
    return [str(file) for file in self._files]

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns `image` (B, H, W, 3) uint8; `draws` change nothing.

    Raises:
      UserError: an image that cannot be read, or of another size.
    """
    del draws
    return {'image': np.stack([self._checked(int(i)) for i in indices])}

  def _checked(self, index: int) -> np.ndarray:
    pixels = self._read(index)
    if pixels.shape != self._shape:
      size = lambda shape: f'{shape[1]} x {shape[0]} px'
      raise errors.UserError(
        f'{self._folder / self._files[index]} is {size(pixels.shape)}, '
        f'{self._files[0]} {size(self._shape)}; all must be of one size.',
        errors.DATA,
      )
    return pixels

  def _read(self, index: int) -> np.ndarray:
    try:
      return images.read(self._folder / self._files[index], upright=True)
    except images.BrokenImage as error:
      raise errors.UserError(str(error), errors.DATA) from error
