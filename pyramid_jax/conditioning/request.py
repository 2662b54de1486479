"""Conditions that a person asks for: from words and files to arrays."""

from collections.abc import Mapping
from collections.abc import Sequence
import json
from typing import Any

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax.conditioning import labels as labels_lib
from pyramid_jax.conditioning import layout
from pyramid_jax.conditioning import scene_graph
from pyramid_jax.conditioning import tokenizers


def from_text(
  texts: Sequence[str], tokenizer: tokenizers.Tokenizer
) -> dict[str, np.ndarray]:
  """Returns the rows of captions, or of graphs in words.

  Args:
    texts: B captions.
    tokenizer: of the condition encoder.

  Returns:
    `condition_ids` (B, L) int32 and `caption` (B,) bytes.

  Raises:
    ValueError: a text is longer than what the encoder takes.
  """
  # '.' is absent from every training caption.
  plain = [text.replace('.', '') for text in texts]
  longest = max(plain, key=tokenizer.length)
  if tokenizer.length(longest) > tokenizer.max_length:
    raise ValueError(
      f'the text {longest[:40]!r}... has {tokenizer.length(longest)} tokens, '
      f'start and end included; the model takes {tokenizer.max_length}'
    )
  ids = [tokenizer.encode(text) for text in plain]
  return {
    'condition_ids': np.stack(ids),
    'caption': np.array([text.encode() for text in texts]),
  }


def parse_layout(
  text: str, label_names: Sequence[str]
) -> list[list[tuple[int, list[float]]]]:
  """Reads layouts from JSON.

  Args:
    text: a list of layouts, or one layout; a layout is a list of
      {"label": name, "box": [x0, y0, x1, y1]} with coordinates in [0, 1].
    label_names: entry 0 is padding.

  Returns:
    Per layout the (label id, box) pairs.

  Raises:
    ValueError: the first entry that is not of this form.
  """
  try:
    layouts = json.loads(text)
  except json.JSONDecodeError as error:
    raise ValueError(f'the layout is not JSON: {error}') from None
  if isinstance(layouts, list) and layouts and isinstance(layouts[0], dict):
    layouts = [layouts]
  if not isinstance(layouts, list) or not layouts:
    raise ValueError(
      'a layout is a list of {"label": name, "box": [x0, y0, x1, y1]}, got '
      f'{text[:80]!r}'
    )
  return [
    [_parse_object(item, label_names) for item in objects]
    for objects in layouts
  ]


def _parse_object(
  item: Any, label_names: Sequence[str]
) -> tuple[int, list[float]]:
  box: Any = item.get('box') if isinstance(item, Mapping) else None
  numbers = isinstance(box, list) and all(
    isinstance(v, int | float) and not isinstance(v, bool) for v in box
  )
  if not numbers or len(box) != 4:
    raise ValueError(
      'an object is {"label": name, "box": [x0, y0, x1, y1]}, got'
      f' {json.dumps(item)[:120]}'
    )
  x0, y0, x1, y1 = box
  if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
    raise ValueError(
      f'box {box} must have 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1'
    )
  return label_id(str(item.get('label')), label_names), [x0, y0, x1, y1]


def label_id(name: str, label_names: Sequence[str]) -> int:
  """Returns the id of a label.

  Raises:
    ValueError: it is not in `label_names`.
  """
  names = list(label_names)
  if name not in names[1:]:
    more = ', ...' if len(names) > 13 else ''
    raise ValueError(
      f'label {name!r} is not known, labels are {", ".join(names[1:13])}{more}'
    )
  return names.index(name, 1)


def from_layouts(
  layouts: Sequence[Sequence[tuple[int, Sequence[float]]]],
  config: ConfigDict,
  label_names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Returns the rows of layouts, see `parse_layout`.

  Returns:
    `boxes`, `labels`, `n_boxes` and `condition_ids` of B layouts.

  Raises:
    ValueError: more objects than the model was trained with.
  """
  places = config.data.max_objects
  boxes = np.zeros((len(layouts), places, 4), np.float32)
  labels = np.zeros((len(layouts), places), np.int32)
  for i, objects in enumerate(layouts):
    _check_count(len(objects), places)
    for j, (label, box) in enumerate(objects):
      boxes[i, j], labels[i, j] = box, label
  c = config.condition
  ids = layout.layout_tokens(
    boxes.astype(np.float64),
    labels,
    None,
    c.max_objects,
    layout.Vocabulary.of(c, len(label_names) - 1),
    np.tile([0.0, 0.0, 1.0, 1.0], (len(boxes), 1)) if c.encode_crop else None,
  )
  return {
    'boxes': boxes,
    'labels': labels,
    'n_boxes': np.array([len(o) for o in layouts], np.int32),
    'condition_ids': np.asarray(ids),
  }


def from_labels(
  texts: Sequence[str], config: ConfigDict, label_names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Returns the rows of label sets: 'red circle, red circle, blue square'.

  Returns:
    `labels`, `n_boxes` and `condition_ids` of B sets.

  Raises:
    ValueError: an unknown label, or too many.
  """
  places = config.data.max_objects
  labels = np.zeros((len(texts), places), np.int32)
  counts = np.zeros(len(texts), np.int32)
  for i, text in enumerate(texts):
    names = [name.strip() for name in text.split(',') if name.strip()]
    _check_count(len(names), places)
    labels[i, : len(names)] = [label_id(n, label_names) for n in names]
    counts[i] = len(names)
  c = config.condition
  ids = labels_lib.label_tokens(
    labels, c.max_objects, layout.Vocabulary.of(c, len(label_names) - 1)
  )
  return {'labels': labels, 'n_boxes': counts, 'condition_ids': np.asarray(ids)}


def from_graphs(
  texts: Sequence[str],
  config: ConfigDict,
  tokenizer: tokenizers.Tokenizer,
  label_names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Returns the rows of graphs: 'red circle, left of, blue square; ...'.

  Objects of the same name are told apart by a letter: 'red circle A'.

  Returns:
    `labels`, `n_boxes`, `triples`, `condition_ids` and `caption` of B graphs.

  Raises:
    ValueError: an unknown name or predicate, or too many objects.
  """
  places = config.data.max_objects
  labels = np.zeros((len(texts), places), np.int32)
  counts = np.zeros(len(texts), np.int32)
  graphs = [_parse_graph(text, label_names) for text in texts]
  triples = np.full(
    (len(texts), max(len(t) for _, t in graphs), 3), -1, np.int32
  )
  captions = []
  for i, (objects, rows) in enumerate(graphs):
    _check_count(len(objects), places)
    labels[i, : len(objects)] = objects
    counts[i] = len(objects)
    triples[i, : len(rows)] = rows
    names = [label_names[label] for label in objects]
    captions.append(scene_graph.graph_text(names, triples[i]))
  return {
    'labels': labels,
    'n_boxes': counts,
    'triples': triples,
    **from_text(captions, tokenizer),
  }


def _parse_graph(
  text: str, label_names: Sequence[str]
) -> tuple[list[int], list[tuple[int, int, int]]]:
  objects: dict[str, int] = {}  # name with its letter -> index
  labels, triples = [], []

  def index(name: str) -> int:
    if name not in objects:
      objects[name] = len(objects)
      plain = name if name in label_names else name.rpartition(' ')[0]
      labels.append(label_id(plain or name, label_names))
    return objects[name]

  for clause in filter(None, (part.strip() for part in text.split(';'))):
    parts = [part.strip() for part in clause.split(',')]
    allowed = scene_graph.PREDICATES[1:]
    if len(parts) != 3 or parts[1] not in allowed:
      raise ValueError(
        f'relation {clause!r} must be "object, predicate, object" with a'
        f' predicate of {", ".join(allowed)}'
      )
    predicate = scene_graph.PREDICATES.index(parts[1])
    triples.append((index(parts[0]), predicate, index(parts[2])))
  if not triples:
    raise ValueError(f'the graph {text!r} has no relation')
  return labels, triples


def from_classes(
  text: str, config: ConfigDict, label_names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Returns the rows of classes: 'red circle', or '1, 7' by number.

  Args:
    text: names or numbers of classes, by commas.
    config: of the run.
    label_names: entry 0 is no class; may be empty, and numbers still count.

  Returns:
    `class` (B,) int32.

  Raises:
    ValueError: an unknown class.
  """
  # A name may have commas itself.
  parts = [text] if text in label_names else text.split(',')
  count = len(label_names) - 1 if label_names else config.condition.num_classes
  ids = [_class_id(part.strip(), count, label_names) for part in parts]
  return {'class': np.array(ids, np.int32)}


def _class_id(name: str, count: int, label_names: Sequence[str]) -> int:
  if not name.isdecimal() or name in label_names:
    return label_id(name, label_names)
  if not 1 <= int(name) <= count:
    raise ValueError(f'class {name} is not known, numbers are 1..{count}')
  return int(name)


def _check_count(count: int, places: int) -> None:
  if not 1 <= count <= places:
    raise ValueError(
      f'{count} objects were asked for, the model takes 1..{places}'
    )
