"""The runs on which edge predictors of the configs are built."""

import pathlib

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from tests.config import configs_test
from tests.helpers import configs


def give(config: ConfigDict, name: str, folder: pathlib.Path) -> None:
  """Names a folder with the config of the run that a predictor needs.

  Args:
    config: is changed if it is one of `sketch`.
    name: 'FILE.py:VARIANT' of the config.
    folder: where `config.json` is written.
  """
  if config.system.name != 'sketch':
    return
  size, *debug = name.partition(':')[2].split(',')
  base = configs.load(','.join([configs_test.BASES[size], *debug]))
  (folder / 'config.json').write_text(config_lib.to_json(base))
  configs.change(config, {'sketch.base': folder})
