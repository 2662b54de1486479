"""Weight files that are made to cost: none takes 10 s or 2 GiB."""

import json
import struct
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest

from tests.helpers import costs
from tests.helpers import torch_writer


READER = 'pyramid_jax.interop.weight_file:read'
pytestmark = pytest.mark.rounds


def text(value):
  return b'X' + struct.pack('<I', len(value)) + value


def numbers(count, size, step):
  code = b'\x8a' + bytes([size])
  return b''.join(
    code + (i * step).to_bytes(size, 'little') + b'N' for i in range(1, count)
  )


def doubled():
  pairs = (b'h%ch%c\x86\x94' % (i, i) for i in range(27))
  return b'N\x85\x94' + b''.join(pairs) + b'h\x1bh\x1b\x93.'


def dictionaries():
  wide = b''.join(text(b'%d' % i) + b'}' for i in range(200_000))
  parts = [b'}\x94(' + wide + b'u']
  for depth in range(4):
    keys = b''.join(text(b'%d' % i) + b'h%c' % depth for i in range(500))
    parts.append(b'}\x94(' + keys + b'u')
  return b''.join(parts) + b'.'


M = 1_000_000
PICKLES = {
  'a name of nested tuples': doubled,
  'nothing': lambda: b'N0' * 10 * M + b'}.',
  'sets': lambda: b'\x8f' * 20 * M + b'.',
  'dictionaries': lambda: b'}' * 20 * M + b'.',
  'marks': lambda: b'(' * 20 * M + b'.',
  'nesting': lambda: b')' + b'\x85' * 20 * M + b'.',
  'memo': lambda: b'N' + b'\x94' * 10 * M + b'.',
  'text': lambda: text('\U0001f600'.encode() * 7 * M) + b'.',
  'numbers of one hash': lambda: (
    b'}(' + numbers(600_000, 11, (1 << 61) - 1) + b'u.'
  ),
  'numbers of alike hashes': lambda: (
    b'}(' + numbers(600_000, 8, 1 << 40) + b'u.'
  ),
  'arguments again and again': lambda: (
    b'(' + b'N' * M + b't\x94cfoo\nbar\n\x94' + b'h\1h\0R0' * 300_000 + b'.'
  ),
  'a long name again and again': lambda: (
    text(b'a' * 16 * M) + b'\x94' + b'h\0h\0\x930' * 300_000 + b'.'
  ),
  'dictionaries in each other': dictionaries,
}


@pytest.mark.parametrize('name', PICKLES)
def test_pickles(tmp_path, name):
  path = tmp_path / 'x.pt'
  content = b'\x80\x04' + PICKLES[name]()
  for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, 'w', method, compresslevel=1) as archive:
      archive.writestr('a/data.pkl', content)
    found = costs.measured(READER, path)
    assert found.kind == 'ValueError'
    secs, mib = found.secs, found.bytes >> 20
    sys.stdout.write(f'{name}: {secs:.1f} s, {mib} MiB: {found.error[:70]}\n')


@pytest.mark.parametrize(
  'method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
@pytest.mark.parametrize('kind', ['pt', 'npz'])
def test_bombs(tmp_path, method, kind):
  path = tmp_path / f'x.{kind}'
  size = 3 << 30 if method == zipfile.ZIP_DEFLATED else 1 << 26
  pickler = torch_writer.Pickler()
  value = {'x': torch_writer.tensor(np.zeros(1, 'f4'))}
  head = pickler.dump(value)
  with zipfile.ZipFile(path, 'w', method, compresslevel=1) as archive:
    if kind == 'pt':
      archive.writestr('a/data.pkl', head)
    name = 'a/data/0' if kind == 'pt' else 'x.npy'
    with archive.open(name, 'w', force_zip64=True) as file:
      if kind == 'npz':
        shape = {'descr': '|u1', 'fortran_order': False, 'shape': (size,)}
        np.lib.format.write_array_header_1_0(file, shape)
      for _ in range(size >> 24):
        file.write(bytes(1 << 24))
  found = costs.measured(READER, path)
  assert found.kind == 'ValueError'
  assert 'unpack to' in found.error or 'by method' in found.error


def test_members_by_the_hundred_thousand(tmp_path):
  path = tmp_path / 'x.pt'
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('a/data.pkl', b'\x80\x02}.')
    for number in range(150_000):
      archive.writestr(zipfile.ZipInfo(f'{number}'), b'')
  found = costs.measured(READER, path)
  assert found.kind == 'ValueError'
  assert 'limit: ' in found.error


def test_tensors_that_repeat_one_number(tmp_path):
  path = tmp_path / 'x.pt'
  one = np.ones(1, ml_dtypes.bfloat16)
  shape = (1 << 22,)
  state = {str(i): torch_writer.Tensor(one, shape, (0,)) for i in range(200)}
  torch_writer.write_zip(path, state)
  assert 'repeat numbers' in costs.measured(READER, path).error


def test_tensors_by_the_hundred_thousand(tmp_path):
  path = tmp_path / 'x.safetensors'
  for count in (100_000, 200_000):
    entry = {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]}
    header = json.dumps({str(i): entry for i in range(count)}).encode()
    for spelling in (header, header.replace(b'data_o', b'\\u0064ata_o')):
      path.write_bytes(struct.pack('<Q', len(spelling)) + spelling)
      found = costs.measured(READER, path)
      assert found.kind == 'ValueError'
      assert 'limit: ' in found.error


def test_what_is_real_is_read(tmp_path):
  """Many gigabytes, stored as they are and mostly holes on this disk."""
  size = 4 << 30
  path = tmp_path / 'x.safetensors'
  entry = {'dtype': 'F32', 'shape': [size >> 2], 'data_offsets': [0, size]}
  header = json.dumps({'x': entry}).encode()
  path.write_bytes(struct.pack('<Q', len(header)) + header)
  with open(path, 'r+b') as file:
    file.truncate(8 + len(header) + size)
  assert not costs.measured(READER, path).kind
  path = tmp_path / 'x.pt'
  zeros = np.broadcast_to(np.zeros((), 'f4'), (size >> 2,))
  pickler = torch_writer.Pickler(is_legacy=True)
  system = {'protocol_version': 1001, 'little_endian': True}
  tensor = torch_writer.Tensor(zeros, (size >> 2,), (1,))
  parts = [0x1950A86A20F9469CFC6C, 1001, system, {'x': tensor}]
  with open(path, 'wb') as file:
    file.write(b''.join(map(pickler.dump, parts)))
    file.write(pickler.dump(['0']) + struct.pack('<q', size >> 2))
    file.truncate(file.tell() + size)
  assert not costs.measured(READER, path).kind
