"""A process of a run that shares rows, images and scores with the others."""

import json
import pathlib
import sys
import time

from ml_collections import ConfigDict
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import placement
from pyramid_jax.commands import evaluate
from pyramid_jax.commands import sample
from pyramid_jax.config import command_line
from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import shares
from pyramid_jax.distributed import startup
from pyramid_jax.metrics import states
from pyramid_jax.networks import inception
from pyramid_jax.runs import array_parts
from pyramid_jax.runs import entry
from tests.helpers import inception_weights
from tests.helpers import painted_run
from tests.helpers import painter


# Of four devices: (data, fsdp, tensor).
MESHES = ((4, 1, 1), (1, 4, 1), (2, 2, 1), (1, 2, 2), (1, 1, 4))
SIZE = 8
PAUSE_SECS = 1.0  # of each batch of a slow run
REQUEST = {'count': 7, 'seed': 3}


def config():
  """Returns a config of captions; batches divide among few devices."""
  made = painted_run.get_config()
  made.sample.batch_size, made.evaluate.batch_size = 5, 6
  made.evaluate.count = 11
  return made.lock()


def rows(numbers):
  """Returns rows with some numbers; the texts are wider for larger ones."""
  return {
    'number': numbers.astype(np.int64) + 2**40,
    'half': numbers[:, None, None] / 2 * np.ones((3, 1)),
    'is_odd': numbers % 2 == 1,
    'text': np.array(['é' * n for n in numbers]),
    'bytes': np.array([b'x' * n for n in numbers]),
  }


def placed(sizes):
  """Returns a batch that was put on a mesh from the rows of each process."""
  names = dict(zip(placement.AXES, sizes, strict=True))
  mesh = mesh_lib.create(ConfigDict(names))
  local = mesh_lib.local_rows(mesh_lib.batch_sharding(mesh), SIZE)
  batch = {'x': np.arange(SIZE * 3.0).reshape(SIZE, 3)[local]}
  on_mesh = mesh_lib.place(mesh, batch)['x']
  return {
    'rows': local.tolist(),
    'shard': on_mesh.sharding.shard_shape(on_mesh.shape),
    'whole': processes.to_host(on_mesh).tolist(),
  }


def heard(index):
  """Uses all that `shares` has; returns what came of it."""
  mesh = mesh_lib.pure_data()
  asked = []

  def source(numbers):
    asked.extend(numbers.tolist())
    return rows(numbers)

  found = shares.read(mesh, np.arange(1, 7), source)
  # Larger than what goes over at a time.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(shares, '_AT_A_TIME', 64)
    blobs = list(shares.to_main(bytes([index]) * (100 + index)))
  return {
    'placed': [placed(sizes) for sizes in MESHES],
    'asked': asked,
    'read': {name: [str(x.dtype), x.tolist()] for name, x in found.items()},
    'blobs': [[x[0], len(x)] for x in blobs],
  }


def run(folder, made, what='', options=None):
  """Samples and evaluates, as the commands do.

  Args:
    folder: the workdir.
    made: the config.
    what: 'fail' for a full disk, 'slow' for pauses; 'evaluate' does not sample.
    options: of the evaluation.
  """
  with pytest.MonkeyPatch.context() as patch:
    painter.install(patch)
    patch.setattr(inception, 'InceptionV3', inception_weights.Small)
    if what == 'fail':
      patch.setattr(array_parts.ArrayParts, 'add', no_room)
    if what == 'slow':
      for owner, name in (
        (array_parts.ArrayParts, 'add'),
        (states.PerImage, 'update'),
      ):
        patch.setattr(owner, name, slow(getattr(owner, name)))
    if what != 'evaluate':
      sample.run(made, folder, REQUEST)
    evaluate.run(made, folder, options or {})


def no_room(*args):
  raise OSError(28, 'No space left on device')


def slow(function):
  def slower(*arguments):
    time.sleep(PAUSE_SECS)
    return function(*arguments)

  return slower


def work(arguments):
  what, folder, options, *rest = arguments
  overrides, _ = command_line.split(rest)
  made = config_lib.complete(config(), overrides)
  with startup.joined(made.distributed):
    if what == 'hear':
      index, _ = processes.process_part()
      text = json.dumps(heard(index), default=lambda x: x.decode())
      sys.stdout.write(f'heard {text}\n')
    run(pathlib.Path(folder), made, what, json.loads(options))


def main(arguments):
  """Takes what to do, see `run`; a folder, options as JSON, flags.

  'hear' says what `heard` returns as JSON.
  """
  return command_line.exit_code(lambda: work(arguments))


if __name__ == '__main__':
  entry.run('tests.helpers.sharing', arguments=sys.argv[1:])
