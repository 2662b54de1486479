r"""Speed of this checkout relative to another one, training and sampling.

  python benchmarks/paired.py --base=/path/to/other/checkout [--rounds=5] \
      [--cases=frido,ldm,diffit,ladm] [--small]

One process for each checkout compiles a training step and a sampler of each
config. The runs of both alternate, one at a time, so that other load on the
machine affects both alike. Prints the ratios of the medians of wall and CPU
times, this checkout over the other: below 1 is faster. `--small` takes the
`debug` variants and, unless --cases is given, the case `diffit` only.
"""

from collections.abc import Iterator
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from absl import app
from absl import flags
import measuring


_BASE = flags.DEFINE_string('base', '', 'the other checkout')
_CASES = flags.DEFINE_list('cases', [], 'names of CASES; all by default')

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROCESS = ROOT / 'benchmarks' / 'paired_process.py'
# Case: (config, the values that make it short).
CASES: dict[str, tuple[str, dict[str, str]]] = {
  'frido': ('configs/frido_shapes.py:layout', {'sample.steps': '5'}),
  'ldm': ('configs/ldm_shapes.py:class', {'sample.steps': '10'}),
  'diffit': ('configs/diffit_shapes.py:class', {'sample.steps': '5'}),
  'ladm': ('configs/ladm_shapes.py:layout', {'sample.steps': '4'}),
}
SMALL_VALUES = {'sample.steps': '2'}


def main(argv: list[str]) -> None:
  del argv
  names = _CASES.value or (['diffit'] if measuring.SMALL.value else [*CASES])
  unknown = [name for name in names if name not in CASES]
  if unknown:
    raise app.UsageError(f'--cases={unknown[0]}: must be of {", ".join(CASES)}')
  if not (pathlib.Path(_BASE.value) / 'pyramid_jax').is_dir():
    raise app.UsageError(f'--base={_BASE.value!r} holds no pyramid_jax')
  cases = {name: CASES[name] for name in names}
  if measuring.SMALL.value:
    cases = {k: (f'{v[0]},debug', SMALL_VALUES) for k, v in cases.items()}
  other = pathlib.Path(_BASE.value).resolve()
  children = [_start(folder, cases) for folder in (other, ROOT)]
  measuring.print_table(
    ('case', 'wall new/old', 'CPU new/old', 'old ms', 'new ms'),
    _ratios(children, 2 * len(names)),
  )
  for child in children:
    child.wait()


def _start(
  checkout: pathlib.Path, cases: dict[str, tuple[str, dict[str, str]]]
) -> subprocess.Popen[str]:
  more = (
    {'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'} if measuring.SMALL.value else {}
  )
  return subprocess.Popen(
    [sys.executable, str(PROCESS), json.dumps(cases)],
    cwd=checkout,
    env={**os.environ, **more, 'PYTHONPATH': str(checkout)},
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  )


def _ratios(
  children: list[subprocess.Popen[str]], count: int
) -> Iterator[tuple[str, ...]]:
  """Yields a row for each program, which both checkouts compile at once."""
  for _ in range(count):
    (name, _) = (_answer(child) for child in children)
    times: tuple[list[Any], list[Any]] = ([], [])
    for turn in range(measuring.rounds()):
      for index in (0, 1) if turn % 2 else (1, 0):
        _ask(children[index], 'run')
        times[index].append(_answer(children[index]))
    for child in children:
      _ask(child, 'next')
    old, new = (
      [statistics.median(t) for t in zip(*kept, strict=True)] for kept in times
    )
    yield (
      name,
      f'{new[0] / old[0]:.2f}',
      f'{new[1] / old[1]:.2f}',
      f'{1e3 * old[0]:.1f}',
      f'{1e3 * new[0]:.1f}',
    )


def _ask(child: subprocess.Popen[str], word: str) -> None:
  assert child.stdin is not None
  print(word, file=child.stdin, flush=True)


def _answer(child: subprocess.Popen[str]) -> Any:
  assert child.stdout is not None
  line = child.stdout.readline()
  if not line:
    raise RuntimeError(f'the process of {child.args} ended: see above')
  return json.loads(line)


if __name__ == '__main__':
  measuring.run(main)
