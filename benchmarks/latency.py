"""The time from the start of a process to its first image.

  python benchmarks/latency.py [--source=DIR] [--rounds=N] [--small]

Processes of their own import the package, open a model and sample one image,
with the settings of its config. The first fills the compilation cache (that of
JAX_COMPILATION_CACHE_DIR, else a folder that is removed at the end), the others
find it warm; the best of them counts. On a busy machine the seconds of the
processors say more than those of the clock.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from absl import flags
import measuring
import numpy as np


_SOURCE = flags.DEFINE_string('source', 'shapes', 'what `pj.load` opens')

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Each part ends where it is named.
PARTS = ('start', 'import', 'load', 'first image', 'another prompt')
PROGRAM = """
import json, sys, time
marks = [(time.time(), time.process_time())]
def mark():
  marks.append((time.time(), time.process_time()))
import pyramid_jax as pj
pj.load
mark()
pipe = pj.load(sys.argv[1])
mark()
options = json.loads(sys.argv[2])
for name in ('red circle', 'blue square'):
  layout = [(name, (0.1, 0.1, 0.5, 0.5))]
  request = {'layout': layout} if 'layout' in pipe.requests else {}
  pipe(count=1, **request, **options)
  mark()
print(json.dumps(marks))
"""


def seconds(source: str, cache: str, options: dict[str, int]) -> np.ndarray:
  """Returns (parts, 2): seconds of each of `PARTS`, and those of processors."""
  environment = {
    **os.environ,
    'PYTHONPATH': os.fspath(ROOT),
    'JAX_COMPILATION_CACHE_DIR': cache,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0.1',
  }
  if measuring.SMALL.value:
    environment['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'
  command = [sys.executable, '-c', PROGRAM, source, json.dumps(options)]
  begun = time.time()
  done = subprocess.run(
    command, env=environment, capture_output=True, text=True, check=False
  )
  if done.returncode:
    raise SystemExit(done.stderr[-3000:])
  marks = json.loads(done.stdout.splitlines()[-1])
  return np.diff([(begun, 0.0), *marks], axis=0)


def main(argv: list[str]) -> None:
  del argv
  is_small = measuring.SMALL.value
  options = {'steps': 1} if is_small else {}
  with tempfile.TemporaryDirectory() as folder:
    cache = os.environ.get('JAX_COMPILATION_CACHE_DIR', folder)
    measure = lambda: seconds(_SOURCE.value, cache, options)
    first = measure()
    later = [] if is_small else [measure() for _ in range(measuring.rounds())]
  best = min(later or [first], key=lambda parts: parts[:-1, 0].sum())
  table = np.hstack([best, first])
  rows = [
    *zip(PARTS, table, strict=True),
    ('to the first image', table[:-1].sum(0)),
  ]
  print(f'{_SOURCE.value}: the best of {len(later)} processes, and the first')
  measuring.print_table(
    ('part', 's, best', 'of processors', 's, first', 'of processors'),
    ((name, *(f'{x:.2f}' for x in row)) for name, row in rows),
  )


if __name__ == '__main__':
  measuring.run(main)
