"""Arguments of command lines: overrides with and without '=', and noise."""

import logging

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.runs import writers


def test_values_of_overrides():
  arguments = [
    *('--mode', 'sample', '--config.train.steps', '1000', '--count=2'),
    *('--config.diffusion.P_mean', '-1.2', '--config.sample.steps=(20,50)'),
    *('--config.name=a=b', '--config.data.flip', '--config=FILE.py'),
    *('--config.name', '-', '--config.remat'),
  ]
  overrides, rest = command_line.split(arguments)
  assert overrides == {
    'train.steps': '1000',
    'diffusion.P_mean': '-1.2',
    'sample.steps': '(20,50)',
    'name': '-',
    'data.flip': None,
    'remat': None,
  }
  assert rest == ['--mode', 'sample', '--count=2', '--config=FILE.py']


@pytest.mark.parametrize(
  ('name', 'text', 'value'),
  [
    ('sample.steps', '20', 20),
    ('sample.steps', '20,50', (20, 50)),
    ('sample.steps', '(20, 50)', (20, 50)),
    ('sample.steps', '[20,50]', (20, 50)),
    ('sample.steps', '(20,)', (20,)),
    ('data.flip', None, True),
    ('data.flip', 'false', False),
    ('data.maps', 'edges', ('edges',)),
    ('data.maps', '(\'edges\', "depth")', ('edges', 'depth')),
    ('data.maps', '()', ()),
    ('data.maps', '[]', ()),
    ('condition.null_prefix', '1', (1,)),
    ('network.attention_resolutions', '4', (4,)),
    ('network.attention_resolutions', '[]', ()),
  ],
)
def test_texts_of_values(name, text, value):
  config = config_lib.load('configs/ldm_shapes.py:debug')
  config_lib.override(config, {name: text})
  got = config_lib.flatten(config)[name]
  assert (got, type(got)) == (value, type(value))
  # what was emptied is filled as before
  if value == ():
    config_lib.override(config, {name: '8'})
    kind = str if name == 'data.maps' else int
    assert config_lib.flatten(config)[name] == (kind(8),)


@pytest.mark.parametrize(
  ('name', 'text', 'message'),
  [
    ('train.steps', None, 'steps: must be --config.train.steps=VALUE'),
    ('sample.steps', '[20,50', 'must be int or tuple of int'),
    ('sample.seed', str(2**63), rf'must be in \[0, {2**63 - 1}\]'),
    ('train.steps', '1' + 400 * '0', r'must be in \[1, 2147483647\]'),
  ],
)
def test_texts_that_are_refused(name, text, message):
  config = config_lib.load('configs/ldm_shapes.py:debug')
  with pytest.raises(errors.UserError, match=message):
    command_line.complete(config, {name: text})


def test_a_search_for_backends_is_not_logged():
  def passes(level, text):
    record = logging.LogRecord('jax', level, 'x.py', 1, text, (), None)
    return writers._is_no_search(record)

  search = "Unable to initialize backend 'tpu': no libtpu.so"
  assert not passes(logging.INFO, search)
  assert passes(logging.WARNING, search)
  assert passes(logging.INFO, 'Remote TPU is not available')
  writers.setup()
  filters = logging.getLogger('jax._src.xla_bridge').filters
  assert writers._is_no_search in filters
