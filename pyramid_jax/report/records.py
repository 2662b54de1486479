"""What a run has left so far, read for its report.

A file that is missing or damaged leaves a gap, and a note says so; a store that
does not answer is an error.
"""

from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import io
import math
from typing import Any
from typing import BinaryIO

from ml_collections import ConfigDict
import numpy as np
from PIL import Image

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.config import listing
from pyramid_jax.data.pixels import images
from pyramid_jax.files import bounded
from pyramid_jax.files import json_text
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import pretrained
from pyramid_jax.runs import throughput
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.runs import writers


SAMPLES = 'samples'
SCORES = 'scores.json'
_MOST_LINES = 20_000  # of metrics that are kept, evenly over the run
_LINE_BYTES = 1 << 16
_GRIDS = 6  # images that a report has
_TABLES = 8  # of scores
_LARGE, _SMALL = (960, 300_000), (480, 90_000)  # px of a side, bytes
_UNSET = 'absent'

Points = list[tuple[int, float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """An image of the report."""

  title: str
  jpeg: bytes
  size: tuple[int, int]  # width and height, px


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """A table of scores, as `evaluation/score_table` writes it."""

  about: str
  scores: Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
  """What a report is made of."""

  workdir: str  # as the command named it
  config: ConfigDict | None
  compared: str  # with what the config is compared, in words
  changes: tuple[tuple[str, Any, Any], ...]  # field, there, in this run
  curves: Mapping[str, Points]
  starts: tuple[throughput.Start, ...]
  memory: tuple[Mapping[str, Any], ...]  # of devices, see `throughput.write`
  grids: tuple[Grid, ...]  # the newest one first
  tables: tuple[Table, ...]
  checkpoints: tuple[int, ...]
  data: Mapping[str, Any]  # {split: facts}, see `runs/data_record`
  versions: Mapping[str, str]
  has_first_stage: bool
  notes: tuple[str, ...]


def read(workdir: stores.Path) -> Records:
  """Reads what is there.

  Raises:
    UserError: the folder is no run, or storage failed.
  """
  notes: list[str] = []
  config = None
  with _noted(notes):
    config = workdir_lib.read_config(workdir)
  curves: dict[str, Points] = {}
  with _noted(notes):
    curves = _curves(workdir / writers.METRICS)
  if config is None and not curves:
    raise errors.UserError(f'{workdir}: {"; ".join(notes)}', errors.MISSING)
  starts = throughput.read(workdir)
  meta: Mapping[str, Any] = {}
  with _noted(notes):
    meta = (checkpoints.newest_meta(workdir) or (0, {}))[1]
  compared = ''
  changes: tuple[tuple[str, Any, Any], ...] = ()
  if config is not None:
    named = next((x.config for x in reversed(starts) if x.config), '')
    compared, changes = differences(config, named)
  own = starts[-1].versions if starts else {}
  first_stage = workdir / pretrained.FIRST_STAGE
  return Records(
    workdir=str(workdir),
    config=config,
    compared=compared,
    changes=changes,
    curves=curves,
    starts=tuple(starts),
    memory=_memory(workdir),
    grids=tuple(_grids(workdir / SAMPLES, notes)),
    tables=tuple(_tables(workdir / SAMPLES, notes)),
    checkpoints=tuple(sorted(checkpoints.steps(workdir))),
    data=meta.get('record', {}).get('data', {}),
    versions=own or meta.get('versions', {}),
    has_first_stage=(first_stage / workdir_lib.CONFIG).is_file(),
    notes=tuple(notes),
  )


@contextlib.contextmanager
def _noted(notes: list[str]) -> Iterator[None]:
  """Notes what is wrong with a file; storage that fails is an error."""
  try:
    yield
  except FileNotFoundError:
    pass
  except errors.UserError as error:
    if error.code == errors.RESTART:
      raise
    notes.append(str(error))
  except (ValueError, images.BrokenImage) as error:
    notes.append(str(error))


def differences(
  config: ConfigDict, named: str
) -> tuple[str, tuple[tuple[str, Any, Any], ...]]:
  """Returns what a config is compared with, and where it differs.

  That is the config of its command, if it comes along with the package, or the
  defaults of its system. A config file of somebody else is not executed.

  Args:
    config: of a run.
    named: the `--config` of its command, '' if it is not known.
  """
  base, compared = None, named
  if (known := listing.shipped_name(named)) is not None:
    with contextlib.suppress(errors.UserError, ValueError):
      base = config_lib.load(known)
      if base.system.name != config.system.name and 'first_stage' in base:
        base = config_lib.first_stage(base)
        compared = f'the first stage of {named}'
  if base is None or base.system.name != config.system.name:
    base = config_lib.base(config.system.name)
    compared = f'the defaults of the system {config.system.name!r}'
  before, now = map(config_lib.flatten, (base, config))
  names = sorted(before.keys() | now.keys())
  pairs = ((x, before.get(x, _UNSET), now.get(x, _UNSET)) for x in names)
  return compared, tuple(x for x in pairs if x[1] != x[2])


def _curves(path: stores.Path) -> dict[str, Points]:
  """Returns the numbers of each name by step; null is None.

  Raises:
    FileNotFoundError, UserError, ValueError: it cannot be read.
  """
  with retries.repeat(
    lambda: bounded.opened(path, limits.FILE_BYTES), path
  ) as file:
    lines = thinned(file)
  found: dict[str, Points] = {}
  for line in lines:
    try:
      values = json_text.loads(line, strict=False)
    except ValueError:
      continue  # half a line of a run that was killed
    step = values.pop('step', None) if isinstance(values, dict) else None
    if type(step) is not int or step < 1:
      continue
    for name, value in values.items():
      is_number = isinstance(value, int | float) and math.isfinite(value)
      if is_number or value is None:
        found.setdefault(name, []).append((step, value))
  return found


def thinned(file: BinaryIO, most: int = _MOST_LINES) -> list[bytes]:
  """Returns the lines of a file, or of more than `most` one in 2, 4, 8 ..."""
  kept: list[bytes] = []
  number, stride = 0, 1
  while line := file.readline(_LINE_BYTES):
    if number % stride == 0:
      kept.append(line)
    number += 1
    if len(kept) > most:
      kept, stride = kept[::2], 2 * stride
  return kept


def _memory(workdir: stores.Path) -> tuple[Mapping[str, Any], ...]:
  """Returns the memory of the devices in `throughput.json`, () without it."""
  try:
    rows = json_text.read(workdir / throughput.FILE)['memory']
  except (OSError, ValueError, TypeError, KeyError):
    return ()
  if not isinstance(rows, list):
    return ()
  names = ('in_use', 'peak', 'limit')
  is_row = lambda row: (
    isinstance(row, dict)
    and all(type(row.get(name)) in (int, type(None)) for name in names)
  )
  return tuple(row for row in rows if is_row(row))


def spread(items: list[Any], most: int) -> list[Any]:
  """Returns at most so many items, evenly, the first and the last included."""
  if len(items) <= most:
    return items
  places = np.linspace(0, len(items) - 1, most).round().astype(int)
  return [items[place] for place in places]


def _grids(folder: stores.Path, notes: list[str]) -> Iterator[Grid]:
  """Yields previews, the newest one first, and the grid of samples."""
  names = stores.names(folder)
  previews = [
    name for name in names if name.startswith('step_') and name.endswith('.png')
  ]
  chosen = spread(previews, _GRIDS)[::-1]
  if 'grid.png' in names:
    chosen.insert(1, 'grid.png')
  for number, name in enumerate(chosen):
    digits = name.removeprefix('step_').removesuffix('.png')
    title = f'step {int(digits):,}' if digits.isdecimal() else f'samples/{name}'
    with _noted(notes):
      pixels = images.read(folder / name)
      yield thumbnail(title, pixels, *(_SMALL if number else _LARGE))


def thumbnail(title: str, pixels: np.ndarray, side: int, most: int) -> Grid:
  """Returns a JPEG of (H, W, 3) uint8 of at most so many px and bytes."""
  whole = Image.fromarray(pixels)
  while True:
    image = whole.copy()
    image.thumbnail((side, 2 * side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=85, optimize=True)
    data = stream.getvalue()
    if len(data) <= most or side <= 64:
      return Grid(title=title, jpeg=data, size=image.size)
    side = int(side * 0.8)


def _tables(folder: stores.Path, notes: list[str]) -> Iterator[Table]:
  """Yields the tables of scores in a folder and in those below it."""
  places = [folder, *(folder / name for name in stores.names(folder))]
  files = (x / SCORES for x in places if '.' not in x.name)
  for file in [x for x in files if x.is_file()][:_TABLES]:
    with _noted(notes):
      value = json_text.read(file)
      scores = value.get('scores') if isinstance(value, dict) else None
      if not isinstance(scores, dict) or not all(
        map(_is_score, scores.items())
      ):
        raise ValueError(f'{file}: no table of scores')
      yield Table(about=str(value.get('about', '')), scores=scores)


def _is_score(item: tuple[str, Any]) -> bool:
  if not isinstance(item[1], dict):
    return False
  numbers = ('value', 'low', 'high', 'ceiling', 'floor', 'n')
  found: Iterable[Any] = (item[1].get(name) for name in numbers)
  known = isinstance(item[1].get('value'), int | float)
  return known and all(isinstance(x, int | float | None) for x in found)
