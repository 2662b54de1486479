"""Values that fill the form, and a request that every model takes.

Examples are the first of the run's own validation data, where these are there;
otherwise, and for sketches, they are made.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import math
from typing import Any

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax import pipeline
from pyramid_jax.conditioning import scene_graph
from pyramid_jax.demo import canvas
from pyramid_jax.demo import controls as controls_lib
from pyramid_jax.demo import form
from pyramid_jax.pipeline import rows as rows_lib


Controls = controls_lib.Controls
Values = dict[str, Any]
COUNT = 4
# Conditions that a form shows in words or on the canvas.
_SHOWN = ('layout', 'prompt', 'labels', 'graph', 'label')


def of(pipe: pipeline.Pipeline, controls: Controls) -> list[Values]:
  """Returns the values of examples, by the names of `form.fields`."""
  shown = [name for name in _SHOWN if controls.has(name)]
  if not shown:
    return [_with_sketch({}, 0)] if controls.has('sketch') else []
  try:
    source = rows_lib.of_split(pipe.config, 'val', COUNT, pipe.label_names)
    rows = [source(np.array([i])) for i in range(COUNT)]
    found = [_of_rows(x, shown, pipe.label_names) for x in rows]
  except (errors.UserError, OSError) as error:
    logging.info('examples are made, for the validation data fail: %s', error)
    found = _made(shown, controls)
  if not controls.has('sketch'):
    return found
  return [_with_sketch(values, i) for i, values in enumerate(found)]


def title(values: Mapping[str, Any]) -> str:
  """Returns a few words for an example."""
  objects = canvas.boxes(values.get('canvas'))
  words = ', '.join(str(x['label']) for x in objects)
  for name in ('prompt', 'graph', 'labels', 'label'):
    words = words or values.get(name) or ''
  words = words or 'a sketch'
  return words if len(words) <= 48 else f'{words[:45]}...'


def neutral(controls: Controls, pipe: pipeline.Pipeline) -> form.Asked:
  """Returns the plainest request that a model takes, to compile with."""
  size, labels = controls.size, controls.labels
  name = labels[0] if labels else 'a'
  shape = (size, size)
  small = size // int(pipe.config.data.lr_factor)
  if not controls.edits and 'mask' not in controls.needs:
    shape = (small, small)  # is enlarged
  hole = np.zeros((*shape, 3), np.uint8)
  hole[: size // 2] = 255
  given: Values = {
    'prompt': '',
    'layout': [(name, (0.25, 0.25, 0.75, 0.75))],
    'labels': [name],
    'graph': f'{name}, {scene_graph.PREDICATES[1]}, {name}',
    'label': 1,
    'map': np.zeros((size, size), np.uint8),
    'image': np.full((*shape, 3), 128, np.uint8),
    'mask': hole,
  }
  needs = [*controls.needs, *(['label'] if controls.has('label') else [])]
  inputs = {name: given[name] for name in needs}
  if controls.has('sketch'):
    inputs['sketch'] = form.drawn_sketch(_strokes(0))
  return form.Asked(
    request=pipeline.Request(**inputs, count=1, seed=0),
    sketch=1.0 if controls.sketch else None,
    record={},
  )


def _of_rows(
  rows: Mapping[str, np.ndarray], shown: Sequence[str], names: Sequence[str]
) -> Values:
  """Returns the values of a row of the validation data."""
  row = {name: x[0] for name, x in rows.items()}
  count = int(row.get('n_boxes', 0))
  labels = [names[int(x)] for x in row.get('labels', ())[:count]]
  values: Values = {}
  if 'layout' in shown:
    boxes = np.round(row['boxes'][:count].astype(float), 3).clip(0, 1).tolist()
    pairs = zip(labels, boxes, strict=True)
    objects = [{'label': label, 'box': box} for label, box in pairs]
    values['canvas'] = {canvas.BOXES: objects}
  if 'labels' in shown:
    values['labels'] = ', '.join(labels)
  if 'graph' in shown:
    values['graph'] = _graph(labels, row['triples'])
  if 'label' in shown:
    number = int(row['class'])
    values['label'] = names[number] if len(names) > number else str(number)
  if 'prompt' in shown:
    caption = row['caption']
    text = caption.decode() if isinstance(caption, bytes) else str(caption)
    values['prompt'] = text
  return values


def _graph(labels: Sequence[str], triples: np.ndarray) -> str:
  """Returns the relations of objects as a request has them."""
  seen: dict[str, list[int]] = {}
  relations = [x for x in triples.tolist() if min(x) >= 0 and x[1] > 0]

  def name(index: int) -> str:
    same = seen.setdefault(labels[index], [])
    if index not in same:
      same.append(index)
    rank = same.index(index)
    return labels[index] + (f' {chr(ord("A") + rank)}' if rank else '')

  parts = [
    f'{name(s)}, {scene_graph.PREDICATES[p]}, {name(o)}'
    for s, p, o in relations
    if max(s, o) < len(labels) and p < len(scene_graph.PREDICATES)
  ]
  return '; '.join(parts)


def _made(shown: Sequence[str], controls: Controls) -> list[Values]:
  """Returns examples of the names of a run, where it has some."""
  names = controls.labels
  found: list[Values] = []
  for i in range(min(COUNT, len(names))):
    pair = names[i], names[(i + len(names) // 2) % len(names)]
    values: Values = {}
    if 'layout' in shown:
      places = ((0.08, 0.3, 0.45, 0.75), (0.55, 0.25, 0.92, 0.7))
      items = zip(pair, places, strict=True)
      boxes = [{'label': x, 'box': list(place)} for x, place in items]
      values['canvas'] = {canvas.BOXES: boxes}
    if 'labels' in shown:
      values['labels'] = ', '.join(pair)
    if 'graph' in shown:
      values['graph'] = f'{pair[0]}, {scene_graph.PREDICATES[1]}, {pair[1]}'
    if 'label' in shown:
      values['label'] = names[i]
    if 'prompt' in shown:
      values['prompt'] = names[i]
    found.append(values)
  return found


def _with_sketch(values: Values, index: int) -> Values:
  drawn = [
    {'width': s.width, 'points': [round(x, 4) for p in s.points for x in p]}
    for s in _strokes(index)
  ]
  before = values.get('canvas') or {}
  return {**values, 'canvas': {**before, canvas.SKETCH: drawn}}


def _strokes(index: int) -> list[canvas.Stroke]:
  """Returns the outline of a polygon, of more corners for a larger index."""
  corners = (32, 4, 3, 6)[index % 4]
  turns = [2 * math.pi * (i + 0.5) / corners for i in range(corners + 1)]
  points = [(0.5 + 0.3 * math.sin(t), 0.5 + 0.3 * math.cos(t)) for t in turns]
  return [canvas.Stroke(width=0.015, points=tuple(points))]
