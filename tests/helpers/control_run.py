"""A small ControlNet on the scenes of `shapes`, as a config file."""

from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from tests.helpers import configs


BASE = 'ladm_shapes.py:text,debug'


def get_config(arg: str = '') -> ConfigDict:
  """Returns the config; `config.control.base` is a run of `BASE`."""
  del arg
  common = config_lib.sibling(f'{configs.FOLDER}/_', 'common')
  config = common.recast(configs.load(BASE), 'ladm_control')
  config.name = 'control'
  config.control.map = 'edges'
  config.data.maps = ('edges',)
  return config
