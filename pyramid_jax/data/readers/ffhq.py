"""FFHQ, and other sets that StyleGAN's and EDM's dataset_tool.py has written.

`config.data.root` is one of

  images1024x1024/  00000/00000.png ... 69000/69999.png, or without the folders
                    of a thousand; also a folder that holds images1024x1024/
  ffhq-64x64.zip    00000/img00000000.png ... and dataset.json, as
                    NVlabs/edm: dataset_tool.py writes them, or that folder

Of `dataset.json`, `{"labels": [["00000/img00000000.png", 6], ...]}`, a class c
becomes the label 1 + c; where `labels` is null there are no classes. Every
split reads all images (EDM and DiffiT train on all 70,000), or a folder of its
name if there is `train`, unless
`config.data.ids_file` and `config.data.eval_ids_file` list those of training
and those of val and test: `ffhqtrain` and `ffhqvalidation` are the 60,000 and
10,000 of taming-transformers and of latent diffusion.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import json
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.data import stored_images
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import image_folder
from pyramid_jax.data.storage import image_lists
from pyramid_jax.data.storage import image_stores
from pyramid_jax.files import bounded
from pyramid_jax.files import json_text
from pyramid_jax.files import stores


TASKS = ('none', 'class', 'superres', 'inpaint')
FOLDER = 'images1024x1024'
LABELS = 'dataset.json'


def source(config: ConfigDict, split: str) -> stores.Path:
  """Returns the folder or the archive of the images of a split."""
  root = image_folder.folder(config, split)
  return root / FOLDER if (root / FOLDER).is_dir() else root


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = ('train', 'val', 'test')
) -> list[str]:
  """Returns 'path (what it is)' of everything that is not there."""
  if not config.data.root:
    return ['the folder or zip of FFHQ (config.data.root is empty)']
  lines = []
  for split in splits:
    path = source(config, split)
    if not path.exists():
      lines.append(f'{path} (FFHQ, config.data.root)')
    lines += image_lists.missing_inputs(config, split)
  return list(dict.fromkeys(lines))


def _labels(
  path: stores.Path, store: image_stores.Store
) -> dict[str, int] | None:
  """Returns the classes of `dataset.json` by name, None without any.

  Raises:
    UserError: it is something else.
  """
  where = f'{path}/{LABELS}'
  row = image_stores.find(store, LABELS)
  try:
    if row is not None:
      data = store.load(row)
    elif isinstance(store, image_stores.Folder):
      data = bounded.read(path / LABELS, limits.ANNOTATION_BYTES)
    else:
      return None
    found = json_text.loads(data, most=limits.ANNOTATION_BYTES, strict=False)
  except FileNotFoundError:
    return None
  except (ValueError, images.BrokenImage) as error:
    raise errors.UserError(f'{where}: {error}.', errors.DATA) from error
  labels = found.get('labels') if isinstance(found, dict) else found
  if labels is None:
    return None
  if not isinstance(labels, list) or not all(map(_is_pair, labels)):
    raise errors.UserError(
      f'{where}: "labels" must be null or a list of [NAME, CLASS], classes'
      f' whole numbers from 0 on; got {json.dumps(labels)[:60]}.',
      errors.DATA,
    )
  return {name.replace('\\', '/'): number for name, number in labels}


def _is_pair(value: Any) -> bool:
  return (
    isinstance(value, list)
    and len(value) == 2
    and isinstance(value[0], str)
    and type(value[1]) is int
    and 0 <= value[1] < limits.VOCABULARY
  )


def _numbered(
  chosen: stored_images.Selection, labels: dict[str, int], path: stores.Path
) -> stored_images.Selection:
  """Adds the classes to the images; one without any is a UserError."""
  named: Sequence[str] = [chosen.store.names[row] for row in chosen.rows]
  lacking = [name for name in named if name not in labels]
  if lacking:
    raise errors.UserError(
      f'{path}/{LABELS} lacks {len(lacking)} of {len(named)} images, such as'
      f' {lacking[0]!r}.',
      errors.DATA,
    )
  count = 1 + max(labels.values(), default=-1)
  return dataclasses.replace(
    chosen,
    labels=np.array([1 + labels[name] for name in named], np.int32),
    label_names=('', *map(str, range(count))),
  )


class FfhqReader(stored_images.StoredReader):
  """Reads FFHQ (see the module and `stored_images.StoredReader`)."""

  def __init__(self, config: ConfigDict, split: str):
    """Lists the files.

    Raises:
      ValueError: there are none, the list of the split is of other files, or
        the classes are not what they must be.
      FileNotFoundError: the folder, the archive or a list is missing.
    """
    missing = missing_inputs(config, (split,))
    if missing:
      raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
    path = source(config, split)
    store = image_stores.opened(path, index_cache.folder(config))
    rows = image_stores.rows(store, images.SUFFIXES, path)
    chosen = stored_images.listed(config, split, store, rows)
    labels = _labels(path, store)
    if labels is not None:
      chosen = _numbered(chosen, labels, path)
    super().__init__(config, split, chosen, TASKS)
