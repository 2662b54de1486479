"""The trained run that guides the samples of another.

`config.sketch.predictor` is a run of the system `sketch` that was trained on
the run, `config.sample.classifier` one of the system `classifier`. Both
together are a system; see `systems.sketch` and `systems.classifier.guided`.
"""

import os

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.files import stores
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.classifier import guided


SKETCH, CLASSIFIER = 'sketch', 'classifier'  # the systems that guide
# The field that names a run of each.
FIELDS = {SKETCH: 'sketch.predictor', CLASSIFIER: 'sample.classifier'}
# Taken from the config of the run, whatever the predictor was trained with.
_SECTIONS = (
  *('evaluate', 'data', 'mesh', 'compiler'),
  *('attention', 'remat', 'scan_blocks'),
)
_SKETCH_FIELDS = ('beta', 'stop_fraction', 'norm_ref', 'shuffled_condition')


def _named(config: ConfigDict) -> dict[str, str]:
  """Returns the workdirs that a config names, by the system that guides."""
  flat = config_lib.flatten(config)
  found = {kind: flat.get(field, '') for kind, field in FIELDS.items()}
  return {kind: path for kind, path in found.items() if path}


def predictor(config: ConfigDict) -> str:
  """Returns the workdir of what guides a run, '' for none.

  Raises:
    UserError: the config names two.
  """
  named = _named(config)
  if len(named) > 1:
    both = ' and '.join(f'config.{FIELDS[kind]}' for kind in named)
    raise errors.UserError(f'{both} are set, only one may guide.')
  return ''.join(named.values())


def with_conditions(config: ConfigDict) -> ConfigDict:
  """Returns the config with the conditions that its guide needs, if it has one.

  These are maps for sketches, and classes for the samples of a run without a
  condition that a classifier guides.

  Raises:
    UserError: the guide is not there, or is a run of another system.
  """
  if not predictor(config):
    return config
  ((kind, path),) = _named(config).items()
  own = _read(kind, path)
  config = config_lib.from_json(config_lib.to_json(config))
  if kind == SKETCH:
    maps = (*config.data.maps, *own.data.maps)
    config.data.maps = tuple(dict.fromkeys(maps))
  elif config.condition.task == 'none':
    config.condition.task = 'class'
    config.condition.num_classes = own.condition.num_classes
  return config


def _read(kind: str, path: str) -> ConfigDict:
  """Returns the config of a run that guides."""
  config = workdir_lib.read_config(path, FIELDS[kind])
  if config.system.name != kind:
    raise errors.UserError(
      f'config.{FIELDS[kind]} is {path}, a run of the system'
      f' {config.system.name!r}, must be one of the system {kind!r}.'
    )
  return config


def resolve(
  config: ConfigDict, workdir: str | os.PathLike[str]
) -> tuple[ConfigDict, stores.Path]:
  """Returns the config of the guide and base together, and its workdir.

  Config and workdir of a run that nothing guides are returned as given.

  Raises:
    UserError: the guide is not there, or is a run of another system.
  """
  path = predictor(config)
  if not path:
    return config, stores.path(workdir)
  ((kind, _),) = _named(config).items()
  own, base = _read(kind, path), os.fspath(workdir)
  with own.unlocked():
    for name in _SECTIONS:
      own[name] = config[name]
    if kind == SKETCH:
      own.sample.update(config.sample)
      for name in _SKETCH_FIELDS:
        own.sketch[name] = config.sketch[name]
      own.sketch.base = base
    else:
      _check_space(own, config, path)
      own.classifier.base = base
  return own, stores.path(path)


def _check_space(own: ConfigDict, config: ConfigDict, path: str) -> None:
  """Refuses a classifier of images on a system of latents, or the reverse."""
  mine = own.classifier.space
  theirs = 'latents' if 'first_stage' in config else 'images'
  if mine != theirs:
    raise errors.UserError(
      f'config.sample.classifier is {path}, a classifier of noisy {mine}, and'
      f' the run diffuses {theirs}.'
    )


def create_system(
  config: ConfigDict, workdir: str | os.PathLike[str]
) -> system_lib.Trainable:
  """Builds the system of a run, with what guides it.

  The run is built by the config that is given, so that fields which a person
  sets for sampling, such as `dtype`, hold; the guide by the config that it was
  trained with.

  Raises:
    UserError: a config that fits no system, or a guide that does not fit.
  """
  own, _ = resolve(config, workdir)
  if own is config:
    return workdir_lib.create_system(own)
  base = _as_trained(config, workdir)
  with errors.user_errors():
    if own.system.name == SKETCH:
      return systems.create(own, base)
    return guided.create(own, base)


def _as_trained(
  config: ConfigDict, workdir: str | os.PathLike[str]
) -> ConfigDict:
  """Returns the config without the classes of `with_conditions`."""
  was = workdir_lib.read_config(workdir).condition
  found = config_lib.from_json(config_lib.to_json(config))
  if was.task == 'none':
    found.condition.task = was.task
    found.condition.num_classes = was.num_classes
  return found
