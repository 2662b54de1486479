"""Do `shapes` pictures show the semantic map they were made from?"""

from collections.abc import Sequence

import numpy as np

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap


# 0 unlabelled, then the things, then the backgrounds.
CLASSES = 1 + scenes.THINGS + len(scenes.BACKGROUNDS)


def class_maps(
  size: tuple[int, int],
  found: Sequence[detector.Detections],
  kinds: np.ndarray,
) -> np.ndarray:
  """Returns (B, H, W) uint8 maps of what is seen in B pictures.

  Args:
    size: height and width of the pictures.
    found: their detections.
    kinds: (B,) their backgrounds, from `stuff.background_kinds`.
  """
  maps = np.empty((len(found), *size), np.uint8)
  for b, (one, kind) in enumerate(zip(found, kinds, strict=True)):
    maps[b] = 1 + scenes.THINGS + kind
    for label, (place, mask) in zip(one.labels, one.masks, strict=True):
      maps[b][place][mask] = label
  return maps


def _mean_iou(row: np.ndarray) -> float:
  overlap, union = np.split(row, 2)
  there = union > 0
  return float((overlap[there] / union[there]).mean()) if there.any() else 1.0


def scores(seen: np.ndarray, asked: np.ndarray) -> dict[str, bootstrap.Score]:
  """Returns the scores of semantic maps; unlabelled pixels do not count.

  Args:
    seen: (B, H, W) integers, from `class_maps`.
    asked: (B, H, W) integers, 0 = unlabelled.

  Returns:
    seg_miou: intersection over union of each class over all pictures, the
      mean of the classes that are asked for or seen.
    pixel_acc: part of the pixels that are as asked, over all pictures.

  Raises:
    ValueError: shapes that differ, or a class that does not exist.
  """
  if seen.shape != asked.shape:
    raise ValueError(f'maps {seen.shape} and {asked.shape} must agree.')
  if asked.size and asked.max() >= CLASSES:
    raise ValueError(f'classes are 0..{CLASSES - 1}, got {asked.max()}.')
  counted = asked > 0
  count = lambda x: np.bincount(x, minlength=CLASSES)
  rows = []
  for s, a, where in zip(seen, asked, counted, strict=True):
    s, a = s[where], a[where]
    overlap = count(s[s == a])
    rows.append(np.concatenate([overlap, count(s) + count(a) - overlap]))
  right = ((seen == asked) & counted).sum((1, 2))
  return {
    'seg_miou': bootstrap.statistic(np.array(rows), _mean_iou),
    'pixel_acc': bootstrap.ratio(right, counted.sum((1, 2))),
  }
