"""Does an evaluation need more memory for more images?

  python benchmarks/evaluation.py [--images=5000] [--side=64] [--batch=100]
    [--features] [--folder=DIR]

The real images of `shapes` with noise stand for samples, for what a sampler
needs does not depend on their number. All scores of layouts are computed with
their ceilings and floors, and saved as they come. The table has the resident
memory of the process after so many images.

`--features` adds FID and related scores by a small network of random weights,
so that 50,000 images can be scored as a published protocol has it. With
`--folder` the states lie there: a process that was killed goes on when the
command is repeated, and the hash in the last line is that of the same table.
"""

import hashlib
import pathlib
import resource
import tempfile
import time
import types
from typing import Any

from absl import flags
from flax import linen as nn
import jax
import jax.numpy as jnp
import measuring
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.evaluation import fid_state
from pyramid_jax.evaluation import fidelity
from pyramid_jax.evaluation import score_table
from pyramid_jax.evaluation import scoring
from pyramid_jax.evaluation import unfinished
from pyramid_jax.metrics import inception as inception_scores
from pyramid_jax.networks import inception
from pyramid_jax.systems import system as system_lib


_COUNT = flags.DEFINE_integer('images', 5000, 'images')
_SIZE = flags.DEFINE_integer('side', 64, 'px of a side')
_BATCH = flags.DEFINE_integer('batch', 100, 'images of a batch')
_FEATURES = flags.DEFINE_bool('features', False, 'FID by random features')
_FOLDER = flags.DEFINE_string('folder', '', 'where states are kept')
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
  if _FEATURES.value:
    evaluation.add_fid(_random_features(config), 'test')
  request = {
    'images': count,
    'side': config.data.image_size,
    'batch': config.evaluate.batch_size,
    'features': _FEATURES.value,
  }
  start = time.monotonic()
  with tempfile.TemporaryDirectory() as folder:
    kept = pathlib.Path(_FOLDER.value or folder)
    rows = evaluation(make, unfinished.Store(kept, request))
  seconds = time.monotonic() - start
  seen[count] = _resident_mib()
  _print(seen)
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
  print(f'peak, with the intervals of the table: {peak:.0f} MiB')
  print(f'{len(rows)} scores of {count} images, {seconds:.0f} s')
  # Of the reference against itself there is rounding alone.
  rows = [row for row in rows if row.name != fid_state.SELF]
  table = score_table.to_markdown(rows)
  print(f'\n{table}\ntable {hashlib.sha256(table.encode()).hexdigest()[:16]}')


class _Random(nn.Module):
  """A layer on every 16th pixel, in the place of Inception."""

  @nn.compact
  def __call__(self, x: jax.Array) -> inception.Outputs:
    x = x[:, ::16, ::16].reshape(len(x), -1)
    x = jnp.tanh(nn.Dense(138, precision='highest')(x))
    logits = 3 * x[:, 128:]
    return inception.Outputs(
      pool=x[:, :64],
      spatial=x[:, 64:128],
      logits=logits,
      logits_unbiased=logits,
    )


def _random_features(config: ConfigDict) -> fidelity.FidEvaluator:
  network: Any = _Random()
  image = np.zeros((1, inception.SIDE, inception.SIDE, 3), np.float32)
  mesh = mesh_lib.pure_data(jax.local_devices())
  size = -(-config.evaluate.batch_size // mesh.size) * mesh.size
  variables = network.init(jax.random.key(0), image)
  return fidelity.FidEvaluator(
    extract=inception_scores.extractor(variables, size, mesh, network),
    batch_size=size,
    mesh=mesh,
    weights='random weights',
  )


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
