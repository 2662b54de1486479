"""Scores by networks of the user: whether images show what was asked for.

`config.evaluate.detector` and `config.evaluate.classifier` name a function in
Python, `module:function`, which loads what it needs by itself.

A detector maps images (B, H, W, 3) uint8 to B mappings: `boxes` (N, 4), x0, y0,
x1, y1 in pixels, `scores` (N,), and `labels`, N names. Names that the data do
not have are left out. If it has an attribute `names`, only objects with these
names are looked for.

A classifier maps images (B, H, W, 3) uint8 to (B, K) numbers, the larger the
likelier, of the K classes of the data in their order. Of layouts it sees the
objects, see `object_crops`.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import importlib
import inspect
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax.files import digests
from pyramid_jax.metrics import average_precision
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import object_crops
from pyramid_jax.metrics import states


MOST = 300  # objects that a detector may find in an image
DETECTOR = 'config.evaluate.detector'
CLASSIFIER = 'config.evaluate.classifier'
_TOP = 5

Function = Callable[[np.ndarray], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judge:
  """A function of the user."""

  function: Function
  field: str  # that names it
  label: str  # its name and the hash of its file, for messages

  def wrong(self, what: str) -> errors.UserError:
    """Returns the error of a function that returns something else."""
    return errors.UserError(f'{self.field}: {self.label}: {what}.', errors.DATA)


def load(name: str, field: str) -> Judge:
  """Imports a function `module:function`.

  Raises:
    UserError: there is no such module or function.
  """
  module_name, colon, function_name = name.partition(':')
  if not (module_name and colon and function_name):
    raise errors.UserError(f'{field}={name}: must be MODULE:FUNCTION.')
  try:
    module = importlib.import_module(module_name)
  except ImportError as error:
    raise errors.UserError(
      f'{field}={name}: {error}; PYTHONPATH decides where modules are found.',
      errors.MISSING,
    ) from error
  function = getattr(module, function_name, None)
  if not callable(function):
    raise errors.UserError(
      f'{field}={name}: {module_name} has no function {function_name}.',
      errors.MISSING,
    )
  label = name
  path = inspect.getsourcefile(module)
  if path:
    label += f' (sha256 {digests.sha256(path)[:8]})'
  return Judge(function=function, field=field, label=label)


def find(
  config: ConfigDict, label_names: Sequence[str]
) -> dict[str, 'LayoutPrecision | Accuracy']:
  """Returns the measures that the config names, by field.

  Raises:
    UserError: a function that is not there, or a task that it does not judge.
  """
  found: dict[str, LayoutPrecision | Accuracy] = {}
  task = config.condition.task
  for field, tasks in (
    (DETECTOR, ('layout', 'label')),
    (CLASSIFIER, ('class', 'layout')),
  ):
    name = config.evaluate[field.rpartition('.')[2]]
    if not name:
      continue
    if task not in tasks:
      raise errors.UserError(
        f'{field}={name}: judges the tasks {", ".join(tasks)};'
        f' config.condition.task is {task}.'
      )
    judge = load(name, field)
    if field == DETECTOR:
      found['detector'] = LayoutPrecision(
        judge=judge, label_names=tuple(label_names)
      )
    else:
      found['classifier'] = Accuracy(judge=judge)
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayoutPrecision:
  """Average precision by a detector, as a `states.Measure`.

  layout_ap (the mean over thresholds of IoU), layout_ap50 and layout_ap75: the
  objects of layouts are the truth, see `average_precision`. Published as the
  YOLO score (ZejianLi/LAMA: yolo_experiments). The ceiling is that of the real
  images.
  """

  judge: Judge
  label_names: tuple[str, ...]  # of the data; entry 0 is padding

  def of_images(self, batch: states.Batch) -> states.Columns:
    return self._of(batch.images, batch.examples)

  def of_real(self, batch: states.Batch) -> states.Columns:
    assert batch.real is not None
    return self._of(batch.real, batch.conditions)

  def needs_others(self, examples: states.Columns) -> bool:
    del examples
    return False

  def _of(
    self, images: np.ndarray, examples: states.Columns
  ) -> dict[str, np.ndarray]:
    """Returns what of each image the score needs, in columns of one width."""
    found = self.judge.function(images)
    if not isinstance(found, Sequence) or len(found) != len(images):
      raise self.judge.wrong(f'must return {len(images)} results in a list')
    shape = (len(images), MOST)
    columns: dict[str, np.ndarray] = {
      'scores': np.zeros(shape),
      'labels': np.zeros(shape, np.int32),
      'hits': np.zeros((*shape, len(average_precision.THRESHOLDS)), bool),
      'true': self._true(examples),
    }
    size = np.array([images.shape[2], images.shape[1]] * 2)
    for row, result in enumerate(found):
      objects = self._checked(result)
      used, are_hits = average_precision.hits(
        objects, examples['boxes'][row] * size, columns['true'][row]
      )
      columns['scores'][row, : len(used)] = objects['scores'][used]
      columns['labels'][row, : len(used)] = objects['labels'][used]
      columns['hits'][row, : len(used)] = are_hits
    return columns

  def _true(self, examples: states.Columns) -> np.ndarray:
    """Returns (B, N) labels of the objects to be found, 0 for none."""
    labels = examples['labels']
    there = np.arange(labels.shape[1]) < examples['n_boxes'][:, None]
    names = getattr(self.judge.function, 'names', self.label_names)
    known = [i for i, x in enumerate(self.label_names) if i and x in names]
    return np.where(there & np.isin(labels, known), labels, 0).astype(np.int32)

  def _checked(self, result: Any) -> dict[str, np.ndarray]:
    """Returns the objects of one image whose names the data have."""
    try:
      names = [str(name) for name in result['labels']]
      boxes = np.asarray(result['boxes'], np.float64).reshape(-1, 4)
      scores = np.asarray(result['scores'], np.float64).reshape(-1)
    except (TypeError, KeyError, IndexError, ValueError) as error:
      raise self.judge.wrong(
        'must return boxes, scores and labels of every image'
      ) from error
    if not len(names) == len(boxes) == len(scores):
      raise self.judge.wrong(
        f'{len(boxes)} boxes, {len(scores)} scores and {len(names)} labels of'
        ' an image must be equally many'
      )
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
      raise self.judge.wrong('boxes and scores must be finite')
    numbers = {x: i for i, x in enumerate(self.label_names) if i}
    labels = np.array([numbers.get(name, 0) for name in names], int)
    known = labels > 0
    if known.sum() > MOST:
      raise self.judge.wrong(
        f'at most {MOST} objects of an image are taken, got {known.sum()}'
      )
    return {
      'boxes': boxes[known],
      'scores': scores[known],
      'labels': labels[known],
    }

  def rows(
    self, images: states.Columns, real: states.Columns
  ) -> list[bootstrap.Row]:
    return states.rows(_precisions(images), _precisions(real), {})


def _precisions(columns: states.Columns) -> dict[str, bootstrap.Score]:
  """Returns the scores by name, none without images."""
  if not columns:
    return {}
  there = columns['labels'] > 0
  values = average_precision.by_threshold(
    columns['scores'][there],
    columns['labels'][there],
    columns['hits'][there],
    columns['true'][columns['true'] > 0],
  )
  count = len(there)
  named = {'': values.mean(), '50': values[0], '75': values[5]}
  return {
    f'layout_ap{name}': bootstrap.without_interval(value, count)
    for name, value in named.items()
  }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
  """How often a classifier finds the class, as a `states.Measure`.

  classifier_acc and classifier_acc_5 (among the five likeliest) of images, and
  of the objects of layouts. The ceiling is that of the real images.
  """

  judge: Judge

  def of_images(self, batch: states.Batch) -> states.Columns:
    return self._of(batch.images, batch.examples)

  def of_real(self, batch: states.Batch) -> states.Columns:
    assert batch.real is not None
    return self._of(batch.real, batch.conditions)

  def needs_others(self, examples: states.Columns) -> bool:
    del examples
    return False

  def _of(
    self, images: np.ndarray, examples: states.Columns
  ) -> dict[str, np.ndarray]:
    count, rows = len(images), np.arange(len(images))
    if 'class' in examples:
      labels = np.asarray(examples['class'])
    else:
      images, boxes = object_crops.of_images(images, examples)
      labels = examples['labels'].ravel()[boxes]
      rows = boxes // examples['labels'].shape[1]
    columns = {}
    likeliest = self._likeliest(images, int(labels.max(initial=0)))
    for name, most in (('classifier_acc', 1), (f'classifier_acc_{_TOP}', _TOP)):
      right = (likeliest[:, :most] == labels[:, None] - 1).any(1)
      sums = np.bincount(rows, right, minlength=count)
      every = np.bincount(rows, minlength=count)
      columns[name] = bootstrap.pairs(sums, every)
    return columns

  def _likeliest(self, images: np.ndarray, least: int) -> np.ndarray:
    """Returns (B, 5) numbers of classes, the likeliest first."""
    if not len(images):
      return np.zeros((0, _TOP), int)
    values = np.asarray(self.judge.function(images))
    if values.ndim != 2 or len(values) != len(images):
      raise self.judge.wrong(
        f'must return ({len(images)}, classes) numbers, got {values.shape}'
      )
    if values.shape[1] < least:
      raise self.judge.wrong(
        f'knows {values.shape[1]} classes, the data have at least {least}'
      )
    if not np.isfinite(values).all():
      raise self.judge.wrong('the numbers of classes must be finite')
    return np.argsort(-values, axis=1, kind='stable')[:, :_TOP]

  def rows(
    self, images: states.Columns, real: states.Columns
  ) -> list[bootstrap.Row]:
    return states.rows(bootstrap.ratios(images), bootstrap.ratios(real), {})
