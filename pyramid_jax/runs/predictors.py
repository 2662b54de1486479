"""The predictor that guides the samples of a run.

`config.sketch.predictor` is a run of the system `sketch` that was trained on
the run. Both together are a system; see `systems.sketch`.
"""

import os

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.files import stores
from pyramid_jax.runs import workdir as workdir_lib


# Taken from the config of the run, whatever the predictor was trained with.
_SECTIONS = (
  *('evaluate', 'data', 'mesh', 'compiler'),
  *('attention', 'remat', 'scan_blocks'),
)
_SKETCH_FIELDS = ('beta', 'stop_fraction', 'norm_ref', 'shuffled_condition')


def predictor(config: ConfigDict) -> str:
  """Returns the workdir of the predictor that a config names, '' for none."""
  return config.sketch.predictor if 'sketch' in config else ''


def with_maps(config: ConfigDict) -> ConfigDict:
  """Returns the config with the maps that its predictor needs, if it has one.

  Raises:
    UserError: the predictor is not there, or is a run of another system.
  """
  if not predictor(config):
    return config
  maps = (*config.data.maps, *_read(config.sketch.predictor).data.maps)
  config = config_lib.from_json(config_lib.to_json(config))
  config.data.maps = tuple(dict.fromkeys(maps))
  return config


def _read(path: str) -> ConfigDict:
  """Returns the config of a predictor."""
  config = workdir_lib.read_config(path, 'sketch.predictor')
  if config.system.name != 'sketch':
    raise errors.UserError(
      f'config.sketch.predictor is {path}, a run of the system'
      f" {config.system.name!r}, must be one of the system 'sketch'."
    )
  return config


def resolve(
  config: ConfigDict, workdir: str | os.PathLike[str]
) -> tuple[ConfigDict, stores.Path]:
  """Returns the config of predictor and base together, and its workdir.

  Config and workdir of a run without `sketch.predictor` are returned as given.

  Raises:
    UserError: the predictor is not there, or is a run of another system.
  """
  path = predictor(config)
  if not path:
    return config, stores.path(workdir)
  own = _read(path)
  with own.unlocked():
    for name in _SECTIONS:
      own[name] = config[name]
    own.sample.update(config.sample)
    for name in _SKETCH_FIELDS:
      own.sketch[name] = config.sketch[name]
    own.sketch.base = os.fspath(workdir)
  return own, stores.path(path)
