"""Scores of images in memory, by the states that evaluation uses."""

import numpy as np

from pyramid_jax.data.synthetic import condition_alignment
from pyramid_jax.metrics import states


def rows(task, images, examples, real=None, size=None, seed=0, merged=False):
  """Returns the table of images made for a task, with bounds by real images.

  Args:
    task: see `condition_alignment.TASKS`.
    images: (N, H, W, 3) uint8.
    examples: the conditions.
    real: (N, H, W, 3) uint8 real images of the conditions, None for no bounds.
    size: the number of images of a batch, None for all.
    seed: of the order of shuffled conditions.
    merged: whether each batch has a state of its own, and they are merged.
  """
  measure = condition_alignment.Alignment(
    task=task,
    level=condition_alignment.level_of(examples),
    bounds=real is not None,
  )
  return of_measure(measure, images, examples, real, size, seed, merged)


def of_measure(
  measure, images, examples, real=None, size=None, seed=0, merged=False
):
  """Does what `rows` does, by any measure."""
  count = len(images)
  size = size or count
  start = states.PerImage(measure=measure)
  parts = []
  for first in range(0, count, size):
    places = np.arange(first, min(first + size, count))
    others = None
    if real is not None:
      moved = condition_alignment.other_places(count, seed)[places]
      others = {name: x[moved] for name, x in examples.items()}
    batch = states.Batch(
      places=places,
      images=images[places],
      examples={name: x[places] for name, x in examples.items()},
      real=None if real is None else real[places],
      others=others,
    )
    if merged or not parts:
      parts.append(start.update(batch))
    else:
      parts = [parts[0].update(batch)]
  whole = parts.pop()
  while parts:  # the order does not matter
    whole = whole.merge(parts.pop())
  return whole.finish()


def values(task, images, examples, **options):
  """Returns the value of each score."""
  found = rows(task, images, examples, **options)
  return {row.name: row.score.value for row in found}


def shuffled(examples, seed):
  """Returns the examples in an order that leaves none in its place."""
  count = len(next(iter(examples.values())))
  moved = condition_alignment.other_places(count, seed)
  return {name: np.asarray(x)[moved] for name, x in examples.items()}
