"""Makes a recorded case small enough to be kept here.

  python -m tests.parity.shrink CASE.npz OUTPUT.npz [--drop=REGEX]

Every number keeps its bits. What compresses badly on its own is laid together:
weights of at most 256 different values as these values and the place of each
element among them, all other arrays byte by byte. Outputs whose whole name
matches REGEX are left out. `verify.read_case` reads both forms.
"""

import argparse
from collections.abc import Mapping
import io
import json
import math
import re
import sys
import zipfile

import numpy as np

from pyramid_jax.files import arrays as arrays_lib
from pyramid_jax.files import json_text


INDEX = 'index'
MOST_LEVELS = 256
Arrays = Mapping[str, np.ndarray]


def pack(arrays: Arrays) -> dict[str, np.ndarray]:
  """Returns the few entries of a small file, of arrays of 4-byte numbers."""
  index, codes, levels, words = [], [], [], []
  for name, array in arrays.items():
    if name == 'meta':
      continue
    flat = np.ravel(array).view('<u4')
    found, places = np.unique(flat, return_inverse=True)
    is_coded = flat.size > 64 and len(found) <= MOST_LEVELS
    if is_coded:
      codes.append(places.astype(np.uint8))
      levels.append(found)
    else:
      words.append(flat)
    count = len(found) if is_coded else 0
    index.append((name, array.shape, array.dtype.str, count))
  empty = [np.zeros(0, '<u4')]
  return {
    'meta': arrays['meta'],
    INDEX: np.array(json.dumps(index)),
    'codes': np.concatenate([*empty, *codes]).astype(np.uint8),
    'levels': np.concatenate([*empty, *levels]),
    'bytes': np.concatenate([*empty, *words]).view(np.uint8).reshape(-1, 4).T,
  }


def unpack(small: Arrays) -> dict[str, np.ndarray]:
  """Undoes `pack`.

  Raises:
    ValueError: the entries do not belong together.
  """
  words = np.ascontiguousarray(small['bytes'].T).view('<u4').ravel()
  codes, levels = small['codes'], small['levels']
  arrays = {'meta': small['meta']}
  for name, shape, dtype, count in json_text.loads(str(small[INDEX]), INDEX):
    size = math.prod(shape)
    if count:
      flat, codes = levels[:count][codes[:size]], codes[size:]
      levels = levels[count:]
    else:
      flat, words = words[:size], words[size:]
    arrays[name] = flat.view(dtype).reshape(shape)
  return arrays


def write(path: str, arrays: Arrays) -> None:
  """Writes an npz file, compressed as well as readers of arrays allow."""
  with zipfile.ZipFile(path, 'w') as archive:
    for name, array in arrays.items():
      stream = io.BytesIO()
      np.save(stream, array, allow_pickle=False)
      # an entry without a date, or the file would change each time
      entry = zipfile.ZipInfo(f'{name}.npy')
      archive.writestr(entry, stream.getvalue(), zipfile.ZIP_DEFLATED, 9)


def main() -> None:
  """Shrinks the file of the command line."""
  parser = argparse.ArgumentParser(description='Makes a recorded case small.')
  parser.add_argument('case')
  parser.add_argument('output')
  parser.add_argument('--drop', default='', help='outputs to leave out')
  flags = parser.parse_args()
  arrays = arrays_lib.load(flags.case)
  dropped = [n for n in arrays if re.fullmatch(f'out/({flags.drop})', n)]
  kept = {n: array for n, array in arrays.items() if n not in dropped}
  write(flags.output, pack(kept))
  sys.stdout.write(f'{flags.output}: without {len(dropped)} outputs\n')


if __name__ == '__main__':
  main()
