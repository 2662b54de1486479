"""Compares our numbers with recorded runs of the reference implementations.

  python -m tests.parity.verify FILE.npz [FILE.npz ...] [--tolerance=X]

Prints a table for each file. Exit codes: 0 all outputs are within tolerance,
1 some are not, 64 a family or an option that we do not have (or a wrong
command line), 65 a file that cannot be read or contradicts itself, 66 a file
that is not there. With many files it is the largest of theirs.
"""

import argparse
from collections.abc import Sequence
import dataclasses
import os
import sys
import traceback

import jax
import numpy as np

from pyramid_jax import errors
from pyramid_jax.config import command_line
from pyramid_jax.files import arrays as arrays_lib
from pyramid_jax.files import json_text
from tests.parity import families
from tests.parity import shrink


OFF = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """One output compared; `error` is NaN where there is nothing to compare."""

  name: str
  shape: tuple[int, ...]
  error: float
  tolerance: float
  remark: str = ''

  @property
  def ok(self) -> bool:
    """Says whether it passes; an error of NaN does not."""
    return self.error < self.tolerance or self.error == 0


def read_case(path: str | os.PathLike[str]) -> families.Case:
  """Reads a recorded run.

  Raises:
    ValueError: damage, or entries that do not make a case.
    OSError: the file cannot be opened.
  """
  arrays = arrays_lib.load(path)
  if shrink.INDEX in arrays:
    arrays = shrink.unpack(arrays)
  if 'meta' not in arrays or arrays['meta'].dtype.kind != 'U':
    raise ValueError('the file has no text entry `meta`: not a recorded run')
  meta = json_text.loads(str(arrays['meta']), 'meta')
  lacking = [
    name
    for name in ('family', 'config', 'tolerance')
    if not isinstance(meta, dict) or name not in meta
  ]
  if lacking:
    raise ValueError(f'meta lacks {", ".join(lacking)}')
  parts = {
    part: {
      name.removeprefix(part): array
      for name, array in arrays.items()
      if name.startswith(part)
    }
    for part in ('state/', 'in/', 'out/')
  }
  if not parts['out/']:
    raise ValueError('no entries out/...: there is nothing to compare with')
  return families.Case(
    family=meta['family'],
    config=meta['config'],
    state=parts['state/'],
    inputs=parts['in/'],
    expected=parts['out/'],
    tolerance=float(meta['tolerance']),
    notes=meta.get('notes', ''),
  )


def error(got: np.ndarray, want: np.ndarray) -> float:
  """Returns the largest difference over the largest magnitude, in float64.

  Integers: the number of elements that differ. All zero: the largest
  magnitude of what we got. NaN where either is not finite.
  """
  if want.dtype.kind in 'iub':
    return float(np.sum(got != want))
  if not want.size:
    return 0.0
  got, want = got.astype(np.float64), want.astype(np.float64)
  if not (np.isfinite(got).all() and np.isfinite(want).all()):
    return np.nan
  scale = np.abs(want).max()
  return float(np.abs(got - want).max() / (scale or 1.0))


def compare(
  outputs: dict[str, np.ndarray], case: families.Case, tolerance: float
) -> list[Row]:
  """Compares every recorded output; others of ours are not looked at."""
  rows = []
  for name, want in case.expected.items():
    got = np.asarray(outputs.get(name, np.nan))
    difference, remark = np.nan, ''
    if name not in outputs:
      remark = 'not produced'
    elif got.shape != want.shape and not got.size == want.size == 1:
      remark = f'shape {got.shape}'
    else:
      difference = error(got.reshape(want.shape), want)
    is_whole = want.dtype.kind in 'iub'
    rows.append(
      Row(
        name=name,
        shape=want.shape,
        error=difference,
        tolerance=0.0 if is_whole else tolerance,
        remark=remark,
      )
    )
  return rows


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the outputs of a case in full float32 precision.

  Raises:
    Unsupported: a family or an option that we do not have.
    ValueError: a state dict that does not fit the config.
  """
  with jax.default_matmul_precision('highest'):
    return families.module(case.family).run(case)


def table(rows: Sequence[Row]) -> str:
  """Formats the comparison."""
  cells = [('output', 'shape', 'error', 'tolerance', 'ok')]
  for row in rows:
    cells.append(
      (
        row.name,
        str(row.shape),
        row.remark or f'{row.error:.2e}',
        f'{row.tolerance:.2e}' if row.tolerance else 'equal',
        'ok' if row.ok else 'OFF',
      )
    )
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return '\n'.join(
    '  '.join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
    for line in cells
  )


def verify(path: str, tolerance: float | None = None) -> tuple[int, str]:
  """Verifies one file.

  Args:
    path: a recorded run.
    tolerance: replaces the file's own.

  Returns:
    The exit code and what to print.
  """
  try:
    case = read_case(path)
  except FileNotFoundError:
    return errors.MISSING, f'{path}: there is no such file'
  except (ValueError, TypeError, OSError) as problem:
    return errors.DATA, f'{path}: {problem}'
  try:
    outputs = run(case)
  except families.Unsupported as problem:
    return errors.USAGE, f'{path}: unsupported: {problem}'
  except ValueError as problem:
    return errors.DATA, f'{path}: {case.family}: {problem}'
  except KeyError as problem:
    return errors.DATA, f'{path}: {case.family}: the file lacks {problem}'
  except Exception:  # a defect of ours: the other files are still verified
    text = traceback.format_exc()
    return OFF, f'{path}: {case.family}: failed\n{text}'
  rows = compare(outputs, case, tolerance or case.tolerance)
  failed = sum(not row.ok for row in rows)
  verdict = f'{failed} of {len(rows)} OFF' if failed else 'ok'
  head = f'{path}: {case.family}: {verdict}'
  return OFF if failed else errors.OK, f'{head}\n{table(rows)}'


def _positive(text: str) -> float:
  value = float(text)
  if not 0 < value < np.inf:
    raise argparse.ArgumentTypeError(f'{text} is not a positive number')
  return value


def main(arguments: Sequence[str] | None = None) -> int:
  """Verifies all files of a command line; returns the largest exit code."""
  parser = command_line.Parser(
    prog='python -m tests.parity.verify',
    description='Compares our numbers with recorded reference runs.',
  )
  parser.add_argument('files', nargs='+', metavar='FILE.npz')
  parser.add_argument(
    '--tolerance',
    type=_positive,
    help='largest relative error; default: the own one of each file',
  )

  def command() -> int:
    flags = parser.parse(arguments)[0]
    worst = errors.OK
    for path in flags.files:
      code, text = verify(path, flags.tolerance)
      stream = sys.stdout if code in (errors.OK, OFF) else sys.stderr
      stream.write(text + '\n\n')
      stream.flush()
      worst = max(worst, code)
    return worst

  return command_line.exit_code(command)


if __name__ == '__main__':
  sys.exit(main())
