r"""How fast latents computed beforehand are read, out of very many shards.

  python benchmarks/latent_cache.py [--folder=DIR] [--rounds=5] [--small]

Two caches of latents 32 x 32 x 4 in float16 with a class are written: one of
10,000 shards of 8 latents, one of 64 shards of 1,024. From each, batches of 256
in the order of a training run are read as training reads them, with one and
with two threads. Printed are the seconds until the first batch is there, from
the config on; the shards that are open afterwards; and latents a second, by the
clock and by the time that this process had a processor: they differ where
others need the processors, too. `--small` takes 200 and 4 shards.
"""

import contextlib
import json
import os
import pathlib
import tempfile
import time

from absl import app
from absl import flags
import measuring
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax.data import batches as batches_lib
from pyramid_jax.data import prefetching
from pyramid_jax.data.caches import fixed_records
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.readers import latent_cache


CONFIG = 'configs/ldm_shapes.py:class,debug'
SHAPE = (32, 32, 4)
BATCH = 256
SECS = 1.0  # of a round

_FOLDER = flags.DEFINE_string(
  'folder', None, 'where the caches are; by default that of temporary files'
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  sizes = [(200, 8), (4, 64)] if measuring.SMALL.value else [(10_000, 8)]
  sizes = sizes if measuring.SMALL.value else [*sizes, (64, 1024)]
  rows = []
  for shards, size in sizes:
    with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
      _write(pathlib.Path(folder), shards, size)
      config = config_lib.load(CONFIG)
      config.data.name, config.data.root = data.LATENTS, folder
      start = time.monotonic()
      reader = data.create(config, 'train')
      order = batches_lib.Batches(reader, BATCH, seed=0)
      order.at(0)
      first = time.monotonic() - start
      rates = [_rate(order, threads) for threads in (1, 2)]
      texts = [f'{x:.0f}' for pair in rates for x in pair]
      rows.append((f'{shards} x {size}', f'{first:.2f}', _open(), *texts))
  clock = 'latents/s, {} thread{}', 'per s of a processor'
  heads = [x.format(n, 's' * (n > 1)) for n in (1, 2) for x in clock]
  measuring.print_table(('shards', 'first batch (s)', 'open', *heads), rows)


def _write(folder: pathlib.Path, count: int, size: int) -> None:
  """Writes a cache of random latents."""
  config = config_lib.load(CONFIG)
  fields = latent_cache.fixed_fields(config)
  rng = np.random.default_rng(0)
  rows = {
    'class': rng.integers(1, 9, size).astype(np.int32),
    'latent_mean_0': rng.normal(size=(size, *SHAPE)).astype(np.float16),
  }
  manifest = {
    'format': latent_cache.FORMAT,
    'autoencoder': '',
    'data': {'name': 'shapes', 'root': ''},
    'fixed': json.loads(json.dumps(fields)),
    'label_names': [''] * 10,
    'layout': latent_cache.layout_of(rows).json(),
    'count': count * size,
    'shard_size': size,
    'flips': False,
  }
  manifests.write(folder, manifest)
  shards = latent_cache.shards(folder, manifest)
  for index, name in enumerate(shards.names):
    packed = shards.layout.pack(rows, shards.numbers(index).start)
    (folder / name).write_bytes(packed.tobytes())


def _open() -> str:
  """Returns how many shards are open, on Linux."""
  count = 0
  for number in os.listdir('/proc/self/fd'):
    with contextlib.suppress(OSError):  # that of the list itself
      name = os.readlink(f'/proc/self/fd/{number}')
      count += name.endswith(fixed_records.SUFFIX)
  return str(count)


def _rate(order: batches_lib.Batches, threads: int) -> tuple[float, float]:
  """Returns latents a second by the clock and by the processors; the best."""
  found = []
  for turn in range(measuring.rounds()):
    step, count = turn * 10_000, 0
    start, busy = time.monotonic(), time.process_time()
    with prefetching.prefetch(
      order, step, step + 10_000, lambda batch: batch, threads=threads
    ) as batches:
      for batch in batches:
        count += len(batch['class'])
        if time.monotonic() - start > (0.1 if measuring.SMALL.value else SECS):
          break
    took = time.monotonic() - start, time.process_time() - busy
    found.append((count / took[0], count / took[1]))
  return max(x for x, _ in found), max(x for _, x in found)


if __name__ == '__main__':
  measuring.run(main)
