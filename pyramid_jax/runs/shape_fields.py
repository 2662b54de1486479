"""Which fields of a config decide that weights have other shapes."""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
from typing import Any

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.config import sections


# Fields by which no weight changes its shape, by the start of their names.
_NONE = (
  *('name', 'dtype', 'data', 'train', 'optimizer', 'ema', 'mesh'),
  *('compiler', 'evaluate', 'sample'),
)
_SOME = ('data.image_size', 'data.lr_factor', 'data.max_objects')
_LISTED = 5  # fields that a message names


class OtherShapesError(errors.UserError):
  """Weights that are whole, and of another config.

  Attributes:
    config: of the run that wrote them, nested values; None if not known.
  """

  def __init__(self, message: str, config: Mapping[str, Any] | None):
    super().__init__(message, errors.DATA)
    self.config = config


@contextlib.contextmanager
def named(config: ConfigDict) -> Iterator[None]:
  """Adds to an `OtherShapesError` the fields in which its config differs.

  Args:
    config: the one whose weights were asked for.
  """
  try:
    yield
  except OtherShapesError as error:
    text = differences(error.config, config)
    if not text:
      raise
    raise errors.UserError(f'{error} {text}', error.code) from error


def differences(was: Mapping[str, Any] | None, config: ConfigDict) -> str:
  """Returns a sentence about the fields that decide shapes, '' for none."""
  if was is None:
    return ''
  with contextlib.suppress(ValueError):  # of another version
    saved = config_lib.from_json(json.dumps(was))
    lines = config_lib.resume_differences(saved, config)
    found = [line for line in lines if _decides(line.partition(':')[0])]
    found.sort(key=lambda line: sections.NETWORK not in line)
    more = f' and {len(found) - _LISTED} more' if len(found) > _LISTED else ''
    if found:
      return (
        'Its config -> the one that is given differ in'
        f' {"; ".join(found[:_LISTED])}{more}.'
      )
  return ''


def _decides(name: str) -> bool:
  name = name.removeprefix(sections.FIRST_STAGE)
  return name in _SOME or name.partition('.')[0] not in _NONE
