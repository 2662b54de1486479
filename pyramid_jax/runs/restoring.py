"""Reading the arrays of a checkpoint, of which none passes with another hash.

Orbax does not notice a changed byte; the hashes of `step_meta` do.
"""

from collections.abc import Mapping
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding
from pyramid_jax.files import stores
from pyramid_jax.runs import hashes
from pyramid_jax.runs import reading
from pyramid_jax.runs import retired
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import step_meta


def weights(
  path: stores.Path,
  abstract: Mapping[str, Any],
  averaged: bool,
  with_retired: bool,
) -> dict[str, Any]:
  """Returns the weights of a step, see `checkpoints.load`.

  Raises:
    DamagedError: something is missing, unreadable or changed.
    UserError: the checkpoint is whole and of another config.
  """
  meta = reading.together(lambda: step_meta.read(path))
  if with_retired:
    there = meta['tree'].get('state', {})
    shapes = {name: (shape, dtype) for name, (shape, dtype, _) in there.items()}
    abstract = retired.added(abstract, shapes)
  step_meta.compare(path, meta, {'state': abstract}, partial=True)
  kept = meta['tree'].get('ema', {}) if averaged else {}
  params = traverse_util.flatten_dict(abstract['params'])
  ema = {k: leaf for k, leaf in params.items() if '/'.join(k) in kept}
  # What averages replace is not read.
  raw = {k: leaf for k, leaf in params.items() if k not in ema}
  state = {**abstract, 'params': traverse_util.unflatten_dict(raw)}
  target = {
    'state': {
      name: tree for name, tree in state.items() if jax.tree.leaves(tree)
    },
    'ema': traverse_util.unflatten_dict(ema),
  }
  target = {item: tree for item, tree in target.items() if tree}
  items = restore(path, meta, target, partial=True)
  found = items.get('state', {})
  found['params'] = state_lib.averaged(
    found.get('params', {}), items.get('ema', {})
  )
  return {**{name: {} for name in abstract}, **found}


def restore(
  path: stores.Path,
  meta: step_meta.Meta,
  target: Mapping[str, Any],
  partial: bool,
) -> dict[str, Any]:
  """Restores and verifies the items of one step; all processes call it.

  What one of them cannot use, none does.

  Args:
    path: of the step.
    meta: its record.
    target: {item: abstract tree with shardings}.
    partial: whether the checkpoint may hold more leaves than the target.

  Raises:
    DamagedError: something is missing, unreadable or changed.
    UserError: the checkpoint is whole and of another config.
  """
  if not partial:
    kept = retired.without(path, meta['tree'], target)
    partial = kept != meta['tree']
    step_meta.compare(path, {**meta, 'tree': kept}, target, partial=False)
  else:
    step_meta.compare(path, meta, target, partial)
  items = reading.together(
    lambda: {
      name: _item(path / name, tree, partial) for name, tree in target.items()
    }
  )
  reading.together(lambda: _check(items, meta))
  return items


def verify(path: stores.Path) -> None:
  """Reads all arrays of a step to the host and compares them with the record.

  One process can do it alone.

  Raises:
    DamagedError: something is missing, unreadable or changed.
    UserError: storage failed.
  """
  meta = step_meta.read(path)
  for name, leaves in meta['tree'].items():
    found = _check({name: _item(path / name, None, False)}, meta)
    if found[name].keys() != leaves.keys():
      raise reading.DamagedError('hash', f'{name} has other arrays')


def _item(path: stores.Path, tree: Any, partial: bool) -> Any:
  """Returns an item, of NumPy's arrays if there is no abstract `tree`."""
  import orbax.checkpoint as ocp  # slow to load

  place = stores.of_library(path)

  def read() -> Any:
    handler = ocp.PyTreeCheckpointHandler()
    if tree is None:
      as_saved = ocp.RestoreArgs(restore_type=np.ndarray)
      leaves = handler.metadata(place).tree
      restore_args = jax.tree.map(lambda _: as_saved, leaves)
    else:
      restore_args = ocp.checkpoint_utils.construct_restore_args(tree)
    alone = ocp.options.MultiprocessingOptions(
      active_processes={processes.process_part()[0]}
    )
    reader = ocp.Checkpointer(handler, multiprocessing_options=alone)
    return reader.restore(
      place,
      args=ocp.args.PyTreeRestore(
        item=tree, partial_restore=partial, restore_args=restore_args
      ),
    )

  return reading.read(read, path, 'unreadable')


def _check(
  items: Mapping[str, Any], meta: step_meta.Meta
) -> dict[str, dict[str, str]]:
  """Returns the hashes of items; other ones than recorded are damage.

  Those of arrays that are split over processes are computed by all of them: so
  none is left out.
  """
  for name, item in items.items():
    for leaf, value in sharding.leaves(item).items():
      is_on_host = not isinstance(value, jax.Array)
      if is_on_host and np.asarray(value).dtype.hasobject:
        raise reading.DamagedError('hash', f'{name}/{leaf} is no array')
  found = {name: hashes.tree(item) for name, item in items.items()}
  for name, leaves in found.items():
    for leaf, value in leaves.items():
      if meta['tree'][name].get(leaf, ('', '', ''))[2] != value:
        raise reading.DamagedError('hash', f'{name}/{leaf} was changed')
  return found
