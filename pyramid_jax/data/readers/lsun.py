"""LSUN: scenes, of the published LMDB or of extracted images.

`config.data.root` is one of

  PLACE/church_outdoor       where PLACE holds church_outdoor_train_lmdb/ and
                             church_outdoor_val_lmdb/, as they are published
  PLACE/..._train_lmdb       one such folder, which every split reads
  PLACE/churches             a folder of extracted images, a .tar or a .zip

Without a published val every split reads everything, or a folder of its name if
there is `train`, unless
`config.data.ids_file` and `config.data.eval_ids_file` list the images of
training and those of val and test, as church_outdoor_train.txt and
church_outdoor_val.txt of latent diffusion do. Names are the keys of the LMDB,
or those of files without their suffixes.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from pyramid_jax.data import stored_images
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import image_folder
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import image_stores
from pyramid_jax.data.storage import lmdb_store
from pyramid_jax.files import stores


def source(config: ConfigDict, split: str) -> stores.Path:
  """Returns the folder or the archive of a split."""
  root = stores.path(config.data.root).expanduser()
  part = 'train' if split == 'train' else 'val'
  published = root.parent / f'{root.name}_{part}_lmdb'
  return published if published.is_dir() else image_folder.folder(config, split)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder of LSUN (config.data.root is empty)']
  lines = []
  for split in splits:
    path = source(config, split)
    part = 'train' if split == 'train' else 'val'
    if not path.exists():
      lines.append(f'{path}_{part}_lmdb or {path} (LSUN, config.data.root)')
    lines += image_lists.missing_inputs(config, split)
  return list(dict.fromkeys(lines))


class LsunReader(stored_images.StoredReader):
  """Reads LSUN (see the module and `stored_images.StoredReader`)."""

  def __init__(self, config: ConfigDict, split: str):
    """Lists the images.

    Raises:
      ValueError: there are none, the list of the split is of other images, or
        the package for LMDB is not installed.
      FileNotFoundError: the folder or a list is missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    path = source(config, split)
    if lmdb_store.is_lmdb(path):
      store: image_stores.Store = lmdb_store.Lmdb(
        path, index_cache.folder(config)
      )
      rows = list(range(len(store.names)))
    else:
      store = image_stores.opened(path, index_cache.folder(config))
      rows = image_stores.rows(store, images.SUFFIXES, path)
    super().__init__(
      config, split, stored_images.listed(config, split, store, rows)
    )
