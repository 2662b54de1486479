"""Do pictures show what their captions say?"""

from collections.abc import Iterable
from collections.abc import Sequence

import numpy as np

from pyramid_jax.data.synthetic import detector
from pyramid_jax.data.synthetic import text
from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import relations


def as_text(captions: Iterable[str | bytes]) -> list[str]:
  """Returns captions as text; examples hold them as bytes."""
  return [x.decode() if isinstance(x, bytes) else str(x) for x in captions]


def caption_scores(
  captions: Iterable[str | bytes],
  found: Sequence[detector.Detections],
  kinds: np.ndarray,
) -> dict[str, bootstrap.Score]:
  """Returns the part of the constraints of captions that hold.

  Args:
    captions: of B images, in the grammar of `data.shapes.text`.
    found: detections of the images.
    kinds: (B,) backgrounds of the images, from `stuff.background_kinds`.

  Returns:
    caption_acc: over all constraints.
    attribute_acc: over 'two red circles': exactly so many are detected.
    relation_acc: over relations.
    stuff_acc: over backgrounds.

  Raises:
    ValueError: a caption breaks the grammar.
  """
  asked = np.zeros((len(found), 3))
  true = np.zeros_like(asked)
  rows = zip(as_text(captions), found, kinds, strict=True)
  for b, (caption, one, kind) in enumerate(rows):
    wanted = text.parse(caption)
    counts = [(one.labels == y).sum() == n for y, n in wanted.counts.items()]
    related = [relations.holds(s, p, o, one) for s, p, o in wanted.relations]
    ground = [] if wanted.background is None else [wanted.background == kind]
    for i, group in enumerate((counts, related, ground)):
      asked[b, i], true[b, i] = len(group), sum(group)
  scores = {'caption_acc': bootstrap.ratio(true.sum(1), asked.sum(1))}
  for i, name in enumerate(('attribute_acc', 'relation_acc', 'stuff_acc')):
    scores[name] = bootstrap.ratio(true[:, i], asked[:, i])
  return scores
