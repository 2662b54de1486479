"""Checkpoints that are complete, verified, or not used at all.

`WORKDIR/checkpoints/STEP/` is an Orbax checkpoint of the items
  state: step, params, opt_state, extra;
  ema: the averaged parameters (absent when nothing is averaged);
  data: JSON, the position in the data;
  meta: JSON, see `step_meta`; it has a hash of every array, and of itself.
Orbax writes to another name and renames, or in a store writes a last object, so
a killed save leaves the earlier steps as they were. It does not notice a
changed byte; the hashes do.
"""

from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import functools
import math
import os
import time
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import stores
from pyramid_jax.runs import common_save
from pyramid_jax.runs import compact
from pyramid_jax.runs import keep_rules
from pyramid_jax.runs import reading
from pyramid_jax.runs import restoring
from pyramid_jax.runs import saving
from pyramid_jax.runs import state as state_lib
from pyramid_jax.runs import step_folders
from pyramid_jax.runs import step_meta
from pyramid_jax.runs import stopping
from pyramid_jax.runs.step_folders import DIRECTORY as DIRECTORY
from pyramid_jax.runs.step_folders import directory as directory
from pyramid_jax.runs.step_folders import steps as steps


Path = str | os.PathLike[str]


def reaches(workdir: Path, step: int) -> bool:
  """Whether there is a valid checkpoint of `step` or later.

  All of it is read and compared with its hashes, on the host.
  """
  for found in steps(workdir):
    if found < step:
      return False
    path = step_folders.of_step(workdir, found)
    try:
      restoring.verify(path)
    except reading.DamagedError as error:
      logging.warning('%s is damaged (%s)', path, error)
      continue
    return True
  return False


def items_of(state: state_lib.TrainState) -> dict[str, Any]:
  """Returns the arrays of a checkpoint by item."""
  names = ('step', 'params', 'opt_state', 'extra')
  rest = {'state': {name: getattr(state, name) for name in names}}
  return {**rest, 'ema': state.ema} if state.ema else rest


class Checkpoints:
  """The checkpoints of the run that owns a workdir."""

  def __init__(
    self,
    workdir: Path,
    keep: int | keep_rules.Rules,
    frozen: Mapping[str, str] | None = None,
    record: Mapping[str, Any] | None = None,
  ):
    """Names the directory; nothing is written yet.

    Args:
      workdir: of the run.
      keep: which checkpoints stay; a number is that of the newest.
      frozen: hashes of the pretrained weights that the run uses.
      record: values of JSON that every checkpoint keeps, see `record`.
    """
    if isinstance(keep, int):
      keep = keep_rules.Rules(newest=keep)
    self._workdir = workdir
    self._saver = saving.Saver(workdir, keep)
    self._frozen = dict(frozen or {})
    self._record = dict(record or {})
    self._is_required = True  # whether the save that runs must succeed

  def keep(self, record: Mapping[str, Any]) -> None:
    """Adds values of JSON that every checkpoint keeps from now on."""
    self._record |= record

  def restore_latest(
    self, abstract: state_lib.TrainState
  ) -> state_lib.TrainState | None:
    """Restores the newest valid state, None when there never was one.

    What is newer and damaged is renamed to `STEP.bad-REASON`, with a warning,
    once the valid one is read: until then it may be the reader that fails. All
    processes call it, and restore the same step.

    Args:
      abstract: the state with shardings (`sharding.abstract`), of any mesh.

    Raises:
      UserError: a checkpoint of another config or of other pretrained weights,
        none that is valid, or storage that fails.
    """
    damaged: dict[stores.Path, reading.DamagedError] = {}
    for step in processes.decided(lambda: steps(self._workdir)):
      stopping.check()
      path = step_folders.of_step(self._workdir, step)
      try:
        meta = reading.together(functools.partial(step_meta.read, path))
        items = restoring.restore(path, meta, items_of(abstract), partial=False)
      except reading.DamagedError as error:
        logging.warning('%s is damaged (%s)', path, error)
        damaged[path] = error
        continue
      check_frozen(self._frozen, meta.get('frozen', {}), path)
      stopping.check()
      processes.decided(functools.partial(_set_aside, damaged))
      return state_lib.TrainState(ema=items.get('ema', {}), **items['state'])
    names = [f'{p.name} ({error})' for p, error in damaged.items()]
    processes.decided(functools.partial(self._check_none, names))
    return None

  def _check_none(self, damaged: Sequence[str]) -> None:
    """Refuses to begin anew where there was a checkpoint."""
    names = [*damaged, *step_folders.bad(self._workdir)]
    if names:
      raise errors.UserError(
        f'no usable checkpoint in {directory(self._workdir)}, only'
        f' {", ".join(names)}; move it away to start from the beginning.',
        errors.DATA,
      )

  def save(
    self,
    state: state_lib.TrainState,
    config: ConfigDict,
    mesh: Mesh,
    position: int,
    scores: Mapping[str, float] | None = None,
    record: Mapping[str, Any] | None = None,
    required: bool = True,
  ) -> None:
    """Starts to save a state; returns once it may be donated.

    All processes call it, and each writes its part.

    A step that is there already is left as it is. Config, mesh and `position`,
    the examples of the data that were seen, are for the record; so are
    `scores`, those of the validation split after the step. `record` is kept in
    addition, see `checkpoints.record`. The save before is waited for.

    Raises:
      UserError: this save or the one before could not be written and is
        `required`; otherwise that is a warning.
    """
    self.wait()
    self._is_required = required
    began = time.monotonic()
    step = int(state.step)
    if processes.decided(lambda: step in steps(self._workdir)):
      return
    with self._failing():
      items = items_of(state)
      args = self._items(items, config, mesh, position, scores, record)
      size = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
      self._saver.start(step, args, size, began)

  @contextlib.contextmanager
  def _failing(self) -> Iterator[None]:
    """Lets errors of writing pass if the save must succeed, else warns."""
    try:
      yield
    except errors.UserError as error:
      if self._is_required or error.code != errors.OUTPUT:
        raise
      logging.warning('%s The run goes on without this checkpoint.', error)

  def save_aside(
    self,
    name: str,
    state: state_lib.TrainState,
    config: ConfigDict,
    mesh: Mesh,
    position: int,
    record: Mapping[str, Any] | None = None,
  ) -> stores.Path:
    """Saves a state beside the checkpoints, as `checkpoints/STEP.NAME`.

    No run resumes from it and no rule removes it; one of that name is replaced.
    It is what a checkpoint is: renamed to `STEP` it is one. The other arguments
    are those of `save`.

    Args:
      name: of letters, such as 'diverged'.
      record: is kept in addition, see `checkpoints.record`.

    Returns:
      The folder, which is whole.

    Raises:
      UserError: it could not be written.
    """
    import orbax.checkpoint as ocp

    path = directory(self._workdir) / f'{int(state.step)}.{name}'
    args = self._items(items_of(state), config, mesh, position, None, record)
    options = common_save.Options()
    with errors.writing(path):
      if stores.is_remote(path) and processes.is_main_process():
        stores.remove_folder(path)  # Orbax needs another library for it
      saver = ocp.Checkpointer(
        options.handler(), multiprocessing_options=options.together()
      )
      saver.save(stores.of_library(path), args=args, force=True)
      saver.close()
    return path

  def _items(
    self,
    items: Mapping[str, Any],
    config: ConfigDict,
    mesh: Mesh,
    position: int,
    scores: Mapping[str, float] | None,
    record: Mapping[str, Any] | None = None,
  ) -> Any:
    """Returns what Orbax saves, if there is room for it."""
    import orbax.checkpoint as ocp

    need = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
    what = f'a checkpoint in {self._workdir}'
    processes.decided(lambda: errors.check_room(what, need, self._workdir))
    meta = step_meta.make(
      items,
      config,
      mesh,
      frozen=self._frozen,
      record={**self._record, **(record or {})},
      position=position,
      scores={k: v for k, v in (scores or {}).items() if math.isfinite(v)},
      time=time.time(),
    )
    return ocp.args.Composite(
      data=ocp.args.JsonSave({'position': position}),
      meta=ocp.args.JsonSave(meta),
      **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
    )

  def check(self) -> None:
    """Raises the UserError of a save that has failed by now, if any."""
    if self._saver.has_ended:
      self.wait()

  def wait(self) -> None:
    """Waits for the save that is running; one that fails is a UserError."""
    with self._failing():
      self._saver.wait()

  def took(self) -> saving.Took | None:
    """Returns what the last finished save took, once; None without news."""
    return self._saver.took()

  def close(self) -> None:
    """Waits and frees the threads."""
    with self._failing():
      self._saver.close()


def _set_aside(damaged: Mapping[stores.Path, reading.DamagedError]) -> None:
  """Renames checkpoints that are damaged."""
  for path, damage in damaged.items():
    with errors.writing(path):
      bad = step_folders.set_aside(path, damage.reason)
    logging.warning('%s is now %s', path, bad.name)


def load(
  workdir: Path,
  abstract: Mapping[str, Any],
  step: int | None = None,
  averaged: bool = True,
  with_retired: bool = False,
) -> dict[str, Any]:
  """Returns the weights of a run; all processes call it.

  Args:
    workdir: of any run, or with a file of `compact`; nothing in it is changed.
    abstract: {'params': {loss name: tree}, 'extra': tree} or a part of it, with
      shardings.
    step: of the checkpoint; None = the newest valid one.
    averaged: whether averages replace the parameters that have some.
    with_retired: whether parameters that older versions had come too, if the
      run has them, see `retired.added`.

  Raises:
    UserError: there is none, it is damaged, or it has other parameters.
  """
  found = processes.decided(lambda: steps(workdir))
  if not found and compact.is_there(workdir):
    return compact.load(workdir, abstract, step, with_retired)
  if not found or step not in (None, *found):
    there = ', '.join(map(str, reversed(found))) or 'none'
    wish = '' if step is None else f' of step {step}'
    raise errors.UserError(
      f'no checkpoint{wish} in {directory(workdir)}, there: {there}.',
      errors.MISSING,
    )
  for candidate in found if step is None else [step]:
    path = step_folders.of_step(workdir, candidate)
    try:
      return restoring.weights(path, abstract, averaged, with_retired)
    except reading.DamagedError as error:
      logging.warning('%s is damaged (%s)', path, error)
  folder = directory(workdir)
  which = (
    f'every checkpoint in {folder}' if step is None else f'{folder}/{step}'
  )
  raise errors.UserError(f'{which} is damaged.', errors.DATA)


def frozen(workdir: Path, step: int) -> dict[str, str]:
  """Returns the hashes of the pretrained weights that a step used, if known."""
  return _meta(workdir, step).get('frozen', {})


def newest_meta(workdir: Path) -> tuple[int, step_meta.Meta] | None:
  """Returns the newest step with a whole record, and that; None without one.

  Records of older versions, which have no hash, do not count.
  """
  for step in steps(workdir):
    try:
      meta = step_meta.read(step_folders.of_step(workdir, step))
    except reading.DamagedError:
      continue
    if step_meta.has_hash(meta):
      return step, meta
  return None


def record(workdir: Path, step: int) -> dict[str, Any]:
  """Returns what a run wanted to be kept with a step, {} if it is not known.

  Raises:
    UserError: the checkpoint is damaged, or cannot be read.
  """
  return _meta(workdir, step).get('record', {})


def check_frozen(
  now: Mapping[str, str], was: Mapping[str, str], path: Path
) -> None:
  """Raises a UserError for weights that a run was not trained with.

  Args:
    now: {part: hash} of the pretrained weights.
    was: those of the training; parts that it does not have are not checked.
    path: of the run or the checkpoint.
  """
  changed = [part for part, x in now.items() if was.get(part, x) != x]
  if changed:
    raise errors.UserError(
      f'the weights of {", ".join(changed)} are not those that {path} was'
      ' trained with; put them back, or train it anew on these.',
      errors.DATA,
    )


def load_part(workdir: Path, loss_name: str, abstract: Any) -> Any:
  """Reads the weights of one loss, with retired ones, see `load`."""
  params = {'params': {loss_name: abstract}}
  trees = load(workdir, params, with_retired=True)
  return trees['params'][loss_name]


def _meta(workdir: Path, step: int) -> step_meta.Meta:
  """Returns the record of a step, {} of a run without checkpoints."""
  if not steps(workdir) and compact.is_there(workdir):
    return {}
  path = step_folders.of_step(workdir, step)
  try:
    return step_meta.read(path)
  except reading.DamagedError as error:
    raise errors.UserError(
      f'{path} is damaged ({error}).', errors.DATA
    ) from error
