"""Makes a recorded case small enough to be kept here.

  python -m tests.parity.shrink CASE.npz OUTPUT.npz [--drop=REGEX]

Weights keep their bits: a tensor of at most 256 different values is stored as
these values (`levels/KEY`) and the place of each element among them
(`codes/KEY`), which `verify.read_case` joins. Outputs that match are left out.
"""

import argparse
import io
import re
import sys
import zipfile

import numpy as np

from pyramid_jax.interop import weight_file


STATE = 'state/'
MOST_LEVELS = 256


def shrunk(arrays: dict[str, np.ndarray], drop: str) -> dict[str, np.ndarray]:
  """Returns the entries of the small file."""
  small = {}
  for name, array in arrays.items():
    if name.startswith('out/') and drop and re.fullmatch(drop, name[4:]):
      continue
    bits = np.ravel(array).view(np.uint32) if array.dtype == '<f4' else None
    if name.startswith(STATE) and bits is not None and bits.size > 64:
      levels, codes = np.unique(bits, return_inverse=True)
      if len(levels) <= MOST_LEVELS:
        key = name.removeprefix(STATE)
        small[f'levels/{key}'] = levels.view(np.float32)
        small[f'codes/{key}'] = codes.astype(np.uint8).reshape(array.shape)
        continue
    small[name] = array
  return small


def main() -> None:
  """Shrinks the file of the command line."""
  parser = argparse.ArgumentParser(description='Makes a recorded case small.')
  parser.add_argument('case')
  parser.add_argument('output')
  parser.add_argument('--drop', default='', help='outputs to leave out')
  flags = parser.parse_args()
  arrays = shrunk(weight_file.read_npz(flags.case), flags.drop)
  with zipfile.ZipFile(flags.output, 'w', zipfile.ZIP_LZMA) as archive:
    for name, array in arrays.items():
      stream = io.BytesIO()
      np.save(stream, array, allow_pickle=False)
      # a date of its own would change the file each time
      archive.writestr(
        zipfile.ZipInfo(f'{name}.npy'), stream.getvalue(), zipfile.ZIP_LZMA
      )
  sys.stdout.write(f'{flags.output}: {len(arrays)} entries\n')


if __name__ == '__main__':
  main()
