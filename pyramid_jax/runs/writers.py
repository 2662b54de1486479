"""The log, the metrics and the TensorBoard events of a run.

Not by `clu.metric_writers`, which need TensorFlow.
"""

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import logging as std_logging
import math
import os
import sys
from typing import Any
import warnings

from absl import flags
from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.files import json_text
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.files import whole_files
from pyramid_jax.runs import events
from pyramid_jax.runs import grown_file
from pyramid_jax.runs import status_line


METRICS = 'metrics.jsonl'
_PACKAGE = os.path.dirname(errors.__file__)
EVENTS = 'tensorboard'


def setup() -> None:
  """Makes absl's log plain lines, without those of other libraries.

  The log goes to stderr from INFO on.
  """
  flags.FLAGS.mark_as_parsed()  # those of absl, which nobody gives
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  handler = logging.get_absl_handler()
  handler.setFormatter(_Plain())
  handler.addFilter(_in_line)
  lines = handler.python_handler
  if not isinstance(lines.stream, status_line.Above):
    lines.setStream(status_line.Above(lines.stream))
  # Absl's logger is one for all libraries; lines differ by their path.
  logging.get_absl_logger().addFilter(_is_ours)
  std_logging.getLogger('jax._src.xla_bridge').addFilter(_is_no_search)
  for name in ('gcsfs', 'fsspec'):
    std_logging.getLogger(name).setLevel(std_logging.WARNING)
  std_logging.getLogger('asyncio').addFilter(_is_no_echo)
  # What Orbax leaves behind when a file that it reads is damaged.
  warnings.filterwarnings('ignore', 'coroutine .* was never awaited')
  is_ours = lambda event: str(event.exc_value) != 'Event loop is closed'
  hook = sys.__unraisablehook__
  sys.unraisablehook = lambda event: hook(event) if is_ours(event) else None


class _Plain(std_logging.Formatter):
  """The message; its level too when that is more than INFO."""

  def format(self, record: std_logging.LogRecord) -> str:
    text = record.getMessage()
    if record.levelno > std_logging.INFO:
      text = f'{record.levelname}: {text}'
    if record.exc_info:
      text += '\n' + self.formatException(record.exc_info)
    return text


def _is_ours(record: std_logging.LogRecord) -> bool:
  is_orbax = f'{os.sep}orbax{os.sep}' in record.pathname
  return not is_orbax or record.levelno > std_logging.ERROR


def _in_line(record: std_logging.LogRecord) -> bool:
  """Escapes what no terminal shows in the values of a line: names, prompts.

  A table is a line without values.
  """
  is_ours = record.pathname.startswith(_PACKAGE)
  if is_ours and isinstance(record.args, tuple):
    record.args = tuple(map(_escaped, record.args))
  return True


def _escaped(value: Any) -> Any:
  if not isinstance(value, str | os.PathLike | BaseException):
    return value
  text = str(value)
  return text if text.isprintable() else errors.printable(text)


def _is_no_search(record: std_logging.LogRecord) -> bool:
  """Whether a line of jax is not that it looked for a backend in vain."""
  is_search = record.getMessage().startswith('Unable to initialize backend')
  return not is_search or record.levelno > std_logging.INFO


class _LogFile(std_logging.Handler):
  """Writes the log into a file; the first failure is kept, not raised.

  A line may be logged anywhere, also where an error is handled.
  """

  def __init__(self, path: stores.Path):
    super().__init__()
    self._file = grown_file.opened(path)
    self._problem: errors.UserError | None = None
    self._is_busy = False

  def emit(self, record: std_logging.LogRecord) -> None:
    """Appends a line, unless an earlier one could not be written."""
    if self._is_busy or self._problem:  # it may log why it tries again
      return
    self._is_busy = True
    try:
      line = f'{self.format(record)}\n'
      self._file.add(line.encode(errors='backslashreplace'))
      if record.levelno >= std_logging.ERROR:  # the process may end now
        self._file.flush()
    except errors.UserError as error:
      self._problem = error
    except Exception:
      self.handleError(record)
    finally:
      self._is_busy = False

  def check(self) -> None:
    """Raises the failure."""
    if self._problem:
      raise self._problem

  def close(self) -> None:
    """Closes the file; raises the failure."""
    super().close()
    self._file.close()
    self.check()


def _is_no_echo(record: std_logging.LogRecord) -> bool:
  """Whether a line of asyncio is not one more failure of a checkpoint's files.

  Of the arrays that Orbax could not write or read, the first is an error.
  """
  error = record.exc_info[1] if record.exc_info else None
  is_echo = record.getMessage().partition('\n')[0].endswith('never retrieved')
  if error is None or not is_echo:
    return True
  return not errors.number(error) and 'tensorstore_spec' not in str(error)


@contextlib.contextmanager
def copied(
  workdir: str | os.PathLike[str], process_index: int = 0
) -> Iterator[None]:
  """Copies the log into `WORKDIR/logs/`, with the time of every line.

  Raises:
    UserError: it cannot be written.
  """
  folder = stores.path(workdir) / 'logs'
  whole_files.make_folder(folder)
  handler = _LogFile(folder / f'process_{process_index}.log')
  handler.setFormatter(
    std_logging.Formatter('%(asctime)s %(levelname)s %(message)s')
  )
  handler.addFilter(_is_ours)
  handler.addFilter(_in_line)
  logger = logging.get_absl_logger()
  with errors.closing(handler):
    logger.addHandler(handler)
    try:
      yield
    finally:
      logger.removeHandler(handler)


def check_log() -> None:
  """Raises a UserError if the copy of the log could not be written."""
  for handler in logging.get_absl_logger().handlers:
    if isinstance(handler, _LogFile):
      handler.check()


class MetricWriter:
  """Writes scalars and images of a run, with the method names of clu.

  `metrics.jsonl` gets one JSON object a line, `step` first; a number that is
  not finite becomes null. TensorBoard events hold the same and the images.
  What cannot be written is a UserError.
  """

  def __init__(self, workdir: str | os.PathLike[str], first_step: int = 0):
    """Opens the files in an existing directory.

    Lines after `first_step`, the updates that are finished, and a half line are
    left from an interrupted run and removed.
    """
    path = stores.path(workdir) / METRICS
    truncate(path, first_step)
    self._lines = grown_file.opened(path)
    self._events = events.EventFile(path.with_name(EVENTS), first_step)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends one line."""
    numbers = {name: float(value) for name, value in scalars.items()}
    finite = lambda x: x if math.isfinite(x) else None
    values = {'step': step, **{k: finite(x) for k, x in numbers.items()}}
    self._lines.add(f'{json.dumps(values)}\n'.encode())
    self._events.add(step, scalars=numbers)

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds (H, W, 3) uint8 images to the events."""
    self._events.add(step, images=images)

  def flush(self) -> None:
    """Sends what a store does not have yet; UserError if that fails."""
    self._lines.flush()
    self._events.flush()

  def close(self) -> None:
    """Closes both files."""
    with errors.closing(self._events):
      self._lines.close()


def truncate(path: stores.Path, step: int) -> None:
  """Removes the lines after `step` and a half one at the end, atomically.

  A file with other lines than those of a run is copied to `NAME.bad` before
  they are removed.

  Raises:
    UserError: it cannot be read or written.
  """
  with errors.writing(path):
    grown_file.check(path)
    if not path.exists():
      return
    content = retries.repeat(path.read_bytes, path)
  *lines, half = content.split(b'\n')
  steps = [_step_of(line) for line in lines]
  foreign = [n for n, found in enumerate(steps, 1) if found is None]
  if foreign:
    bad = _free_name(path)
    whole_files.save(bad, lambda file: file.write(content))
    logging.warning(
      '%s: line %d is none of a run; all was copied to %s, and what is of the'
      ' run stays',
      *(path, foreign[0], bad.name),
    )
  kept = [x for x, n in zip(lines, steps, strict=True) if n and n <= step]
  if half or len(kept) < len(lines):
    text = b''.join(line + b'\n' for line in kept)
    whole_files.save(path, lambda file: file.write(text))


def _step_of(line: bytes) -> int | None:
  """Returns the step of a line of metrics, None of any other line."""
  try:
    values = json_text.loads(line, strict=False)
  except ValueError:
    return None
  step = values.get('step') if isinstance(values, dict) else None
  return step if type(step) is int and step > 0 else None


def _free_name(path: stores.Path) -> stores.Path:
  names = (f'{path.name}.bad{n}' for n in ('', *range(2, 1000)))
  there = stores.names(path.parent)
  return path.with_name(next(name for name in names if name not in there))
