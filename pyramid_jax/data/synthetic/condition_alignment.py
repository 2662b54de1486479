"""How well `shapes` images agree with their conditions, by task."""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses

import numpy as np

from pyramid_jax.conditioning import hashing
from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import map_scores
from pyramid_jax.data.synthetic import object_scores
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import shape_distribution
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import edges
from pyramid_jax.metrics import restoration
from pyramid_jax.metrics import states


Examples = Mapping[str, np.ndarray]
Found = Sequence[detector.Detections]
# What each task reads of the examples.
_NEEDS = {
  'none': ('boxes', 'labels', 'n_boxes'),
  'text': ('caption',),
  'layout': ('boxes', 'labels', 'n_boxes'),
  'label': ('labels',),
  'scene_graph': ('labels', 'triples'),
  'class': ('boxes', 'labels', 'n_boxes', 'class'),
  'map': ('mask',),
  'superres': ('lr_image',),
  'inpaint': ('inpaint_mask', 'image'),
}
TASKS = tuple(_NEEDS)
# The low-resolution images of `shapes` are means of blocks.
_BOX_FILTER = restoration.Degradation(
  score='lr_consistency',
  apply=lambda images, size: render.shrink(
    images, images.shape[1] // size[0]
  ).astype(np.uint8),
)
_TURNED_LEVEL = 3
_STREAM = 32  # word of the hash that shuffles conditions
_FD = 'shape_fd'  # the score, and the column of its features
_ASKED = 'asked|'  # prefix of the histograms of the conditions


def check(task: str, images: np.ndarray, examples: Examples) -> None:
  """Raises a ValueError for an unknown task, or conditions that do not fit."""
  images_lib.check_batch(images)
  if task not in TASKS:
    raise ValueError(f'task must be one of {TASKS}, got {task!r}.')
  missing = [key for key in _NEEDS[task] if key not in examples]
  if missing:
    raise ValueError(
      f'task {task!r} needs examples with {missing}, got {sorted(examples)}.'
    )
  count = len(examples[_NEEDS[task][0]])
  if count != len(images):
    raise ValueError(
      f'{len(images)} images and {count} examples must be equally many.'
    )


def level_of(examples: Examples) -> int | None:
  """Returns the level of scenes, None if it is not known or not the same."""
  levels = np.unique(examples.get('level', []))
  return int(levels[0]) if len(levels) == 1 else None


def detect(images: np.ndarray, level: int | None) -> list[detector.Detections]:
  """Finds the objects of scenes of a level, see `Alignment.level`."""
  return detector.detect(images, level == _TURNED_LEVEL)


def reconstruction_pairs(
  images: np.ndarray, examples: Examples, level: int | None
) -> dict[str, np.ndarray]:
  """Returns the pairs of layout_recall and category_acc of reconstructions.

  They are by the `boxes`, `labels` and `n_boxes` of the original scenes.
  """
  check('layout', images, examples)
  matches = object_scores.match_all(examples, detect(images, level))
  pairs = object_scores.layout_pairs(matches)
  return {name: pairs[name] for name in ('layout_recall', 'category_acc')}


def other_places(count: int, seed: int) -> np.ndarray:
  """Returns a place (count,) for each example, none of them its own.

  Raises:
    ValueError: fewer than two examples.
  """
  if count < 2:
    raise ValueError(f'shuffling needs at least 2 examples, got {count}.')
  order = hashing.order(count, seed, _STREAM)
  moved = np.empty_like(order)
  moved[order] = np.roll(order, 1)
  return moved


def _task_columns(
  task: str, images: np.ndarray, examples: Examples, found: Found
) -> states.Columns:
  """Returns the columns of the scores of images against their conditions."""
  if task == 'layout':
    matches = object_scores.match_all(examples, found)
    pure = object_scores.purity_pairs(images, matches, found)
    return {**object_scores.layout_pairs(matches), 'detected_purity': pure}
  if task == 'label':
    return object_scores.label_pairs(examples, found)
  if task == 'scene_graph':
    labels = object_scores.label_pairs(examples, found)
    related = object_scores.relation_pairs(examples, found)
    return {**related, 'category_acc': labels['category_acc']}
  if task == 'text':
    kinds = map_scores.background_kinds(images)
    return object_scores.caption_pairs(examples['caption'], found, kinds)
  if task == 'class':
    largest = np.array([d.labels[0] if len(d) else 0 for d in found])
    return {'class_acc': bootstrap.mean_pairs(largest == examples['class'])}
  if task == 'map':
    kinds = map_scores.background_kinds(images)
    seen = map_scores.class_maps(images.shape[1:3], found, kinds)
    return map_scores.map_columns(seen, examples['mask'])
  if task in restoration.TASKS:
    return restoration.pairs(task, images, examples, _BOX_FILTER)
  return {}


def _edge_columns(images: np.ndarray, examples: Examples) -> states.Columns:
  """Returns how well images follow the edges of their conditions."""
  wanted = edges.asked(examples)
  if wanted is None:
    return {}
  return edges.pairs(map_scores.edges(images), wanted)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alignment:
  """The scores of images made for a task, as a `states.Measure`.

  They are those of `object_scores` (layout, with detected_purity; label;
  scene_graph, with category_acc; text), class_acc (class), `map_scores` (map),
  `restoration` (superres, inpaint) and `shape_distribution.total_variation`
  (none, class); and of `edges` where examples are conditioned on edges.
  Examples have the keys of the reader of `shapes`; others are a ValueError.

  With bounds and two real images or more there is also `shape_fd`, and every
  score stands beside what is best and what is chance. The ceiling is the score
  of real images of the conditions, the floor that of real images with the
  conditions of others; of super-resolution that of bicubic enlargement, of
  inpainting that of holes in the mean colour of the rest. The ceiling of
  `shape_fd` is the distance between two halves of the real images (of half as
  many, so a little too large); it has no floor, nor do the `tv_*` scores.
  """

  task: str  # A key of `TASKS`.
  # Of all scenes, None where it is not known or not the same: by the level,
  # turned shapes are expected where there are some, and distributions are
  # compared with the exact one.
  level: int | None
  bounds: bool = True  # whether there are ceilings and floors

  def of_images(self, batch: states.Batch) -> states.Columns:
    images, examples = batch.images, batch.examples
    check(self.task, images, examples)
    found = detect(images, self.level)
    columns = self._columns(images, examples, found)
    if self._has_distribution and self.level is None:
      asked = shape_distribution.asked_histograms(examples)
      columns |= states.named(_ASKED, asked)
    if self.bounds:
      columns[_FD] = shape_distribution.shape_features(images, found)
    return columns

  def of_real(self, batch: states.Batch) -> states.Columns:
    images, examples = batch.real, batch.conditions
    if not self.bounds or images is None:
      return {}
    check(self.task, images, examples)
    found = detect(images, self.level)
    columns = states.named(
      states.CEILING, self._columns(images, examples, found)
    )
    columns[_FD] = shape_distribution.shape_features(images, found)
    floor: dict[str, np.ndarray] = {}
    if self.task in restoration.TASKS:
      plain = restoration.baseline(self.task, examples, images.shape[1:3])
      floor |= restoration.pairs(self.task, plain, examples, _BOX_FILTER)
    elif batch.others is not None:
      floor |= _task_columns(self.task, images, batch.others, found)
    if batch.others is not None:
      floor |= _edge_columns(images, batch.others)
    return columns | states.named(states.FLOOR, floor)

  def needs_others(self, examples: states.Columns) -> bool:
    is_scored = self.task not in ('none', *restoration.TASKS)
    has_edges = edges.asked(examples) is not None
    return self.bounds and (is_scored or has_edges)

  @property
  def _has_distribution(self) -> bool:
    return self.task in ('none', 'class')

  def _columns(
    self, images: np.ndarray, examples: Examples, found: Found
  ) -> dict[str, np.ndarray]:
    columns = {
      **_task_columns(self.task, images, examples, found),
      **_edge_columns(images, examples),
    }
    if self._has_distribution:  # of all images together
      columns |= shape_distribution.found_histograms(found)
    return columns

  def rows(
    self, images: states.Columns, real: states.Columns
  ) -> list[bootstrap.Row]:
    scores = self._scores(images, images)
    if len(real.get(_FD, ())) < 2:
      return states.rows(scores, {}, {})
    features = real[_FD]
    scores[_FD] = shape_distribution.shape_fd(images[_FD], features)
    ceilings = self._scores(states.part(states.CEILING, real), images)
    if len(features) >= 4:
      ceilings[_FD] = shape_distribution.shape_fd(features[::2], features[1::2])
    floors = self._scores(states.part(states.FLOOR, real), images)
    return states.rows(scores, ceilings, floors)

  def _scores(
    self, columns: states.Columns, images: states.Columns
  ) -> dict[str, bootstrap.Score]:
    """Returns the scores of single images by columns of images or real ones.

    Distributions are compared with the exact one, or else with the conditions
    of `images`.
    """
    target: states.Columns = states.part(_ASKED, images)
    if self._has_distribution and self.level is not None:
      target = shape_distribution.exact_histograms(self.level)
    out: dict[str, bootstrap.Score] = {}
    for name, x in columns.items():
      if name in target:
        out |= shape_distribution.total_variation({name: x}, target)
      elif name == map_scores.MIOU:
        out[name] = map_scores.mean_iou(x)
      elif name != _FD and not name.startswith(_ASKED):
        out[name] = bootstrap.ratio(*x.T)
    return out
