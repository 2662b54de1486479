"""Where the time of a training run goes, step by step.

All of the time of a start is of exactly one kind (`runs/throughput`).
`Meter.spending` changes the kind for a while; what is nested counts for itself
alone.
"""

from collections.abc import Iterator
import contextlib
import datetime
import os
import time
import types
from typing import Any
from typing import TypeVar

from absl import logging
import jax
from ml_collections import ConfigDict

from pyramid_jax.distributed import chips
from pyramid_jax.distributed import host
from pyramid_jax.distributed import memory
from pyramid_jax.distributed import processes
from pyramid_jax.runs import stopping
from pyramid_jax.runs import throughput
from pyramid_jax.training import model_flops
from pyramid_jax.training import setup as setup_lib


_WRITE_SECS = 10.0  # between two lines of metrics that write the file, too

Batch = TypeVar('Batch')


class Meter:
  """The clock of one start of a run, and its report in the workdir.

  As a context it notes how the start ended. Process 0 writes; the others
  measure in vain.
  """

  def __init__(
    self,
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    named: str | None = None,
  ):
    """Starts the clock; `named` is the --config of the command."""
    self._config, self._workdir = config, workdir
    self._named = named or ''
    self._host, self._versions = host.described(), host.versions()
    self._began = _time_of_day()
    self._kind, self._since = 'start', time.monotonic()
    self._secs: dict[str, float] = {}
    self._compile_secs = 0.0
    self._bins: dict[str, int] = {}
    self._trained_secs = 0.0  # up to the last step that is done
    self._flops: float | None = None
    self._before: list[throughput.Start] = []
    self._first: int | None = None  # None until the first step begins
    self._last = 0
    self._memory: list[dict[str, Any]] | None = None
    self._written = float('-inf')

  def __enter__(self) -> 'Meter':
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: types.TracebackType | None,
  ) -> None:
    """Writes the report of a start that finished or was stopped.

    Any other error may be that the workdir is another process's by now.
    """
    is_stopped = kind is not None and issubclass(kind, stopping.Stopped)
    if kind is None or is_stopped:
      end = throughput.STOPPED if is_stopped else throughput.FINISHED
      self.write(end, now=True)
      self._log()

  @contextlib.contextmanager
  def spending(self, kind: str) -> Iterator[None]:
    """Counts the time in the context as that of a kind."""
    before = self._kind
    self._turn(kind)
    try:
      yield
    finally:
      self._turn(before)

  def _turn(self, kind: str) -> None:
    now = time.monotonic()
    spent = self._secs.get(self._kind, 0.0) + now - self._since
    self._secs[self._kind] = spent
    self._kind, self._since = kind, now

  def count(self, setup: setup_lib.Setup) -> None:
    """Counts the operations of a step, which is traced once for that.

    A CPU has no peak rate to compare them with, so they are not counted there.
    """
    is_cpu = setup.mesh.devices.flat[0].platform == 'cpu'
    is_of_use = not is_cpu or _peak(setup.config) is not None
    if processes.is_main_process() and is_of_use:
      of_step = model_flops.of_step(
        setup.step_system,
        setup.config,
        setup.reader.finish,
        setup.state,
        setup.step_frozen,
        setup.batch,
      )
      self._flops = of_step / setup.config.train.batch_size

  def compiled(self, secs: float) -> None:
    """Notes what the compiler took for a program."""
    self._compile_secs += secs

  @contextlib.contextmanager
  def training(self, first: int) -> Iterator[None]:
    """Counts the time in the context as that of steps, after `first` ones."""
    if processes.is_main_process():
      self._before = throughput.resume(self._workdir)
      _peak(self._config, warn=True)
    self._first = self._last = first
    self._turn(throughput.STEP)
    self.write(now=True)
    yield
    self._turn('other')

  def fed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yields batches, and counts for how long each was waited for."""
    while True:
      with self.spending(throughput.STALL):
        batch = next(batches, None)
      if batch is None:
        return
      yield batch

  def done(self, step: int) -> None:
    """Notes the end of a step; all processes call it."""
    self._turn(self._kind)
    names = throughput.STEP, throughput.STALL
    trained = sum(self._secs.get(name, 0.0) for name in names)
    place = throughput.bin_of(trained - self._trained_secs)
    self._bins[place] = self._bins.get(place, 0) + 1
    self._trained_secs, self._last = trained, step
    if self._memory is None:
      self._memory = memory.of_devices()
      for row in self._memory:
        if row['process'] == processes.process_part()[0]:
          logging.info('memory after the first step: %s', memory.described(row))

  def write(self, end: str = throughput.RUNNING, now: bool = False) -> None:
    """Writes the report, if it was not written just before or must be `now`.

    Raises:
      UserError: it cannot be written.
    """
    is_due = now or time.monotonic() - self._written >= _WRITE_SECS
    if self._first is None or not is_due or not processes.is_main_process():
      return
    self._turn(self._kind)
    starts = [*self._before, self._start(end, self._first)]
    throughput.write(self._workdir, starts, self._memory or [])
    self._written = time.monotonic()

  def _start(self, end: str, first: int) -> throughput.Start:
    device = jax.devices()[0]
    return throughput.Start(
      began=self._began,
      written=_time_of_day(),
      end=end,
      platform=device.platform,
      device_kind=device.device_kind,
      devices=jax.device_count(),
      processes=processes.process_part()[1],
      dtype=self._config.dtype,
      batch_size=self._config.train.batch_size,
      flops_per_image=self._flops,
      peak_flops=_peak(self._config),
      first_step=first,
      last_step=self._last,
      compile_secs=self._compile_secs,
      spent_secs=dict(self._secs),
      step_secs_bins=dict(self._bins),
      config=self._named,
      host=self._host,
      versions=self._versions,
    )

  def _log(self) -> None:
    """Says in one line how fast this start was."""
    if self._first is None or not processes.is_main_process():
      return
    own = throughput.summary([self._start('', self._first)])
    logging.info('throughput: %s', _line(own))


def _line(summary: dict[str, Any]) -> str:
  """Returns '12.5 images/s (3.1 per device), MFU 40.2 %, goodput 97.1 %'."""
  speed, mfu = summary['images_per_sec'], summary['mfu']
  if speed is None or summary['goodput'] is None:
    return 'no step was made'
  share = 'unknown' if mfu is None else f'{mfu:.1%}'
  return (
    f'{speed:.4g} images/s ({summary["images_per_sec_per_device"]:.4g} per'
    f' device), MFU {share}, goodput {summary["goodput"]:.1%}'
  )


def _peak(config: ConfigDict, warn: bool = False) -> float | None:
  """Returns the peak rate of a device, None where it is not known."""
  device = jax.devices()[0]
  chip = chips.of_kind(device.device_kind)
  if chip is None and warn and device.platform != 'cpu':
    logging.warning(
      'no peak rate is known of %r: no MFU is reported', device.device_kind
    )
  return None if chip is None else chip.peak(config.dtype)


def _time_of_day() -> str:
  return datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
