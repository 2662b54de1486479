"""Steps that are not finite: skipped, or the end of the run with a report.

`WORKDIR/diverged/STEP/` has
  report.json: what is not finite, the metrics, the examples of the batch;
  batch.npz: the arrays of the batch, those of the first process;
and `WORKDIR/checkpoints/N.diverged` the state, which no run resumes from: as
it was before the step where the step was skipped, else after it. The newest
ones stay.
"""

from collections import deque
from collections.abc import Mapping
import json
import math
from typing import Any
from typing import NoReturn

from absl import logging
import jax
import numpy as np

from pyramid_jax import errors
from pyramid_jax.distributed import processes
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import state as run_state
from pyramid_jax.training import setup as setup_lib


DIRECTORY = 'diverged'
REPORT = 'report.json'
BATCH = 'batch.npz'
_SKIPPED = 'skipped'  # in the record of a checkpoint
_LISTED = 5  # arrays that a message names
# Steps that are read at a time, at most: few enough that little is computed in
# vain after one that is not finite, many enough that reading costs nothing.
_UNREAD = 100
_ADVICE = (
  'The same command comes to this step again: set'
  ' --config.train.skip_nonfinite=N, which skips up to N such steps in a row,'
  ' or take another workdir with a lower config.train.learning_rate or with'
  ' config.train.clip_norm.'
)


class Watch:
  """Looks at every step of a run, in order, some time after it."""

  def __init__(
    self, setup: setup_lib.Setup, store: checkpoints.Checkpoints, first: int
  ):
    """Begins after `first` steps; `store` is waited for before the run ends."""
    self._setup = setup
    self._store = store
    # The steps that were skipped in a row, up to the last one.
    of_step = lambda: checkpoints.record(setup.workdir, first) if first else {}
    before = processes.decided(of_step)
    self._skipped = int(before.get(_SKIPPED, 0))
    self._unread: deque[tuple[int, Any]] = deque()

  def add(self, step: int, metrics: Any) -> bool:
    """Adds a step, which stays on the devices; returns whether to `check`.

    So a step needs no transfer to the host, and what is not finite is noticed
    at most `_UNREAD` steps later.
    """
    self._unread.append((step, metrics))
    return len(self._unread) >= _UNREAD

  def check(self, state: run_state.TrainState) -> None:
    """Reads the steps that were added: bad ones are skipped or end the run.

    `state` is that after the last of them, or after a later one.

    Raises:
      UserError: more bad steps in a row than `train.skip_nonfinite`.
    """
    with jax.transfer_guard('allow'):
      flags = [metrics['finite'] for _, metrics in self._unread]
      for flag in flags:
        flag.copy_to_host_async()
      for flag in processes.to_host(flags):
        self._check(*self._unread.popleft(), bool(flag), state)

  def _check(
    self,
    step: int,
    metrics: Any,
    is_finite: bool,
    state: run_state.TrainState,
  ) -> None:
    if is_finite:
      self._skipped = 0
      return
    self._skipped += 1
    values = _host(metrics)
    what = ', '.join(culprits(values))
    allowed = self._setup.config.train.skip_nonfinite
    if self._skipped > allowed:
      self._end(step, f'not finite in step {step}: {what}', values, state)
    logging.warning(
      'step %d is not finite and is skipped: %s (%d of at most %d in a row)',
      *(step, what, self._skipped, allowed),
    )

  def check_state(
    self, step: int, metrics: Any, state: run_state.TrainState
  ) -> None:
    """Ends the run rather than let it save what is not finite.

    The steps before are read first, so that `record` is about all of them.
    """
    self.check(state)
    bad = run_state.not_finite(checkpoints.items_of(state))
    if bad:
      more = f' and {len(bad) - _LISTED} more' if len(bad) > _LISTED else ''
      what = f'not finite after step {step}: {", ".join(bad[:_LISTED])}{more}'
      self._end(step, what, _host(metrics), state)

  def record(self) -> dict[str, int]:
    """Returns what a resume needs to know; a checkpoint keeps it."""
    return {_SKIPPED: self._skipped}

  def _end(
    self,
    step: int,
    what: str,
    values: Mapping[str, float],
    state: run_state.TrainState,
  ) -> NoReturn:
    self._store.wait()
    workdir = self._setup.workdir
    there = processes.decided(lambda: checkpoints.steps(workdir))
    good = next(iter(there), None)
    report = write(self._setup, self._store, step, values, state)
    parts = [
      what,
      f'last good checkpoint: {"none" if good is None else f"step {good}"}',
      f'report: {"none, see the log" if report is None else report}',
    ]
    raise errors.UserError(f'{"; ".join(parts)}. {_ADVICE}', errors.DIVERGED)


def _host(metrics: Any) -> dict[str, float]:
  return {k: float(v) for k, v in processes.to_host(metrics).items()}


def culprits(metrics: Mapping[str, float]) -> list[str]:
  """Returns what is not finite in a step, by the names of its metrics.

  Where all losses and gradients are finite it is what they would change.
  """
  found = [
    name
    for name, value in metrics.items()
    if name.split('/')[-1] in ('loss', 'grad_norm') and not math.isfinite(value)
  ]
  of_main_first = lambda name: (name.count('/'), name.endswith('grad_norm'))
  return sorted(found, key=of_main_first) or ['update']


def write(
  setup: setup_lib.Setup,
  store: checkpoints.Checkpoints,
  step: int,
  metrics: Mapping[str, float],
  state: run_state.TrainState,
) -> stores.Path | None:
  """Writes the folder of a step; returns its report, None where it failed.

  All processes call it. What goes wrong is logged, so that the run ends as it
  would have.

  Args:
    setup: of the run.
    store: of the run.
    step: that was not finite, counting from 1.
    metrics: of the step.
    state: after that step, or after a later one where the host was ahead.
  """
  after, report = int(state.step), None
  try:
    bad = run_state.not_finite(checkpoints.items_of(state))
    if processes.is_main_process():
      report = _write(setup, step, metrics, {'step': after, 'not_finite': bad})
    position = after * setup.config.train.batch_size
    place = setup.config, setup.mesh, position
    store.save_aside(DIRECTORY, state, *place, {'diverged_in_step': step})
  except Exception as error:  # the exit code says what matters more
    logging.exception('the report of step %d is not complete: %s', step, error)
  return report


def _write(
  setup: setup_lib.Setup,
  step: int,
  metrics: Mapping[str, float],
  state: Mapping[str, Any],
) -> stores.Path:
  """Writes all but the state."""
  for earlier in _earlier(setup.workdir):
    stores.remove_folder(earlier)
  folder = setup.workdir / DIRECTORY / str(step)
  whole_files.make_folder(folder, within=setup.workdir)
  report = _report(setup, step, metrics)
  where = checkpoints.directory(setup.workdir)
  report['state'] = {**state, 'folder': f'{where}/{state["step"]}.{DIRECTORY}'}
  _write_json(folder / REPORT, report)  # all that most people need, so first
  order = setup_lib.batches(setup.config, setup.reader, setup.mesh)
  batch = order.at(step - 1)
  report['batch'] |= {'file': BATCH, 'not_finite': _not_finite(batch)}
  _write_json(folder / REPORT, report)
  whole_files.save_arrays(folder / BATCH, batch)
  return folder / REPORT


def _earlier(workdir: stores.Path) -> list[stores.Path]:
  """Returns the folders of an earlier report."""
  reports = (workdir / DIRECTORY).glob('*')
  states = checkpoints.directory(workdir).glob(f'*.{DIRECTORY}')
  return [path for path in (*reports, *states) if path.is_dir()]


def _report(
  setup: setup_lib.Setup, step: int, metrics: Mapping[str, float]
) -> dict[str, Any]:
  config = setup.config
  batches = setup_lib.batches(config, setup.reader)  # of all processes
  positions = batches.positions(step - 1)
  indices, draws = batches.order(step - 1)
  columns = zip(positions, indices, draws, strict=True)
  return {
    'step': step,
    'not_finite': culprits(metrics),
    'metrics': {name: _number(value) for name, value in metrics.items()},
    'train': dict(config.train),
    'batch': {
      'split': 'train',
      'rows': [
        {'position': int(p), 'example': int(i), 'draw': int(d)}
        for p, i, d in columns
      ],
    },
  }


def _number(value: float) -> float | str:
  """Returns a number that JSON has, or the name of one that it lacks."""
  return float(value) if math.isfinite(value) else str(float(value))


def _not_finite(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
  """Returns how many values are NaN or infinite, by array, where some are."""
  counts = {
    name: int(np.size(x) - np.isfinite(x).sum())
    for name, x in arrays.items()
    if np.issubdtype(x.dtype, np.inexact)
  }
  return {name: count for name, count in counts.items() if count}


def _write_json(path: stores.Path, value: Any) -> None:
  whole_files.save_text(path, json.dumps(value, indent=1) + '\n')
