"""How well `shapes` images agree with their conditions, by task."""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from pyramid_jax.conditioning import hashing
from pyramid_jax.data import images as images_lib
from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import map_scores
from pyramid_jax.data.synthetic import object_scores
from pyramid_jax.data.synthetic import render
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.data.synthetic import shape_distribution
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import edges
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import restoration


Scores = dict[str, bootstrap.Score]
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


def _check(
  task: str,
  images: np.ndarray,
  examples: Examples,
  label_names: Sequence[str] | None,
) -> None:
  images_lib.check_batch(images)
  if task not in TASKS:
    raise ValueError(f'task must be one of {TASKS}, got {task!r}.')
  if label_names is not None and tuple(label_names) != scenes.LABEL_NAMES:
    raise ValueError(
      'alignment is measured on shapes only, '
      f'got the labels {tuple(label_names)[:4]}...'
    )
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


def _level(examples: Examples) -> int | None:
  """Returns the level of the scenes, None if it is not known."""
  levels = np.unique(examples.get('level', []))
  return int(levels[0]) if len(levels) == 1 else None


def _detect(
  images: np.ndarray, examples: Examples
) -> list[detector.Detections]:
  return detector.detect(images, _level(examples) == _TURNED_LEVEL)


def _task_scores(
  task: str, images: np.ndarray, examples: Examples, found: Found
) -> Scores:
  """Returns the scores that compare images with their conditions."""
  if task == 'layout':
    matches = object_scores.match_all(examples, found)
    pure = object_scores.purity(images, matches, found)
    return {**object_scores.layout_scores(matches), 'detected_purity': pure}
  if task == 'label':
    return object_scores.label_scores(examples, found)
  if task == 'scene_graph':
    labels = object_scores.label_scores(examples, found)
    related = object_scores.relation_scores(examples, found)
    return {**related, 'category_acc': labels['category_acc']}
  if task == 'text':
    kinds = map_scores.background_kinds(images)
    return object_scores.caption_scores(examples['caption'], found, kinds)
  if task == 'class':
    largest = np.array([d.labels[0] if len(d) else 0 for d in found])
    return {'class_acc': bootstrap.mean(largest == examples['class'])}
  if task == 'map':
    kinds = map_scores.background_kinds(images)
    seen = map_scores.class_maps(images.shape[1:3], found, kinds)
    return map_scores.map_scores(seen, examples['mask'])
  if task in restoration.TASKS:
    return restoration.scores(task, images, examples, _BOX_FILTER)
  return {}


def _edge_scores(images: np.ndarray, examples: Examples) -> Scores:
  """Returns how well images follow the edges of their conditions."""
  wanted = edges.asked(examples)
  if wanted is None:
    return {}
  return edges.scores(map_scores.edges(images), wanted)


def _distribution_scores(task: str, examples: Examples, found: Found) -> Scores:
  """Returns the `tv_*` scores, which look at all images together."""
  if task not in ('none', 'class'):
    return {}
  level = _level(examples)
  return shape_distribution.total_variation(
    shape_distribution.found_histograms(found),
    shape_distribution.asked_histograms(examples)
    if level is None
    else shape_distribution.exact_histograms(level),
  )


def scores(
  task: str,
  images: np.ndarray,
  examples: Examples,
  label_names: Sequence[str] | None = None,
  real_images: np.ndarray | None = None,
) -> Scores:
  """Returns the scores of images made for a task.

  They are those of `object_scores` (layout, with detected_purity; label;
  scene_graph, with category_acc; text), class_acc (class), `map_scores` (map),
  `restoration` (superres, inpaint) and `shape_distribution.total_variation`
  (none, class); and of `edges` where examples are conditioned on edges.

  Args:
    task: a key of `TASKS`.
    images: (B, H, W, 3) uint8.
    examples: stacked conditions of the images, with the keys of the reader
      of `shapes`; with `level`, turned shapes are expected where there are
      some, and distributions are compared with the exact one.
    label_names: the label names of the reader, to refuse other data sets.
    real_images: (M, H, W, 3) uint8 images of the data, adds `shape_fd`.

  Raises:
    ValueError: unknown task, other labels, missing keys or wrong shapes.
  """
  _check(task, images, examples, label_names)
  found = _detect(images, examples)
  out = {
    **_task_scores(task, images, examples, found),
    **_edge_scores(images, examples),
    **_distribution_scores(task, examples, found),
  }
  if real_images is not None:
    real = _detect(real_images, examples)
    out['shape_fd'] = shape_distribution.shape_fd(
      shape_distribution.shape_features(images, found),
      shape_distribution.shape_features(real_images, real),
    )
  return out


def reconstruction_scores(
  images: np.ndarray, real_images: np.ndarray, examples: Examples
) -> Scores:
  """Returns the scores of a first stage.

  psnr (dB, at most 100, also where nothing differs), ssim, layout_recall and
  category_acc of (B, H, W, 3) uint8 reconstructions and originals, and the
  `boxes`, `labels` and `n_boxes` of these.
  """
  _check('layout', images, examples, None)
  matches = object_scores.match_all(examples, _detect(images, examples))
  found = object_scores.layout_scores(matches)
  psnr = image_quality.psnr(images, real_images)
  return {
    'psnr': bootstrap.mean(image_quality.capped(psnr)),
    'ssim': bootstrap.mean(image_quality.ssim(images, real_images)),
    'layout_recall': found['layout_recall'],
    'category_acc': found['category_acc'],
  }


def shuffled(examples: Examples, seed: int) -> dict[str, np.ndarray]:
  """Returns the examples in an order that leaves none in its place.

  Raises:
    ValueError: fewer than two examples.
  """
  count = len(next(iter(examples.values())))
  if count < 2:
    raise ValueError(f'shuffling needs at least 2 examples, got {count}.')
  order = hashing.order(count, seed, _STREAM)
  moved = np.empty_like(order)
  moved[order] = np.roll(order, 1)
  return {key: np.asarray(value)[moved] for key, value in examples.items()}


def with_bounds(
  task: str,
  images: np.ndarray,
  examples: Examples,
  real_images: np.ndarray,
  seed: int = 0,
) -> list[bootstrap.Row]:
  """Returns a table: every score beside what is best and what is chance.

  The ceiling is the score of real images of the conditions, the floor that
  of real images whose conditions were shuffled; of super-resolution that of
  bicubic enlargement, of inpainting that of holes in the mean colour of the
  rest. The ceiling of `shape_fd` is the distance between two halves of the
  real images (of half as many, so a little too large); it has no floor, nor
  do the `tv_*` scores.

  Raises:
    ValueError: as for `scores`, or the images are not equally many.
  """
  if len(real_images) != len(images):
    raise ValueError(
      f'{len(images)} images and {len(real_images)} real images must be '
      'equally many.'
    )
  values = scores(task, images, examples, real_images=real_images)
  found = _detect(real_images, examples)
  ceiling = {
    **_task_scores(task, real_images, examples, found),
    **_edge_scores(real_images, examples),
    **_distribution_scores(task, examples, found),
  }
  if len(images) >= 4:
    features = shape_distribution.shape_features(real_images, found)
    ceiling['shape_fd'] = shape_distribution.shape_fd(
      features[::2], features[1::2]
    )
  others = shuffled(examples, seed)
  if task in restoration.TASKS:
    plain = restoration.baseline(task, examples, real_images.shape[1:3])
    floor = restoration.scores(task, plain, examples, _BOX_FILTER)
  else:
    floor = _task_scores(task, real_images, others, found)
  floor |= _edge_scores(real_images, others)
  return [
    bootstrap.Row(name, score, ceiling.get(name), floor.get(name))
    for name, score in values.items()
  ]
