"""Layouts and label sets as sequences of tokens."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np


Array = jax.Array | np.ndarray


def array_module(*arrays) -> types.ModuleType:
  """Returns `jax.numpy` if any argument is a JAX array, else `numpy`."""
  return jnp if any(isinstance(a, jax.Array) for a in arrays) else np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
  """The tokens of layouts and label sets.

  ValueError is raised where the categories do not fit.

  Attributes:
    no_tokens: size of the vocabulary of positions, 1024 or 8192; categories
      share it, and its last token is the padding.
    n_classes: categories without padding.
    shift: added to the tokens of positions only (Visual Genome: 179).
  """

  no_tokens: int
  n_classes: int
  shift: int = 0

  def __post_init__(self):
    if self.n_classes > self.no_tokens:
      raise ValueError(
        f'{self.n_classes} categories do not fit into'
        f' no_tokens={self.no_tokens}.'
      )

  @classmethod
  def of(cls, condition: ConfigDict, n_classes: int) -> 'Vocabulary':
    """Returns the vocabulary of `config.condition`."""
    return cls(
      no_tokens=condition.no_tokens, n_classes=n_classes, shift=condition.shift
    )

  @property
  def padding(self) -> int:
    """The token of what is not there."""
    return self.no_tokens - 1

  def size(self, flags: int = 0) -> int:
    """Returns the number of tokens, with `box_flags` up to `flags`."""
    return max(self.no_tokens + self.shift, self.n_classes * (1 + flags))

  def categories(self, labels: Array, flags: Array | None) -> Array:
    """Returns `label - 1 + n_classes * flags`, (..., N) int32.

    The token of the label 0 is meaningless; `flags` None is 0.
    """
    xp = array_module(labels, flags)
    tokens = xp.asarray(labels).astype(xp.int32) - 1
    if flags is None:
      return tokens
    return tokens + self.n_classes * xp.asarray(flags).astype(xp.int32)

  def positions(self, xy: Array) -> Array:
    """Returns the tokens (...,) int32 of points (..., 2) in [0, 1].

    A token is the cell of a grid of side g = floor(sqrt(no_tokens)):
    `round(y (g-1)) g + round(x (g-1)) + shift`, halves to even.
    """
    xp = array_module(xy)
    g = math.isqrt(self.no_tokens)
    cell = xp.round(xy * (g - 1)).astype(xp.int32)
    return cell[..., 1] * g + cell[..., 0] + self.shift


def label_tokens(
  labels: Array,
  n_max: int,
  vocabulary: Vocabulary,
  flags: Array | None = None,
) -> Array:
  """Returns the token sequence of a multiset of labels, one token each.

  The 'objects' sequence of Frido (conditional_builder/objects_bbox.py,
  ObjectsConditionalBuilder). Arguments and array types are those of
  `layout_tokens`; the result is (..., n_max) int32.
  """
  xp = array_module(labels, flags)
  labels = xp.asarray(labels)
  tokens = vocabulary.categories(labels, flags)[..., None]
  return compact(labels > 0, tokens, n_max, vocabulary.padding)[..., 0]


def compact(keep: Array, tokens: Array, n_max: int, none: int) -> Array:
  """Moves the kept rows of (..., N, K) tokens to the front, in order.

  The result is (..., n_max, K): rows beyond it are cut off, and missing ones
  are padded with the token `none`.
  """
  xp = array_module(keep, tokens)
  order = xp.argsort(~keep, axis=-1, stable=True)
  tokens = xp.where(keep[..., None], tokens, none)
  tokens = xp.take_along_axis(tokens, order[..., None], axis=-2)[..., :n_max, :]
  missing = n_max - tokens.shape[-2]
  widths = [(0, 0)] * (tokens.ndim - 2) + [(0, missing), (0, 0)]
  return xp.pad(tokens, widths, constant_values=none)


def _overlaps(boxes: Array, window: Array) -> Array:
  """Returns whether boxes (..., 4) share an area with a window (..., 4)."""
  xp = array_module(boxes, window)
  corner = xp.maximum(boxes[..., :2], window[..., :2])
  overlap = xp.minimum(boxes[..., 2:], window[..., 2:]) - corner
  return xp.all(overlap > 0, axis=-1)


def _mirror(boxes: Array, flipped: Array) -> Array:
  xp = array_module(boxes, flipped)
  x0, y0, x1, y1 = (boxes[..., i] for i in range(4))
  mirrored = xp.stack([1 - x1, y0, 1 - x0, y1], axis=-1)
  return xp.where(flipped[..., None], mirrored, boxes)


def _clamp(boxes: Array) -> Array:
  """Moves the first corner into the image, keeping the size, then cuts.

  The official rule: not the intersection, for boxes that begin outside.
  """
  xp = array_module(boxes)
  first = xp.clip(boxes[..., :2], 0, 1)
  last = xp.minimum(boxes[..., 2:] + (first - boxes[..., :2]), 1)
  return xp.concatenate([first, last], axis=-1)


def layout_tokens(
  boxes: Array,
  labels: Array,
  flags: Array | None,
  n_max: int,
  vocabulary: Vocabulary,
  crop: Array | None = None,
  flipped: Array | bool = False,
) -> Array:
  """Returns the token sequence of a layout, three tokens a box.

  The 'objects_bbox' sequence of Frido and LDM (taming-transformers:
  conditional_builder/objects_bbox.py): per box the category, the cell of
  (x0, y0) and the cell of (x1, y1). Boxes of label 0 and boxes that share no
  area with the crop (without one: with the image) are dropped and the rest
  moves up. NumPy arrays are computed in the precision of `boxes` (the official
  code's is float64); with a JAX array the result is one, and may be traced.

  Args:
    boxes: (..., N, 4) x0, y0, x1, y1 in [0, 1]; with `crop` those of the full
      image before mirroring, without it those of the example as it is.
    labels: (..., N) int32, 0 = padding.
    flags: (..., N) int32 `box_flags`, masked to the bits of the model's
      training (OpenImages: bit 0; COCO and Visual Genome: none), or None.
    n_max: boxes of the sequence.
    vocabulary: the vocabulary of the tokens.
    crop: (..., 4) x0, y0, x1, y1 of the full image, whose corners are appended
      as two tokens ('encode_crop'), or None.
    flipped: (...) bool, whether boxes and crop are to be mirrored.

  Returns:
    (..., 3 * n_max) int32, two more with `crop`.
  """
  xp = array_module(boxes, labels, flags, crop, flipped)
  boxes, labels = xp.asarray(boxes), xp.asarray(labels)
  mirror = xp.asarray(flipped, dtype=bool)
  window = xp.asarray([0.0, 0.0, 1.0, 1.0], dtype=boxes.dtype)
  window = window if crop is None else xp.asarray(crop)
  keep = (labels > 0) & _overlaps(boxes, window[..., None, :])
  boxes = _mirror(_clamp(boxes), mirror[..., None])
  # Padding may hold anything, NaN too; its cells must not overflow.
  boxes = xp.where(keep[..., None], boxes, 0)
  tokens = [
    vocabulary.categories(labels, flags),
    vocabulary.positions(boxes[..., :2]),
    vocabulary.positions(boxes[..., 2:]),
  ]
  rows = compact(keep, xp.stack(tokens, axis=-1), n_max, vocabulary.padding)
  sequence = rows.reshape(*rows.shape[:-2], 3 * n_max)
  if crop is None:
    return sequence
  corners = _mirror(window, mirror).reshape(*window.shape[:-1], 2, 2)
  return xp.concatenate([sequence, vocabulary.positions(corners)], axis=-1)
