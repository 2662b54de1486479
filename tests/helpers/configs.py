"""Configs for tests: those of configs/, and small ones of base configs."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib


FOLDER = pathlib.Path(__file__).parents[2] / 'configs'


def load(file: str, **fields: Any) -> ConfigDict:
  """Returns a config of configs/.

  Args:
    file: 'NAME.py:VARIANTS'.
    **fields: see `change`.
  """
  return change(config_lib.load(f'{FOLDER}/{file}'), fields)


def change(config: ConfigDict, fields: Mapping[str, Any]) -> ConfigDict:
  """Sets fields as the command line does; returns the same config.

  Args:
    config: is changed.
    fields: values, or their texts, under 'section.field' or 'section__field'.
  """
  texts = {name.replace('__', '.'): str(v) for name, v in fields.items()}
  config_lib.override(config, texts)
  return config


def of_task(
  task: str, level: int = 2, size: int = 32, system: str = 'ldm'
) -> ConfigDict:
  """Returns a small config of a task on `shapes`, for commands and scores."""
  config = config_lib.base(system)
  config.data.level = level
  config.data.image_size = size
  config.data.max_objects = 6
  config.condition.task = task
  config.condition.map_classes = 29
  config.condition.max_length = 40
  config.condition.max_objects = 6
  config.sample.count, config.sample.batch_size = 6, 4
  config.evaluate.count, config.evaluate.batch_size = 10, 5
  return config.lock()


def of_reader(
  name: str, root: str | os.PathLike[str], task: str = 'none', **fields: Any
) -> ConfigDict:
  """Returns a config of a reader of files.

  Args:
    name: of the data.
    root: folder of the files.
    task: of the condition.
    **fields: of the section `data` where it has them, else of `condition`.
  """
  config = config_lib.base('ldm')
  config.data.update(name=name, root=str(root))
  config.condition.task = task
  for field, value in fields.items():
    section = config.data if field in config.data else config.condition
    section[field] = value
  return config.lock()
