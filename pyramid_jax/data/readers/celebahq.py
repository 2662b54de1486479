"""CelebA-HQ: 30,000 faces, of the `.npy` files of its authors, or images.

`config.data.root` is a folder, or a .tar or .zip, with one of

  imgHQ00000.npy ...  uint8 of the shape (1, 3, 1024, 1024), or (3, H, W)
  00000.jpg ...       images of any size, at any depth

Every split reads all of them, or a folder of its name if there is `train`,
unless `config.data.ids_file` and
`config.data.eval_ids_file` list those of training and those of val and test:
`celebahqtrain` and `celebahqvalidation` are the published 25,000 and 5,000.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import stored_images
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import array_files
from pyramid_jax.data.pixels import images
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.readers import image_folder
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import image_stores


ARRAY = array_files.SUFFIX


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of CelebA-HQ (config.data.root is empty)']
  lines = []
  for split in splits:
    root = image_folder.folder(config, split)
    if not root.exists():
      lines.append(f'{root} (CelebA-HQ, config.data.root)')
    lines += image_lists.missing_inputs(config, split)
  return list(dict.fromkeys(lines))


def decode_array(data: bytes, where: str) -> np.ndarray:
  """Decodes a face of an `.npy` file.

  Returns:
    (H, W, 3) uint8.

  Raises:
    BrokenImage: it is no such array.
  """
  pixels = array_files.decode(data, where)
  channels = pixels.shape[-3] if pixels.ndim > 2 else 0
  is_one = pixels.shape[:-3] in ((), (1,))
  if channels != 3 or not is_one or pixels.dtype != np.uint8:
    raise images.BrokenImage(
      where,
      f'an array {pixels.shape} of {pixels.dtype}, must be uint8 of the shape'
      ' (1, 3, 1024, 1024)',
    )
  return pixels.reshape(pixels.shape[-3:]).transpose(1, 2, 0)


class CelebAHqReader(stored_images.StoredReader):
  """Reads CelebA-HQ (see the module and `stored_images.StoredReader`)."""

  def __init__(self, config: ConfigDict, split: str):
    """Lists the files.

    Raises:
      ValueError: there are none, or the list of the split is of other files.
      FileNotFoundError: the folder or a list is missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    root = image_folder.folder(config, split)
    store = image_stores.opened(root, index_cache.folder(config), (ARRAY,))
    rows = image_stores.rows(store, (ARRAY, *images.SUFFIXES), root)
    super().__init__(
      config, split, stored_images.listed(config, split, store, rows)
    )

  def decoded(self, index: int) -> transforms.AnyImage:
    """Returns a face, or raises `BrokenImage`."""
    row = int(self._rows[index])
    if not self._store.names[row].endswith(ARRAY):
      return super().decoded(index)
    return decode_array(self._store.load(row), self._store.where(row))
