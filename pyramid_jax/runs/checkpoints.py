"""Checkpoints that are complete, verified, or not used at all.

`WORKDIR/checkpoints/STEP/` is an Orbax checkpoint of the items
  state: step, params, opt_state, extra;
  ema: the averaged parameters (absent when nothing is averaged);
  data: JSON, the seed and the position in the data;
  meta: JSON, the config, the versions, the mesh, and of every leaf its shape,
    dtype and content hash.
Orbax writes to another name and renames, so a killed save leaves the earlier
steps as they were. It does not notice a changed byte; the hashes do.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import importlib.metadata
import os
import pathlib
import re
import shutil
from typing import Any

from absl import logging
from flax import traverse_util
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import sharding
from pyramid_jax.files import json_text
from pyramid_jax.runs import compact
from pyramid_jax.runs import hashes
from pyramid_jax.runs import state as state_lib


DIRECTORY = 'checkpoints'
_PACKAGES = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
_LISTED = 5  # differences that a message names

# {item: {path: (shape, dtype, hash)}}
_Manifest = Mapping[str, Mapping[str, Any]]
Path = str | os.PathLike[str]


class DamagedError(Exception):
  """A checkpoint that cannot be used."""

  def __init__(self, reason: str, message: str):
    super().__init__(message)
    self.reason = reason  # one word, for the name that the directory gets


def directory(workdir: Path) -> pathlib.Path:
  """Returns the folder of a workdir's checkpoints, which may not exist."""
  return pathlib.Path(os.path.abspath(workdir)) / DIRECTORY


def steps(workdir: Path) -> list[int]:
  """Returns the steps that seem to be there, newest first."""
  folder = directory(workdir)
  if not folder.is_dir():
    return []
  found = [p for p in folder.iterdir() if p.name.isdigit() and p.is_dir()]
  return sorted((int(p.name) for p in found), reverse=True)


def reaches(workdir: Path, step: int) -> bool:
  """Whether a whole checkpoint of `step` or later seems to be there."""
  later = [str(found) for found in steps(workdir) if found >= step]
  return any((directory(workdir) / s / 'meta').is_dir() for s in later)


def items_of(state: state_lib.TrainState) -> dict[str, Any]:
  """Returns the arrays of a checkpoint by item."""
  names = ('step', 'params', 'opt_state', 'extra')
  rest = {'state': {name: getattr(state, name) for name in names}}
  return {**rest, 'ema': state.ema} if state.ema else rest


class Checkpoints:
  """The checkpoints of the run that owns a workdir."""

  def __init__(
    self, workdir: Path, keep: int, frozen: Mapping[str, str] | None = None
  ):
    """Names the directory; nothing is written yet.

    Args:
      workdir: of the run.
      keep: newest checkpoints that stay.
      frozen: hashes of the pretrained weights that the run uses.
    """
    self._workdir = workdir
    self._keep = keep
    self._frozen = dict(frozen or {})
    self._manager: Any = None  # of Orbax, opened by the first save

  def restore_latest(
    self, abstract: state_lib.TrainState
  ) -> state_lib.TrainState | None:
    """Restores the newest valid state, None when there never was one.

    A damaged checkpoint is renamed to `STEP.bad-REASON` with a warning.

    Args:
      abstract: the state with shardings (`sharding.abstract`), of any mesh.

    Raises:
      UserError: a checkpoint of another config or of other pretrained weights,
        or none that is valid.
    """
    for step in steps(self._workdir):
      path = directory(self._workdir) / str(step)
      try:
        items = _restore(path, items_of(abstract), partial=False)
        was = _meta_of(path).get('frozen', {})
      except DamagedError as error:
        bad = _set_aside(path, error.reason)
        logging.warning('%s is damaged (%s), now %s', path, error, bad.name)
        continue
      changed = [p for p, v in self._frozen.items() if was.get(p, v) != v]
      if changed:
        raise errors.UserError(
          f'the weights of {", ".join(changed)} are not those that {path} was '
          'trained with; put them back, or take another workdir.',
          errors.DATA,
        )
      return state_lib.TrainState(ema=items.get('ema', {}), **items['state'])
    folder = directory(self._workdir)
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    aside = sorted(n for n in names if re.match(r'\d+\.bad-', n))
    if aside:
      raise errors.UserError(
        f'no usable checkpoint in {folder}, only {", ".join(aside)}; move it '
        'away to start from the beginning.',
        errors.DATA,
      )
    return None

  def save(
    self,
    state: state_lib.TrainState,
    config: ConfigDict,
    mesh: Mesh,
    position: int,
  ) -> None:
    """Starts to save a state; returns once it may be donated.

    A step that is there already is left as it is. Config, mesh and `position`,
    the examples of the data that were seen, are for the record.

    Raises:
      UserError: this or the save before could not be written.
    """
    import orbax.checkpoint as ocp  # slow to load

    step = int(state.step)
    items = items_of(state)
    need = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
    free = shutil.disk_usage(self._workdir).free
    if free < need:
      raise errors.UserError(
        f'a checkpoint needs {need / 2**20:.0f} MiB, {self._workdir} has '
        f'{free / 2**20:.0f} MiB free.',
        errors.OUTPUT,
      )
    meta = {
      'config': config.to_dict(),
      'frozen': self._frozen,
      'versions': {p: importlib.metadata.version(p) for p in _PACKAGES},
      'mesh': dict(mesh.shape),
      'tree': {name: _manifest(tree) for name, tree in items.items()},
    }
    args = ocp.args.Composite(
      data=ocp.args.JsonSave({'position': position}),
      meta=ocp.args.JsonSave(meta),
      **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
    )
    with _write_errors(self._workdir):
      # Not opened before: by now damaged checkpoints have been renamed.
      if self._manager is None:
        policy = ocp.checkpoint_managers.LatestN(self._keep)
        self._manager = ocp.CheckpointManager(
          directory(self._workdir),
          options=ocp.CheckpointManagerOptions(
            preservation_policy=policy, cleanup_tmp_directories=True
          ),
        )
      self._manager.save(step, args=args)

  def wait(self) -> None:
    """Waits for the save that is running; one that fails is a UserError."""
    if self._manager is not None:
      with _write_errors(self._workdir):
        self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits and frees the threads."""
    if self._manager is not None:
      self.wait()
      self._manager.close()
      self._manager = None


def load(
  workdir: Path,
  abstract: Mapping[str, Any],
  step: int | None = None,
  averaged: bool = True,
) -> dict[str, Any]:
  """Returns the weights of a run.

  Args:
    workdir: of any run, or with a file of `compact`; nothing in it is changed.
    abstract: {'params': {loss name: tree}, 'extra': tree} or a part of it, with
      shardings.
    step: of the checkpoint; None = the newest valid one.
    averaged: whether averages replace the parameters that have some.

  Raises:
    UserError: there is none, it is damaged, or it has other parameters.
  """
  found = steps(workdir)
  if not found and compact.is_there(workdir):
    return compact.load(workdir, abstract, step)
  if not found or step not in (None, *found):
    there = ', '.join(map(str, reversed(found))) or 'none'
    wish = '' if step is None else f' of step {step}'
    raise errors.UserError(
      f'no checkpoint{wish} in {directory(workdir)}, there: {there}.',
      errors.MISSING,
    )
  for candidate in found if step is None else [step]:
    path = directory(workdir) / str(candidate)
    try:
      return _load(path, abstract, averaged)
    except DamagedError as error:
      logging.warning('%s is damaged (%s)', path, error)
  folder = directory(workdir)
  which = (
    f'every checkpoint in {folder}' if step is None else f'{folder}/{step}'
  )
  raise errors.UserError(f'{which} is damaged.', errors.DATA)


def frozen(workdir: Path, step: int) -> dict[str, str]:
  """Returns the hashes of the pretrained weights that a step used, if known."""
  if not steps(workdir) and compact.is_there(workdir):
    return {}
  return _meta_of(directory(workdir) / str(step)).get('frozen', {})


def load_part(workdir: Path, loss_name: str, abstract: Any) -> Any:
  """Reads the weights of one loss, see `load`."""
  trees = load(workdir, {'params': {loss_name: abstract}})
  return trees['params'][loss_name]


def _load(
  path: pathlib.Path, abstract: Mapping[str, Any], averaged: bool
) -> dict[str, Any]:
  manifest = _meta_of(path)['tree']
  _compare(path, manifest, {'state': abstract}, partial=True)
  kept = manifest.get('ema', {}) if averaged else {}
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
  items = _restore(path, target, partial=True)
  weights = items.get('state', {})
  weights['params'] = state_lib.averaged(
    weights.get('params', {}), items.get('ema', {})
  )
  return {**{name: {} for name in abstract}, **weights}


def _restore(
  path: pathlib.Path, target: Mapping[str, Any], partial: bool
) -> dict[str, Any]:
  """Restores and verifies the items of one step.

  Args:
    path: of the step.
    target: {item: abstract tree with shardings}.
    partial: whether the checkpoint may hold more leaves than the target.

  Raises:
    DamagedError: something is missing, unreadable or changed.
    UserError: the checkpoint is whole and of another config.
  """
  import orbax.checkpoint as ocp

  manifest = _meta_of(path)['tree']
  _compare(path, manifest, target, partial)
  items = {}
  for name, tree in target.items():
    with _damage('unreadable'):
      items[name] = ocp.Checkpointer(ocp.PyTreeCheckpointHandler()).restore(
        path / name,
        args=ocp.args.PyTreeRestore(
          item=tree,
          partial_restore=partial,
          restore_args=ocp.checkpoint_utils.construct_restore_args(tree),
        ),
      )
    for leaf, value in hashes.tree(items[name]).items():
      if manifest[name][leaf][2] != value:
        raise DamagedError('hash', f'{name}/{leaf} is not what was saved')
  return items


def _manifest(tree: Any) -> dict[str, list[Any]]:
  values = hashes.tree(tree)
  return {
    name: [list(leaf.shape), str(leaf.dtype), values[name]]
    for name, leaf in _leaves(tree).items()
  }


def _leaves(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {sharding.path_name(path): leaf for path, leaf in leaves}


def _meta_of(path: pathlib.Path) -> dict[str, Any]:
  if not (path / 'meta').is_dir():
    raise DamagedError('incomplete', 'there is no item meta')
  with _damage('unreadable'):  # as Orbax writes an item of JSON
    return json_text.read(path / 'meta' / 'metadata')


def _compare(
  path: pathlib.Path,
  manifest: _Manifest,
  target: Mapping[str, Any],
  partial: bool,
) -> None:
  """Raises a `UserError` unless the leaves are those of the target."""
  lines = []
  for item, tree in target.items():
    saved = manifest.get(item, {})
    asked = _leaves(tree)
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
    raise errors.UserError(
      f'checkpoint {path} is of another config: {"; ".join(lines[:_LISTED])}'
      + (f'; and {more} more.' if more > 0 else '.'),
      errors.DATA,
    )


def _set_aside(path: pathlib.Path, reason: str) -> pathlib.Path:
  """Renames a checkpoint; it is never deleted."""
  names = (f'{path.name}.bad-{reason}{n}' for n in ('', *range(2, 1000)))
  bad = (path.with_name(name) for name in names)
  return path.rename(next(p for p in bad if not p.exists()))


@contextlib.contextmanager
def _damage(reason: str) -> Iterator[None]:
  """Damage surfaces as any exception of Orbax, TensorStore or json."""
  try:
    yield
  except (MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    line = f'{type(error).__name__}: {_first_line(error)}'
    raise DamagedError(reason, line) from error


@contextlib.contextmanager
def _write_errors(workdir: Path) -> Iterator[None]:
  """A failed write surfaces as OSError or, from TensorStore, ValueError."""
  try:
    yield
  except (OSError, ValueError) as error:
    raise errors.UserError(
      f'cannot write a checkpoint in {workdir}: {_first_line(error)}',
      errors.OUTPUT,
    ) from error


def _first_line(error: Exception) -> str:
  return (str(error).splitlines() or [''])[0][:300]
