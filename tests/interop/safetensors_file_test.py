"""The safetensors format: there and back, and damaged headers."""

import json
import os
import struct

import ml_dtypes
import numpy as np
import pytest
import safetensors

from pyramid_jax.interop import safetensors_file


def write_raw(path, header, data=b''):
  text = header if isinstance(header, bytes) else json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(text)) + text + data)
  return path


def entry(begin=0, end=8, shape=(2,), dtype='F32'):
  return {
    'dtype': dtype,
    'shape': list(shape),
    'data_offsets': [begin, end],
  }


def test_reads_what_it_wrote(tmp_path):
  path = tmp_path / 'x.safetensors'
  rng = np.random.default_rng(0)
  want = {
    'a.weight': rng.normal(size=(3, 4)).astype('f4'),
    'scalar': np.asarray(2.5),
    'ids': np.arange(5),
    'mask': np.asarray([True, False, True]),
    'half': rng.normal(size=4).astype('f2').reshape(2, 2).T,
    'brain': rng.normal(size=3).astype(ml_dtypes.bfloat16),
    'none': np.zeros((0, 3), 'i4'),
  }
  safetensors_file.write(path, want, {'format': 'pt'})
  got = safetensors_file.Tensors(path)
  assert got.keys() == want.keys()
  assert got['brain'].dtype == np.float32
  for name, array in want.items():
    assert got[name].shape == array.shape
    np.testing.assert_array_equal(got[name], array.astype(got[name].dtype))
  assert got.metadata() == {'format': 'pt'}
  assert 'a.bias' not in got
  with pytest.raises(KeyError, match=r'a\.bias'):
    _ = got['a.bias']
  assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']
  with pytest.raises(ValueError, match="'c' is complex64; allowed: F64"):
    safetensors_file.write(path, {'c': np.zeros(1, 'c8')})


def test_layout_is_the_published_one(tmp_path):
  data = np.asarray([1, 2], '<f4').tobytes() + b'\x02\x00'
  header = {'b': entry(8, 10, (2,), 'BOOL'), 'a': entry()}
  got = safetensors_file.Tensors(write_raw(tmp_path / 'x', header, data))
  np.testing.assert_array_equal(got['a'], [1, 2])
  np.testing.assert_array_equal(got['b'], [True, False])
  assert got.metadata() == {}


def test_a_tensor_is_read_when_it_is_asked_for(tmp_path):
  """A file with more than memory holds, most of which is not on the disk."""
  size = 1 << 40
  header = {'a': entry(), 'big': entry(8, 8 + size, (size // 4,))}
  path = write_raw(tmp_path / 'x', header, np.ones(2, '<f4').tobytes())
  with open(path, 'r+b') as file:
    file.truncate(path.stat().st_size + size)
  got = safetensors_file.Tensors(path)
  assert 'big' in got
  np.testing.assert_array_equal(got['a'], [1, 1])


@pytest.mark.parametrize(
  ('header', 'message'),
  [
    ({'a': entry(0, 16, (4,))}, 'file not fully covered'),
    ({'a': entry(0, 4, (1,))}, 'file not fully covered'),
    ({'a': entry(), 'b': entry()}, 'invalid offset for tensor'),
    ({'a': entry(4, 8, (1,))}, 'invalid offset for tensor'),
    ({'a': entry(shape=(3,))}, 'invalid shape, data type, or offset'),
    (
      {'a': entry(shape=(8,), dtype='F8_E4M3')},
      "'a' is 'F8_E4M3'; allowed: F64",
    ),
    ({'a': entry(shape=(1,) * 40 + (2,))}, "'a' has 41 axes"),
    ({'a': entry(shape=(-1, -2))}, 'invalid value: integer `-1`'),
    ({'a': entry(shape=(2.0,))}, 'floating point'),
    ({'a': entry(0, 0, (0, 1 << 60))}, 'not fully covered'),
    ({'a': 3}, 'invalid JSON in header'),
    ({'__metadata__': 3}, 'invalid JSON in header'),
    ([1], 'invalid JSON in header'),
    (b'{"a": 1, "a": 2}', 'invalid JSON in header'),
    (b'{' * 50, 'invalid JSON in header'),
    (b'[' * 100_000, 'invalid JSON in header'),
    (b'\xff\xff', 'invalid UTF-8 in header'),
    (
      {str(i): entry(0, 0, (0,)) for i in range(20_000)} | {'a': entry()},
      '20001 tensors; limit: 20000',
    ),
  ],
)
def test_damage(tmp_path, header, message):
  path = write_raw(tmp_path / 'x', header, bytes(8))
  with pytest.raises(ValueError, match=message) as caught:
    safetensors_file.Tensors(path)
  assert '\n' not in str(caught.value)


def test_header_length(tmp_path):
  path = tmp_path / 'x'
  for size, message in [(1 << 40, 'bytes; limit'), (99, 'header length')]:
    path.write_bytes(struct.pack('<Q', size) + b'{}')
    with pytest.raises(ValueError, match=message):
      safetensors_file.Tensors(path)
  path.write_bytes(b'abc')
  with pytest.raises(ValueError, match='too small'):
    safetensors_file.Tensors(path)


def test_tensors_are_counted_before_the_header_is_parsed(tmp_path, monkeypatch):
  many = {str(i): entry(0, 0, (0,)) for i in range(20_001)}
  path = write_raw(tmp_path / 'x', many)
  hidden = json.dumps(many).replace('data_o', '\\u0064ata_o').encode()
  other = write_raw(tmp_path / 'y', hidden)
  with pytest.raises(ValueError, match='20001 tensors; limit: 20000'):
    safetensors_file.Tensors(other)
  monkeypatch.setattr(safetensors, 'safe_open', None)
  with pytest.raises(ValueError, match='20001 tensors; limit: 20000'):
    safetensors_file.Tensors(path)


def test_names_and_pipes(tmp_path):
  path = write_raw(tmp_path / 'x', {'a' * 501: entry(0, 0, (0,))})
  with pytest.raises(ValueError, match='a name of 501 characters; limit: 500'):
    safetensors_file.Tensors(path)
  os.mkfifo(tmp_path / 'pipe')
  with pytest.raises(ValueError, match='a pipe, must be a file'):
    safetensors_file.Tensors(tmp_path / 'pipe')
