"""Rows of arrays in an .npz."""

import os
import zipfile

import numpy as np
import pytest

from pyramid_jax.data.caches import stored_arrays


RNG = np.random.default_rng(0)
ARRAYS = {
  'arr_0': RNG.integers(0, 256, (50, 3, 4), dtype=np.uint8),
  'caption': np.array([b'a', b'three', b''] * 16 + [b'x', b'y']),
  'names': np.array(['a', 'Zürich'] * 25),
  'boxes': RNG.normal(size=(50, 0, 4)),
  'turned': np.asfortranarray(RNG.normal(size=(50, 3, 2))),
  'one': np.float32(3),
}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_rows_are_those_of_the_array(tmp_path, save):
  path = tmp_path / 'x.npz'
  save(path, **ARRAYS)
  found = stored_arrays.read(path)
  assert found.keys() == ARRAYS.keys() - {'one'}  # it has no rows
  for indices in ([], [7], range(20, 50), [3, 3, 4, 5, 0, 49]):
    for name, array in found.items():
      rows = array[np.array(indices, int)]
      assert rows.dtype == ARRAYS[name].dtype
      np.testing.assert_array_equal(rows, ARRAYS[name][np.array(indices, int)])
  with pytest.raises(IndexError):
    found['arr_0'][np.array([50])]
  assert len(found['arr_0']) == 50


def test_memory_has_the_rows_alone(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, arr_0=np.zeros((4, 2**20), np.uint8))
  before = path.stat()
  array = stored_arrays.read(path)['arr_0']
  path.unlink()  # it stays open as long as it is needed
  assert array[np.array([3])].shape == (1, 2**20)
  assert before.st_size > 4 * 2**20
  number = array.file.number
  os.fstat(number)
  del array
  with pytest.raises(OSError, match='[Bb]ad file descriptor'):
    os.fstat(number)


def _npz(path, header, data=b''):
  """Writes an .npz of one array with a header of one's own."""
  text = header.encode()
  magic = b'\x93NUMPY\x01\x00' + len(text).to_bytes(2, 'little')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('arr_0.npy', magic + text + data)
  return path


HEADER = "{'descr': '|u1', 'fortran_order': False, 'shape': %s, }\n"


def test_damage_is_one_line(tmp_path):
  def fails(path):
    with pytest.raises(ValueError, match=str(path)) as info:
      stored_arrays.read(path)
    assert '\n' not in str(info.value)

  path = tmp_path / 'x.npz'
  np.savez(path, arr_0=np.arange(200))
  whole = path.read_bytes()
  path.write_bytes(whole[:-40])
  fails(path)
  path.write_bytes(whole[:400] + b'\x99' + whole[401:])  # a wrong checksum
  fails(path)
  path.write_bytes(b'no archive')
  fails(path)
  fails(_npz(path, HEADER % '(10**15, 64)'))
  fails(_npz(path, HEADER % '(3, 4)', b'too few'))
  fails(_npz(path, HEADER % '(-3, -4)', b'twelve bytes'))
  fails(_npz(path, '{'))
  fails(_npz(path, '(' * 500))
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('arr_0.npy', b'no array')
  fails(path)
  np.savez(path, arr_0=np.array([{}, 'object']))
  fails(path)
