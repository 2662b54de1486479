"""Which predictor guides the samples of a run.

A run of any system is guided by `config.sketch.predictor`, a run of the
system `sketch` that was trained on it. Both together are that system; see
`systems.sketch`.
"""

import os
import pathlib

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.runs import workdir as workdir_lib


# What a person asks for, whatever the predictor was trained with.
_SECTIONS = ('evaluate', 'data', 'mesh')
_FIELDS = ('beta', 'stop_fraction', 'norm_ref', 'shuffled_condition')
_KEPT = ('attention', 'remat')


def predictor(config: ConfigDict) -> str:
  """Returns the workdir of the predictor that a config names, '' for none."""
  return config.sketch.predictor if 'sketch' in config else ''


def with_maps(config: ConfigDict) -> ConfigDict:
  """Returns a config whose data tell what its predictor is asked for.

  A config without a predictor comes back as it is.

  Args:
    config: of a run.

  Raises:
    UserError: the predictor is not there, or is something else.
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
) -> tuple[ConfigDict, pathlib.Path]:
  """Returns the config of predictor and base together, and its workdir.

  Args:
    config: of a run, perhaps with `sketch.predictor`; without it is returned.
    workdir: of that run.

  Raises:
    UserError: the predictor is not there, or is something else.
  """
  path = predictor(config)
  if not path:
    return config, pathlib.Path(workdir)
  own = _read(path)
  with own.unlocked():
    for name in (*_SECTIONS, *_KEPT):
      own[name] = config[name]
    own.sample.update(config.sample)
    for name in _FIELDS:
      own.sketch[name] = config.sketch[name]
    own.sketch.base = os.fspath(workdir)
  return own, pathlib.Path(path)


def check_base(
  base: str, was: str | None, digest: str, path: pathlib.Path
) -> None:
  """Refuses a predictor that was trained on another base.

  Args:
    base: the workdir of the base.
    was: the hash of the base's weights in training, None if not known.
    digest: of those that are here.
    path: of the predictor.

  Raises:
    UserError: they differ.
  """
  if was not in (None, digest):
    raise errors.UserError(
      f'the predictor in {path} was trained on other weights than those in'
      f' {base}; train one on them.',
      errors.DATA,
    )
