"""The weights that a system uses and never trains."""

from collections.abc import Mapping
import contextlib
import math
import os
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import sharding
from pyramid_jax.files import stores
from pyramid_jax.interop import parts
from pyramid_jax.networks import pretrained
from pyramid_jax.networks.layers import parameters
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import compact
from pyramid_jax.runs import hashes
from pyramid_jax.runs import retired
from pyramid_jax.runs import shape_fields
from pyramid_jax.runs import sources
from pyramid_jax.systems import system as system_lib


Path = str | os.PathLike[str]
FIRST_STAGE = 'first_stage'  # the part, and its folder in a workdir
# Values of a part from which on all devices share it: encoders of texts of a
# billion weights, of which every step gathers one layer after the other.
_LARGE = 2**29


def _path_of(name: str, part: pretrained.PretrainedPart, workdir: Path) -> Path:
  """Returns where a part's weights are or will be, '' if it is not set."""
  is_first_stage = name == FIRST_STAGE
  return part.path or (os.path.join(workdir, name) if is_first_stage else '')


def _holder(path: Path) -> stores.Path | None:
  """Returns the run whose one file has a first stage, None for other paths.

  Args:
    path: of a part, or its name; `first_stage` in the workdir of that run.
  """
  if os.fspath(path).startswith(files.HUB):
    return None
  folder = stores.path(path)
  if folder.name != FIRST_STAGE or folder.is_dir():
    return None
  return folder.parent if compact.is_there(folder.parent) else None


def missing(
  system: system_lib.Trainable, workdir: Path, only: str = ''
) -> list[str]:
  """Returns a line for each part, or the only one, whose file is missing.

  A first stage without a path is trained, so it is not missing. What a name
  stands for is fetched.
  """
  lines = []
  for name, part in system.pretrained_parts().items():
    if only in ('', name) and not _path_of(name, part, workdir):
      lines.append(f'config.{part.field} (weights of {name}) is not set')
    elif only in ('', name) and part.path and not _holder(part.path):
      field = f'config.{part.field}'
      lines.append(files.missing(part.path, field, f'weights of {name}'))
  return [line for line in lines if line]


def abstract(
  system: system_lib.Trainable,
  mesh: Mesh,
  min_size: int,
  in_use: bool = True,
  to_sample: bool = False,
) -> dict[str, Any]:
  """Returns {part: tree} of shapes with their shardings.

  Args:
    system: whose parts they are.
    mesh: of the shardings.
    min_size: weights of fewer values are whole on every device.
    in_use: whether the element types are those of `in_use`, instead of those
      of files.
    to_sample: see `in_use`.
  """

  def one(part: pretrained.PretrainedPart) -> Any:
    key = jax.random.key(0)
    is_short = in_use and _is_converted(part, to_sample)
    with sharding.traced_on(mesh):
      shapes = parameters.shapes_of(part.init, key, in_use=is_short)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    over_all = count >= _LARGE and not part.is_denoiser
    return sharding.abstract(shapes, mesh, min_size, over_all)

  return {name: one(p) for name, p in system.pretrained_parts().items()}


def in_use(
  system: system_lib.Trainable,
  trees: Mapping[str, Any],
  to_sample: bool = False,
) -> dict[str, Any]:
  """Returns parts of `load` in the element types that their layers convert to.

  With bfloat16 activations these are kernels and biases; norms and tables of
  embeddings stay as they are. Results are the same, bit for bit. What no layer
  has (`runs.retired`) is left out.

  Args:
    system: whose parts they are.
    trees: {part: tree}; arrays that are converted are deleted, so that there
      are never two copies of all.
    to_sample: whether denoisers are converted too.
  """
  key, parts = jax.random.key(0), system.pretrained_parts()
  found = {}
  for name, tree in trees.items():
    is_short = _is_converted(parts[name], to_sample)
    shapes = parameters.shapes_of(parts[name].init, key, in_use=is_short)
    found[name] = converted(retired.pruned(tree, shapes), shapes)
  return found


def _is_converted(part: pretrained.PretrainedPart, to_sample: bool) -> bool:
  return not part.is_summed and (to_sample or not part.is_denoiser)


def converted(tree: Any, shapes: Any) -> Any:
  """Returns arrays in the element types of shapes, and deletes the others."""

  def one(leaf: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
    if leaf.dtype == shape.dtype:
      return leaf
    found = leaf.astype(shape.dtype)
    if isinstance(leaf, jax.Array):
      leaf.delete()
    return found

  return jax.tree.map(one, tree, shapes)


def load(
  system: system_lib.Trainable,
  config: ConfigDict,
  mesh: Mesh,
  workdir: Path,
  only: str = '',
) -> dict[str, Any]:
  """Reads {part: tree} onto the mesh, of all parts or of the only one.

  The values are those of the files, in their element types; see `in_use`.

  Raises:
    UserError: weights that are missing, damaged or of another network.
  """
  shapes = abstract(system, mesh, config.mesh.fsdp_min_size, in_use=False)
  lines = missing(system, workdir, only)
  if lines:
    raise errors.UserError('missing: ' + '; '.join(lines), errors.MISSING)
  trees = {}
  for name, part in system.pretrained_parts().items():
    path = _path_of(name, part, workdir)
    if only not in ('', name):
      continue
    holder = _holder(path)
    if holder is None:
      with _named(name, config):
        trees[name] = _load(part, path, shapes[name])
    else:
      here = {'frozen': {FIRST_STAGE: shapes[name]}}
      with shape_fields.named(config):
        trees[name] = compact.load(holder, here)['frozen'][FIRST_STAGE]
  return trees


def _named(
  name: str, config: ConfigDict
) -> contextlib.AbstractContextManager[None]:
  """Lets an error of shapes name the fields of the first stage that differ."""
  if name != FIRST_STAGE or name not in config:
    return contextlib.nullcontext()
  return shape_fields.named(config_lib.first_stage(config))


def check(
  trees: Mapping[str, Any], was: Mapping[str, str], workdir: Path
) -> None:
  """Raises a UserError for parts that a run was not trained with.

  Args:
    trees: {part: tree}.
    was: {part: hash} of the training; a part whose hash is not known passes.
    workdir: of the run, for the message.
  """
  now = {part: hashes.digest(trees[part]) for part in trees if part in was}
  checkpoints.check_frozen(now, was, workdir)


def _load(part: pretrained.PretrainedPart, path: Path, shapes: Any) -> Any:
  if not part.loss_name:
    return sources.load(path, shapes, with_retired=True)
  field = f'config.{part.field}'
  found = files.local_all(part.path, field)[0] if part.path else path
  if stores.path(found).is_dir() or not part.path:
    return checkpoints.load_part(found, part.loss_name, shapes)
  with errors.user_errors(value=errors.DATA):
    values = parts.load_part(part.family, path, shapes, field)
  return initial.place(values, jax.tree.map(lambda s: s.sharding, shapes))
