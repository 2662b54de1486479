"""Do the asked relations hold between the detected objects?"""

from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from pyramid_jax.conditioning import scene_graph
from pyramid_jax.data.synthetic import detector
from pyramid_jax.metrics import bootstrap


PREDICATES = scene_graph.PREDICATES


def predicate_matrix(boxes: np.ndarray) -> np.ndarray:
  """Returns the (K, K) int32 predicates of all pairs of (K, 4) boxes.

  sg2im's rule, borders included: what was asked for is clear of them, what is
  detected may have moved by half a pixel. -1 on the diagonal.
  """
  centres = (boxes[:, :2] + boxes[:, 2:]) / 2
  out = scene_graph.predicate_ids(
    boxes[:, None], boxes[None], centres[:, None], centres[None]
  )
  np.fill_diagonal(out, -1)
  return out


def holds(
  subject: int, predicate: int, target: int, found: detector.Detections
) -> bool:
  """Returns whether any detected pair of these labels is so related.

  Args:
    subject: label.
    predicate: place in `PREDICATES`.
    target: label.
    found: detections of the image; a missing object makes it false.
  """
  rows = np.flatnonzero(found.labels == subject)
  columns = np.flatnonzero(found.labels == target)
  if not len(rows) or not len(columns):
    return False
  pairs = predicate_matrix(found.boxes)[np.ix_(rows, columns)]
  return bool((pairs == predicate).any())


def relation_scores(
  examples: Mapping[str, np.ndarray], found: Sequence[detector.Detections]
) -> dict[str, bootstrap.Score]:
  """Returns the part of the asked triples that hold.

  Args:
    examples: `labels` (B, N) and `triples` (B, T, 3), rows of (subject index,
      predicate, object index), padded with -1; '__in_image__' is left out.
    found: detections of B images.

  Returns:
    relation_acc: over all triples; 'relation_acc/left of' and so on: over
    those of one predicate.
  """
  asked = np.zeros((len(found), len(PREDICATES)))
  true = np.zeros_like(asked)
  rows = zip(examples['labels'], examples['triples'], found, strict=True)
  for b, (labels, triples, one) in enumerate(rows):
    for subject, predicate, target in triples[triples[:, 1] > 0]:
      asked[b, predicate] += 1
      true[b, predicate] += holds(
        labels[subject], predicate, labels[target], one
      )
  scores = {'relation_acc': bootstrap.ratio(true.sum(1), asked.sum(1))}
  for i, name in enumerate(PREDICATES[1:], 1):
    scores[f'relation_acc/{name}'] = bootstrap.ratio(true[:, i], asked[:, i])
  return scores
