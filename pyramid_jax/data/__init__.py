"""Readers of data sets by name, batching and prefetch."""

from collections.abc import Callable
from collections.abc import Iterable
import importlib

from ml_collections import ConfigDict

from pyramid_jax.conditions import tokenizers
from pyramid_jax.data import reader as reader_lib


# name -> (module, class); the class is built as `class(config, split)`, and
# a module whose data are files has `missing_inputs(config, splits)`.
READERS = {
  'shapes': ('pyramid_jax.data.shapes', 'ShapesReader'),
  'image_folder': ('pyramid_jax.data.image_folder', 'ImageFolderReader'),
  'coco': ('pyramid_jax.data.coco', 'CocoReader'),
}
LATENTS = 'latents'  # cached for training; other splits read their source
READERS[LATENTS] = ('pyramid_jax.data.latent_cache', 'LatentReader')
SPLITS = ('train', 'val', 'test')


def _module(config: ConfigDict):
  name = config.data.name
  if name not in READERS:
    raise ValueError(
      f'config.data.name is {name!r}, must be one of {", ".join(READERS)}.'
    )
  return importlib.import_module(READERS[name][0])


def create(config: ConfigDict, split: str) -> reader_lib.Reader:
  """Builds the reader that `config.data.name` names.

  Args:
    config: a whole config.
    split: train, val or test.

  Raises:
    ValueError: unknown name or split, or data that cannot be read.
    FileNotFoundError: files are missing; the message has all of them.
  """
  if split not in SPLITS:
    raise ValueError(f'split is {split!r}, must be one of {", ".join(SPLITS)}.')
  missing = missing_inputs(config, (split,))
  if missing:
    raise FileNotFoundError(f'missing: {"; ".join(missing)}.')
  if config.data.name == LATENTS and split != 'train':
    return create(_module(config).source(config), split)
  make: Callable[[ConfigDict, str], reader_lib.Reader]
  make = getattr(_module(config), READERS[config.data.name][1])
  return make(config, split)


def missing_inputs(
  config: ConfigDict, splits: Iterable[str] = SPLITS
) -> list[str]:
  """Returns what the reader of these splits and the tokenizer lack.

  Args:
    config: a whole config.
    splits: some of train, val, test.

  Returns:
    'path (what it is and the config field)' of every absent file or folder.

  Raises:
    ValueError: unknown `config.data.name`, or a field out of its range.
  """
  find = getattr(_module(config), 'missing_inputs', None)
  if find is None:  # a reader that makes its data
    return []
  return [*find(config, splits), *tokenizers.missing_inputs(config)]
