"""Scene graphs of images with labelled boxes: those of the data, or by rule."""

import numpy as np

from pyramid_jax.conditioning import scene_graph
from pyramid_jax.data.objects import object_index


def by_rule(
  centroids: np.ndarray,
  boxes: np.ndarray,
  flipped: bool,
  draw: np.uint64,
  places: int,
) -> np.ndarray:
  """Returns the relations of boxes by sg2im's rule, (places, 3), -1 = none.

  The centroid of a mask is known for the whole object; in a box that the crop
  cuts it stays at the same part of the visible box.

  Args:
    centroids: (N, 2) of masks as parts of the boxes, or (0, 2): in the middle.
    boxes: (N, 4) x0, y0, x1, y1 of the visible objects in the crop.
    flipped: whether the boxes are mirrored.
    draw: decides the pairs.
    places: rows of the result, at least N.
  """
  part = centroids if len(centroids) else np.full((len(boxes), 2), 0.5)
  if flipped:
    part = np.stack([1 - part[:, 0], part[:, 1]], axis=-1)
  centres = boxes[:, :2] + part * (boxes[:, 2:] - boxes[:, :2])
  missing = [(0, places - len(boxes)), (0, 0)]
  return scene_graph.relations_from_boxes(
    np.pad(boxes, missing),
    np.asarray(len(boxes)),
    np.asarray(draw),
    np.pad(centres, missing),
  )


def _triples(index: object_index.Index, image: int) -> np.ndarray:
  start, end = index.triple_starts[image : image + 2]
  return index.triples[start:end]


def text(index: object_index.Index, image: int) -> str:
  """Returns all relations of an image in words, whatever a crop shows.

  So the published models of Visual Genome are trained (davidhalladay/Frido:
  scripts/preprocess_vg_to_sg.py writes the text before any crop).
  """
  rows = slice(index.starts[image], index.starts[image + 1])
  names = [index.names[label].decode() for label in index.labels[rows]]
  predicates = [name.decode() for name in index.predicates]
  return scene_graph.graph_text(names, _triples(index, image), predicates)


def visible(
  index: object_index.Index, image: int, rows: np.ndarray, places: int
) -> np.ndarray:
  """Returns the first relations whose ends are among some objects.

  Args:
    index: the images and their relations.
    image: the position of one.
    rows: (N,) rows of its objects in the index, in the order of an example.
    places: rows of the result.

  Returns:
    (places, 3) int32: subject and object as positions in `rows`, and between
    them the predicate; -1 = none.
  """
  first, end = index.starts[image : image + 2]
  place = np.full(end - first, -1, np.int32)
  place[rows - first] = np.arange(len(rows))
  triples = _triples(index, image)
  found = np.stack(
    [place[triples[:, 0]], triples[:, 1], place[triples[:, 2]]], axis=-1
  )
  found = found[found.min(axis=-1) >= 0][:places]
  padded = np.full((places, 3), -1, np.int32)
  padded[: len(found)] = found
  return padded
