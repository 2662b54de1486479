"""Readers of data sets by name, batching and prefetch."""

from collections.abc import Callable
import importlib

from ml_collections import ConfigDict

from pyramid_jax.conditions import tokenizers
from pyramid_jax.data import reader as reader_lib


# name -> (module, class); the class is built as `class(config, split)`, and
# the module may name absent files with `missing_inputs(config)`.
READERS = {
  'shapes': ('pyramid_jax.data.shapes', 'ShapesReader'),
  'image_folder': ('pyramid_jax.data.image_folder', 'ImageFolderReader'),
  'coco': ('pyramid_jax.data.coco', 'CocoReader'),
}
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
    FileNotFoundError: files are missing; the message names all of them.
  """
  if split not in SPLITS:
    raise ValueError(f'split is {split!r}, must be one of {", ".join(SPLITS)}.')
  module = _module(config)
  make: Callable[[ConfigDict, str], reader_lib.Reader]
  make = getattr(module, READERS[config.data.name][1])
  return make(config, split)


def missing_inputs(config: ConfigDict) -> list[str]:
  """Returns what the readers of all splits and the tokenizer lack.

  Args:
    config: a whole config.

  Returns:
    One entry a file or folder: its path and the config field that names it.

  Raises:
    ValueError: unknown `config.data.name`.
  """
  find = getattr(_module(config), 'missing_inputs', None)
  lines = find(config) if find else []
  if config.data.name != 'shapes':  # words of scenes need no file
    lines += tokenizers.missing_inputs(config)
  return lines
