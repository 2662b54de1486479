"""Evaluations that go on where they were when their process was killed.

The states of the scores lie in a folder whose name is a digest of all that
decides the numbers. Each file appears under its name when it is whole:
`rows_FIRST_LAST.npz` has what the batches FIRST to LAST kept of single images,
`totals_LAST.npz` the rest of the states after LAST batches. The last is written
after the rows it needs, so what lies there is always a state that was.

Of several processes each scores its own images. What they have is merged in
process 0, which alone reads and writes the folder, before it is saved and in
the end; so an evaluation goes on with any number of processes.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import hashlib
import json
import re
import time
from typing import Any
from typing import Protocol

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import processes
from pyramid_jax.evaluation import merging
from pyramid_jax.files import arrays
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.metrics import states as states_lib
from pyramid_jax.runs import lock
from pyramid_jax.runs import progress
from pyramid_jax.runs import reading
from pyramid_jax.runs import stopping
from pyramid_jax.runs import watchdog


FOLDER = 'evaluation'
SHARE = 0.02  # of the time, at most, is spent on saving
_REQUEST = 'request.json'
_FORMAT = 2
_ROWS = re.compile(r'rows_(\d+)_(\d+)\.npz')
_TOTALS = re.compile(r'totals_(\d+)\.npz')

_TOPIC = 'evaluation'  # of what processes tell each other

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
    """Yields all batches but for the `first` ones.

    Of each, a process yields the images that it counts, perhaps none.
    """


def accumulate(
  states: States, source: Source, store: 'Store | None' = None
) -> States:
  """Returns the states with all images of a source, in process 0.

  With a store they go on from what lies there. Without states nothing is read.
  All processes call it; the others get the states of no images.
  """
  if not states:
    return states
  start, first = states, 0
  if store is not None:
    first, states = store.resumed(states)
  if first:
    logging.info('going on after %d images', first * source.size)
  with progress.Progress(
    range(first, source.steps),
    source.size,
    'batch',
    memory=memory.in_use,
  ) as steps:
    for step, batch in zip(steps, source.batches(first), strict=True):
      if len(batch.places):
        states = {name: state.update(batch) for name, state in states.items()}
      watchdog.beat()
      if stopping.point():  # here all processes are at the same batch
        stopping.check()
      is_last = step + 1 == source.steps
      if store is not None and (is_last or store.is_due()):
        states = merging.merged(states, start)
        store.save(step + 1, states)
  return states if store is not None else merging.merged(states, start)


def rows_of(states: States) -> list[states_lib.Row]:
  """Returns the table of all states in process 0, nothing elsewhere.

  All processes call it; what a state refuses is a UserError in each.
  """
  found: list[states_lib.Row] = []

  def finish() -> None:
    for name, state in states.items():
      start = time.monotonic()
      logging.info('computing the scores of %s', name)
      found.extend(state.finish())
      seconds = time.monotonic() - start
      logging.info('scores of %s took %.1f s', name, seconds)
      watchdog.beat()

  processes.decided(finish, _TOPIC)
  return found


class Store:
  """The folder of one evaluation.

  A folder or file that cannot be written is a UserError. All processes call its
  methods, process 0 reads and writes.
  """

  def __init__(self, folder: stores.Path, request: Mapping[str, Any]):
    """Takes `FOLDER` in a folder; `request` has all that decides the numbers.

    The request is of JSON's types; it is written beside the states, for people.
    """
    text = json.dumps({'format': _FORMAT, **request}, indent=2, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    self._folder = folder / FOLDER / digest
    self._saved: dict[tuple[str, str], int] = {}  # parts of what is kept
    self._last = 0  # the batches that are saved
    self._due = self._began = -float('inf')  # on the clock
    self._held: lock.Held | None = None

    def make() -> None:
      whole_files.make_folder(self._folder)
      whole_files.save_text(self._folder / _REQUEST, text)

    processes.decided(make, _TOPIC)

  @contextlib.contextmanager
  def held(self, takeover: bool = False) -> Iterator[lock.Held]:
    """Keeps other processes from the same evaluation, see `runs.lock`.

    Nothing is saved once another one has taken it over.
    """
    with lock.shared(self._folder, takeover) as held:
      self._held = held
      yield held

  def resumed(self, states: States) -> tuple[int, States]:
    """Returns the number of finished batches, and the states after them.

    These are in process 0; the others get `states`, those of no images. Files
    that are damaged or missing are as good as none, with a warning.

    Raises:
      UserError: storage does not give them.
    """
    found = states

    def load() -> int:
      nonlocal found
      last, found = self._load(states)
      return last

    last = processes.decided(load, _TOPIC)
    self._last = last
    self._note(found)
    return last, found

  def _load(self, states: States) -> tuple[int, States]:
    with reading.storage(self._folder):
      try:
        last, states = self._newest(states)
      except (ValueError, LookupError, FileNotFoundError) as error:
        logging.warning('starting anew: %s', error)
        last = 0
    self._drop(last)
    return last, states

  def _newest(self, states: States) -> tuple[int, States]:
    numbers = [int(m[1]) for m in self._files(_TOTALS)]
    last = max(numbers, default=0)
    if not last:
      return 0, states
    totals = _read(self._folder / f'totals_{last:08d}.npz')
    spans = {int(m[1]): int(m[2]) for m in self._files(_ROWS)}
    columns: list[Mapping[str, np.ndarray]] = []
    first = 0
    while first < last:
      after = spans[first]
      columns.append(_read(self._folder / f'rows_{first:08d}_{after:08d}.npz'))
      first = after
    if first != last:
      raise ValueError(f'{self._folder}: rows and totals do not fit.')
    return last, merging.restored(states, columns, totals)

  def _files(self, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    names = stores.names(self._folder)
    return [m for m in map(pattern.fullmatch, names) if m]

  def _drop(self, last: int) -> None:
    """Removes what a killed process left and no saved state has."""
    for match in self._files(_ROWS) + self._files(_TOTALS):
      number = int(match[match.lastindex or 0])
      if number > last or (match.re is _TOTALS and number < last):
        stores.remove(self._folder / match[0])

  def _note(self, states: States) -> None:
    """Remembers which parts of what is kept are on disk."""
    self._saved = {
      (name, kind): len(kept.parts)
      for name, state in states.items()
      for kind, kept in state.kept.items()
    }

  def is_due(self) -> bool:
    """Whether it is time to merge and save the states, as process 0 says."""
    self._began = time.monotonic()
    return processes.decided(lambda: self._began >= self._due, _TOPIC)

  def save(self, step: int, states: States) -> None:
    """Saves the states of process 0, those after so many batches."""
    processes.decided(lambda: self._save(step, states), _TOPIC)
    self._last = step
    self._note(states)
    now = time.monotonic()
    self._due = now + (now - self._began) / SHARE

  def _save(self, step: int, states: States) -> None:
    if self._held is not None:
      self._held.check(now=True)
    with errors.writing(self._folder):
      self._write(step, states)

  def _write(self, step: int, states: States) -> None:
    rows = merging.columns_of(states, self._saved)
    totals = merging.totals_of(states)
    name = f'rows_{self._last:08d}_{step:08d}.npz'
    whole_files.save_arrays(self._folder / name, rows)
    whole_files.save_arrays(self._folder / f'totals_{step:08d}.npz', totals)
    if self._last:
      old = self._folder / f'totals_{self._last:08d}.npz'
      stores.remove(old)

  def remove(self) -> None:
    """Removes the folder, once the table is written."""
    if not processes.is_main_process():
      return
    folder = self._folder
    try:
      retries.repeat(lambda: stores.remove_folder(folder), folder)
      whole_files.remove_empty(folder.parent)
    except OSError as error:  # the next evaluation drops it
      logging.warning('cannot remove %s: %s', folder, error)


def _read(path: stores.Path) -> dict[str, np.ndarray]:
  try:
    return retries.repeat(lambda: arrays.load(path), path)
  except ValueError as error:
    raise ValueError(f'{path}: {error}') from error
