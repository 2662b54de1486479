"""The safetensors format: there and back, and damaged headers."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

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
    'scalar': np.float64(2.5).reshape(()),
    'ids': np.arange(5),
    'mask': np.asarray([True, False, True]),
    'half': rng.normal(size=4).astype('f2').reshape(2, 2).T,
    'brain': rng.normal(size=3).astype(ml_dtypes.bfloat16),
    'none': np.zeros((0, 3), 'i4'),
  }
  safetensors_file.write(path, want, {'format': 'pt'})
  got = safetensors_file.read(path)
  assert list(got) == list(want)
  assert got['brain'].dtype == np.float32
  for name, array in want.items():
    np.testing.assert_array_equal(got[name], array.astype(got[name].dtype))
  assert safetensors_file.read_metadata(path) == {'format': 'pt'}
  assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']
  with pytest.raises(ValueError, match="'c' is complex64; allowed: F64"):
    safetensors_file.write(path, {'c': np.zeros(1, 'c8')})


def test_layout_is_the_published_one(tmp_path):
  data = np.asarray([1, 2], '<f4').tobytes() + b'\x01\x00'
  header = {'b': entry(8, 10, (2,), 'BOOL'), 'a': entry()}
  path = write_raw(tmp_path / 'x', header, data)
  got = safetensors_file.read(path)
  np.testing.assert_array_equal(got['a'], [1, 2])
  np.testing.assert_array_equal(got['b'], [True, False])


@pytest.mark.parametrize(
  ('header', 'message'),
  [
    ({'a': entry(0, 16, (4,))}, 'tensors end at 16, the file at 8'),
    ({'a': entry(0, 4, (1,))}, 'tensors end at 4, the file at 8'),
    ({'a': entry(), 'b': entry()}, 'the one before ends at 8'),
    ({'a': entry(4, 8, (1,))}, 'begins at 4; the one before ends at 0'),
    ({'a': entry(shape=(3,))}, r'shape \[3\] of F32 needs 12 bytes'),
    ({'a': entry(dtype='F8_E4M3')}, "'a' is 'F8_E4M3'; allowed: F64"),
    ({'a': entry(shape=(-1, -2))}, 'no sizes'),
    ({'a': entry(shape=(2.0,))}, 'no sizes'),
    ({'a': entry(0, 0, (0, 1 << 60))}, 'no sizes'),
    ({'a': 3}, "entry of 'a' is no object"),
    ([1], 'no JSON object'),
    (b'{"a": 1, "a": 2}', 'names a tensor twice'),
    (b'{' * 50, 'Expecting'),
    (b'[' * 100_000, 'nested too deeply'),
    (b'\xff\xff', "can't decode"),
    ({str(i): {} for i in range(20_001)}, '20001 tensors; limit: 20000'),
  ],
)
def test_damage(tmp_path, header, message):
  path = write_raw(tmp_path / 'x', header, bytes(8))
  with pytest.raises(ValueError, match=message):
    safetensors_file.read(path)


def test_header_length(tmp_path):
  path = tmp_path / 'x'
  for size, message in [(1 << 40, 'limit: 16777216'), (99, 'in a file of 10')]:
    path.write_bytes(struct.pack('<Q', size) + b'{}')
    with pytest.raises(ValueError, match=message):
      safetensors_file.read(path)
  path.write_bytes(b'abc')
  with pytest.raises(ValueError, match='has 3 bytes'):
    safetensors_file.read(path)
