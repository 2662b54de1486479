"""A config as a tree of sections: its defaults, its first stage, its text."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax.config import formats
from pyramid_jax.config import sections


def base(system: str) -> ConfigDict:
  """Returns the common fields and those of a system, unlocked, with defaults.

  The systems are the keys of `pyramid_jax.systems.SYSTEMS`.

  Raises:
    UserError: an unknown system.
  """
  return build(sections.defaults(system))


def add_first_stage(config: ConfigDict, first_stage: ConfigDict) -> None:
  """Nests a whole config, and where its weights are, in an unlocked `config`.

  `first_stage.checkpoint` is a workdir or a weight file; empty: it is trained
  in `WORKDIR/first_stage`.
  """
  nested = build(first_stage.to_dict())
  nested[sections.CHECKPOINT] = ''
  config.first_stage = nested


def first_stage(config: ConfigDict) -> ConfigDict:
  """Returns the first stage as a config of its own, locked.

  It reads the data of the second stage unless it names its own root.
  """
  values = config.first_stage.to_dict()
  del values[sections.CHECKPOINT]
  nested = from_json(formats.dumps(values))
  with nested.unlocked():
    nested.data.root = nested.data.root or config.data.root
  return nested


def to_json(config: ConfigDict) -> str:
  """Returns the text of `config.json`, with its format at the top."""
  return formats.dumps(config.to_dict())


def from_json(text: str) -> ConfigDict:
  """Returns the locked config of a text of `to_json`, of any format.

  A field that it lacks came later than the run, and has its default.

  Raises:
    ValueError: the text is not a JSON object, a format that is newer than this
      program, or a field that the system does not have.
  """
  return build(formats.loads(text)).lock()


def build(values: Mapping[str, Any]) -> ConfigDict:
  """Returns an unlocked config of nested values."""
  config = ConfigDict(values)
  if 'sample' in values:  # `steps` is an int or a tuple
    config.sample = ConfigDict(values['sample'], type_safe=False)
  if 'first_stage' in values:
    config.first_stage = build(values['first_stage'])
  return config
