r"""What checkpoints cost a pod: the share of one of its hosts, really written.

  python benchmarks/checkpoint_goodput.py [--folder=DIR] [--rounds=3] [--small]

The state of `configs/ldm_text.py:1p4b` (parameters, averages and both moments
of Adam in float32) is split over 64 hosts. An array of the size of one host's
part stands for each of its arrays, is saved as a run saves it, and is removed
again. Printed are the seconds that training waits (the check that all is
finite, the hashes, the copy) and those until the checkpoint is there.

The loss of the pod is extrapolated from them: the other hosts save their parts
at the same time, so training waits as long, provided that the storage takes all
parts as fast as one; the bytes per second that this needs are printed too. On
accelerators, the check and the hashes run there, and the copy comes over PCIe
instead. `--small` takes a small config.
"""

import math
import os
import pathlib
import statistics
import tempfile
import time
from typing import Any

from absl import app
from absl import flags
import jax
import jax.numpy as jnp
import measuring
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import state as state_lib
from pyramid_jax.training import step as step_lib


CONFIG = 'configs/ldm_text.py:1p4b'
SMALL_CONFIG = 'configs/diffit_shapes.py:class,debug'
HOSTS = 64
STEPS = 1000  # between two saves, of a second each
ALLOWED = 0.05  # of the time, for checkpoints

_FOLDER = flags.DEFINE_string(
  'folder', None, 'the storage to write to; by default that of temporary files'
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unknown argument {argv[1]!r}')
  config = config_lib.load(SMALL_CONFIG if measuring.SMALL.value else CONFIG)
  config.ema.decay = 0.9999  # which the config leaves out
  system = systems.create(config)
  whole = jax.eval_shape(lambda: step_lib.create(system, config))
  leaves = jax.tree.leaves(checkpoints.items_of(whole))
  total = sum(x.size * x.dtype.itemsize for x in leaves)
  count = sum(x.size for x in jax.tree.leaves(whole.params))
  state = jax.tree.map(_share, whole)
  mine = jax.tree.leaves(checkpoints.items_of(state))
  size = sum(x.nbytes for x in mine)
  print(
    f'{config.name}: {count / 1e9:.3f} G parameters, {total / 1e9:.2f} GB of'
    f' state; 1/{HOSTS} is {size / 1e9:.3f} GB in {len(mine)} arrays'
  )
  rounds = [_save(state, config, turn) for turn in range(measuring.rounds())]
  median = {k: statistics.median(r[k] for r in rounds) for k in rounds[0]}
  measuring.print_table(
    ('measured, one host', 's', 'MB/s'),
    (
      (name, f'{secs:.3f}', f'{size / 1e6 / secs:.0f}')
      for name, secs in median.items()
    ),
  )
  waits, written = median['training waits'], median['until it is there']
  loss = waits / (STEPS + waits)
  fits = written < STEPS and loss < ALLOWED
  measuring.print_table(
    (f'extrapolated, {HOSTS} hosts', 'value'),
    [
      ('% of the time lost', f'{100 * loss:.3f}'),
      (f'below {100 * ALLOWED:.0f} %', 'yes' if fits else 'no'),
      ('GB/s that the storage has to take', f'{total / 1e9 / written:.2f}'),
    ],
  )


def _share(leaf: jax.ShapeDtypeStruct) -> jax.Array:
  """Returns an array with a host's part of the values of another."""
  if not leaf.size or leaf.dtype != jnp.float32:
    return jnp.zeros(leaf.shape, leaf.dtype)
  size = math.ceil(leaf.size / HOSTS)
  values = np.random.default_rng(size).normal(size=size)
  return jax.device_put(values.astype(np.float32))


def _save(
  state: state_lib.TrainState, config: Any, turn: int
) -> dict[str, float]:
  """Saves one host's share; returns the seconds of each part."""
  mesh = mesh_lib.create(config.mesh, jax.devices()[:1])
  items = checkpoints.items_of(state)
  with tempfile.TemporaryDirectory(dir=_FOLDER.value) as folder:
    store = checkpoints.Checkpoints(pathlib.Path(folder), 1)
    start = time.monotonic()
    state_lib.not_finite(items)
    checked = time.monotonic() - start
    start = time.monotonic()
    jax.block_until_ready([hashes.tree(tree) for tree in items.values()])
    hashed = time.monotonic() - start
    store.save(state.replace(step=jnp.int32(turn)), config, mesh, 0)
    store.wait()
    took = store.took()
    store.close()
    os.sync()
  return {
    'is it finite': checked,
    'hashes': hashed,
    'copy': max(took.blocking_secs - hashed, 1e-9),
    'training waits': checked + took.blocking_secs,
    'until it is there': checked + took.secs,
  }


if __name__ == '__main__':
  measuring.run(main)
