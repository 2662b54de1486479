"""A run without its checkpoints: what is sampled from, in one file.

`WORKDIR/weights.safetensors` has the averaged parameters, the first stage, the
untrained state and the step by their paths. A run that ends writes it in
float32, `commands/ship` in float16; those of the part that is only read for
edits may be int8, with a float32 scale for each output channel under
`PATH:scale`. All are float32 again when they are read. Its header has the step,
the version of the library and the SHA-256 of the config as `config.to_json`
writes it.

Such runs come with the package, in `pyramid_jax/models/NAME`.
"""

from collections.abc import Collection
import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
from typing import Any

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.config import sums
from pyramid_jax.distributed import initial
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding
from pyramid_jax.files import json_text
from pyramid_jax.files import stores
from pyramid_jax.interop import safetensors_file
from pyramid_jax.runs import retired
from pyramid_jax.runs import shape_fields


FILE = 'weights.safetensors'
MODELS = pathlib.Path(__file__).parents[1] / 'models'
_SCALE = ':scale'
_INT8 = 127
_LISTED = 5  # differences that a message names

Path = str | os.PathLike[str]


def names() -> list[str]:
  """Returns the names of the runs that come with the package."""
  return sorted(path.parent.name for path in MODELS.glob(f'*/{FILE}'))


def model(name: str) -> pathlib.Path | None:
  """Returns the folder of a run that comes with the package, None of others."""
  return MODELS / name if name in names() else None


def place(source: Path) -> stores.Path:
  """Returns a folder, or that of a run that comes along by its name.

  One's own folder goes before a run of that name.
  """
  path = stores.path(source).expanduser()
  if path.exists():
    return path
  return model(os.fspath(source)) or path


def is_there(workdir: Path) -> bool:
  """Whether a workdir has such a file."""
  return (stores.path(workdir) / FILE).is_file()


def write(
  workdir: Path,
  config: ConfigDict,
  trees: Any,
  coarse: Collection[str] = (),
  dtype: str = 'float16',
) -> None:
  """Writes the file of a workdir; all processes call it, one writes.

  Args:
    workdir: a folder that is there.
    config: of the run.
    trees: {'params': tree, 'frozen': tree, 'extra': tree, 'step': number}.
    coarse: the paths of those weights that are written as int8.
    dtype: of the other weights.

  Raises:
    ValueError: a weight that the type cannot hold.
    UserError: the file cannot be written.
  """
  arrays: dict[str, np.ndarray] = {}
  for name, leaf in sharding.leaves(trees).items():
    value = processes.to_host(leaf)
    is_weight = name.startswith(('params/', 'frozen/'))
    if name in coarse and value.ndim > 1:
      axes = tuple(range(value.ndim - 1))
      scale = np.abs(value).max(axes, keepdims=True) / np.float32(_INT8)
      scale = np.maximum(scale, np.finfo(np.float32).tiny)
      arrays[name] = np.round(value / scale).astype(np.int8)
      arrays[name + _SCALE] = scale.astype(np.float32)
    elif is_weight:
      with np.errstate(over='ignore'):
        arrays[name] = value.astype(dtype)
    else:
      arrays[name] = value
    if not np.isfinite(arrays[name]).all():
      raise ValueError(f'{name} has values that {dtype} cannot hold.')
  if processes.is_main_process():
    about = {
      'step': str(int(arrays['step'])),
      'version': _version(),
      'config_sha256': hashlib.sha256(
        config_lib.to_json(config).encode()
      ).hexdigest(),
    }
    safetensors_file.write(stores.path(workdir) / FILE, arrays, about)


def _version() -> str:
  """Returns the version of the library, 'unknown' in a bare checkout."""
  with contextlib.suppress(importlib.metadata.PackageNotFoundError):
    return importlib.metadata.version('pyramid_jax')
  return 'unknown'


def load(
  workdir: Path,
  abstract: Any,
  step: int | None = None,
  with_retired: bool = False,
) -> Any:
  """Reads trees of a file onto the mesh.

  Args:
    workdir: its folder.
    abstract: trees as in `write`, or a part of them, with shardings.
    step: refused unless it is that of the file; None for any.
    with_retired: see `checkpoints.load`.

  Raises:
    UserError: a file that is damaged, or of another config or step.
  """
  path = stores.path(workdir) / FILE
  with errors.user_errors(value=errors.DATA):
    sums.check(path)
    tensors = safetensors_file.Tensors(path)
    found = _step(tensors)
    if step not in (None, found):
      raise errors.UserError(
        f'no checkpoint of step {step} in {path}, there: {found}.',
        errors.MISSING,
      )
    if with_retired:
      shapes = {name: (tensors.shape(name), np.float32) for name in tensors}
      abstract = retired.added(abstract, shapes)
    _compare(path, tensors, sharding.leaves(abstract))
    values = jax.tree_util.tree_map_with_path(
      lambda at, leaf: _read(tensors, sharding.path_name(at), leaf), abstract
    )
  return initial.place(values, jax.tree.map(lambda s: s.sharding, abstract))


def _step(tensors: safetensors_file.Tensors) -> int | None:
  if 'step' not in tensors:
    return None
  value = tensors['step']
  if value.shape or value.dtype.kind not in 'iu':
    raise ValueError(f'step is {value.shape} {value.dtype}, must be a number')
  return int(value)


def _read(
  tensors: safetensors_file.Tensors, name: str, leaf: jax.ShapeDtypeStruct
) -> np.ndarray:
  value = tensors[name].astype(leaf.dtype)
  return value * tensors[name + _SCALE] if name + _SCALE in tensors else value


def _compare(
  path: stores.Path,
  tensors: safetensors_file.Tensors,
  leaves: dict[str, jax.ShapeDtypeStruct],
) -> None:
  """Raises a UserError unless the file has the leaves."""
  lines = []
  for name, leaf in leaves.items():
    there = tensors.shape(name) if name in tensors else None
    if there != leaf.shape:
      shape = 'absent' if there is None else list(there)
      lines.append(
        f'{name} is {list(leaf.shape)} in the config and {shape} in the file'
      )
  if lines:
    more = len(lines) - _LISTED
    raise shape_fields.OtherShapesError(
      f'{path} is of another config: {"; ".join(lines[:_LISTED])}'
      + (f'; and {more} more.' if more > 0 else '.'),
      _config_beside(path),
    )


def _config_beside(path: stores.Path) -> dict[str, Any] | None:
  """Returns the values of the config of the run, None if there is none."""
  with contextlib.suppress(ValueError, OSError):
    return json_text.read(path.with_name('config.json'))
  return None
