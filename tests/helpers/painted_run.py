"""A run whose images are `painter`'s, for command lines; also a config file."""

import time
import types

from pyramid_jax.metrics import states
from pyramid_jax.runs import array_parts
from tests.helpers import configs
from tests.helpers import painter


def get_config(arg=''):
  del arg
  config = configs.of_task('text').copy_and_resolve_references().unlock()
  config.sample.batch_size = config.evaluate.batch_size = 2
  config.evaluate.count = 24
  return config


def install():
  """Puts the painter in place; every batch takes a little while."""
  painter.install(types.SimpleNamespace(setattr=setattr))
  for owner, name in (
    (array_parts.ArrayParts, 'add'),
    (states.PerImage, 'update'),
  ):
    setattr(owner, name, _slow(getattr(owner, name)))


def _slow(function):
  def slower(*arguments):
    time.sleep(0.02)
    return function(*arguments)

  return slower
