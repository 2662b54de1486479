"""How checkpoints are written: in the background, one after another.

Not by Orbax's `CheckpointManager`: it skips a save without a word if a folder
with the name of a later step is there, and its list of steps is not what the
disk has once a save has failed.
"""

from concurrent import futures
import dataclasses
import functools
import os
import threading
import time
from typing import Any

from absl import logging

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import stores
from pyramid_jax.runs import common_save
from pyramid_jax.runs import keep_rules
from pyramid_jax.runs import reading
from pyramid_jax.runs import step_folders
from pyramid_jax.runs import step_meta


# How long the threads of a failed save may take to notice it.
_ABANDON_SECS = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Took:
  """What a save took."""

  step: int
  bytes: int  # of the arrays
  blocking_secs: float  # until training went on
  secs: float  # until the checkpoint was there


class Saver:
  """Writes the checkpoints of a workdir."""

  def __init__(self, workdir: step_folders.Path, rules: keep_rules.Rules):
    """Names the folder; nothing is written yet."""
    self._folder = step_folders.directory(workdir)
    self._workdir = workdir
    self._rules = rules
    self._orbax: Any = None  # opened by the first save, and after a failed one
    self._pool: futures.Executor | None = None
    self._running: futures.Future[Took] | None = None
    self._step = -1  # of the save that runs
    self._saved: dict[int, keep_rules.Saved] = {}
    self._took: Took | None = None

  def start(self, step: int, args: Any, size: int, began: float) -> None:
    """Starts to save a step; returns once its arrays may be donated.

    The save before must have been waited for.

    Args:
      step: that is not there.
      args: of Orbax.
      size: the bytes of the arrays.
      began: `time.monotonic()` when the work for the save began.

    Raises:
      UserError: it cannot be written.
    """
    self._step = step
    options = common_save.Options()
    path = step_folders.of_step(self._workdir, step)
    try:
      with errors.writing(path):
        processes.decided(functools.partial(self._prepare, path))
        self._open(options)
        self._orbax.save(stores.of_library(path), args=args)
    except BaseException as error:
      self._abandon(options, str(error))
      raise
    blocking_secs = time.monotonic() - began
    if self._pool is None:
      self._pool = futures.ThreadPoolExecutor(1, 'checkpoints')
    self._running = self._pool.submit(
      self._finish, self._orbax, options, step, size, blocking_secs, began
    )

  def _prepare(self, path: stores.Path) -> None:
    """Makes the folder ready, before any process writes."""
    with errors.writing(path):
      if self._orbax is None:
        remove_leftovers(self._workdir)
      step_folders.clear(path)
      if not stores.is_remote(path):
        # Orbax would begin a workdir anew that was moved away.
        os.stat(self._workdir)

  def _open(self, options: common_save.Options) -> None:
    """Opens Orbax, for each save of several processes anew: see its options."""
    import orbax.checkpoint as ocp  # slow to load

    if self._orbax is not None and processes.is_one_of_many():
      self._orbax.close()
      self._orbax = None
    if self._orbax is None:
      self._orbax = ocp.AsyncCheckpointer(
        options.handler(),
        async_options=options.background(),
        multiprocessing_options=options.together(),
      )

  @property
  def has_ended(self) -> bool:
    """Whether there is a save whose end was not waited for, and it has come."""
    return self._running is not None and self._running.done()

  def wait(self) -> None:
    """Waits for the save that runs; one that fails is a UserError."""
    running, self._running = self._running, None
    if running is not None:
      self._took = running.result()

  def took(self) -> Took | None:
    """Returns what the last save took, once; None if there is no news."""
    took, self._took = self._took, None
    return took

  def close(self) -> None:
    """Waits, and frees the threads; a save that fails is a UserError."""
    try:
      self.wait()
      if self._orbax is not None:
        with errors.writing(self._folder):
          self._orbax.close()
    finally:
      self._orbax = None
      if self._pool is not None:
        self._pool.shutdown(wait=False)
        self._pool = None

  def _finish(
    self,
    orbax: Any,
    options: common_save.Options,
    step: int,
    size: int,
    blocking_secs: float,
    began: float,
  ) -> Took:
    """Waits for Orbax, in a thread; then removes what no rule keeps."""
    try:
      with errors.writing(step_folders.of_step(self._workdir, step)):
        orbax.wait_until_finished()
    except BaseException as error:
      self._abandon(options, str(error))
      raise
    secs = time.monotonic() - began
    logging.info(
      'saved step %d: %.4g MiB in %.2f s, of which training waited %.2f s',
      step,
      size / 2**20,
      secs,
      blocking_secs,
    )
    if processes.is_main_process():
      self.prune()
    return Took(step=step, bytes=size, blocking_secs=blocking_secs, secs=secs)

  def _abandon(self, options: common_save.Options, why: str) -> None:
    """Removes what a failed save has written; the next one starts afresh.

    It needs no other thread of any process: those that train may wait for a
    device that waits for another process.
    """
    options.fail(why)
    orbax, self._orbax = self._orbax, None
    if orbax is not None:
      orbax.cancel()
      _join_writers()
    part = step_folders.temporary(self._workdir, self._step)
    options.give_up(functools.partial(step_folders.remove_written, part))

  def prune(self) -> None:
    """Removes the checkpoints that no rule keeps; problems are warnings."""
    try:
      there = step_folders.steps(self._workdir)
      stay = self._rules.kept(map(self._record, there))
      for step in set(there) - stay:
        step_folders.remove(step_folders.of_step(self._workdir, step))
    except (OSError, errors.UserError) as error:
      logging.warning('old checkpoints stay: %s', error)

  def _record(self, step: int) -> keep_rules.Saved:
    if step not in self._saved:
      meta: step_meta.Meta = {}
      try:
        meta = step_meta.read(step_folders.of_step(self._workdir, step))
      except reading.DamagedError as error:
        logging.warning('the record of step %d is damaged (%s)', step, error)
      self._saved[step] = keep_rules.Saved(
        step=step,
        time=meta.get('time'),
        score=meta.get('scores', {}).get(self._rules.best),
      )
    return self._saved[step]


def tidy(workdir: step_folders.Path, rules: keep_rules.Rules) -> None:
  """Leaves in a finished run what its last save would have left.

  A process may be killed between its last save and the removal of the others.
  """
  remove_leftovers(workdir)
  if processes.is_main_process():
    Saver(workdir, rules).prune()


def remove_leftovers(workdir: step_folders.Path) -> None:
  """Makes the folder, without what killed processes have left in it.

  Only for the process that has the lock of the workdir.
  """
  if processes.is_main_process():
    folder = step_folders.directory(workdir)
    if not stores.is_remote(folder):
      folder.mkdir(exist_ok=True)
    for path in step_folders.leftovers(workdir):
      stores.remove_folder(path, ignore_errors=True)


def _join_writers() -> None:
  """Waits for the threads of a failed save; one that hangs is left alone."""
  end = time.monotonic() + _ABANDON_SECS
  for thread in threading.enumerate():
    if type(thread).__module__.startswith('orbax.'):
      # Theirs would raise what went wrong.
      threading.Thread.join(thread, max(0.0, end - time.monotonic()))
