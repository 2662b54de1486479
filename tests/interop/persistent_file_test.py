"""Pickles of NVlabs/edm without its code: what is read, what is refused."""

import pathlib
import subprocess

import numpy as np
import pytest

from pyramid_jax import limits
from pyramid_jax.interop import persistent_file
from pyramid_jax.interop import weight_file
from tests.helpers import torch_writer


Call, Name = torch_writer.Call, torch_writer.Name
# Made by the official classes, without the source code that they put into it,
# and with outputs of their network.
RECORDED = pathlib.Path(__file__).parent / 'recorded' / 'edm_snapshot.npz'


def tensor(array, data=None):
  """Returns a tensor whose storage is a file within the pickle."""
  array = np.asarray(array, np.float32)
  if data is None:
    data = torch_writer.legacy(array.reshape(-1))
  storage = Call(Name('torch.storage', '_load_from_bytes'), (data,))
  strides = tuple(s // array.itemsize for s in array.strides)
  hooks = Call(Name('collections', 'OrderedDict'), ())
  return Call(
    Name('torch._utils', '_rebuild_tensor_v2'),
    (storage, 0, array.shape, strides, False, hooks),
  )


def module(name, state, source='not_read = 1 / 0'):
  """Returns an object that holds the source code of its class."""
  meta = {
    'type': 'class',
    'version': 6,
    'module_src': source,
    'class_name': name,
    'state': state,
  }
  reconstruct = '_reconstruct_persistent_obj'
  return Call(Name('torch_utils.persistence', reconstruct), (meta,))


def layer(weight):
  return module(
    'Linear', {'_parameters': {'weight': weight, 'bias': None}, '_modules': {}}
  )


def snapshot(modules, **arguments):
  state = {
    '_parameters': {},
    '_buffers': {'u': tensor([3.0])},
    '_modules': modules,
    '_init_kwargs': arguments,
  }
  return {'ema': module('EDMPrecond', state), 'loss_fn': module('EDMLoss', {})}


def write(tmp_path, value):
  path = tmp_path / 'network.pkl'
  path.write_bytes(torch_writer.Pickler().dump(value))
  return path


def test_tensors_have_the_names_of_the_modules(tmp_path):
  weight = np.arange(6, dtype='f4').reshape(2, 3)
  container = Name('torch.nn.modules.container', 'ModuleDict')
  inner = Call(container, (), {'_modules': {'8x8_conv': layer(tensor(weight))}})
  path = write(
    tmp_path, snapshot({'enc': inner}, label_dim=5, res=[1, 2], other=layer(1))
  )
  found = weight_file.read(path)
  assert list(found) == ['u', 'enc.8x8_conv.weight']
  np.testing.assert_array_equal(found['enc.8x8_conv.weight'], weight)
  assert found.class_name == 'EDMPrecond'
  assert found.settings == {'label_dim': 5, 'res': [1, 2]}


def test_a_snapshot_of_the_official_classes(tmp_path):
  path = tmp_path / 'network.pkl'
  with np.load(RECORDED) as recorded:
    path.write_bytes(recorded['pickle'].tobytes())
  found = weight_file.read(path)
  assert found.class_name == 'EDMPrecond'
  assert found.settings['img_resolution'] == 32
  assert found.settings['resample_filter'] == [1, 3, 3, 1]
  assert found['model.map_noise.freqs'].shape == (4,)
  filters = [key for key in found if key.endswith('resample_filter')]
  assert len(filters) == 5
  rest = [key for key in found if key not in filters]
  assert found['model.enc.32x32_conv.weight'].shape == (4, 3, 3, 3)
  assert all(np.isfinite(found[key]).all() for key in rest)


def hostile(tmp_path):
  """Returns what runs a command if a class or a function is imported."""
  mark = tmp_path / 'run'
  return mark, Call(Name('os', 'system'), (f'touch {mark}',))


def test_no_code_of_a_pickle_is_run(tmp_path):
  mark, call = hostile(tmp_path)
  source = f'import os\nos.system("touch {mark}")'
  modules = {'a': layer(tensor([1.0])), 'b': call}
  value = {**snapshot(modules), 'more': module('Evil', {'x': call}, source)}
  found = persistent_file.read(write(tmp_path, value))
  assert list(found) == ['u', 'a.weight']
  assert not mark.exists()
  # The file is one that would run it.
  loaded = 'import pickle, sys; pickle.loads(open(sys.argv[1], "rb").read())'
  path = write(tmp_path, call)
  subprocess.run(['python3', '-c', loaded, str(path)], check=True)
  assert mark.exists()


def deep(levels):
  found = layer(tensor([1.0]))
  for _ in range(levels):
    found = module('Nest', {'_modules': {'a': found}})
  return found


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ({'net': layer(tensor([1.0]))}, "without an entry 'ema' that is a network"),
    ({'ema': 3}, "without an entry 'ema' that is a network"),
    (snapshot({}) | {'ema': module('Empty', {})}, 'Empty has no tensors'),
    (snapshot({'a': deep(20)}), 'more than 16 modules in each other'),
    (snapshot({'a': layer(tensor([1.0], b'\x80\x02K\x01.'))}), 'magic number'),
    (snapshot({'a': layer(tensor([1.0], 'x'))}), 'a storage that is not bytes'),
    (
      snapshot({'a': layer(tensor([1.0], torch_writer.legacy({})))}),
      'bytes that hold no storage',
    ),
    (
      snapshot({'a': layer(Call(Name('a', 'B'), (tensor([1.0]),)))}),
      "'a.B' makes a tensor",
    ),
    (
      snapshot({'a': layer(torch_writer.tensor(np.ones(2, 'f4')))}),
      'refers to something outside',
    ),
    (snapshot({'x' * 600: layer(tensor([1.0]))}), 'a name of 601 characters'),
  ],
)
def test_refuses(tmp_path, value, message):
  with pytest.raises(ValueError, match=message):
    weight_file.read(write(tmp_path, value))


def test_repeated_numbers_are_bounded(tmp_path, monkeypatch):
  monkeypatch.setattr(limits, 'TORCH_BYTES', 1000)
  strided = tensor(np.zeros(1))
  rebuild, (storage, *_) = strided.function, strided.args
  hooks = Call(Name('collections', 'OrderedDict'), ())
  wide = Call(rebuild, (storage, 0, (100_000,), (0,), False, hooks))
  path = write(tmp_path, snapshot({'a': layer(wide)}))
  with pytest.raises(ValueError, match='tensors repeat numbers until'):
    weight_file.read(path)


def test_damage_is_named(tmp_path):
  with np.load(RECORDED) as recorded:
    whole = recorded['pickle'].tobytes()
  path = tmp_path / 'network.pkl'
  rng = np.random.default_rng(0)
  refused = 0
  for _ in range(30):
    raw = bytearray(whole)
    raw[rng.integers(0, len(raw))] ^= 1 << rng.integers(0, 8)
    path.write_bytes(raw[: rng.integers(len(raw) // 2, len(raw))])
    with pytest.raises(ValueError, match=f'^{path}: '):
      weight_file.read(path)
    refused += 1
  assert refused == 30
