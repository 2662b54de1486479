"""Arrays that checkpoints of older versions have and that no step reads."""

from collections.abc import Collection
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import re
from typing import Any

from absl import logging
from flax import traverse_util
import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from pyramid_jax.distributed import sharding
from pyramid_jax.files import stores


# Ends of their paths: the head of the condition encoder, which was trained,
# averaged and stored, predicts tokens that nobody requested.
_NAMES = re.compile(r'(^|/)to_logits/(kernel|bias)$')
_PARAMS = 'params/'

Manifest = Mapping[str, Mapping[str, Sequence[Any]]]


def without(
  path: stores.Path, saved: Manifest, target: Mapping[str, Any]
) -> Manifest:
  """Returns what a checkpoint has but for retired arrays, in one log line.

  Args:
    path: of the checkpoint, for the line.
    saved: {item: {path: (shape, dtype, hash)}}, see `step_meta`.
    target: {item: abstract tree} of what is read; it keeps its arrays.
  """
  kept, count = {}, 0
  for item, leaves in saved.items():
    retired = _among(leaves, sharding.leaves(target.get(item, {})))
    kept[item] = {k: leaf for k, leaf in leaves.items() if k not in retired}
    count += len(retired)
  if count:
    logging.info(
      '%s: %d arrays of a head that no step reads are left out', path, count
    )
  return kept


def added(
  abstract: Mapping[str, Any], shapes: Mapping[str, tuple[Sequence[int], Any]]
) -> dict[str, Any]:
  """Returns trees with those retired parameters that a file has.

  Hashes of pretrained parts count them: so a run on a part that an older
  version wrote is known again.

  Args:
    abstract: trees of shapes and shardings, of which one is 'params'.
    shapes: {path: (shape, dtype)} of the arrays of the file.
  """
  leaves = traverse_util.flatten_dict(dict(abstract.get('params', {})))
  losses = {path[0] for path in leaves}
  for name in _among(shapes, ()):
    path = tuple(name.removeprefix(_PARAMS).split('/'))
    if name.startswith(_PARAMS) and path[0] in losses and path not in leaves:
      like = next(leaf for at, leaf in leaves.items() if at[0] == path[0])
      whole = NamedSharding(like.sharding.mesh, PartitionSpec())
      shape, dtype = shapes[name]
      leaves[path] = jax.ShapeDtypeStruct(tuple(shape), dtype, sharding=whole)
  params = traverse_util.unflatten_dict(leaves)
  return {**abstract, **({'params': params} if leaves else {})}


def pruned(tree: Any, like: Any) -> Any:
  """Returns nested dicts with the leaves of `like` alone."""
  if not isinstance(like, Mapping):
    return tree
  return {name: pruned(tree[name], part) for name, part in like.items()}


def _among(names: Iterable[str], wanted: Collection[str]) -> set[str]:
  return {x for x in names if _NAMES.search(x) and x not in wanted}
