"""Does an evaluation need more memory for more images?

  python benchmarks/evaluation.py [--images=5000] [--side=64] [--batch=100]

The real images of `shapes` with noise stand for samples, for what a sampler
needs does not depend on their number. All scores of layouts are computed with
their ceilings and floors, and saved as they come. The table has the resident
memory of the process after so many images.
"""

import pathlib
import resource
import tempfile
import time
import types
from typing import Any

from absl import flags
import measuring
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import unfinished
from pyramid_jax.systems import system as system_lib


_COUNT = flags.DEFINE_integer('images', 5000, 'images')
_SIZE = flags.DEFINE_integer('side', 64, 'px of a side')
_BATCH = flags.DEFINE_integer('batch', 100, 'images of a batch')
_CONFIG = pathlib.Path(__file__).parents[1] / 'configs' / 'ldm_shapes.py'
_WARM = 500  # images after which memory must not grow
_NOISE = 20  # grey levels
_PAGE = resource.getpagesize()


def main(argv: list[str]) -> None:
  del argv
  config = _config()
  seen: dict[int, float] = {}

  def make(batch, numbers):
    seen[int(numbers[0])] = _resident_mib()
    real = 127.5 * (np.asarray(batch['image']) + 1)
    noise = np.random.default_rng(numbers[0]).normal(0, _NOISE, real.shape)
    return np.round(real + noise).clip(0, 255).astype(np.uint8), []

  pipe: Any = types.SimpleNamespace(
    system=types.SimpleNamespace(outputs=system_lib.SAMPLES),
    mesh=mesh_lib.pure_data(),
  )
  count = config.evaluate.count
  evaluation = scoring.Evaluation(
    pipe, config, data.create(config, 'test'), count=count
  )
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    rows = evaluation(make, unfinished.Store(pathlib.Path(folder), {}))
  seconds = time.monotonic() - start
  seen[count] = _resident_mib()
  _print(seen)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
  print(f'peak, with the intervals of the table: {peak:.0f} MiB')
  print(f'{len(rows)} scores of {count} images, {seconds:.0f} s')


def _config():
  """Returns the config of a layout task."""
  config = config_lib.load(f'{_CONFIG}:layout')
  small = measuring.SMALL.value
  with config.unlocked():
    config.data.image_size = 16 if small else _SIZE.value
    config.evaluate.count = 12 if small else _COUNT.value
    config.evaluate.batch_size = 4 if small else _BATCH.value
  return config


def _resident_mib() -> float:
  pages = pathlib.Path('/proc/self/statm').read_text().split()[1]
  return int(pages) * _PAGE / 2**20


def _print(seen: dict[int, float]) -> None:
  """Prints the memory after so many images, and how much of it is new."""
  last = max(seen)
  first = min(n for n in seen if n >= min(last, _WARM))
  grown = {n: 100 * (x / seen[first] - 1) for n, x in seen.items()}
  after = {n: f'{x:+.1f} %' if n >= first else '-' for n, x in grown.items()}
  shown = [n for n in seen if n % _WARM == 0 or n == last]
  rows = ((str(n), f'{seen[n]:.0f}', after[n]) for n in shown)
  measuring.print_table(('images', 'MiB', f'against {first} images'), rows)
  most = max(x for n, x in grown.items() if n >= first)
  print(f'\nlargest growth: {most:+.1f} %')


if __name__ == '__main__':
  measuring.run(main)
