"""The content of a file decides how it is read."""

import io
import json
import zipfile

import numpy as np
import pytest

from pyramid_jax import limits
from pyramid_jax.files import arrays
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from tests.helpers import torch_writer


ARRAY = np.arange(6, dtype='f4').reshape(2, 3)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors', 'npz'])
def test_all_formats_under_one_name(tmp_path, kind):
  path = tmp_path / 'weights'
  state = {'x': torch_writer.tensor(ARRAY)}
  if kind == 'zip':
    torch_writer.write_zip(path, state)
  elif kind == 'legacy':
    torch_writer.write_legacy(path, state)
  elif kind == 'safetensors':
    safetensors_file.write(path, {'x': ARRAY})
  else:
    with open(path, 'wb') as file:
      np.savez_compressed(file, x=ARRAY)
  got = weight_file.read(path)
  assert list(got) == ['x']
  np.testing.assert_array_equal(got['x'], ARRAY)


def test_indices_name_files_beside_them(tmp_path):
  index = tmp_path / 'model.safetensors.index.json'
  safetensors_file.write(tmp_path / 'a.safetensors', {'x': ARRAY})
  safetensors_file.write(tmp_path / 'b.safetensors', {'y': ARRAY, 'z': ARRAY})

  def read(**places):
    index.write_text(json.dumps({'weight_map': places}))
    return weight_file.read(index)

  got = read(x='a.safetensors', y='b.safetensors', z='b.safetensors')
  assert sorted(got) == ['x', 'y', 'z']
  np.testing.assert_array_equal(got['z'], ARRAY)
  assert weight_file.metadata(got) == {}
  with pytest.raises(ValueError, match="b.safetensors .*disagree in 1 .* 'z'$"):
    read(x='a.safetensors', y='b.safetensors')
  with pytest.raises(ValueError, match="a.safetensors .*disagree in 1 .* 'w'$"):
    read(x='a.safetensors', w='a.safetensors')
  for name in ('../a.safetensors', '/a.safetensors', '..', 'a.bin', 3):
    with pytest.raises(ValueError, match='is no safetensors file beside'):
      read(x=name)
  with pytest.raises(FileNotFoundError):
    read(x='absent.safetensors')
  (tmp_path / 'a.safetensors').write_bytes(b'{')
  with pytest.raises(ValueError, match=f'^{index}: a.safetensors: '):
    read(x='a.safetensors')
  index.write_text('{"metadata": {}}')
  with pytest.raises(ValueError, match='an index without a weight_map'):
    weight_file.read(index)


def test_npz_orders_and_text(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, f=np.asfortranarray(ARRAY), text=np.array('äb'), s=1.5)
  got = arrays.load(path)
  np.testing.assert_array_equal(got['f'], ARRAY)
  assert str(got['text']) == 'äb'
  assert got['s'] == 1.5


def npz_with(path, header, body=b''):
  stream = io.BytesIO()
  np.lib.format.write_array_header_1_0(stream, header)
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('x.npy', stream.getvalue() + body)


def test_npz_refusals(tmp_path, monkeypatch):
  path = tmp_path / 'x.npz'
  np.savez(path, x=np.asarray([{}], dtype=object))
  with pytest.raises(ValueError, match=f'{path}: .*holds Python objects'):
    weight_file.read(path)
  header = {'descr': '<f4', 'fortran_order': False, 'shape': (1 << 40,)}
  npz_with(path, header, bytes(64))
  with pytest.raises(ValueError, match='needs 4398046511104 bytes'):
    weight_file.read(path)
  npz_with(path, {**header, 'shape': (0, 1 << 70)})
  with pytest.raises(ValueError, match='x.npz: '):
    weight_file.read(path)
  np.savez_compressed(path, x=np.zeros(100_000))
  monkeypatch.setattr(limits, 'INFLATED_BYTES', 10_000)
  with pytest.raises(ValueError, match='unpack to 800128; limit'):
    weight_file.read(path)


def test_what_is_no_weight_file(tmp_path):
  path = tmp_path / 'x'
  for content in [b'', b'hello', b'\x89PNG\r\n', b'PK\x03\x04', b'{"a": 1}']:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'^{path}: '):
      weight_file.read(path)
  with pytest.raises(FileNotFoundError):
    weight_file.read(tmp_path / 'nothing')


def test_cut_and_damaged_npz(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez_compressed(path, x=np.random.default_rng(0).normal(size=99))
  whole = path.read_bytes()
  rng = np.random.default_rng(1)
  messages = []
  for _ in range(200):
    raw = bytearray(whole)
    raw[rng.integers(0, len(raw))] ^= 1 << rng.integers(0, 8)
    path.write_bytes(raw[: rng.integers(0, len(raw) + 200)])
    try:
      weight_file.read(path)
    except ValueError as error:
      messages.append(str(error))
  assert len(messages) > 100
  assert all(str(path) in message for message in messages)
