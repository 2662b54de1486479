"""Reading the arrays of a checkpoint, of which none passes with another hash.

Orbax does not notice a changed byte; the hashes of `step_meta` do.
"""

from collections.abc import Mapping
import pathlib
from typing import Any

from flax import traverse_util
import jax
import numpy as np

from pyramid_jax.distributed import sharding
from pyramid_jax.runs import hashes
from pyramid_jax.runs import reading
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import step_meta


def weights(
  path: pathlib.Path, abstract: Mapping[str, Any], averaged: bool
) -> dict[str, Any]:
  """Returns the weights of a step, see `checkpoints.load`.

  Raises:
    DamagedError: something is missing, unreadable or changed.
    UserError: the checkpoint is whole and of another config.
  """
  meta = step_meta.read(path)
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
  path: pathlib.Path,
  meta: step_meta.Meta,
  target: Mapping[str, Any],
  partial: bool,
) -> dict[str, Any]:
  """Restores and verifies the items of one step.

  Args:
    path: of the step.
    meta: its record.
    target: {item: abstract tree with shardings}.
    partial: whether the checkpoint may hold more leaves than the target.

  Raises:
    DamagedError: something is missing, unreadable or changed.
    UserError: the checkpoint is whole and of another config.
  """
  step_meta.compare(path, meta, target, partial)
  items = {}
  for name, tree in target.items():
    items[name] = _item(path / name, tree, partial)
    _check(name, items[name], meta)
  return items


def verify(path: pathlib.Path) -> None:
  """Reads all arrays of a step to the host and compares them with the record.

  Raises:
    DamagedError: something is missing, unreadable or changed.
    UserError: storage failed.
  """
  meta = step_meta.read(path)
  for name, leaves in meta['tree'].items():
    found = _check(name, _item(path / name, None, False), meta)
    if found.keys() != leaves.keys():
      raise reading.DamagedError('hash', f'{name} has other arrays')


def _item(path: pathlib.Path, tree: Any, partial: bool) -> Any:
  """Returns an item, of NumPy's arrays if there is no abstract `tree`."""
  import orbax.checkpoint as ocp  # slow to load

  def read() -> Any:
    handler = ocp.PyTreeCheckpointHandler()
    if tree is None:
      as_saved = ocp.RestoreArgs(restore_type=np.ndarray)
      leaves = handler.metadata(path).tree
      restore_args = jax.tree.map(lambda _: as_saved, leaves)
    else:
      restore_args = ocp.checkpoint_utils.construct_restore_args(tree)
    return ocp.Checkpointer(handler).restore(
      path,
      args=ocp.args.PyTreeRestore(
        item=tree, partial_restore=partial, restore_args=restore_args
      ),
    )

  return reading.read(read, path, 'unreadable')


def _check(name: str, item: Any, meta: step_meta.Meta) -> dict[str, str]:
  """Returns the hashes of an item; other ones than recorded are damage."""
  for leaf, value in sharding.leaves(item).items():
    if not isinstance(value, jax.Array) and np.asarray(value).dtype.hasobject:
      raise reading.DamagedError('hash', f'{name}/{leaf} is no array')
  found = hashes.tree(item)
  for leaf, value in found.items():
    if meta['tree'][name].get(leaf, ('', '', ''))[2] != value:
      raise reading.DamagedError('hash', f'{name}/{leaf} was changed')
  return found
