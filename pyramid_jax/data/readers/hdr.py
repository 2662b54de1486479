"""Images of high dynamic range of one's own, to learn what white hides.

`config.data.root` holds Radiance files (.hdr) or arrays of floats (.npy,
(H, W, 3), linear light) at any depth; with a folder `train` every split reads
the folder of its name. White, the radiance 1, is what 95 % of the pixels of an
image reach at the most; on that scale an example is its image on the mu-law
(`networks.layers.tone_curves`) in uint8, a step of 3.4 % of the light.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.data import stored_images
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import radiance
from pyramid_jax.data.pixels import transforms
from pyramid_jax.data.readers import image_folder
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import image_stores
from pyramid_jax.networks.layers import tone_curves


TASKS = ('none',)
_BELOW_WHITE = 95  # percent of the pixels


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of HDR images (config.data.root is empty)']
  lines = []
  for split in splits:
    root = image_folder.folder(config, split)
    if not root.exists():
      lines.append(f'{root} (HDR images, config.data.root)')
    lines += image_lists.missing_inputs(config, split)
  return list(dict.fromkeys(lines))


def exposed(light: np.ndarray) -> np.ndarray:
  """Returns radiance (H, W, 3) of any scale on the mu-law curve, uint8."""
  white = np.percentile(light.max(-1), _BELOW_WHITE)
  values = tone_curves.encoded(light / max(float(white), 1e-12), np)
  return np.round(255 * values).astype(np.uint8)


class HdrReader(stored_images.StoredReader):
  """Reads HDR images (see the module and `stored_images.StoredReader`)."""

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
    cache, suffixes = index_cache.folder(config), radiance.SUFFIXES
    store = image_stores.opened(root, cache, suffixes)
    rows = image_stores.rows(store, suffixes, root)
    chosen = stored_images.listed(config, split, store, rows)
    super().__init__(config, split, chosen, TASKS)

  def decoded(self, index: int) -> transforms.AnyImage:
    """Returns an image on the mu-law, or raises `BrokenImage`."""
    row = int(self._rows[index])
    light = radiance.decode(self._store.load(row), self._store.where(row))
    return exposed(light)
