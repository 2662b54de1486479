"""The time from the start of a process to its first image.

  python benchmarks/latency.py [--source=DIR] [--rounds=N] [--small]

Processes of their own import the package, open a model and sample one image,
with the settings of its config. The first fills the compilation cache (that of
JAX_COMPILATION_CACHE_DIR, else a folder that is removed at the end), the others
find it warm; the best of them counts.
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


_SOURCE = flags.DEFINE_string('source', 'shapes', 'what `pj.load` opens')

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Each part ends where it is named, in seconds since the epoch.
PARTS = ('start', 'import', 'load', 'first image', 'another prompt')
PROGRAM = """
import json, sys, time
ends = [time.time()]
import pyramid_jax as pj
pj.load
ends.append(time.time())
pipe = pj.load(sys.argv[1])
ends.append(time.time())
options = json.loads(sys.argv[2])
for name in ('red circle', 'blue square'):
  layout = [(name, (0.1, 0.1, 0.5, 0.5))]
  request = {'layout': layout} if 'layout' in pipe.requests else {}
  pipe(count=1, **request, **options)
  ends.append(time.time())
print(json.dumps(ends))
"""


def seconds(source: str, cache: str, options: dict[str, int]) -> list[float]:
  """Returns how long each of `PARTS` takes in a new process."""
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
  ends = [begun, *json.loads(done.stdout.splitlines()[-1])]
  return [end - start for start, end in zip(ends, ends[1:], strict=False)]


def main(argv: list[str]) -> None:
  del argv
  is_small = measuring.SMALL.value
  options = {'steps': 1} if is_small else {}
  with tempfile.TemporaryDirectory() as folder:
    cache = os.environ.get('JAX_COMPILATION_CACHE_DIR', folder)
    measure = lambda: seconds(_SOURCE.value, cache, options)
    first = measure()
    later = [] if is_small else [measure() for _ in range(measuring.rounds())]
  best = min(later or [first], key=lambda parts: sum(parts[:-1]))
  sums = [sum(parts[:-1]) for parts in (best, first)]
  rows = [*zip(PARTS, best, first, strict=True), ('to the first image', *sums)]
  print(f'{_SOURCE.value}: the best of {len(later)} processes, and the first')
  measuring.print_table(
    ('part', 's, best', 's, first'),
    ((name, f'{x:.2f}', f'{y:.2f}') for name, x, y in rows),
  )


if __name__ == '__main__':
  measuring.run(main)
