"""A multiset of labels as a sequence of tokens."""

from pyramid_jax.conditioning import layout


def label_tokens(
  labels: layout.Array,
  n_max: int,
  vocabulary: layout.Vocabulary,
  flags: layout.Array | None = None,
) -> layout.Array:
  """Returns one token a label.

  The 'objects' sequence of Frido (conditional_builder/objects_bbox.py,
  ObjectsConditionalBuilder). Labels of 0 are dropped and the rest moves up.
  NumPy in, NumPy out; JAX arrays may be traced.

  Args:
    labels: (..., N) int32, 0 = padding.
    n_max: length of the sequence.
    vocabulary: of the tokens.
    flags: (..., N) int32 as for `layout.layout_tokens`, or None.

  Returns:
    (..., n_max) int32.
  """
  xp = layout.array_module(labels, flags)
  labels = xp.asarray(labels)
  tokens = vocabulary.categories(labels, flags)[..., None]
  return layout.compact(labels > 0, tokens, n_max, vocabulary.padding)[..., 0]
