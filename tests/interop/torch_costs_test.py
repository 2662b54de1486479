"""Files of PyTorch that would cost time or memory, at limits made low."""

import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

from pyramid_jax import limits
from pyramid_jax.interop import torch_file
from pyramid_jax.interop import weight_file
from tests.helpers import torch_writer


@pytest.fixture(autouse=True)
def low(monkeypatch):
  monkeypatch.setattr(limits, 'PICKLE_STEPS', 5_000)
  monkeypatch.setattr(limits, 'PICKLE_BYTES', 100_000)
  monkeypatch.setattr(limits, 'PICKLE_ODD_KEYS', 20)
  monkeypatch.setattr(limits, 'TORCH_BYTES', 10_000)
  monkeypatch.setattr(limits, 'REPEATED_ELEMENTS', 1_000)


def text(value):
  return b'X' + struct.pack('<I', len(value)) + value


def integer(value):
  return b'\x8a\x0b' + value.to_bytes(11, 'little', signed=True)


DOUBLED = b'N\x85\x94' + b''.join(b'h%ch%c\x86\x94' % (i, i) for i in range(27))
MODULUS = (1 << 61) - 1
# content of data.pkl -> what the error says
PICKLES = {
  'a name of nested tuples': (DOUBLED + b'h\x1bh\x1b\x93.', 'requires str'),
  'a storage of nested tuples': (DOUBLED + b'h\x1bQ.', 'damaged checkpoint'),
  'a long name': (text(b'a' * 150) * 2 + b'\x93.', 'a name of 300 characters'),
  'a long line': (b'c' + b'a' * 150 + b'\n' + b'b' * 99 + b'\n.', 'a name of'),
  'nothing, often': (b'N0' * 2_600, 'more than 5000 steps'),
  'sets': (b'\x8f' * 1_100, 'more than 5000 steps'),
  'memo': (b'N' + b'\x94' * 5_100, 'more than 5000 steps'),
  'marks': (b'(' * 5_100, 'more than 5000 steps'),
  'nesting': (b')' + b'\x85' * 5_100, 'more than 5000 steps'),
  'text': (text(b'a' * 100_001) + b'.', 'more than 100000 bytes|is larger'),
  'arguments, again and again': (
    b'cfoo\nbar\n\x94(' + b'N' * 1_000 + b't\x94' + b'h\0h\1R0' * 100 + b'.',
    'more than 5000 steps',
  ),
  'items of a list, again and again': (
    b'ccollections\nOrderedDict\n\x94](('
    + b'NN\x86' * 500
    + b'e\x85\x94'
    + b'h\0h\1R0' * 100
    + b'.',
    'more than 5000 steps|damaged',
  ),
  'numbers of one hash': (
    b'}(' + b''.join(integer(i * MODULUS) + b'N' for i in range(50)) + b'u.',
    'more than 20 keys',
  ),
  'tuples as keys': (
    b'}(' + b''.join(b'K%cK\0\x86N' % i for i in range(50)) + b'u.',
    'more than 20 keys',
  ),
  'tuples in a set': (
    b'\x8f(' + b''.join(b'K%cK\0\x86' % i for i in range(50)) + b'\x90.',
    'more than 20 keys',
  ),
  'tuples as keys of a call': (
    b'ccollections\nOrderedDict\n]K\0K\0\x86N\x86a\x85R.',
    'keys of an OrderedDict that are neither',
  ),
  'dictionaries in each other': (
    b'}\x94(' + b''.join(b'%sN' % text(b'%d' % i) for i in range(99)) + b'u'
    b'}\x94(' + b''.join(b'%sh\0' % text(b'%d' % i) for i in range(99)) + b'u.',
    'hold each other many times',
  ),
}


def write(path, pickle_, method=zipfile.ZIP_STORED):
  with zipfile.ZipFile(path, 'w', method) as archive:
    archive.writestr('a/data.pkl', b'\x80\x04' + pickle_)
  return path


def refused(path, match):
  with pytest.raises(ValueError, match=match) as caught:
    weight_file.read(path)
  assert '\n' not in str(caught.value)
  assert len(str(caught.value)) < 500


@pytest.mark.parametrize('name', PICKLES)
def test_pickles(tmp_path, name):
  content, match = PICKLES[name]
  refused(write(tmp_path / 'x.pt', content), match)


def test_a_budget_is_that_of_all_pickles_of_a_file(tmp_path):
  path = tmp_path / 'x.pt'
  many = list(range(1_000))
  torch_writer.write_legacy(path, {'x': torch_writer.tensor(np.zeros(2, 'f4'))})
  whole = path.read_bytes()
  torch_file.read(path)
  # one pickle is half of the budget, four are not allowed
  head = whole.index(b'.', 2) + 1
  version = whole.index(b'.', head) + 1
  longer = pickle.dumps(many, 2)
  path.write_bytes(whole[:version] + longer + longer + whole[version:])
  refused(path, 'little-endian')
  path.write_bytes(whole[:head] + pickle.dumps(many * 3, 2) + whole[head:])
  refused(path, 'more than 5000 steps')


@pytest.mark.parametrize('write', ['write_zip', 'write_legacy'])
def test_tensors_that_repeat_numbers(tmp_path, write):
  path = tmp_path / 'x.pt'
  one = np.ones(1, 'f4')
  few = {
    str(i): torch_writer.Tensor(one, (1_000,), (0,), is_parameter=i == 1)
    for i in range(2)
  }
  getattr(torch_writer, write)(path, few)
  assert torch_file.read(path)['1'].sum() == 1_000
  many = {str(i): torch_writer.Tensor(one, (1_000,), (0,)) for i in range(9)}
  getattr(torch_writer, write)(path, many)
  refused(path, 'repeat numbers until they have more than')


def test_copies_of_one_number(tmp_path):
  path = tmp_path / 'x.pt'
  half = np.ones(1_000, ml_dtypes.bfloat16)
  tied = {str(i): torch_writer.tensor(half) for i in range(1)}
  torch_writer.write_zip(path, tied)
  torch_file.read(path)
  again = {str(i): torch_writer.Tensor(half, (1_000,), (1,)) for i in range(9)}
  torch_writer.write_zip(path, again)
  refused(path, 'repeat numbers')


def test_archives(tmp_path, monkeypatch):
  path = tmp_path / 'x.pt'
  zeros = {'x': torch_writer.tensor(np.zeros(5_000, 'f4'))}
  torch_writer.write_zip(path, zeros, zipfile.ZIP_DEFLATED)
  refused(path, 'bytes that unpack to 20')
  torch_writer.write_zip(path, zeros)
  assert torch_file.read(path)['x'].size == 5_000
  for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
    torch_writer.write_zip(path, zeros, method)
    refused(path, f'by method {method}; read are deflated')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/data.pkl', b'\x80\x04N.')
    archive.writestr('a/byteorder', b'little' * 100)
  refused(path, 'byteorder is larger than 200 bytes')
  torch_writer.write_zip(path, zeros)
  raw = bytearray(path.read_bytes())
  raw[raw.rindex(b'PK\1\2') + 6] = 99
  path.write_bytes(raw)
  refused(path, 'zip file version 9.9')
  torch_writer.write_zip(path, zeros)
  monkeypatch.setattr(limits, 'TORCH_MEMBERS', 3)
  refused(path, '4 members; limit: 3')
  monkeypatch.setattr(limits, 'ZIP_DIRECTORY_BYTES', 99)
  refused(path, 'a directory of .* bytes; limit: 99')


def test_names_of_tensors(tmp_path):
  path = tmp_path / 'x.pt'
  one = torch_writer.tensor(np.ones(1, 'f4'))
  torch_writer.write_zip(path, {'a' * 501: one})
  refused(path, 'a name of 501 characters; limit: 500')
  torch_writer.write_zip(path, {'a' * 501: {'x': one}, 'y': one})
  assert torch_file.read(path).keys() == {'y'}


def test_sizes_of_storages(tmp_path):
  """A storage of more elements than a file can have is not sought."""
  path = tmp_path / 'x.pt'
  torch_writer.write_legacy(path, {'x': torch_writer.tensor(np.ones(3, 'f4'))})
  whole = path.read_bytes()
  for size in (1 << 47, 1 << 62, 1 << 80):
    code = torch_writer.Pickler().encode(size)
    old = b'X\x03\0\0\0cpuJ' + struct.pack('<i', 3)
    assert old in whole
    path.write_bytes(whole.replace(old, old[:-5] + code))
    refused(path, 'storage .*number of elements|damaged checkpoint: storage')
