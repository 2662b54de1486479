"""PyTorch files without PyTorch: what is read, what is refused."""

import functools
import importlib
import operator
import os
import pathlib
import pickle
import subprocess
import zipfile

import ml_dtypes
import numpy as np
import pytest

from pyramid_jax.interop import torch_file
from tests.helpers import torch_writer


Name = torch_writer.Name
Call = torch_writer.Call
WRITERS = {
  'zip': torch_writer.write_zip,
  'legacy': torch_writer.write_legacy,
}


@pytest.fixture(params=sorted(WRITERS))
def write(request, tmp_path):
  """Returns a function that writes an object and gives the path."""

  def write_it(value):
    path = tmp_path / 'model.ckpt'
    WRITERS[request.param](path, value)
    return path

  return write_it


def sample():
  rng = np.random.default_rng(0)
  return torch_writer.Ordered(
    {
      'a.weight': torch_writer.tensor(
        rng.normal(size=(3, 4)).astype('f4'), is_parameter=True
      ),
      'a.bias': torch_writer.tensor(rng.normal(size=5).astype('f2')),
      'count': torch_writer.tensor(np.int64(7)),
    }
  )


@pytest.mark.parametrize('dtype', sorted(torch_writer.STORAGES, key=str))
def test_dtypes(write, dtype):
  want = np.asarray([[0, 1, 0], [2, 1, 3]]).astype(dtype)
  got = torch_file.read(write({'x': torch_writer.tensor(want)}))['x']
  is_bf16 = dtype == ml_dtypes.bfloat16
  assert got.dtype == (np.float32 if is_bf16 else dtype)
  np.testing.assert_array_equal(got, want.astype(got.dtype))


def test_order_names_scalars(write):
  state = sample()
  got = torch_file.read(write(state))
  assert list(got) == ['a.weight', 'a.bias', 'count']
  assert got['count'].shape == ()
  assert got['count'] == 7
  want = state['a.weight'].storage.reshape(3, 4)
  np.testing.assert_array_equal(got['a.weight'], want)
  assert not got['a.weight'].flags.writeable


def test_shared_storage_strides_and_offsets(write):
  base = np.arange(24, dtype='f4')
  got = torch_file.read(
    write(
      {
        'rows': torch_writer.Tensor(base, (4, 6), (6, 1)),
        'transposed': torch_writer.Tensor(base, (6, 4), (1, 6)),
        'part': torch_writer.Tensor(base, (2, 3), (12, 2), offset=1),
        'expanded': torch_writer.Tensor(base, (5, 2), (0, 1), offset=22),
        'empty': torch_writer.Tensor(base, (0, 3), (3, 1), offset=24),
      }
    )
  )
  rows = base.reshape(4, 6)
  np.testing.assert_array_equal(got['rows'], rows)
  np.testing.assert_array_equal(got['transposed'], rows.T)
  np.testing.assert_array_equal(got['part'], [[1, 3, 5], [13, 15, 17]])
  np.testing.assert_array_equal(got['expanded'], [[22, 23]] * 5)
  assert got['empty'].shape == (0, 3)


def test_lightning_checkpoint(write):
  """Callbacks and configurations are passed over, never imported."""
  config = Call(
    Name('omegaconf.dictconfig', 'DictConfig'),
    (),
    {'_metadata': Call(Name('omegaconf.base', 'ContainerMetadata'), ())},
  )
  callback = Name(
    'pytorch_lightning.callbacks.model_checkpoint', 'ModelCheckpoint'
  )
  got = torch_file.read(
    write(
      {
        'epoch': 3,
        'reference_type': Name('__builtin__', 'long'),
        'callbacks': {callback: {'best_model_score': None}},
        'hyper_parameters': config,
        'optimizer_states': [{'state': {0: {'step': 1}}, 'lr': 1e-6}],
        'state_dict': sample(),
      }
    )
  )
  assert list(got) == ['a.weight', 'a.bias', 'count']


def test_classes_of_ones_own_are_named_and_never_imported(
  write, tmp_path, monkeypatch, caplog
):
  (tmp_path / 'mine.py').write_text('raise SystemError')
  monkeypatch.syspath_prepend(str(tmp_path))
  callback = Name('mine', 'Callback')
  made = Call(callback, (1,), {'best': torch_writer.tensor(np.ones(2, 'f4'))})
  called = Call(Name('functools', 'partial'), (callback,))
  path = write(
    {
      'state_dict': torch_writer.Ordered({**sample(), 'note': made}),
      'callbacks': {callback: {'score': 1}},
      'hparams': [made, {'f': called, 'path': Name('os', 'system')}],
    }
  )
  with caplog.at_level('WARNING', 'absl'):
    got = torch_file.read(path)
  assert list(got) == ['a.weight', 'a.bias', 'count']
  (warning,) = caplog.records
  assert warning.getMessage() == (
    'left out, never imported: mine.Callback, functools.partial, os.system'
  )


def test_unknown_classes_that_make_tensors_are_refused(write):
  state = sample()
  state['b'] = Call(
    Name('torch._utils', '_rebuild_other'), (state['a.weight'], (2,))
  )
  with pytest.raises(ValueError, match="'torch._utils._rebuild_other' makes a"):
    torch_file.read(write({'state_dict': state}))


def tensors(*names):
  return torch_writer.Ordered(
    {n: torch_writer.tensor(np.full(2, i, 'f4')) for i, n in enumerate(names)}
  )


def test_files_with_several_state_dicts(write):
  moments = {'state': {0: tensors('exp_avg')}, 'param_groups': [{'lr': 0.1}]}
  got = torch_file.read(
    write(
      {
        'model': tensors('w', 'b'),
        'ema': {'decay': 0.9, **tensors('w')},
        'opt': moments,
        'optimizer_G': tensors('w'),
        'lr_schedulers': [],
        'step': 3,
      }
    )
  )
  assert sorted(got) == ['ema.decay', 'ema.w', 'model.b', 'model.w']
  got = torch_file.read(write({'net': {'G_ema': tensors('w'), 'seed': 1}}))
  assert list(got) == ['w']  # one set keeps its names
  got = torch_file.read(write({**tensors('w'), 'ema': tensors('w')}))
  assert sorted(got) == ['ema.w', 'w']


def test_compressed_archive(tmp_path):
  path = tmp_path / 'x.pt'
  torch_writer.write_zip(path, sample(), zipfile.ZIP_DEFLATED)
  want = sample()['a.weight'].storage.reshape(3, 4)
  np.testing.assert_array_equal(torch_file.read(path)['a.weight'], want)


@pytest.mark.parametrize(
  ('value', 'name'),
  [
    (Call(Name('os', 'system'), ('touch PWNED',)), 'os.system'),
    (Call(Name('posix', 'system'), ('touch PWNED',)), 'posix.system'),
    (Call(Name('builtins', 'eval'), ('1',)), 'builtins.eval'),
    (
      Call(Name('builtins', 'getattr'), (Name('torch', 'FloatStorage'), 'x')),
      'builtins.getattr',
    ),
    (Name('torch.nn.modules.linear', 'Linear'), 'torch.nn.modules.linear'),
    (Name('torch', 'FloatStorage.__class__'), 'torch.FloatStorage.__class__'),
    (Name('collections', 'OrderedDict.__init__'), 'OrderedDict.__init__'),
    (Name('torch._utils', '_rebuild_tensor_v3'), '_rebuild_tensor_v3'),
  ],
)
def test_malicious_globals(write, tmp_path, monkeypatch, value, name):
  monkeypatch.chdir(tmp_path)
  path = write({'state_dict': {'x': value}})
  with pytest.raises(ValueError, match=f'global .*{name}.* is not allowed'):
    torch_file.read(path)
  assert not os.path.exists('PWNED')


class Calls:
  """Pickled as a call of anything that Python can import."""

  def __init__(self, function, *args, state=None):
    self.made = (function, args) if state is None else (function, args, state)

  def __reduce__(self):
    return self.made


TOUCH = 'import pathlib; pathlib.Path("PWNED").touch()'
CALLS = (
  Calls(exec, TOUCH),
  Calls(eval, f'exec({TOUCH!r})'),
  Calls(compile, TOUCH, 'x', 'exec'),
  Calls(os.system, 'touch PWNED'),
  Calls(os.makedirs, 'PWNED'),
  Calls(os.putenv, 'PWNED', '1'),
  Calls(subprocess.check_call, ['touch', 'PWNED']),
  Calls(subprocess.Popen, ['touch', 'PWNED']),
  Calls(importlib.import_module, 'antigravity'),
  Calls(pathlib.Path.touch, pathlib.Path('PWNED')),
  Calls(open, 'PWNED', 'w'),
  Calls(operator.attrgetter, 'system'),
  Calls(functools.partial, os.system, 'touch PWNED', state=(exec, (), {}, {})),
)


@pytest.mark.parametrize('protocol', range(6))
def test_what_python_pickles_runs_nothing(tmp_path, monkeypatch, protocol):
  """Calls of 13 functions in 4 places by 6 protocols: 312 files."""
  monkeypatch.chdir(tmp_path)
  for call in CALLS:
    for value in (call, {'state_dict': {'x': call}}, {(1, call): 1}, [[call]]):
      with zipfile.ZipFile('x.pt', 'w') as archive:
        archive.writestr('a/data.pkl', pickle.dumps(value, protocol))
      with pytest.raises(ValueError, match='not allowed') as caught:
        torch_file.read('x.pt')
      assert '\n' not in str(caught.value)
  assert os.listdir() == ['x.pt']


@pytest.mark.parametrize(
  'code',
  [
    b'Nr\xff\xff\xff\xff.',  # a memo of 4 billion places
    b'\x8e' + bytes(7) + b'\x7f' + b'x.',  # bytes of an exabyte
    b'\x8d' + bytes(5) + b'\x01\0\0x.',  # a text of a terabyte
    b'\x95' + b'\xff' * 8 + b'N.',  # a frame without an end
    b'}' * 1000 + b'.',
    b'\x82\x01.',  # a code of the registry of extensions
    b'(ios\nsystem\n.',
  ],
)
def test_damage_costs_nothing(tmp_path, code):
  path = tmp_path / 'x.pt'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/data.pkl', b'\x80\x04' + code)
  with pytest.raises(ValueError, match='.'):
    torch_file.read(path)


def test_state_for_a_function_is_refused(write):
  """BUILD could set attributes of what it finds on the stack."""
  function = Name('torch._utils', '_rebuild_tensor_v2')
  code = torch_writer.Pickler()
  body = (
    b'\x80\x02'
    + code.encode(function)
    + code.encode((None, {'make': 1}))
    + b'b.'
  )
  path = write({})
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', body)
  with pytest.raises(ValueError, match='a state for a Global'):
    torch_file.read(path)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'shape': (4, 4), 'strides': (4, 1)}, 'leaves its storage of 12'),
    ({'shape': (3,), 'strides': (1,), 'offset': 10}, 'leaves its storage'),
    ({'shape': (3,), 'strides': (-1,), 'offset': 2}, r'strides \(-1,\)'),
    ({'shape': (3,), 'strides': (1,), 'offset': -1}, 'offset -1'),
    ({'shape': (3, 1), 'strides': (1,)}, r'shape \(3, 1\)'),
    ({'shape': (2**40,), 'strides': (0,)}, 'repeats a storage of 12'),
    ({'shape': (True,), 'strides': (1,)}, r'shape \(True,\)'),
  ],
)
def test_tensors_stay_in_their_storage(write, fields, message):
  bad = torch_writer.Tensor(np.zeros(12, 'f4'), **fields)
  with pytest.raises(ValueError, match=message):
    torch_file.read(write({'x': bad}))


def test_nested_keys_cost_nothing(write):
  """A tuple that is doubled again and again takes for ever to hash."""
  path = write({})
  doubled = b''.join(b'q%ch%c\x86' % (i, i) for i in range(22))
  for end in (b'Ns.', b'Q.'):
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('archive/data.pkl', b'\x80\x02})' + doubled + end)
    with pytest.raises(ValueError, match='a key that is a tuple|storage'):
      torch_file.read(path)


def test_no_tensors(write):
  with pytest.raises(ValueError, match='no tensors .* it has epoch, model'):
    torch_file.read(write({'epoch': 1, 'model': {}}))
  with pytest.raises(ValueError, match='holds a list'):
    torch_file.read(write([1]))


def module(name, **attributes):
  """An object of a TorchScript archive."""
  return torch_writer.Call(
    torch_writer.Name(f'__torch__.{name}', 'Module'), (), attributes
  )


def write_script(path, value):
  torch_writer.write_zip(path, value)
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('archive/constants.pkl', b'')
    archive.writestr('archive/code/__torch__.py', b'raise SystemExit')


def test_torchscript(tmp_path):
  """As torch.jit.save writes it: modules in modules, with flags and tensors."""
  path = tmp_path / 'x.pt'
  x = np.arange(6, dtype=np.float16).reshape(2, 3)
  inner = module('nn.Linear', weight=torch_writer.tensor(x), training=False)
  blocks = module('nn.Sequential', **{'0': inner, '1': module('nn.ReLU', n=1)})
  scale = torch_writer.tensor(np.float32([2]))
  top = module('clip.CLIP', blocks=blocks, scale=scale, size=7, hook=None)
  write_script(path, top)
  found = torch_file.read(path)
  assert found.keys() == {'blocks.0.weight', 'scale'}
  np.testing.assert_array_equal(found['blocks.0.weight'], x)

  write_script(path, {'a': torch_writer.tensor(x)})
  with pytest.raises(ValueError, match='archive without a module'):
    torch_file.read(path)
  deep = inner
  for _ in range(40):
    deep = module('m', inner=deep)
  write_script(path, deep)
  with pytest.raises(ValueError, match='hold each other many times'):
    torch_file.read(path)
  torch_writer.write_zip(path, top)  # not as an archive of TorchScript
  with pytest.raises(ValueError, match='__torch__.clip.CLIP.Module'):
    torch_file.read(path)


def test_archive_refusals(tmp_path):
  path = tmp_path / 'x.pt'
  torch_writer.write_zip(path, sample())
  with zipfile.ZipFile(path, 'a') as archive:
    archive.writestr('archive/constants.pkl', b'')
  with pytest.raises(ValueError, match='TorchScript'):
    torch_file.read(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', b'')
    archive.writestr('archive/byteorder', 'big')
  with pytest.raises(ValueError, match='little-endian'):
    torch_file.read(path)
  torch_writer.write_zip(path, sample())
  with zipfile.ZipFile(path) as archive:
    head = archive.read('archive/data.pkl')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('archive/data.pkl', head)
    archive.writestr('archive/data/0', b'1234')
  with pytest.raises(ValueError, match="'0 Float' has 4 bytes, needs 48"):
    torch_file.read(path)


def test_cut_files(write):
  path = write(sample())
  whole = path.read_bytes()
  for length in range(0, len(whole) - 1, 7):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match='.'):
      torch_file.read(path)


def test_fuzz(write):
  """Damage either raises ValueError or gives arrays; nothing else."""
  path = write(sample())
  whole = path.read_bytes()
  rng = np.random.default_rng(1)
  refused = 0
  for _ in range(600):
    raw = bytearray(whole)
    for place in rng.integers(0, len(raw), rng.integers(1, 4)):
      raw[place] = rng.integers(0, 256)
    path.write_bytes(raw)
    try:
      for array in torch_file.read(path).values():
        assert array.size < 1 << 23
    except ValueError:
      refused += 1
  assert refused > 100
