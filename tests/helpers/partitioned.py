"""Programs that XLA divides among eight devices, and what they exchange."""

import contextlib

import jax

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.planning import abstract
from pyramid_jax.planning import collectives
from pyramid_jax.planning import hlo
from pyramid_jax.planning import program
from tests.helpers import configs


# Rows of a batch on a device. No other axis of the small configs has a length
# that this prime divides, so it tells activations from parameters.
ROWS = 11
DEVICES = 8


def load(name, data, fsdp, **fields):
  """Returns a config with so many rows on each of eight devices.

  A system that trains its stages on other rows has so many for each stage.
  """
  config = configs.load(name)
  stages = config.laplacian.levels if 'laplacian' in config else 1
  values = {
    'train.batch_size': ROWS * DEVICES * stages,
    'mesh.data': data,
    'mesh.fsdp': fsdp,
    'mesh.fsdp_min_size': 256,
    'optimizer.name': 'adamw',  # Muon gathers whole matrices.
  }
  if stages > 1:
    values['laplacian.stage_batch'] = (0,)
  if 'batch_size' in config.get('sample', {}):
    values['sample.batch_size'] = ROWS * DEVICES
  return configs.change(config, values | fields)


def compiled(draft: abstract.Draft) -> program.Program:
  """Returns the program of a draft."""
  with names_in_cache():
    return program.Program.of(draft.traced.lower().compile().as_text())


@contextlib.contextmanager
def names_in_cache():
  """Lets a program of other names be another one to the cache of programs."""
  field = 'jax_compilation_cache_include_metadata_in_key'
  was = getattr(jax.config, field)
  jax.config.update(field, True)
  try:
    yield
  finally:
    jax.config.update(field, was)


def training(config):
  """Returns the draft of a training step."""
  return abstract.training(config, mesh_lib.create(config.mesh))


def sampling(config):
  """Returns the draft of the program that makes images of noise."""
  return abstract.sampling(config, mesh_lib.create(config.mesh))


def is_looked_up(found: collectives.Collective) -> bool:
  """Whether a collective is one of `placement.looked_up`.

  Ids of a few bytes go to all devices, and found rows to those that need them.
  """
  is_ids = found.kind == 'all-gather' and found.example.startswith('s32[')
  is_found = found.kind == 'all-to-all' and 'looked_up' in found.where
  return is_ids or is_found


def has_rows(found: collectives.Collective) -> bool:
  """Whether an array with the rows of a batch goes over the network."""
  (array,) = hlo.arrays(found.example)
  return any(n and n % ROWS == 0 for n in array.dims)
