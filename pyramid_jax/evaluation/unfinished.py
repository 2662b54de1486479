"""Evaluations that go on where they were when their process was killed.

The states of the scores lie in a folder whose name is a digest of all that
decides the numbers. Each file appears under its name when it is whole:
`rows_FIRST_LAST.npz` has what the batches FIRST to LAST kept of single images,
`totals_LAST.npz` the rest of the states after LAST batches. The last is written
after the rows it needs, so what lies there is always a state that was.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import time
from typing import Any
from typing import Protocol

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import arrays
from pyramid_jax.files import retries
from pyramid_jax.metrics import states as states_lib
from pyramid_jax.runs import lock
from pyramid_jax.runs import progress
from pyramid_jax.runs import reading
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog
from pyramid_jax.runs import whole_files


FOLDER = 'evaluation'
SHARE = 0.02  # of the time, at most, is spent on saving
_REQUEST = 'request.json'
_FORMAT = 1
_ROWS = re.compile(r'rows_(\d+)_(\d+)\.npz')
_TOTALS = re.compile(r'totals_(\d+)\.npz')

States = Mapping[str, states_lib.State]


class Source(Protocol):
  """Images to be scored."""

  @property
  def size(self) -> int:
    """The number of images of a batch."""

  @property
  def steps(self) -> int:
    """The number of batches."""

  def batches(self, first: int) -> Iterator[states_lib.Batch]:
    """Yields all batches but for the `first` ones."""


def accumulate(
  states: States, source: Source, store: 'Store | None' = None
) -> States:
  """Returns the states with all images of a source.

  With a store they go on from what lies there. Without states nothing is read.
  """
  if not states:
    return states
  first = 0
  if store is not None:
    first, states = store.load(states)
  if first:
    logging.info('going on after %d images', first * source.size)
  steps = progress.Progress(range(first, source.steps), source.size, 'batch')
  for step, batch in zip(steps, source.batches(first), strict=True):
    states = {name: state.update(batch) for name, state in states.items()}
    watchdog.beat()
    stopping.check()
    if store is not None:
      store.save(step + 1, states, is_last=step + 1 == source.steps)
  return states


def rows_of(states: States) -> list[states_lib.Row]:
  """Returns the table of all states."""
  return [row for state in states.values() for row in state.finish()]


class Store:
  """The folder of one evaluation.

  A folder or file that cannot be written is a UserError. Of several processes
  the first one writes.
  """

  def __init__(self, folder: pathlib.Path, request: Mapping[str, Any]):
    """Takes `FOLDER` in a folder; `request` has all that decides the numbers.

    The request is of JSON's types; it is written beside the states, for people.
    """
    text = json.dumps({'format': _FORMAT, **request}, indent=2, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    self._folder = folder / FOLDER / digest
    self._saved: dict[tuple[str, str], int] = {}  # parts of what is kept
    self._last = 0  # the batches that are saved
    self._due = -float('inf')  # on the clock
    self._held: lock.Lock | None = None
    if processes.is_main_process():
      whole_files.make_folder(self._folder)
      whole_files.save_text(self._folder / _REQUEST, text)

  @contextlib.contextmanager
  def held(self, takeover: bool = False) -> Iterator[lock.Lock]:
    """Keeps other processes from the same evaluation, see `runs.lock`.

    Nothing is saved once another one has taken it over.
    """
    is_owner = processes.is_main_process()
    with lock.Lock(self._folder, takeover, is_owner) as held:
      self._held = held
      yield held

  def load(self, states: States) -> tuple[int, States]:
    """Returns the number of finished batches, and the states after them.

    Files that are damaged or missing are as good as none, with a warning.

    Raises:
      UserError: storage does not give them.
    """
    with reading.storage(self._folder):
      try:
        last, states = self._newest(states)
      except (ValueError, LookupError, FileNotFoundError) as error:
        logging.warning('starting anew: %s', error)
        last = 0
    self._last = last
    self._note(states)
    if processes.is_main_process():
      self._drop(last)
    return last, states

  def _newest(self, states: States) -> tuple[int, States]:
    numbers = [int(m[1]) for m in self._files(_TOTALS)]
    last = max(numbers, default=0)
    if not last:
      return 0, states
    totals = _read(self._folder / f'totals_{last:08d}.npz')
    spans = {int(m[1]): int(m[2]) for m in self._files(_ROWS)}
    kept: dict[tuple[str, str], list[states_lib.Columns]] = {}
    first = 0
    while first < last:
      after = spans[first]
      rows = _read(self._folder / f'rows_{first:08d}_{after:08d}.npz')
      for (state, name), columns in _grouped(rows).items():
        kept.setdefault((state, name), []).append(columns)
      first = after
    if first != last:
      raise ValueError(f'{self._folder}: rows and totals do not fit.')
    return last, {
      name: state.restored(
        {
          kind: states_lib.Kept(tuple(kept.get((name, kind), ())))
          for kind in state.kept
        },
        states_lib.part(f'{name}/', totals),
      )
      for name, state in states.items()
    }

  def _files(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    names = (path.name for path in self._folder.iterdir())
    return [m for m in map(pattern.fullmatch, names) if m]

  def _drop(self, last: int) -> None:
    """Removes what a killed process left and no saved state has."""
    for match in self._files(_ROWS) + self._files(_TOTALS):
      number = int(match[match.lastindex or 0])
      if number > last or (match.re is _TOTALS and number < last):
        (self._folder / match[0]).unlink(missing_ok=True)

  def _note(self, states: States) -> None:
    """Remembers which parts of what is kept are on disk."""
    self._saved = {
      (name, kind): len(kept.parts)
      for name, state in states.items()
      for kind, kept in state.kept.items()
    }

  def save(self, step: int, states: States, is_last: bool = False) -> None:
    """Saves the states after so many batches, if it is time to."""
    start = time.monotonic()
    if start < self._due and not is_last:
      return
    if processes.is_main_process():
      if self._held is not None:
        self._held.check(now=True)
      with errors.writing(self._folder):
        self._write(step, states)
    self._last = step
    self._note(states)
    now = time.monotonic()
    self._due = now + (now - start) / SHARE

  def _write(self, step: int, states: States) -> None:
    rows: dict[str, np.ndarray] = {}
    totals: dict[str, np.ndarray] = {}
    for name, state in states.items():
      totals |= states_lib.named(f'{name}/', state.totals)
      for kind, kept in state.kept.items():
        new = kept.parts[self._saved[name, kind] :]
        rows |= states_lib.named(f'{name}/{kind}/', states_lib.join(new))
    name = f'rows_{self._last:08d}_{step:08d}.npz'
    whole_files.save_arrays(self._folder / name, rows)
    whole_files.save_arrays(self._folder / f'totals_{step:08d}.npz', totals)
    if self._last:
      old = self._folder / f'totals_{self._last:08d}.npz'
      old.unlink(missing_ok=True)

  def remove(self) -> None:
    """Removes the folder, once the table is written."""
    if not processes.is_main_process():
      return
    folder = self._folder
    try:
      retries.repeat(lambda: shutil.rmtree(folder), folder)
      if not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    except OSError as error:  # the next evaluation drops it
      logging.warning('cannot remove %s: %s', folder, error)


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
  try:
    return retries.repeat(lambda: arrays.load(path), path)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error


def _grouped(
  rows: states_lib.Columns,
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
  """Returns the columns of each state and kind, of the names in a file."""
  groups: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  for path, x in rows.items():
    state, kind, column = path.split('/', 2)
    groups.setdefault((state, kind), {})[column] = x
  return groups
