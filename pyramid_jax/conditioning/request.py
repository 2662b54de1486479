"""Conditions of a request: from words and images to the arrays of a batch.

Arrays are NumPy's, one row an example. Label names begin with the padding. A
condition that the model does not take is a ValueError that names it.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import functools
import json
import numbers
from typing import Any
import unicodedata

from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import limits
from pyramid_jax.conditioning import layout
from pyramid_jax.conditioning import scene_graph
from pyramid_jax.conditioning import tokenizers


LEAST_SIDE = 1e-4  # of a box, of which an image shows nothing


def from_text(
  texts: Sequence[str], tokenizer: tokenizers.Tokenizer
) -> dict[str, np.ndarray]:
  """Returns `condition_ids` (B, L) int32 and `caption` (B,) bytes of texts.

  What does not fit is cut off, with one warning; another names words that are
  not known.

  Raises:
    ValueError: a text that is longer than any that is read, or no text.
  """
  for text in texts:
    check_text(text)
  tokenizers.warn_of_cut(tokenizer, texts)
  tokenizers.warn_of_unknown(tokenizer, texts)
  return {
    'condition_ids': np.stack([tokenizer.encode(text) for text in texts]),
    'caption': np.array([text.encode() for text in texts]),
  }


def check_text(text: str) -> None:
  """Raises a ValueError for a text that cannot be encoded, or not quickly."""
  most = limits.TEXT_CHARACTERS
  if len(text) > most:
    raise ValueError(
      f'the text {text[:40]!r}... has {len(text)} characters, at most {most}'
      ' are read'
    )
  try:
    text.encode()
  except UnicodeEncodeError:
    raise ValueError(f'the text {text[:80]!r} is not Unicode') from None


def parse_layouts(
  value: Any, label_names: Sequence[str]
) -> list[list[tuple[int, list[float]]]]:
  """Returns layouts of values of Python or of JSON, as (label id, box).

  A value is a list of layouts, or one layout; a layout is a list of
  {"label": name, "box": [x0, y0, x1, y1]} or (name, box) with coordinates in
  [0, 1].
  """
  layouts = list(value) if isinstance(value, list | tuple) else []
  if layouts and _is_object(layouts[0]):
    layouts = [layouts]
  if not layouts or not all(isinstance(x, list | tuple) for x in layouts):
    raise ValueError(
      'a layout is a list of {"label": name, "box": [x0, y0, x1, y1]}, got '
      f'{_short(value)}'
    )
  count = sum(map(len, layouts))
  if count > limits.LAYOUT_OBJECTS:
    raise ValueError(
      f'{count} objects, at most {limits.LAYOUT_OBJECTS} are read'
    )
  names = tuple(label_names)
  return [
    [_parse_object(item, names) for item in objects] for objects in layouts
  ]


def _is_object(item: Any) -> bool:
  """Whether an item of a list is an object, not a layout."""
  if isinstance(item, list | tuple):
    return len(item) == 2 and isinstance(item[0], str | numbers.Integral)
  return isinstance(item, Mapping)


def _short(value: Any) -> str:
  """Returns a value for a message, as JSON where it is some."""
  try:
    text = json.dumps(value)
  except (TypeError, ValueError):
    text = repr(value)
  return text if len(text) <= 120 else f'{text[:120]}...'


def _parse_object(
  item: Any, label_names: Sequence[str]
) -> tuple[int, list[float]]:
  label: Any = None
  box: Any = None
  if isinstance(item, Mapping):
    label, box = item.get('label'), item.get('box')
  elif _is_object(item):
    label, box = item
  if isinstance(box, np.ndarray):
    box = box.tolist()
  is_box = isinstance(box, list | tuple) and len(box) == 4
  numbers_ = is_box and all(
    isinstance(v, numbers.Real) and not isinstance(v, bool) for v in box
  )
  if not numbers_ or label is None:
    raise ValueError(
      'an object is {"label": name, "box": [x0, y0, x1, y1]}, got'
      f' {_short(item)}'
    )
  within = all(0 <= v <= 1 for v in box)  # as they are: 10**400 is no float
  x0, y0, x1, y1 = (float(v) if within else 0.0 for v in box)
  if min(x1 - x0, y1 - y0) < LEAST_SIDE:
    raise ValueError(
      f'box {errors.shown(list(box))} must have 0 <= x0 < x1 <= 1 and'
      f' 0 <= y0 < y1 <= 1, with sides of at least {LEAST_SIDE:g}'
    )
  return label_id(label, label_names), [x0, y0, x1, y1]


def label_id(name: Any, label_names: Sequence[str]) -> int:
  """Returns the id of a label, given by its name.

  Capitals, and Unicode normal forms, matter only between two labels.
  """
  if len(label_names) < 2:
    raise ValueError(
      f'label {name!r} is not known: the run has no label names (labels.json)'
    )
  found = _find_label(name, label_names)
  if found is None:
    some = ', '.join(label_names[1:13])
    more = ', ...' if len(label_names) > 13 else ''
    raise ValueError(f'label {name!r} is not known, labels are {some}{more}')
  return found


def _find_label(name: Any, label_names: Sequence[str]) -> int | None:
  """Returns the id of a label, None of a name that none or several have."""
  if not isinstance(name, str):
    return None
  exact, folded = _ids_by_name(tuple(label_names))
  return exact.get(name) or folded.get(_fold(name)) or None


def _fold(text: str) -> str:
  return unicodedata.normalize('NFC', text).casefold()


@functools.lru_cache(maxsize=8)
def _ids_by_name(names: tuple[str, ...]) -> tuple[dict[str, int], ...]:
  """Returns ids by name, and by folded name, where 0 is that of several."""
  exact: dict[str, int] = {}
  folded: dict[str, int] = {}
  for i, name in enumerate(names[1:], 1):
    exact.setdefault(name, i)
    key = _fold(name)
    folded[key] = 0 if key in folded else i
  return exact, folded


def from_layouts(
  layouts: Sequence[Sequence[tuple[int, Sequence[float]]]],
  config: ConfigDict,
  label_names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Returns `boxes`, `labels`, `n_boxes` and `condition_ids` of layouts.

  Layouts are those of `parse_layout`.
  """
  rows = _padded_labels([[label for label, _ in o] for o in layouts], config)
  boxes = np.zeros((*rows['labels'].shape, 4), np.float32)
  for row, objects in zip(boxes, layouts, strict=True):
    row[: len(objects)] = [box for _, box in objects]
  c = config.condition
  ids = layout.layout_tokens(
    boxes.astype(np.float64),
    rows['labels'],
    None,
    c.max_objects,
    layout.Vocabulary.of(c, len(label_names) - 1),
    np.tile([0.0, 0.0, 1.0, 1.0], (len(boxes), 1)) if c.encode_crop else None,
  )
  return {**rows, 'boxes': boxes, 'condition_ids': np.asarray(ids)}


def from_labels(
  sets: Sequence[Sequence[str]],
  config: ConfigDict,
  label_names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Returns `labels`, `n_boxes` and `condition_ids` of sets of label names.

  A set may have a name several times.
  """
  c = config.condition
  ids = [[label_id(name, label_names) for name in names] for names in sets]
  rows = _padded_labels(ids, config)
  vocabulary = layout.Vocabulary.of(c, len(label_names) - 1)
  tokens = layout.label_tokens(rows['labels'], c.max_objects, vocabulary)
  return {**rows, 'condition_ids': np.asarray(tokens)}


def from_graphs(
  texts: Sequence[str],
  config: ConfigDict,
  tokenizer: tokenizers.Tokenizer,
  label_names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Returns `labels`, `n_boxes`, `triples` and the text of scene graphs.

  Texts are like 'red circle A, left of, blue square; ...', where a letter
  distinguishes objects of the same name. With `config.condition.any_predicate`
  predicates that are not sg2im's get the ids that follow, as they come.
  """
  for text in texts:
    check_text(text)
  predicates = list(scene_graph.PREDICATES)
  is_open = config.condition.any_predicate
  graphs = [
    _parse_graph(text, label_names, predicates, is_open) for text in texts
  ]
  rows = _padded_labels([objects for objects, _ in graphs], config)
  # The readers' shape, so that graphs of any length have one program.
  width = 2 * config.data.max_objects
  most = max(len(relations) for _, relations in graphs)
  triples = np.full((len(graphs), -(-most // width) * width, 3), -1, np.int32)
  captions = []
  for row, (objects, relations) in zip(triples, graphs, strict=True):
    row[: len(relations)] = relations
    names = [label_names[label] for label in objects]
    captions.append(scene_graph.graph_text(names, row, predicates))
  return {**rows, 'triples': triples, **from_text(captions, tokenizer)}


def _parse_graph(
  text: str, label_names: Sequence[str], predicates: list[str], is_open: bool
) -> tuple[list[int], list[tuple[int, int, int]]]:
  """Returns labels and triples; if it is open, `predicates` gets new ones."""
  objects: dict[str, int] = {}  # name with its letter -> index
  labels, triples = [], []

  def index(name: str) -> int:
    if name not in objects:
      objects[name] = len(objects)
      is_plain = _find_label(name, label_names) is not None
      plain = name if is_plain else name.rpartition(' ')[0]
      labels.append(label_id(plain or name, label_names))
    return objects[name]

  for clause in filter(None, (part.strip() for part in text.split(';'))):
    parts = [part.strip() for part in clause.split(',')]
    allowed = predicates[1:]
    if len(parts) == 3 and parts[1] and is_open and parts[1] not in predicates:
      predicates.append(parts[1])
    if len(parts) != 3 or parts[1] not in predicates[1:]:
      known = '' if is_open else f' with a predicate of {", ".join(allowed)}'
      raise ValueError(
        f'relation {clause!r} must be "object, predicate, object"{known}'
      )
    predicate = predicates.index(parts[1])
    triples.append((index(parts[0]), predicate, index(parts[2])))
  if not triples:
    raise ValueError(f'the graph {text!r} has no relation')
  return labels, triples


def from_classes(
  value: Any, config: ConfigDict, label_names: Sequence[str]
) -> dict[str, np.ndarray]:
  """Returns `class` (B,) int32 of classes, by name or by number from 1.

  `value` is a name, a number, a list of both, or a text such as '1, 7' with
  several of them. `label_names` may be empty, which leaves the numbers.
  """
  if isinstance(value, str):
    # A name may have commas itself.
    parts = [value] if value in label_names else value.split(',')
  elif isinstance(value, list | tuple | np.ndarray):
    parts = list(value)
  else:
    parts = [value]
  count = class_count(config, label_names)
  ids = [_class_id(part, count, label_names) for part in parts]
  return {'class': np.array(ids, np.int32)}


def class_count(config: ConfigDict, label_names: Sequence[str]) -> int:
  """Returns how many classes a model has, without that for none."""
  known = len(label_names) - 1
  return known if known > 0 else config.condition.num_classes


def _class_id(value: Any, count: int, label_names: Sequence[str]) -> int:
  if isinstance(value, str):
    name = value.strip()
    if not name.isdecimal() or len(name) > 9 or name in label_names:
      return label_id(name, label_names)
    value = int(name)
  if not isinstance(value, numbers.Integral) or isinstance(value, bool):
    raise ValueError(f'class {value!r} must be a name or a number')
  number = int(value)
  if not 1 <= number <= count:
    raise ValueError(f'class {number} is not known, numbers are 1..{count}')
  return number


def _padded_labels(
  sets: Sequence[Sequence[int]], config: ConfigDict
) -> dict[str, np.ndarray]:
  """Returns `labels` (B, N) and `n_boxes` (B,) int32 of B sets of labels."""
  most = config.data.max_objects
  labels = np.zeros((len(sets), most), np.int32)
  for row, ids in zip(labels, sets, strict=True):
    if not 1 <= len(ids) <= most:
      raise ValueError(
        f'{len(ids)} objects were asked for, the model takes 1..{most}'
      )
    row[: len(ids)] = ids
  return {'labels': labels, 'n_boxes': np.array([*map(len, sets)], np.int32)}


def from_map(classes: np.ndarray, config: ConfigDict) -> dict[str, np.ndarray]:
  """Returns `mask` (1, H, W) of a semantic map (H, W) uint8, 0 = unlabelled."""
  count = config.condition.map_classes
  if classes.max() >= count:
    raise ValueError(
      f'the map has the class {classes.max()}, the model takes 0..{count - 1}'
    )
  return {'mask': classes[None]}


def from_low_resolution(
  image: np.ndarray, config: ConfigDict, shape: tuple[int, int]
) -> dict[str, np.ndarray]:
  """Returns `lr_image` (1, h, w, 3) of an image (h, w, 3) uint8.

  `shape` is the height and width to which it is enlarged.
  """
  rows, columns = (side // config.data.lr_factor for side in shape)
  height, width, _ = image.shape
  if (height, width) != (rows, columns):
    raise ValueError(
      f'the image is {width} x {height} px; the model enlarges {columns} x '
      f'{rows} px to {shape[1]} x {shape[0]} px'
    )
  return {'lr_image': image[None]}


def from_holes(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
  """Returns `image` (1, H, W, 3) and `inpaint_mask` (1, H, W), both uint8.

  Args:
    image: (H, W, 3) uint8.
    mask: (H, W) bool, True = hole.
  """
  if not mask.any():
    raise ValueError('the mask has no hole; what is white is painted')
  return {'image': image[None], 'inpaint_mask': mask[None].astype(np.uint8)}
