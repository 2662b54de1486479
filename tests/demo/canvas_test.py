"""What is drawn on the canvas becomes boxes and pixels, or one line."""

import numpy as np
import pytest

from pyramid_jax import errors
from pyramid_jax.demo import canvas
from tests.helpers import demo_page


def test_boxes_and_strokes_of_a_canvas():
  value = {
    'boxes': [demo_page.box()],
    'sketch': [demo_page.stroke(0, 0.5, 1, 0.5)],
  }
  assert canvas.boxes(value) == [
    {'label': 'red circle', 'box': [0.1, 0.1, 0.4, 0.4]}
  ]
  (line,) = canvas.strokes(value, canvas.SKETCH)
  assert line.points == ((0.0, 0.5), (1.0, 0.5))
  assert canvas.strokes(value, canvas.MASK) == []
  assert canvas.boxes(None) == []


def test_a_stroke_covers_its_width():
  line = canvas.Stroke(width=0.1, points=((0.0, 0.5), (1.0, 0.5)))
  pixels = canvas.raster([line], 40, 80)
  assert pixels.shape == (40, 80)
  assert set(np.unique(pixels)) == {0, 255}
  rows = np.flatnonzero(pixels[:, 40])
  assert 8 <= len(rows) <= 9  # 0.1 of 80 px
  assert abs(rows.mean() - 19.5) <= 1


def test_a_point_is_a_disc():
  point = canvas.Stroke(width=0.5, points=((0.5, 0.5),))
  share = (canvas.raster([point], 64, 64) > 0).mean()
  assert abs(share - np.pi / 16) < 0.02


@pytest.mark.parametrize(
  ('value', 'message'),
  [
    ('x' * 100_000, '^the canvas is .x+'),
    ([1], '^the canvas is'),
    ({'sketch': 'lines'}, "^sketch: 'lines', must be a list of objects"),
    ({'sketch': [[1, 2]]}, 'must be a list of objects'),
    ({'sketch': [{'width': 'a', 'points': [0, 0]}]}, "width 'a', must lie"),
    ({'sketch': [demo_page.stroke(0, 0, width=1e9)]}, 'must lie in'),
    ({'sketch': [demo_page.stroke(0, 0, width=float('nan'))]}, 'width nan'),
    ({'sketch': [demo_page.stroke(0, float('nan'))]}, 'points .*nan'),
    ({'sketch': [demo_page.stroke(0, 10**400)]}, 'must be x, y'),
    ({'sketch': [demo_page.stroke(0, 0, 1)]}, 'must be x, y'),
    ({'sketch': [demo_page.stroke(0, True)]}, 'must be x, y'),
    ({'sketch': [{}] * 501}, '^sketch: 501 are drawn, at most 500'),
    ({'sketch': [demo_page.stroke(*[0.5] * 40_002)]}, '20001 points, at most'),
  ],
)
def test_what_is_no_drawing_is_refused_in_one_line(value, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    canvas.strokes(value, canvas.SKETCH)
  assert len(str(caught.value)) < 250
  assert '\n' not in str(caught.value)
