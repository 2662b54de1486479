"""Programs that XLA divides among eight devices, and what they exchange."""

import collections as collections_lib
import contextlib

import jax

from pyramid_jax.distributed import mesh as mesh_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.networks import diffit_trunk
from pyramid_jax.planning import abstract
from pyramid_jax.planning import collectives
from pyramid_jax.planning import hlo
from pyramid_jax.planning import minimum
from pyramid_jax.planning import program
from tests.helpers import config_systems
from tests.helpers import configs


# Rows of a batch on a device. No other axis of the small configs but `CLASSES`
# has a length that this prime divides, so it tells activations from parameters.
ROWS = 11
CLASSES = 1001  # rows of a table of ImageNet's classes and no class
DEVICES = 8
SMALL = 2**12  # values of an array


def load(name, data, fsdp, folder=None, **fields):
  """Returns a config with so many rows on each of eight devices.

  A system that trains its stages on other rows has so many for each stage. A
  run that one builds on has its config in the folder.
  """
  config = configs.load(name)
  config_systems.give(config, name, folder)
  if 'control' in config:
    fields = {'control.base': 'BASE', **fields}
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


def moved(found: program.Program) -> dict[str, int]:
  """Returns the bytes of each kind of collective but those of look-ups."""
  total: collections_lib.Counter[str] = collections_lib.Counter()
  for one in found.collectives:
    if not is_looked_up(one):
      total[one.kind] += one.bytes
  return dict(total)


def needed(config, draft) -> dict[str, int]:
  """Returns the bytes that the weights of a training step need."""
  frozen = minimum.read(draft.traced, draft.state, draft.frozen)
  return minimum.of_training(
    draft.params, draft.updated, frozen, draft.mesh, config.dtype
  )


def gathered_wholly(found, draft) -> list[collectives.Collective]:
  """Returns the gathers of a forward or backward pass of more than a layer.

  A weight of a loop has its layers along the first axis. What layers compute of
  small tables, such as the positions of a grid, is left out.
  """
  layers = set()
  for name, leaf in sharding.leaves((draft.params, draft.frozen)).items():
    is_stacked = diffit_trunk.BLOCKS in name.split('/')
    layers.add(leaf.size // leaf.shape[0] if is_stacked else leaf.size)

  def is_more(one):
    (array,) = hlo.arrays(one.example)
    size = array.size * one.group_size
    of_pass = 'jvp(' in one.where or 'transpose(' in one.where
    return of_pass and size > SMALL and size not in layers

  gathers = (c for c in found.collectives if c.kind == 'all-gather')
  return [c for c in gathers if not is_looked_up(c) and is_more(c)]


def has_rows(found: collectives.Collective) -> bool:
  """Whether an array with the rows of a batch goes over the network."""
  (array,) = hlo.arrays(found.example)
  return any(n and n % ROWS == 0 and n != CLASSES for n in array.dims)
