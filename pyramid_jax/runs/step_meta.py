"""The record of a checkpoint: what it holds, and from what it was made.

The item `meta` of a checkpoint is JSON with
  format: 2; 1 and no hash in checkpoints of older versions;
  config, versions, mesh: of the run;
  frozen: {part: hash} of the pretrained weights that the run used;
  record: what else the run wanted to be kept;
  position: in the data, as in the item `data`;
  scores: {name: number} of the validation split at that step;
  time: of the save, in seconds since 1970;
  tree: {item: {path: (shape, dtype, hash)}} of its arrays;
  sha256: of all that.
"""

from collections.abc import Mapping
import importlib.metadata
from typing import Any

from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax.distributed import sharding
from pyramid_jax.files import json_text
from pyramid_jax.files import seals
from pyramid_jax.files import stores
from pyramid_jax.runs import hashes
from pyramid_jax.runs import reading
from pyramid_jax.runs import shape_fields


FORMAT = 2
_SEAL = 'sha256'
_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
_LISTED = 5  # differences that a message names

Meta = dict[str, Any]


def make(
  items: Mapping[str, Any], config: ConfigDict, mesh: Mesh, **more: Any
) -> Meta:
  """Returns the record of a checkpoint of `items`; `more` is its other fields.

  The arrays are hashed.
  """
  meta = {
    'format': FORMAT,
    'config': json_text.loads(config_lib.to_json(config)),
    'versions': {p: importlib.metadata.version(p) for p in _PACKAGES},
    'mesh': dict(mesh.shape),
    'tree': {name: _manifest(tree) for name, tree in items.items()},
    **more,
  }
  return {**meta, _SEAL: seals.digest(meta)}


def read(path: stores.Path) -> Meta:
  """Reads and checks the record of the checkpoint in a folder.

  Raises:
    DamagedError: it is missing, or not what was written; so is `data`.
    UserError: storage failed.
  """
  try:
    meta = _json(path, 'meta')
  except reading.DamagedError as error:
    if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
      raise reading.DamagedError('incomplete', 'no item meta') from error
    raise
  if not isinstance(meta, dict) or not _is_tree(meta.get('tree')):
    raise reading.DamagedError('unreadable', 'meta has no tree of arrays')
  if not has_hash(meta):
    return meta
  if not seals.is_intact(meta, meta.get(_SEAL), _SEAL):
    raise reading.DamagedError('hash', 'meta is not what was saved')
  if _json(path, 'data') != {'position': meta['position']}:
    raise reading.DamagedError('hash', 'data is not what was saved')
  return meta


def has_hash(meta: Meta) -> bool:
  """Whether a record should have a hash; those of older versions have none."""
  return _SEAL in meta or 'format' in meta


def _json(path: stores.Path, item: str) -> Any:
  file = path / item / 'metadata'  # as Orbax writes an item of JSON
  return reading.read(lambda: json_text.read(file), file, 'unreadable')


def _is_tree(tree: Any) -> bool:
  return isinstance(tree, dict) and all(
    isinstance(leaves, dict)
    and all(isinstance(x, list) and len(x) == 3 for x in leaves.values())
    for leaves in tree.values()
  )


def compare(
  path: stores.Path, meta: Meta, target: Mapping[str, Any], partial: bool
) -> None:
  """Raises OtherShapesError unless the leaves are those of the target.

  Args:
    path: of the checkpoint, for the message.
    meta: its record.
    target: {item: abstract tree}.
    partial: whether the checkpoint may hold more leaves.
  """
  lines = []
  for item, tree in target.items():
    saved = meta['tree'].get(item, {})
    asked = sharding.leaves(tree)
    names = asked if partial else sorted(asked.keys() | saved.keys())
    for name in names:
      leaf = asked.get(name)
      here = 'absent' if leaf is None else f'{leaf.dtype}{list(leaf.shape)}'
      shape, dtype, _ = saved.get(name, ('', 'absent', ''))
      there = f'{dtype}{shape}'
      if here != there:
        lines.append(f'{name} is {here} in the config and {there} in the file')
  if lines:
    # Optimizer and averages repeat the shapes of the parameters.
    lines.sort(key=lambda line: not line.startswith('params/'))
    more = len(lines) - _LISTED
    raise shape_fields.OtherShapesError(
      f'checkpoint {path} is of another config: {"; ".join(lines[:_LISTED])}'
      + (f'; and {more} more.' if more > 0 else '.'),
      meta.get('config'),
    )


def _manifest(tree: Any) -> dict[str, list[Any]]:
  values = hashes.tree(tree)
  return {
    name: [list(leaf.shape), str(leaf.dtype), values[name]]
    for name, leaf in sharding.leaves(tree).items()
  }
