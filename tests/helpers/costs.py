"""What a reader takes for one file: seconds and memory, in its own process."""

import dataclasses
import importlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

from tests.helpers import mutations


ROOT = pathlib.Path(__file__).resolve().parents[2]
_MOST_ADDRESSES = 12 << 30  # so that a test cannot take the machine down


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cost:
  """What happened."""

  error: str  # its message, '' where the file was read
  kind: str  # of the error
  secs: float  # of the processor: other processes do not count
  bytes: int  # the most memory that was in use, beyond that of the start


def measured(reader: str, path: os.PathLike[str], *others: str) -> Cost:
  """Lets a function of the package read a file, and sees that it is cheap.

  Args:
    reader: 'module:function', which takes the path.
    path: the file.
    *others: further arguments of the function.

  Raises:
    AssertionError: more than `mutations.MOST_SECS` or `MOST_BYTES`.
  """
  process = subprocess.run(
    [sys.executable, '-m', 'tests.helpers.costs', reader, path, *others],
    cwd=ROOT,
    env={**os.environ, 'PYTHONPATH': os.fspath(ROOT)},
    capture_output=True,
    timeout=10 * mutations.MOST_SECS,  # one that waits fails, too
    text=True,
  )
  assert not process.returncode, process.stderr
  found = Cost(**json.loads(process.stdout.splitlines()[-1]))
  assert found.secs < mutations.MOST_SECS, found
  assert found.bytes < mutations.MOST_BYTES, found
  return found


def main() -> None:
  """Reads the file of the command line; prints the cost as JSON."""
  resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
  name, *arguments = sys.argv[1:]
  module, _, function = name.partition(':')
  reader = importlib.import_module(module)
  for part in function.split('.'):
    reader = getattr(reader, part)
  before, start = mutations.peak_bytes(), time.process_time()
  error, kind = '', ''
  try:
    reader(*arguments)
  except Exception as problem:
    error, kind = str(problem), type(problem).__name__
  cost = Cost(
    error=error[:500],
    kind=kind,
    secs=time.process_time() - start,
    bytes=mutations.peak_bytes() - before,
  )
  sys.stdout.write(json.dumps(dataclasses.asdict(cost)) + '\n')


if __name__ == '__main__':
  main()
