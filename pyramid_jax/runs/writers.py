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
import pathlib
import sys
from typing import Any
import warnings

from absl import flags
from absl import logging
import numpy as np

from pyramid_jax.files import json_text
from pyramid_jax.runs import whole_files


METRICS = 'metrics.jsonl'
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
  # Absl's logger is one for all libraries; lines differ by their path.
  logging.get_absl_logger().addFilter(_is_ours)
  std_logging.getLogger('jax._src.xla_bridge').addFilter(_is_no_search)
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


def _is_no_search(record: std_logging.LogRecord) -> bool:
  """Whether a line of jax is not that it looked for a backend in vain."""
  is_search = record.getMessage().startswith('Unable to initialize backend')
  return not is_search or record.levelno > std_logging.INFO


@contextlib.contextmanager
def copied(
  workdir: str | os.PathLike[str], process_index: int = 0
) -> Iterator[None]:
  """Copies the log into `WORKDIR/logs/`, with the time of every line."""
  folder = pathlib.Path(workdir) / 'logs'
  folder.mkdir(parents=True, exist_ok=True)
  handler = std_logging.FileHandler(folder / f'process_{process_index}.log')
  handler.setFormatter(
    std_logging.Formatter('%(asctime)s %(levelname)s %(message)s')
  )
  handler.addFilter(_is_ours)
  logger = logging.get_absl_logger()
  logger.addHandler(handler)
  try:
    yield
  finally:
    logger.removeHandler(handler)
    handler.close()


class MetricWriter:
  """Writes scalars and images of a run, with the method names of clu.

  `metrics.jsonl` gets one JSON object a line, `step` first; a number that is
  not finite becomes null. TensorBoard events hold the same and the images.
  """

  def __init__(self, workdir: str | os.PathLike[str], first_step: int = 0):
    """Opens the files in an existing directory.

    Lines after `first_step`, the updates that are finished, and a half line are
    left from an interrupted run and removed.
    """
    import tensorboardX  # slow to import

    self._path = pathlib.Path(workdir) / METRICS
    truncate(self._path, first_step)
    self._file = self._path.open('a')
    self._events = tensorboardX.SummaryWriter(
      str(pathlib.Path(workdir) / EVENTS), purge_step=first_step + 1
    )

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Appends one line."""
    values: dict[str, Any] = {'step': step}
    for name, value in scalars.items():
      number = float(value)
      values[name] = number if math.isfinite(number) else None
      self._events.add_scalar(name, number, step)
    self._file.write(json.dumps(values) + '\n')
    self._file.flush()

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds (H, W, 3) uint8 images to the events."""
    for name, image in images.items():
      self._events.add_image(name, image, step, dataformats='HWC')

  def close(self) -> None:
    self._file.close()
    self._events.close()


def truncate(path: pathlib.Path, step: int) -> None:
  """Removes the lines after `step` and incomplete lines, atomically."""
  if not path.exists():
    return
  kept = []
  for line in path.read_text(errors='replace').split('\n'):
    try:
      values = json_text.loads(line, strict=False)
    except ValueError:
      continue
    if isinstance(values, dict) and values.get('step', math.inf) <= step:
      kept.append(line + '\n')
  with whole_files.opened(path) as file:
    file.write(''.join(kept).encode())
