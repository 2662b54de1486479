"""A run that begins from the weights of another: `config.train.init_from`.

Parameters and their averages are taken by their paths, the optimizer and the
step are not. An array of the same shape is taken as it is. Two kinds may have
grown: a table of embeddings by rows, whose new rows keep their initial values
(in a table of classes, 'no class' stays the last row); and the kernel of a
convolution by input channels, whose new slices are zeros, so that the network
is what it was until it learns to use them. Everything else keeps its initial
values. A condition that a second one has joined (`condition.also`) is found
where it was alone. Which array is which is decided from shapes alone, before
any weight is read.

The new channels behind the old ones begin at zero in timothybrooks/
instruct-pix2pix (arXiv:2211.09800) and in Stable Diffusion's inpainting models,
which are trained on from models of texts.
"""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import functools
import os
from typing import Any

from absl import logging
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.distributed import sharding
from pyramid_jax.interop import diffusers_folder
from pyramid_jax.runs import compact
from pyramid_jax.runs import hashes
from pyramid_jax.runs import loading
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import sources
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import system as system_lib


FIELD = 'train.init_from'
RECORD = 'init_from'  # in the record of a checkpoint
MATCHED, ROWS, CLASSES, INPUTS = 'matched', 'rows', 'classes', 'inputs'
_LISTED = 20  # arrays of a kind that the log names
_CONVOLUTION = 4  # dimensions of its kernel

Shapes = Mapping[str, tuple[int, ...]]  # by path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
  """Which arrays of a run come from another one."""

  taken: Mapping[str, str]  # how those come that do
  new: Mapping[str, str]  # those that do not, and why
  unused: tuple[str, ...]  # those that are left in the other run

  @property
  def grown(self) -> list[str]:
    """Those that have grown."""
    return [path for path, how in self.taken.items() if how != MATCHED]

  def counts(self) -> dict[str, int]:
    """Returns the number of arrays of each kind."""
    return {
      'matched': len(self.taken) - len(self.grown),
      'grown': len(self.grown),
      'new': len(self.new),
      'unused': len(self.unused),
    }

  def text(self) -> str:
    """Returns the counts, and the arrays that are not simply matched."""
    counts = ', '.join(f'{n} {name}' for name, n in self.counts().items())
    kinds = {
      'grown': [f'{p} ({self.taken[p]})' for p in self.grown],
      'new': [f'{p}{why}' for p, why in self.new.items()],
      'unused': list(self.unused),
    }
    lines = [counts]
    for name, entries in kinds.items():
      lines += [f'  {name}: {entry}' for entry in entries[:_LISTED]]
      if len(entries) > _LISTED:
        lines.append(f'  {name}: and {len(entries) - _LISTED} more')
    return '\n'.join(lines)


def compare(
  there: Shapes, here: Shapes, class_rows: tuple[int, int] | None = None
) -> Report:
  """Says what a run takes, given the shapes of both by their paths.

  Args:
    there: of the other run.
    here: of this one.
    class_rows: rows of the tables of classes there and here whose last row is
      no class; None without.
  """
  taken, new = {}, {}
  for path, shape in here.items():
    was = there.get(_place(path, there))
    how = '' if was is None else _how(path, was, shape, class_rows)
    if how:
      taken[path] = how
    else:
      new[path] = '' if was is None else f' ({list(was)} there, {list(shape)})'
  used = {_place(path, there) for path in taken}
  unused = tuple(path for path in there if path not in used)
  return Report(taken=taken, new=new, unused=unused)


def _place(path: str, there: Collection[str]) -> str:
  """Returns the path in the other run, which may have had one condition."""
  if path not in there:
    return path.replace('/condition/first/', '/condition/')
  return path


def _how(
  path: str,
  was: tuple[int, ...],
  now: tuple[int, ...],
  class_rows: tuple[int, int] | None,
) -> str:
  """Returns how an array of another run serves, '' if it does not."""
  if was == now:
    return MATCHED
  if len(was) != len(now):
    return ''
  grown = [
    axis for axis, (a, b) in enumerate(zip(was, now, strict=True)) if a != b
  ]
  if len(grown) > 1 or was[grown[0]] > now[grown[0]]:
    return ''
  name = path.rpartition('/')[2]
  if name == 'embedding' and grown == [0]:
    return CLASSES if (was[0], now[0]) == class_rows else ROWS
  is_convolution = name == 'kernel' and len(now) == _CONVOLUTION
  return INPUTS if is_convolution and grown == [_CONVOLUTION - 2] else ''


def grow(new: jax.Array, old: jax.Array, how: str) -> jax.Array:
  """Returns an array with the shape of `new` that has grown from `old`."""
  if how == MATCHED:
    return old
  if how == INPUTS:
    return jnp.zeros_like(new).at[..., : old.shape[-2], :].set(old)
  if how == CLASSES:
    return new.at[: len(old) - 1].set(old[:-1]).at[-1].set(old[-1])
  return new.at[: len(old)].set(old)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """The other run, and what is taken from it."""

  folder: str
  system: system_lib.Trainable  # of the run that begins
  # 'params', 'extra' and 'step' of the other run, with shardings.
  shapes: Mapping[str, Any]
  report: Report


def plan(
  config: ConfigDict,
  system: system_lib.Trainable,
  state: state_lib.TrainState,
  mesh: Mesh,
) -> Start | None:
  """Returns how a run begins; None without `config.train.init_from`.

  No weights are read.

  Args:
    config: of the run that begins.
    system: its system.
    state: its abstract state, with shardings.
    mesh: of both.

  Raises:
    UserError: another system, or no array that this run could take.
  """
  if not config.train.init_from:
    return None
  folder = os.fspath(compact.place(config.train.init_from))
  other = workdir_lib.read_config(folder, FIELD)
  if other.system.name != config.system.name:
    raise errors.UserError(
      f'config.{FIELD} is {folder}, a run of the system {other.system.name!r};'
      f' must be one of {config.system.name!r}.'
    )
  weights = loading.abstract(workdir_lib.create_system(other), other, mesh)
  report = compare(
    _shapes(weights.params), _shapes(state.params), _class_rows(other, config)
  )
  if not report.taken:
    raise errors.UserError(
      f'config.{FIELD} is {folder}, of whose {len(report.unused)} arrays none'
      ' has the name and shape of one of this run.',
      errors.DATA,
    )
  number = jax.ShapeDtypeStruct((), jnp.int32, sharding=state.step.sharding)
  shapes = {'params': weights.params, 'extra': weights.extra, 'step': number}
  return Start(folder=folder, system=system, shapes=shapes, report=report)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
  return {path: leaf.shape for path, leaf in sharding.leaves(tree).items()}


def _class_rows(there: ConfigDict, here: ConfigDict) -> tuple[int, int] | None:
  """Returns the rows of tables whose last one is no class, in both runs."""
  rows = []
  for config in (there, here):
    c = config.condition if 'condition' in config else None
    if c is None or 'class' not in (c.task, c.also) or not c.null_class:
      return None
    rows.append(c.num_classes + 1)
  return rows[0], rows[1]


def begin(
  start: Start, state: state_lib.TrainState, digests: Mapping[str, str]
) -> tuple[state_lib.TrainState, dict[str, Any], bool]:
  """Puts the weights of another run into a new state; all processes call it.

  Args:
    start: what is taken.
    state: with initial values; its arrays are not to be used afterwards.
    digests: the hashes of the pretrained parts of this run.

  Returns:
    The state, what the run keeps in its record, and whether its untrained part
    (`extra`, such as the scale of latents) is that of the other run: only where
    it is of the same shapes and of latents of the same first stage.

  Raises:
    UserError: weights that cannot be read.
  """
  trees = sources.load(start.folder, start.shapes, averaged=False)
  step = int(trees['step'])
  params = _merged(start.report, state.params, trees['params'])
  record = {
    'path': start.folder,
    'step': step,
    'hash': hashes.digest(trees['params']),
    **start.report.counts(),
  }
  ema = state.ema
  if jax.tree.leaves(ema):
    wanted = {'params': start.shapes['params']}
    found = sources.load(start.folder, wanted, _step_of(start, step))
    ema = _merged(start.report, ema, found['params'])
  is_taken = _fits(start, state.extra, trees['extra'], digests, step)
  extra = trees['extra'] if is_taken else state.extra
  if processes.is_main_process():
    logging.info('%s, step %d: %s', start.folder, step, start.report.text())
  new = dataclasses.replace(state, params=params, ema=ema, extra=extra)
  return new, record, is_taken


def _step_of(start: Start, step: int) -> int | None:
  """Returns the step to ask for: a folder of diffusers has none."""
  return None if diffusers_folder.is_folder(start.folder) else step


def _merged(report: Report, new: Any, old: Any) -> Any:
  """Returns a tree with what the report takes of another one."""
  there = sharding.leaves(old)

  def one(at: Any, leaf: jax.Array) -> jax.Array:
    path = sharding.path_name(at)
    how, place = report.taken.get(path), _place(path, there)
    if how is None:
      return leaf
    old = there[place]
    if how == MATCHED and old.sharding == leaf.sharding:
      return old
    # Averages may be split over more devices than what they are of.
    function = functools.partial(grow, how=how)
    return jax.jit(function, out_shardings=leaf.sharding)(leaf, old)

  return jax.tree_util.tree_map_with_path(one, new)


def _fits(
  start: Start,
  new: Any,
  old: Any,
  digests: Mapping[str, str],
  step: int,
) -> bool:
  """Whether the untrained part of the other run serves this one."""
  was = processes.decided(lambda: sources.frozen(start.folder, step))
  name = pretrained.FIRST_STAGE
  is_same = was.get(name, '') in ('', digests.get(name, ''))
  if not is_same:
    logging.warning(
      'the first stage is not that of %s: the scale of latents is measured',
      start.folder,
    )
  if not is_same or not jax.tree.leaves(new) or _shapes(new) != _shapes(old):
    return False
  with errors.user_errors():
    start.system.check_extra(old)
  return True
