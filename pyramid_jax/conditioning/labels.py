"""A multiset of labels as a sequence of tokens."""

import numpy as np

from pyramid_jax.conditioning import layout


def label_tokens(
  labels: layout.Array,
  n_max: int,
  no_tokens: int,
  n_classes: int,
  flags: layout.Array | None = None,
) -> layout.Array:
  """Returns one token a label, `label - 1 + n_classes * flags`.

  The 'objects' sequence of Frido (conditional_builder/objects_bbox.py,
  ObjectsConditionalBuilder). Labels of 0 are dropped and the rest moves up;
  padding is `no_tokens - 1`. NumPy in, NumPy out; JAX arrays may be traced.

  Args:
    labels: (..., N) int32, 0 = padding.
    n_max: length of the sequence.
    no_tokens: vocabulary size that fixes the padding token.
    n_classes: categories without padding.
    flags: (..., N) int32 as for `layout.layout_tokens`, or None.

  Returns:
    (..., n_max) int32.

  Raises:
    ValueError: the categories do not fit below `no_tokens`.
  """
  if n_classes > no_tokens:
    raise ValueError(
      f'{n_classes} categories do not fit into no_tokens={no_tokens}.'
    )
  xp = layout.array_module(labels, flags)
  labels = xp.asarray(labels)
  tokens = labels.astype(np.int32) - 1
  if flags is not None:
    tokens = tokens + n_classes * xp.asarray(flags).astype(np.int32)
  rows = layout.compact(labels > 0, tokens[..., None], n_max, no_tokens - 1)
  return rows[..., 0]
