"""Draws docs/images/shapes.png: layouts, and samples of the shipped model.

  python docs/images/shapes.py [--seeds=3] [--output=docs/images/shapes.png]

A column is a layout, a row below it a seed.
"""

import argparse

import numpy as np
from PIL import Image
from PIL import ImageDraw

import pyramid_jax as pj


SIDE = 0.26  # of a box, as a part of the image
PIXELS = 160  # of an enlarged image
LAYOUTS = (
  (
    ('red circle', 0.08, 0.10),
    ('blue circle', 0.60, 0.12),
    ('yellow circle', 0.35, 0.62),
  ),
  (
    ('magenta square', 0.04, 0.04),
    ('cyan square', 0.36, 0.36),
    ('yellow square', 0.68, 0.68),
  ),
  (
    ('red triangle', 0.05, 0.37),
    ('green triangle', 0.37, 0.37),
    ('blue triangle', 0.69, 0.37),
  ),
  (
    ('cyan circle', 0.37, 0.05),
    ('red square', 0.05, 0.65),
    ('green square', 0.37, 0.65),
    ('blue square', 0.69, 0.65),
  ),
  (
    ('green cross', 0.04, 0.04),
    ('yellow cross', 0.70, 0.04),
    ('blue cross', 0.04, 0.70),
    ('red cross', 0.70, 0.70),
  ),
  (('magenta triangle', 0.37, 0.28), ('yellow square', 0.37, 0.60)),
)
DARK = {'yellow': '#c0a000', 'cyan': '#00b0b0', 'green': '#00a000'}


def draw_layout(layout: list) -> Image.Image:
  """Returns the boxes of a layout with their shapes, on white."""
  image = Image.new('RGB', (PIXELS, PIXELS), 'white')
  draw = ImageDraw.Draw(image)
  for name, box in layout:
    colour, shape = name.split()
    x0, y0, x1, y1 = (PIXELS * value for value in box)
    draw.rectangle((x0, y0, x1, y1), outline=DARK.get(colour, colour), width=3)
    centre = ((x0 + x1) / 2, (y0 + y1) / 2)
    draw.text(centre, shape, fill='black', anchor='mm', font_size=9)
  return image


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--seeds', type=int, default=3)
  parser.add_argument('--output', default='docs/images/shapes.png')
  flags = parser.parse_args()
  layouts = [
    [(name, (x, y, x + SIDE, y + SIDE)) for name, x, y in layout]
    for layout in LAYOUTS
  ]
  pipe = pj.load('shapes')
  rows = [[np.asarray(draw_layout(layout)) for layout in layouts]]
  for seed in range(flags.seeds):
    small = map(Image.fromarray, pipe(layout=layouts, seed=seed))
    rows.append([np.asarray(x.resize((PIXELS, PIXELS))) for x in small])
  whole = np.concatenate([np.concatenate(row, 1) for row in rows])
  Image.fromarray(whole).save(flags.output, optimize=True)


if __name__ == '__main__':
  main()
