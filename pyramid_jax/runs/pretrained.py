"""The weights that a system uses and never trains."""

import os
import pathlib
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import sharding
from pyramid_jax.interop import parts
from pyramid_jax.networks import pretrained
from pyramid_jax.runs import checkpoints
from pyramid_jax.systems import system as system_lib


FIRST_STAGE = 'first_stage'  # the part, and its folder in a workdir


def path_of(
  name: str, part: pretrained.PretrainedPart, workdir: str | os.PathLike[str]
) -> pathlib.Path | None:
  """Returns where a part's weights are or will be, None if nobody says."""
  if part.path:
    return pathlib.Path(part.path)
  return pathlib.Path(workdir) / FIRST_STAGE if name == FIRST_STAGE else None


def missing(
  system: system_lib.Trainable, workdir: str | os.PathLike[str]
) -> list[str]:
  """Returns a line for each part whose weights are named but not there.

  A first stage without a path is trained, so it is not missing.
  """
  lines = []
  for name, part in system.pretrained_parts().items():
    path = path_of(name, part, workdir)
    if path is None:
      lines.append(f'config.{part.field} (weights of {name}) is not set')
    elif part.path and not path.exists():
      lines.append(f'{path} (config.{part.field}, weights of {name})')
  return lines


def abstract(
  system: system_lib.Trainable, mesh: Mesh, min_size: int
) -> dict[str, Any]:
  """Returns {part: tree} of shapes with their shardings."""
  key = jax.random.key(0)
  return {
    name: sharding.abstract(jax.eval_shape(part.init, key), mesh, min_size)
    for name, part in system.pretrained_parts().items()
  }


def load(
  system: system_lib.Trainable,
  config: ConfigDict,
  mesh: Mesh,
  workdir: str | os.PathLike[str],
) -> dict[str, Any]:
  """Reads {part: tree} onto the mesh.

  Raises:
    UserError: weights that are missing, damaged or of another network.
  """
  shapes = abstract(system, mesh, config.mesh.fsdp_min_size)
  lines = missing(system, workdir)
  if lines:
    raise errors.UserError('missing: ' + '; '.join(lines), errors.MISSING)
  return {
    name: _load(part, path_of(name, part, workdir), shapes[name])
    for name, part in system.pretrained_parts().items()
  }


def load_one(
  system: system_lib.Trainable, config: ConfigDict, mesh: Mesh, name: str
) -> Any:
  """Reads a part whose path the config names onto the mesh.

  Raises:
    UserError: weights that are missing, damaged or of another network.
  """
  part = system.pretrained_parts()[name]
  path = pathlib.Path(part.path)
  if not part.path or not path.exists():
    raise errors.UserError(
      f'missing: {part.path or "nothing"} (config.{part.field}, weights of'
      f' {name})',
      errors.MISSING,
    )
  shapes = abstract(system, mesh, config.mesh.fsdp_min_size)
  return _load(part, path, shapes[name])


def _load(
  part: pretrained.PretrainedPart, path: pathlib.Path | None, shapes: Any
) -> Any:
  assert path is not None
  if not part.loss_name:
    return checkpoints.load(path, shapes)
  if path.is_dir() or not part.path:
    return checkpoints.load_part(path, part.loss_name, shapes)
  return _read_file(part, path, shapes)


def _read_file(
  part: pretrained.PretrainedPart, path: pathlib.Path, shapes: Any
) -> Any:
  with errors.user_errors(value=errors.DATA):
    values = parts.load_part(part.family, path, shapes)
  return initial.place(values, jax.tree.map(lambda s: s.sharding, shapes))
