"""Tables of MATLAB files: those that SciPy writes, and what is refused."""

import io
import struct

import numpy as np
import pytest
import scipy.io

from pyramid_jax.data.storage import mat_file


KIND = [('ID', 'O'), ('WNID', 'O'), ('words', 'O'), ('children', 'O')]
ROWS = [
  (np.float64(1), 'n02119789', 'kit fox, Vulpes macrotis', np.zeros((0, 1))),
  (np.uint8(255), 'n1', '', np.arange(5, dtype=np.int32)),
  (np.int16(-3), 'ä\u03b1', 'x' * 300, np.array([['a', 'b']], object)),
]


def written(compressed, name='synsets'):
  stream = io.BytesIO()
  table = np.array(ROWS, KIND).reshape(3, 1)
  others = {'before': np.arange(3.0), name: table, 'text': 'behind'}
  scipy.io.savemat(stream, others, do_compression=compressed)
  return stream.getvalue()


@pytest.mark.parametrize('compressed', [False, True])
def test_numbers_and_texts(compressed):
  rows = mat_file.table(written(compressed), 'synsets')
  assert [row['ID'] for row in rows] == [1, 255, -3]
  assert [row['WNID'] for row in rows] == ['n02119789', 'n1', 'ä\u03b1']
  words = [row['words'] or '' for row in rows]
  assert words == ['kit fox, Vulpes macrotis', '', 'x' * 300]
  assert [row['children'] for row in rows] == [None, 0, None]


@pytest.mark.parametrize('compressed', [False, True])
def test_what_is_none(compressed):
  whole = written(compressed)
  with pytest.raises(ValueError, match="has no structures 'other'"):
    mat_file.table(whole, 'other')
  with pytest.raises(ValueError, match="has no structures 'before'"):
    mat_file.table(whole, 'before')
  for data in (b'', b'MATLAB 5.0', whole.replace(b'\0\1IM', b'\1\0MI')):
    with pytest.raises(ValueError, match='no MATLAB file of level 5'):
      mat_file.table(data, 'synsets')
  for size in range(128, len(whole) - 300, 7):
    with pytest.raises(ValueError, match='cut off|has no structures'):
      mat_file.table(whole[:size], 'synsets')


def test_more_structures_than_bytes():
  whole = written(False)
  place = whole.index(b'synsets') - 16  # of the shape, 3 x 1
  assert whole[place : place + 8] == struct.pack('<2i', 3, 1)
  large = struct.pack('<2i', 2**31 - 1, 2**31 - 1)
  with pytest.raises(ValueError, match=r'cut off: \d+ structures'):
    mat_file.table(whole[:place] + large + whole[place + 8 :], 'synsets')
