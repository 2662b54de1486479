"""`WORKDIR/throughput.json`: how fast a run is, and where its time goes.

The run is the sum of its starts: each command that went on with it, until it
ended or was killed. The file has the raw numbers of each start and what follows
from them, for each and in total:

  steps, images: that this start made; in total without those made again.
  images_per_sec, images_per_sec_per_device: of the time in which the loop was
    training: in a step, or waiting for its batch. Start, compilation,
    checkpoints and evaluations are left out.
  step_secs_p50, step_secs_p95: from the end of a step to that of the next, that
    time only, within 1 %.
  compile_secs: how long the compiler took. Other parts of the start run
    meanwhile, so less may be lost.
  data_stall_secs: for how long the loop waited for batches. The device may have
    been busy with the steps before.
  mfu: the share of the peak rate of all devices that the operations of the
    model have (`training/model_flops`), in the time in which the loop was
    training; null where the chip is not in `distributed/chips.py`.
  goodput: the share of all time that went into steps that count.
  badput_secs: the rest, by kind, see `BADPUT`.

Durations are those of process 0 on a monotonic clock. Only `idle` is the
difference of two times of the day.
"""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import datetime
import json
import math
import os
import types
from typing import Any
from typing import get_args
from typing import get_origin
from typing import get_type_hints

from absl import logging

from pyramid_jax import errors
from pyramid_jax.files import json_text
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files


FILE = 'throughput.json'
STEP, STALL = 'step', 'data_stall'
# What the time of a start goes into beside steps.
SPENT = (
  'start',  # before the first step, but for what is waited for below
  'compile',  # waiting for the compiler
  STALL,  # waiting for a batch
  'checkpoint',  # copying a checkpoint, and waiting for one that is written
  'evaluation',  # scores and previews
  'other',
)
BADPUT = (
  *SPENT,
  'repeated',  # steps that were made and lost, since the last checkpoint
  'idle',  # from the last sign of a start that did not finish to the next
)
RUNNING, FINISHED, STOPPED = 'running', 'finished', 'stopped'
_WIDTH = math.log(1.02)  # of a bin, of the logarithm of seconds
_SHORTEST, _BINS = 1e-9, 5000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
  """The raw numbers of a start."""

  began: str  # times of the day, ISO 8601
  written: str  # when this was
  end: str  # FINISHED, STOPPED by a signal, or RUNNING, also if it was killed
  platform: str
  device_kind: str
  devices: int  # in all processes
  processes: int
  dtype: str  # of activations
  batch_size: int
  flops_per_image: float | None  # of a training step
  peak_flops: float | None  # of a device, in this type
  first_step: int  # the steps that were finished when it began
  last_step: int
  compile_secs: float
  spent_secs: Mapping[str, float]  # by STEP and the kinds of SPENT
  # Steps by the length of `bin_of`.
  step_secs_bins: Mapping[str, int]
  config: str = ''  # the --config of the command; '' where it named none
  host: str = ''  # the machine of process 0
  versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def steps(self) -> int:
    """The steps that it made."""
    return self.last_step - self.first_step

  @property
  def training_secs(self) -> float:
    """The seconds in which the loop was training."""
    return self.spent_secs.get(STEP, 0.0) + self.spent_secs.get(STALL, 0.0)


def bin_of(secs: float) -> str:
  """Returns the bin of a step's length; bins are 2 % wide."""
  return str(round(math.log(max(secs, _SHORTEST)) / _WIDTH))


def _percentile(bins: Mapping[str, int], share: float) -> float | None:
  """Returns the length that a share of the steps does not exceed, seconds."""
  left = share * sum(bins.values())
  for place in sorted(bins, key=int):
    left -= bins[place]
    if left <= 0:
      return math.exp(int(place) * _WIDTH)
  return None


def _merged(counts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
  total: dict[str, Any] = {}
  for one in counts:
    for name, value in one.items():
      total[name] = total.get(name, 0) + value
  return total


def lost_steps(starts: Sequence[Start]) -> list[int]:
  """Returns how many steps of each start a later one made again."""
  lost, least = [], math.inf
  for start in reversed(starts):
    kept = max(start.first_step, min(start.last_step, least))
    lost.append(int(start.last_step - kept))
    least = min(least, start.first_step)
  return lost[::-1]


def idle_secs(starts: Sequence[Start]) -> float:
  """Returns the seconds between starts, where the one before did not finish."""
  parse = datetime.datetime.fromisoformat
  pairs = zip(starts[:-1], starts[1:], strict=True)
  gaps = (
    (parse(after.began) - parse(before.written)).total_seconds()
    for before, after in pairs
    if before.end != FINISHED
  )
  return sum(max(0.0, gap) for gap in gaps)


def summary(starts: Sequence[Start]) -> dict[str, Any]:
  """Returns what follows from the numbers of starts, see the module."""
  lost = lost_steps(starts)
  secs = _merged(start.spent_secs for start in starts)
  again = sum(
    n * start.spent_secs.get(STEP, 0.0) / start.steps
    for n, start in zip(lost, starts, strict=True)
    if n
  )
  badput = {name: secs.get(name, 0.0) for name in SPENT}
  badput |= {'repeated': again, 'idle': idle_secs(starts)}
  useful = secs.get(STEP, 0.0) - again
  whole = useful + sum(badput.values())
  made = sum(start.steps * start.batch_size for start in starts)
  kept = zip(lost, starts, strict=True)
  training = sum(start.training_secs for start in starts)
  on_devices = sum(start.training_secs * start.devices for start in starts)
  bins = _merged(start.step_secs_bins for start in starts)
  return {
    'steps': sum(start.steps for start in starts) - sum(lost),
    'repeated_steps': sum(lost),
    'images': sum((start.steps - n) * start.batch_size for n, start in kept),
    'secs': whole,
    'images_per_sec': _ratio(made, training),
    'images_per_sec_per_device': _ratio(made, on_devices),
    'step_secs_p50': _percentile(bins, 0.5),
    'step_secs_p95': _percentile(bins, 0.95),
    'compile_secs': sum(start.compile_secs for start in starts),
    'data_stall_secs': badput[STALL],
    'mfu': _mfu(starts),
    'goodput': _ratio(useful, whole),
    'badput_secs': badput,
  }


def _ratio(a: float, b: float) -> float | None:
  return a / b if b > 0 else None


def _mfu(starts: Sequence[Start]) -> float | None:
  done = possible = 0.0
  for start in starts:
    if start.flops_per_image is None or start.peak_flops is None:
      return None
    done += start.flops_per_image * start.batch_size * start.steps
    possible += start.peak_flops * start.devices * start.training_secs
  return _ratio(done, possible)


def read(workdir: str | os.PathLike[str]) -> list[Start]:
  """Returns the starts of a run so far; [] with a warning of a damaged file."""
  path = stores.path(workdir) / FILE
  try:
    return [_start(values) for values in json_text.read(path)['starts']]
  except FileNotFoundError:
    return []
  except (OSError, ValueError, TypeError, KeyError) as error:
    logging.warning('%s cannot be read and begins anew (%s)', path, error)
    return []


def resume(workdir: str | os.PathLike[str]) -> list[Start]:
  """Reads the starts, for the process that goes on with the file.

  What killed processes left beside it is removed.

  Raises:
    UserError: it cannot be removed.
  """
  path = stores.path(workdir) / FILE
  with errors.writing(path):
    whole_files.remove_left(path)
  return read(workdir)


def _start(values: Mapping[str, Any]) -> Start:
  """Returns the raw numbers of a start in a file.

  Raises:
    KeyError, TypeError, ValueError: they are none.
  """
  if not isinstance(values, Mapping):
    raise TypeError(f'a start is {values!r}')
  kinds = get_type_hints(Start)
  # Those of older versions have no values of the newest fields.
  later = {'config', 'host', 'versions'} - values.keys()
  found = {name: values[name] for name in kinds.keys() - later}
  for name in found:
    if not _fits(found[name], kinds[name]):
      raise ValueError(f'{name} is {found[name]!r}')
  for name in ('began', 'written'):
    if datetime.datetime.fromisoformat(found[name]).tzinfo is None:
      raise ValueError(f'{name} is {found[name]!r}')
  start = Start(**found)
  if start.steps < 0 or not all(_is_bin(x) for x in start.step_secs_bins):
    raise ValueError('its steps are none')
  return start


def _fits(value: Any, kind: Any) -> bool:
  """Whether a value of JSON is of a type; numbers are finite, none negative."""
  if get_origin(kind) is types.UnionType:
    return any(_fits(value, part) for part in get_args(kind))
  if kind is types.NoneType:
    return value is None
  if kind is str:
    return isinstance(value, str)
  if kind in (int, float):
    allowed = int if kind is int else int | float
    is_number = isinstance(value, allowed) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf
  item = get_args(kind)[1]
  return isinstance(value, dict) and all(_fits(x, item) for x in value.values())


def _is_bin(name: str) -> bool:
  digits = name.removeprefix('-')
  return digits.isdecimal() and len(digits) < 5 and int(digits) <= _BINS


def write(
  workdir: str | os.PathLike[str],
  starts: Sequence[Start],
  memory: Sequence[Mapping[str, Any]],
) -> None:
  """Writes the file.

  Args:
    workdir: of the run.
    starts: all of them, the last is the present one.
    memory: of each device after the first step of the present start.

  Raises:
    UserError: it cannot be written.
  """
  values = {
    'total': summary(starts),
    'memory': list(memory),
    'starts': [{**summary([s]), **dataclasses.asdict(s)} for s in starts],
  }
  path = stores.path(workdir) / FILE
  text = json.dumps(values, indent=1).encode()
  whole_files.save(path, lambda file: file.write(text), durable=False)
