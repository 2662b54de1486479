"""Grids of samples with their conditions, as images."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
import colorsys
import functools
import textwrap
from typing import Any

import einops
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from pyramid_jax.conditioning import scene_graph


_SIDE = 160  # px; smaller images are enlarged to about this
_GAP = 4  # px around every panel
_FONT_SIZE = 11  # px
_LINE_HEIGHT = 13  # px
_CHARACTERS = 25  # The characters of a line of text on a panel.
_GREY = 96  # The grey of gaps.
_Box = tuple[float, float, float, float]  # x0, y0, x1, y1 in px
_LINE = (255, 0, 0)  # The colour of edges on an image.
_COLOURS = (
  (190, 30, 45),
  (20, 110, 60),
  (30, 60, 180),
  (150, 90, 0),
  (110, 30, 140),
  (0, 110, 130),
)


def draw(
  images: np.ndarray,
  batch: Mapping[str, Any],
  task: str,
  label_names: Sequence[str] = (),
  real: np.ndarray | None = None,
  columns: int | None = None,
) -> np.ndarray:
  """Draws a grid; a cell is condition, sample and, if given, the real image.

  Edges of the condition stand before the sample, and in red on a copy of it
  behind it.

  Args:
    images: (N, H, W, 3) uint8 samples.
    batch: the host arrays of the N examples, keys as in `data.reader`, with
      `sketch` or `edges` (N, H, W) uint8; a condition that is absent is not
      drawn.
    task: the task of the condition: 'text', 'layout', 'label', 'scene_graph',
      'class', 'map', 'superres', 'inpaint'; 'none' draws no condition.
    label_names: names of the labels, entry 0 is padding.
    real: (N, H, W, 3) uint8.
    columns: cells in a row; by default about as many as rows.

  Returns:
    (height, width, 3) uint8.
  """
  cells = []
  for i, image in enumerate(images):
    example = {name: x[i] for name, x in batch.items()}
    sample = _enlarged(image)
    height, width, _ = sample.shape
    given = condition_panels(example, (width, height), task, label_names)
    panels = [*given, sample]
    lines = _lines(example)
    if lines is not None:
      panels.append(_enlarged(_overlay(image, lines)))
    if real is not None:
      panels.append(_enlarged(real[i]))
    gap = np.full((len(sample), _GAP, 3), _GREY, np.uint8)
    row = [gap, *(x for panel in panels for x in (panel, gap))]
    cells.append(_framed(np.concatenate(row, axis=1), (_GAP, _GAP)))
  return _tile(np.stack(cells), columns or _columns(len(cells)))


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
  """Returns (N, H, W, 3) uint8 images side by side, in `columns` if given."""
  return Image.fromarray(draw(images, {}, 'none', columns=columns))


def condition_panels(
  example: Mapping[str, Any],
  side: tuple[int, int],
  task: str,
  label_names: Sequence[str] = (),
) -> list[np.ndarray]:
  """Draws what an image is conditioned on.

  Args:
    example: the host arrays of one example, see `draw`.
    side: width and height of a panel, px.
    task: see `draw`.
    label_names: see `draw`.

  Returns:
    The condition of the task and the edges, (height, width, 3) uint8 each, as
    far as they are there.
  """
  panel, lines = _condition(side, example, task, label_names), _lines(example)
  found = [] if panel is None else [np.asarray(panel)]
  if lines is not None:
    shown = Image.fromarray(np.repeat(lines[..., None], 3, axis=-1))
    found.append(np.asarray(shown.resize(side, Image.Resampling.NEAREST)))
  return found


def _lines(example: Mapping[str, Any]) -> Any:
  """Returns the edges of an example, (H, W) uint8, None without them."""
  return example.get('sketch', example.get('edges'))


def _enlarged(image: np.ndarray) -> np.ndarray:
  """Repeats whole pixels up to about `_SIDE`."""
  factor = max(1, round(_SIDE / max(image.shape[:2])))
  return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _framed(images: np.ndarray, rows: tuple[int, int]) -> np.ndarray:
  edges = (rows, *[(0, 0)] * (images.ndim - 1))
  return np.pad(images, edges, constant_values=_GREY)


def _name(label: int, names: Sequence[str]) -> str:
  return names[label] if 0 <= label < len(names) else str(label)


def _labels(example: Mapping[str, Any]) -> list[int]:
  labels = np.asarray(example['labels'])
  return [int(label) for label in labels[: example.get('n_boxes')]]


def _texts(
  example: Mapping[str, Any], task: str, names: Sequence[str]
) -> list[str] | None:
  """Returns the lines of a condition in words, None if it is not there."""
  if task == 'text' and 'caption' in example:
    caption = example['caption']
    return [caption.decode() if isinstance(caption, bytes) else str(caption)]
  if task == 'class' and 'class' in example:
    return [_name(int(example['class']), names)]
  if task == 'label' and 'labels' in example:
    counts = Counter(_name(label, names) for label in _labels(example))
    return [f'{n} {name}' for name, n in sorted(counts.items())]
  if task == 'scene_graph' and 'caption' in example:
    caption = example['caption']
    text = caption.decode() if isinstance(caption, bytes) else str(caption)
    return text.split(' , ')
  if task == 'scene_graph' and {'triples', 'labels'} <= example.keys():
    labels = [_name(label, names) for label in _labels(example)]
    triples = np.asarray(example['triples']).reshape(-1, 3)
    return [
      f'{labels[s]} {_name(p, scene_graph.PREDICATES)} {labels[o]}'
      for s, p, o in triples
      # Predicate 0 says that an object is in the image, which all are.
      if min(s, o) >= 0 and p > 0 and max(s, o) < len(labels)
    ]
  return None


def _condition(
  side: tuple[int, int],
  example: Mapping[str, Any],
  task: str,
  names: Sequence[str],
) -> Image.Image | None:
  """Draws the condition of an example, None if it is not there."""
  image = None
  if task == 'map' and 'mask' in example:
    image = _map_colours()[np.asarray(example['mask'])]
  elif task == 'superres' and 'lr_image' in example:
    image = np.asarray(example['lr_image'])
  elif task == 'inpaint' and {'image', 'inpaint_mask'} <= example.keys():
    hole = np.asarray(example['inpaint_mask'])[..., None] > 0
    image = np.where(hole, np.uint8(0), example['image'])
  if image is not None:
    return Image.fromarray(image).resize(side, Image.Resampling.NEAREST)
  if task == 'layout' and 'boxes' in example:
    return _layout_panel(side, example, names)
  texts = _texts(example, task, names)
  return None if texts is None else _text_panel(side, texts)


@functools.cache
def _map_colours() -> np.ndarray:
  """Returns the (256, 3) uint8 colours of classes, neighbours far apart."""
  colours = []
  for number in range(256):
    hue = number * 0.618034 % 1  # the golden ratio
    value = (1.0, 0.75, 0.5)[number % 3]
    colours.append(colorsys.hsv_to_rgb(hue, 0.65, value if number else 0))
  return np.round(255 * np.array(colours)).astype(np.uint8)


def _font() -> Any:
  return ImageFont.load_default(_FONT_SIZE)


def _text_panel(side: tuple[int, int], texts: Sequence[str]) -> Image.Image:
  """Draws lines of text; what has no room ends in three dots."""
  panel = Image.new('RGB', side, 'white')
  canvas, font = ImageDraw.Draw(panel), _font()
  room = side[0] - 2 * _GAP
  for width in range(max(8, _CHARACTERS * side[0] // _SIDE), 0, -1):
    lines = [x for t in texts for x in textwrap.wrap(t, width) or ['']]
    if all(canvas.textlength(x, font=font) <= room for x in lines):
      break
  most = max(1, (side[1] - 2 * _GAP) // _LINE_HEIGHT)
  if len(lines) > most:
    lines = [*lines[: most - 1], f'{lines[most - 1][:-3]}...']
  for i, line in enumerate(lines):
    place = (_GAP, _GAP + i * _LINE_HEIGHT)
    canvas.text(place, line, fill='black', font=font)
  return panel


def _layout_panel(
  side: tuple[int, int], example: Mapping[str, Any], names: Sequence[str]
) -> Image.Image:
  """Draws boxes, and over all of them their names, side by side."""
  panel = Image.new('RGB', side, 'white')
  canvas, font = ImageDraw.Draw(panel), _font()
  labels = _labels(example)
  boxes = np.asarray(example['boxes'])[: len(labels)] * (*side, *side)
  for j, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
    colour = _COLOURS[j % len(_COLOURS)]
    canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), None, colour)
  taken: list[_Box] = []
  for j, (label, box) in enumerate(zip(labels, boxes.tolist(), strict=True)):
    text = _name(label, names)
    size = (canvas.textlength(text, font=font) + 2, _LINE_HEIGHT)
    place = _free_place(box, size, side, taken)
    taken.append(place)
    colour = _COLOURS[j % len(_COLOURS)]
    start = (place[0] + 1, place[1])
    canvas.text(start, text, colour, font, stroke_width=1, stroke_fill='white')
  return panel


def _free_place(
  box: Sequence[float],
  size: tuple[float, float],
  side: tuple[int, int],
  taken: Sequence[_Box],
) -> _Box:
  """Returns where a name is written: on the panel, near its box.

  The first place without another name is taken: inside of the box at its upper
  edge if it has room, above it, below it, or further down the panel.
  """
  x0, y0, x1, y1 = box
  (width, height), last = size, side[1] - size[1]
  left = max(0.0, min(x0 + 1, side[0] - width - 1))
  inside = [y0 + 1] if width < x1 - x0 and height < y1 - y0 else []
  above = [y0 - height - 1] if y0 > height else []
  tops = [*inside, *above, y1, *np.arange(y0 + 1, last, height / 2)]
  places = [
    (left, top, left + width, top + height)
    for top in (max(0.0, min(float(top), last)) for top in tops)
  ]
  return next(
    (x for x in places if not any(_overlap(x, y) for y in taken)), places[0]
  )


def _overlap(one: _Box, other: _Box) -> bool:
  """Whether two boxes have an area in common."""
  return all(one[i] < other[i + 2] and other[i] < one[i + 2] for i in range(2))


def _overlay(image: np.ndarray, lines: np.ndarray) -> np.ndarray:
  """Draws white lines in red on an image."""
  share = lines[..., None].astype(np.float32) / 255
  mixed = (1 - share) * image + share * np.array(_LINE, np.float32)
  return np.rint(mixed).astype(np.uint8)


def _columns(cells: int) -> int:
  """A few less than rows, for cells are wide; with a full last row if near."""
  wish = max(1, round(cells**0.5 * 0.75))
  full = [c for c in (wish, wish + 1, wish - 1) if c > 0 and cells % c == 0]
  return full[0] if full else wish


def _tile(cells: np.ndarray, columns: int) -> np.ndarray:
  columns = min(columns, len(cells))
  cells = _framed(cells, (0, -len(cells) % columns))
  return einops.rearrange(cells, '(r c) h w d -> (r h) (c w) d', c=columns)
