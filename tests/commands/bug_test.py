"""A bug in a network is no mistake of a person: it keeps its traceback."""

import pathlib

import jax
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.networks import diffit
from tests.helpers import command_line
from tests.helpers import written_run


CONFIG = pathlib.Path(__file__).parents[2] / 'configs' / 'diffit_shapes.py'
SMALL = {
  'data.image_size': 16,
  'network.window': 4,
  'train.steps': 1,
  'train.batch_size': 8,
  'sample.steps': 1,
  'sample.count': 2,
  'evaluate.count': 2,
}


@pytest.fixture
def call(monkeypatch):
  """Runs a command line; returns its exit code and what it wrote."""
  monkeypatch.setattr(jax.config, 'update', lambda *args: None)
  return command_line.call


@pytest.fixture
def broken(monkeypatch):
  """Returns what makes a network raise a ValueError."""
  network = diffit.DiffiT
  method = network.__call__

  def install(when_initializing):
    def fail(self, *args, **kwargs):
      if when_initializing or not self.is_initializing():
        raise ValueError('shapes that do not fit, in a network')
      return method(self, *args, **kwargs)

    monkeypatch.setattr(network, '__call__', fail)

  return install


@pytest.mark.parametrize(
  ('mode', 'when_initializing'),
  [('train', True), ('train', False), ('sample', False), ('evaluate', False)],
)
def test_an_error_in_a_network_keeps_its_traceback(
  call, broken, tmp_path, mode, when_initializing
):
  args = [f'--mode={mode}', f'--workdir={tmp_path / "run"}']
  fields = {name: str(value) for name, value in SMALL.items()}
  if mode == 'train':
    args.append(f'--config={CONFIG}:debug')
    args += [f'--config.{name}={value}' for name, value in fields.items()]
  else:
    config = config_lib.load(f'{CONFIG}:debug')
    config_lib.override(config, fields)
    written_run.write(tmp_path / 'run', config)
  broken(when_initializing)
  code, text = call(*args)
  assert code == errors.BUG
  assert 'Traceback' in text
  assert 'in fail' in text  # where it was raised
  assert 'shapes that do not fit, in a network' in text
