"""Grids of samples beside what they were asked to be, as images."""

from collections import Counter
from collections.abc import Mapping
from collections.abc import Sequence
import colorsys
import functools
import os
import pathlib
import textwrap
from typing import Any

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from pyramid_jax.conditioning import scene_graph


_SIDE = 160  # px; smaller images are enlarged to about this
_GAP = 4  # px around every panel
_FONT_SIZE = 11  # px
_CHARACTERS = 25  # of a line of text on a panel
_LINE = (255, 0, 0)  # of edges on a picture
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

  Edges that are asked for stand before the sample, and red on it behind it.

  Args:
    images: (N, H, W, 3) uint8 samples.
    batch: the host arrays of the N examples, keys as in `data.reader`; a
      condition that is absent is not drawn. `sketch` or `edges` (N, H, W)
      uint8.
    task: what of it the samples were given: 'text', 'layout', 'label',
      'scene_graph', 'class', 'map', 'superres', 'inpaint'; 'none' draws no
      condition.
    label_names: names of the labels, entry 0 is padding.
    real: (N, H, W, 3) uint8.
    columns: cells in a row; by default about as many as rows.

  Returns:
    (height, width, 3) uint8.
  """
  rows = []
  for i, image in enumerate(images):
    panels = [_enlarge(image)]
    side = panels[0].size
    panel = _condition_panel(side, batch, i, task, label_names)
    if panel is not None:
      panels.insert(0, panel)
    lines = _lines(batch, i)
    if lines is not None:
      panels.insert(-1, _enlarge(np.repeat(lines[..., None], 3, axis=-1)))
      panels.append(_enlarge(_overlay(image, lines)))
    if real is not None:
      panels.append(_enlarge(real[i]))
    rows.append(_row(panels))
  return _tile(rows, columns or _columns(len(rows)))


def grid(images: np.ndarray, columns: int | None = None) -> Image.Image:
  """Returns images beside one another.

  Args:
    images: (N, H, W, 3) uint8.
    columns: images in a row; by default about as many as rows.
  """
  return Image.fromarray(draw(images, {}, 'none', columns=columns))


def save(path: str | os.PathLike[str], image: np.ndarray) -> None:
  """Writes a PNG; a reader never sees a part of it."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  aside = path.with_name(f'.{path.name}')
  Image.fromarray(image).save(aside, format='PNG')
  os.replace(aside, path)


def _enlarge(image: np.ndarray) -> Image.Image:
  """Whole pixels, so that what is seen is what was made."""
  height, width, _ = image.shape
  factor = max(1, round(_SIDE / max(height, width)))
  return Image.fromarray(image).resize(
    (width * factor, height * factor), Image.Resampling.NEAREST
  )


def _name(label: int, names: Sequence[str]) -> str:
  return names[label] if 0 <= label < len(names) else str(label)


def _labels(batch: Mapping[str, Any], i: int) -> list[int]:
  labels = np.asarray(batch['labels'][i])
  count = int(batch['n_boxes'][i]) if 'n_boxes' in batch else len(labels)
  return [int(label) for label in labels[:count]]


def _texts(
  batch: Mapping[str, Any], i: int, task: str, names: Sequence[str]
) -> list[str] | None:
  """The lines that tell a condition in words, None if it is not there."""
  if task == 'text' and 'caption' in batch:
    caption = batch['caption'][i]
    return [caption.decode() if isinstance(caption, bytes) else str(caption)]
  if task == 'class' and 'class' in batch:
    return [_name(int(batch['class'][i]), names)]
  if task == 'label' and 'labels' in batch:
    counts = Counter(_name(label, names) for label in _labels(batch, i))
    return [f'{n} {name}' for name, n in sorted(counts.items())]
  if task == 'scene_graph' and {'triples', 'labels'} <= batch.keys():
    labels = [_name(label, names) for label in _labels(batch, i)]
    triples = np.asarray(batch['triples'][i]).reshape(-1, 3)
    return [
      f'{labels[s]} {scene_graph.PREDICATES[p]} {labels[o]}'
      for s, p, o in triples
      # Predicate 0 says that an object is in the image, which all are.
      if min(s, o) >= 0 and p > 0 and max(s, o) < len(labels)
    ]
  return None


def _condition_panel(
  side: tuple[int, int],
  batch: Mapping[str, Any],
  i: int,
  task: str,
  names: Sequence[str],
) -> Image.Image | None:
  """Draws the condition of an example, None if it is not there."""
  picture = _picture(batch, i, task)
  if picture is not None:
    panel = Image.fromarray(picture)
    return panel.resize(side, Image.Resampling.NEAREST)
  if task == 'layout' and 'boxes' in batch:
    return _layout_panel(side, batch, i, names)
  texts = _texts(batch, i, task, names)
  return None if texts is None else _text_panel(side, texts)


def _picture(batch: Mapping[str, Any], i: int, task: str) -> np.ndarray | None:
  """A condition that is a picture, as (h, w, 3) uint8."""
  if task == 'map' and 'mask' in batch:
    return _map_colours()[np.asarray(batch['mask'][i])]
  if task == 'superres' and 'lr_image' in batch:
    return np.asarray(batch['lr_image'][i])
  if task == 'inpaint' and {'image', 'inpaint_mask'} <= batch.keys():
    hole = np.asarray(batch['inpaint_mask'][i])[..., None] > 0
    return np.where(hole, np.uint8(0), batch['image'][i])
  return None


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
  panel = Image.new('RGB', side, 'white')
  width = max(8, _CHARACTERS * side[0] // _SIDE)
  lines = [line for t in texts for line in textwrap.wrap(t, width) or ['']]
  ImageDraw.Draw(panel).multiline_text(
    (_GAP, _GAP), '\n'.join(lines), fill='black', font=_font(), spacing=2
  )
  return panel


def _layout_panel(
  side: tuple[int, int],
  batch: Mapping[str, Any],
  i: int,
  names: Sequence[str],
) -> Image.Image:
  panel = Image.new('RGB', side, 'white')
  canvas = ImageDraw.Draw(panel)
  font = _font()
  labels = _labels(batch, i)
  for j, label in enumerate(labels):
    box = np.asarray(batch['boxes'][i][j]) * (*side, *side)
    x0, y0, x1, y1 = (float(v) for v in box)
    colour = _COLOURS[j % len(_COLOURS)]
    canvas.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), None, colour)
    text = _name(label, names)
    # Names stay on the panel, whatever box they belong to.
    x = min(x0 + 2, side[0] - canvas.textlength(text, font=font) - 1)
    y = min(y0 + 1, side[1] - _FONT_SIZE - 2)
    canvas.text((max(0.0, x), y), text, fill=colour, font=font)
  return panel


def _lines(batch: Mapping[str, Any], i: int) -> np.ndarray | None:
  """Returns the edges (H, W) uint8 that an example asks for, if it does."""
  for name in ('sketch', 'edges'):
    if name in batch:
      return np.asarray(batch[name][i])
  return None


def _overlay(image: np.ndarray, lines: np.ndarray) -> np.ndarray:
  """Draws white lines in red on a picture."""
  share = lines[..., None].astype(np.float32) / 255
  mixed = (1 - share) * image + share * np.array(_LINE, np.float32)
  return np.rint(mixed).astype(np.uint8)


def _row(panels: Sequence[Image.Image]) -> Image.Image:
  width = sum(p.width for p in panels) + _GAP * (len(panels) + 1)
  row = Image.new('RGB', (width, panels[0].height + 2 * _GAP), (96, 96, 96))
  x = _GAP
  for panel in panels:
    row.paste(panel, (x, _GAP))
    x += panel.width + _GAP
  return row


def _columns(cells: int) -> int:
  """A few less than rows, for cells are wide; with a full last row if near."""
  wish = max(1, round(cells**0.5 * 0.75))
  full = [c for c in (wish, wish + 1, wish - 1) if c > 0 and cells % c == 0]
  return full[0] if full else wish


def _tile(cells: Sequence[Image.Image], columns: int) -> np.ndarray:
  width, height = cells[0].size
  rows = -(-len(cells) // columns)
  sheet = Image.new(
    'RGB', (width * min(columns, len(cells)), height * rows), (96, 96, 96)
  )
  for i, cell in enumerate(cells):
    sheet.paste(cell, (i % columns * width, i // columns * height))
  return np.asarray(sheet)
