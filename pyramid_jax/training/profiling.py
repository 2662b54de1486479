"""A trace of some steps of a run by the profiler of jax.

It lies in `WORKDIR/profile/process_N`, which TensorBoard and XProf read as a
log directory. It is written on a local disk first and copied when it is whole,
so the workdir may be in a store of objects.
"""

import contextlib
import pathlib
import tempfile
from typing import Any

from absl import logging
import jax

from pyramid_jax.distributed import processes
from pyramid_jax.files import whole_files
from pyramid_jax.training import profile_fields
from pyramid_jax.training import setup as setup_lib
from pyramid_jax.training import throughput


class Window:
  """The steps of `config.profile`, in this process."""

  def __init__(
    self, setup: setup_lib.Setup, first: int, meter: throughput.Meter
  ):
    """Plans the trace of a run that has `first` finished steps.

    What a trace takes is no time of a step for the meter.
    """
    self._workdir = setup.workdir
    self._meter = meter
    self._steps = range(0)
    self._open: contextlib.ExitStack | None = None
    fields, last = setup.config.profile, setup.config.train.steps
    is_mine = fields.processes == profile_fields.ALL
    if not fields.steps or not (is_mine or processes.is_main_process()):
      return
    begin, end = fields.steps
    self._steps = range(max(begin, first + 1), min(end, last) + 1)
    if not self._steps:
      logging.warning(
        'config.profile.steps=%d,%d: no such step is left, the run has the'
        ' steps %d to %d',
        *(begin, end, first + 1, last),
      )

  def before(self, step: int, state: Any) -> None:
    """Starts the trace before the first of its steps, once `state` is there."""
    if step not in self._steps or self._open:
      return
    jax.block_until_ready(state)
    with contextlib.ExitStack() as stack, self._meter.spending('other'):
      folder = tempfile.TemporaryDirectory(prefix='pyramid_jax_profile_')
      stack.callback(self._keep, stack.enter_context(folder))
      jax.profiler.start_trace(folder.name)
      stack.callback(jax.profiler.stop_trace)
      self._open = stack.pop_all()

  def after(self, step: int, metrics: Any) -> None:
    """Ends the trace after the last of its steps, once `metrics` are there."""
    if self._open and step >= self._steps[-1]:
      jax.block_until_ready(metrics)
      self.close()

  def close(self) -> None:
    """Ends a trace that is open, and writes it.

    Raises:
      UserError: it cannot be written.
    """
    stack, self._open = self._open, None
    if stack:
      with self._meter.spending('other'):
        stack.close()

  def _keep(self, traced: str) -> None:
    """Copies a trace into the workdir."""
    index, _ = processes.process_part()
    folder = self._workdir / 'profile' / f'process_{index}'
    for file in sorted(pathlib.Path(traced).rglob('*')):
      if file.is_file():
        target = folder.joinpath(*file.relative_to(traced).parts)
        whole_files.make_folder(target.parent, within=self._workdir)
        data = file.read_bytes()
        write = lambda out, data=data: out.write(data)
        whole_files.save(target, write, durable=False)
    logging.info(
      'the profile of the steps %d to %d: tensorboard --logdir %s',
      *(self._steps[0], self._steps[-1], folder),
    )
