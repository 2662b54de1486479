"""What a source of examples is to the rest of the library."""

from collections.abc import Mapping
from collections.abc import Sequence
import itertools
from typing import Protocol

import jax
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.data import identity as identity_lib
from pyramid_jax.data.pixels import buckets as buckets_lib


# What `config.data.maps` may ask for beside the images.
MAPS = ('edges', 'mask', 'inpaint_mask')
LABELLED = ('class', 'label', 'layout', 'scene_graph')  # tasks with labels
# Tasks that cannot do without one.
_TASK_MAPS = {'map': 'mask', 'inpaint': 'inpaint_mask'}


class Reader(Protocol):
  """A random-access source of examples, one per split.

  Attributes:
    label_names: the names of the labels; entry 0 is padding.
    id_counts: by array of a batch with ids, how many there may be: the largest
      is one less.
    report: counts of what was skipped, by reason; filled while reading.
    buckets: the shapes of images by example; None if all have one shape.
  """

  label_names: tuple[str, ...]
  id_counts: Mapping[str, int]
  report: dict[str, int]
  buckets: buckets_lib.Buckets | None

  def __len__(self) -> int:
    """Returns the number of examples."""

  def batch(
    self, indices: np.ndarray, draws: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns stacked host arrays, a function of the arguments alone.

    Args:
      indices: (B,) int64 in [0, len).
      draws: (B,) uint64, the seed of each example's crop, flip and shuffle.
    """

  def identity(self) -> identity_lib.Identity:
    """Returns what the examples are made of, as `data.identity` has it.

    Raises:
      OSError: a file cannot be read.
    """

  def finish(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Turns host arrays into those of the networks; pure, runs inside jit.

    `image` becomes (B, H, W, 3) float32 in [-1, 1].
    """


def wanted_maps(config: ConfigDict) -> frozenset[str]:
  """Returns those of `MAPS` that the task or `config.data.maps` asks for.

  Raises:
    ValueError: an unknown map.
  """
  maps, task = config.data.maps, config.condition.task
  if not set(maps) <= set(MAPS):
    raise ValueError(
      f'config.data.maps is {tuple(maps)}, must be of {", ".join(MAPS)}.'
    )
  return frozenset((*maps, *([_TASK_MAPS[task]] if task in _TASK_MAPS else ())))


def check_task(config: ConfigDict, tasks: Sequence[str]) -> None:
  """Raises a ValueError if a reader does not serve the configured task."""
  if config.condition.task not in tasks:
    raise ValueError(
      f'config.condition.task is {config.condition.task!r}, must be one of '
      f'{", ".join(tasks)} for config.data.name = {config.data.name}.'
    )


def check_labels(
  config: ConfigDict, of_run: Sequence[str], of_data: Sequence[str]
) -> None:
  """Raises a UserError if data number their labels otherwise than a run does.

  Args:
    config: the config of the run.
    of_run: the label names of the run; without any nothing is checked.
    of_data: the label names of the data.
  """
  task = config.condition.task
  if task not in LABELLED or min(len(of_run), len(of_data)) < 2:
    return
  pairs = itertools.zip_longest(of_run, of_data, fillvalue='')
  differ = [(i, *pair) for i, pair in enumerate(pairs) if len({*pair}) > 1]
  if not differ:
    return
  label, ours, theirs = differ[0]
  raise errors.UserError(
    f'label {label} is {ours!r} for the model and {theirs!r} in the data of'
    f' {config.data.root} ({len(differ)} labels differ): needed are the same'
    ' categories or folders, or another config.data.category_file.',
    errors.DATA,
  )


def has_low_resolution(config: ConfigDict) -> bool:
  """Whether a condition is a low-resolution image, `lr_image`.

  Raises:
    ValueError: it is, and the size is not divisible by the factor.
  """
  size, factor = config.data.image_size, config.data.lr_factor
  if 'superres' not in (config.condition.task, config.condition.also):
    return False
  if size % factor:
    raise ValueError(
      f'config.data.image_size is {size}, must be divisible by '
      f'config.data.lr_factor = {factor}.'
    )
  return True
