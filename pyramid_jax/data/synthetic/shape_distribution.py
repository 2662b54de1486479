"""Are `shapes` images distributed as they should be, without a network?

`shape_fd` is a Frechet distance of hand-made features, the `tv_*` scores are
total variations to the known distribution of the scenes.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools

import numpy as np

from pyramid_jax.data.pixels import images as images_lib
from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import frechet


Found = Sequence[detector.Detections]
Rows = Mapping[str, np.ndarray]  # The rows of histograms (B, K).

FEATURES = 64
_BINS = 3  # The bins of each channel of the colour histogram.
_ANGLES, _STRENGTHS = 8, (0.02, 0.06, 0.2)
# Brings the groups of features to similar spreads, so that no group rules the
# distance: colours, gradients, counts, sizes, places, fill, texture.
_SCALES = np.repeat(
  [4.0, 4.0, 0.5, 3.0, 2.0, 2.0, 20.0], [27, 24, 6, 2, 2, 1, 2]
)
_FD_RESAMPLES = 100
_FD_BLOCK = 2000  # features whose products there are at a time
_REFERENCE = 2**14  # scenes that stand for the exact distribution
_MAX_COUNT = 12  # objects; more count as this many
_GRID = 4  # cells of a side for positions


def _colour_histogram(pixels: np.ndarray) -> np.ndarray:
  """(N, 27) parts of the pixels in each cell of the colour cube."""
  n = len(pixels)
  bins = np.minimum((pixels * _BINS).astype(np.int64), _BINS - 1)
  index = (bins @ np.array([_BINS**2, _BINS, 1])).reshape(n, -1)
  index += np.arange(n)[:, None] * _BINS**3
  counts = np.bincount(index.ravel(), minlength=n * _BINS**3)
  return counts.reshape(n, -1) / index.shape[1]


def _gradient_histogram(grey: np.ndarray) -> np.ndarray:
  """(N, 24) parts of the pixels by angle and strength of the gradient."""
  n = len(grey)
  dy = np.diff(grey, axis=1)[:, :, :-1]
  dx = np.diff(grey, axis=2)[:, :-1]
  angle = (np.arctan2(dy, dx) / (2 * np.pi)) % 1
  angle = np.minimum((angle * _ANGLES).astype(np.int64), _ANGLES - 1)
  strength = np.searchsorted(_STRENGTHS, np.hypot(dx, dy).ravel())
  # Flat pixels have no angle: bin 0 is dropped.
  cells = 1 + len(_STRENGTHS)
  index = angle.ravel() * cells + strength
  index += np.repeat(np.arange(n), angle[0].size) * _ANGLES * cells
  counts = np.bincount(index, minlength=n * _ANGLES * cells)
  counts = counts.reshape(n, _ANGLES, cells)[..., 1:]
  return counts.reshape(n, -1) / angle[0].size


def _object_features(found: Found) -> np.ndarray:
  """(N, 11): counts by colour, mean width, height, x, y, fill of boxes."""
  out = np.zeros((len(found), 11))
  for row, one in zip(out, found, strict=True):
    row[:6] = np.bincount(one.colours, minlength=6)
    if len(one):
      sides = one.boxes[:, 2:] - one.boxes[:, :2]
      row[6:8] = sides.mean(0)
      row[8:10] = (one.boxes[:, :2] + sides / 2).mean(0)
      pixels = np.array([mask.size for _, mask in one.masks])
      row[10] = (one.areas / pixels).mean()
  return out


def shape_features(images: np.ndarray, found: Found) -> np.ndarray:
  """Returns (N, 64) float64 features of (N, H, W, 3) uint8 images."""
  pixels = images_lib.check_batch(images) / 255
  grey = pixels.mean(-1)
  energy = [np.abs(np.diff(grey, axis=a)).mean((1, 2)) for a in (1, 2)]
  features = np.concatenate(
    [
      _colour_histogram(pixels),
      _gradient_histogram(grey),
      _object_features(found),
      np.stack(energy, 1),
    ],
    axis=1,
  )
  return features * _SCALES


def shape_fd(features: np.ndarray, real: np.ndarray) -> bootstrap.Score:
  """Returns the Frechet distance of features (N, 64) to real ones (M, 64).

  Raises:
    ValueError: as for `frechet.feature_distance`.
  """
  value = frechet.feature_distance(features, real)
  target = frechet.fit(real)
  drawn = [
    frechet.distance(frechet.fit_moments(moments), target)
    for moments in _resampled_moments(features)
  ]
  return bootstrap.centred(value, np.array(drawn), len(features))


def _resampled_moments(features: np.ndarray) -> list[frechet.Moments]:
  """Returns the moments of each resample of features (N, D).

  Sums of features and of their products follow from one product of matrices,
  block by block, and so do not depend on a fit of all features for each.
  """
  drawn = bootstrap.resamples(len(features), _FD_RESAMPLES)
  middle = features.mean(0)
  width = features.shape[1]
  upper = np.triu_indices(width)
  sums = np.zeros((len(drawn), width))
  products = np.zeros((len(drawn), len(upper[0])))
  for start in range(0, len(features), _FD_BLOCK):
    x = features[start : start + _FD_BLOCK] - middle
    times = drawn[:, start : start + _FD_BLOCK].astype(np.float64)
    sums += times @ x
    products += times @ (x[:, upper[0]] * x[:, upper[1]])
  found = []
  for total, product in zip(sums, products, strict=True):
    scatter = np.empty((width, width))
    scatter[upper] = scatter.T[upper] = product
    mean = total / len(features)
    scatter -= len(features) * np.outer(mean, mean)
    found.append(
      frechet.Moments(count=len(features), mean=middle + mean, scatter=scatter)
    )
  return found


def asked_histograms(examples: Rows) -> Rows:
  """Returns the histogram rows (B, K) that the `tv_*` scores compare.

  `examples` have `boxes` (B, N, 4), `labels` (B, N) and `n_boxes` (B,).
  """
  boxes, labels = examples['boxes'], examples['labels']
  centres = (boxes[..., :2] + boxes[..., 2:]) / 2
  things = np.maximum(labels - 1, 0)
  cell = np.clip((centres * _GRID).astype(int), 0, _GRID - 1)
  parts = {
    'tv_colour': (things % len(scenes.COLOURS), len(scenes.COLOURS)),
    'tv_shape': (things // len(scenes.COLOURS), len(scenes.SHAPES)),
    'tv_pos': (cell[..., 1] * _GRID + cell[..., 0], _GRID**2),
  }
  counts = np.minimum(examples['n_boxes'], _MAX_COUNT)
  out = {'tv_count': np.eye(_MAX_COUNT + 1)[counts]}
  for name, (values, size) in parts.items():
    out[name] = (np.eye(size)[values] * (labels > 0)[..., None]).sum(1)
  return out


@functools.cache
def exact_histograms(level: int) -> Rows:
  """Returns sums of the rows of many scenes of a level."""
  spec = scenes.sample(0, np.arange(_REFERENCE), level)
  rows = asked_histograms(vars(spec))
  return {name: x.sum(0, keepdims=True) for name, x in rows.items()}


def found_histograms(found: Found) -> Rows:
  """Returns histogram rows of detections."""
  counts = np.array([len(one) for one in found], np.int64)
  labels = np.zeros((len(found), counts.max(initial=0)), np.int32)
  boxes = np.zeros((*labels.shape, 4))
  for i, one in enumerate(found):
    labels[i, : len(one)], boxes[i, : len(one)] = one.labels, one.boxes
  rows = {'boxes': boxes, 'labels': labels, 'n_boxes': counts}
  return asked_histograms(rows)


def total_variation(rows: Rows, reference: Rows) -> dict[str, bootstrap.Score]:
  """Returns total variations, 0 (equal) to 1, of pooled histograms by name.

  They are tv_count (objects of an image), and over objects tv_colour, tv_shape
  and tv_pos (cell of a 4 x 4 grid).
  """
  scores = {}
  for name, x in rows.items():
    target = reference[name].sum(0)
    target = target / target.sum()

    def distance(mean: np.ndarray, target: np.ndarray = target) -> float:
      # Nothing detected is as far away as can be.
      total = mean.sum()
      if total == 0:
        return 1.0
      return float(np.abs(mean / total - target).sum() / 2)

    scores[name] = bootstrap.statistic(x, distance)
  return scores
