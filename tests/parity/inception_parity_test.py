"""The Inception-v3 behind FID: the keys of its file, and back."""

import jax
import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.commands import convert
from pyramid_jax.interop import mapping
from pyramid_jax.interop import parts
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop.families import inception as family
from pyramid_jax.networks import inception
from tests.helpers import torch_writer


def _state(network):
  """A state dict of random numbers, with the counters that some files have."""
  _, report = mapping.to_flax({}, family.template(network), family.rename)
  rng = np.random.default_rng(0)
  state = {
    key: rng.normal(size=shape).astype(np.float32)
    for key, shape in report.missing.items()
  }
  counters = {
    key.replace('running_mean', 'num_batches_tracked'): np.asarray(0)
    for key in state
    if key.endswith('running_mean')
  }
  return state, counters


def test_keys_of_the_file():
  shapes = mapping.to_flax({}, family.template(), family.rename)[1].missing
  assert len(shapes) == 94 * 5 + 2
  expected = {
    'Conv2d_1a_3x3.conv.weight': (32, 3, 3, 3),
    'Conv2d_4a_3x3.bn.running_mean': (192,),
    'Mixed_5b.branch5x5_2.bn.running_var': (64,),
    'Mixed_5c.branch_pool.conv.weight': (64, 256, 1, 1),
    'Mixed_6a.branch3x3.conv.weight': (384, 288, 3, 3),
    'Mixed_6b.branch7x7_2.conv.weight': (128, 128, 1, 7),
    'Mixed_6e.branch7x7dbl_2.conv.weight': (192, 192, 7, 1),
    'Mixed_7a.branch7x7x3_4.bn.weight': (192,),
    'Mixed_7b.branch3x3dbl_3b.conv.weight': (384, 384, 3, 1),
    'Mixed_7c.branch3x3_2a.bn.bias': (384,),
    'fc.weight': (1008, 2048),
    'fc.bias': (1008,),
  }
  assert {key: shapes.get(key) for key in expected} == expected


@pytest.fixture
def small(monkeypatch):
  """Makes the published network small."""
  network = inception.InceptionV3(32)
  monkeypatch.setattr(inception, 'InceptionV3', lambda: network)
  return network


def _run(workdir, *rest):
  return convert.main(['--family=inception', f'--workdir={workdir}', *rest])


def _write(path, state):
  tensors = {k: torch_writer.tensor(v) for k, v in state.items()}
  torch_writer.write_zip(path, torch_writer.Ordered(tensors))


def test_conversion_there_and_back_is_exact(small, tmp_path):
  state, counters = _state(small)
  file, target = tmp_path / 'inception.pth', tmp_path / 'back.safetensors'
  _write(file, state | counters)
  assert _run(tmp_path / 'run', f'--checkpoint={file}') == 0
  assert _run(tmp_path / 'run', f'--export={target}') == 0
  back = safetensors_file.Tensors(target)
  assert back.keys() == state.keys()
  for key, value in state.items():
    np.testing.assert_array_equal(back[key], value, err_msg=key)

  template = family.template(small)
  own = parts.load_part(
    'inception', tmp_path / 'run' / 'params.safetensors', template
  )
  theirs = parts.load_part('inception', file, template)
  jax.tree.map(np.testing.assert_array_equal, own, theirs)
  np.testing.assert_array_equal(
    own['params']['fc']['kernel'], state['fc.weight'].T
  )
  np.testing.assert_array_equal(
    own['batch_stats']['Mixed_5b']['branch1x1']['bn']['var'],
    state['Mixed_5b.branch1x1.bn.running_var'],
  )


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'fc.bias': None}, '1 missing keys'),
    ({'AuxLogits.fc.bias': np.zeros(3, np.float32)}, '1 unknown keys'),
    ({'fc.bias': np.zeros(1000, np.float32)}, '1 keys of another shape'),
  ],
)
def test_other_files_are_refused(small, tmp_path, capsys, change, message):
  state = _state(small)[0] | change
  file = tmp_path / 'inception.pth'
  _write(file, {k: v for k, v in state.items() if v is not None})
  assert _run(tmp_path / 'run', f'--checkpoint={file}') == errors.DATA
  assert message in capsys.readouterr().err
