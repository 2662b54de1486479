"""Holes: pieces by hand, and what many of them are like."""

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.conditioning import hashing
from pyramid_jax.data.pixels import holes


def _sample(count):
  return holes.sample(
    hashing.uniforms(5, np.arange(count)[:, None], np.arange(holes.UNIFORMS))
  )


def test_a_stroke_is_what_is_near_its_line():
  strokes = np.array([[[0.25, 0.5, 0.75, 0.5, 0.1]]], np.float32)
  mask = holes.draw(strokes, np.zeros((1, 1, 4), np.float32), 20)[0]
  rows, columns = np.nonzero(mask)
  # Pixel centres lie at (i + 0.5) / 20, the ends of the stroke are round.
  assert (rows.min(), rows.max()) == (8, 11)
  assert (columns.min(), columns.max()) == (3, 16)
  assert mask[8, 5:15].all()
  assert not mask[8, 3]
  assert mask.dtype == np.uint8


def test_a_box_is_half_open():
  boxes = np.array([[[0.2, 0.5, 0.6, 0.8], [0.3, 0.3, 0.3, 0.3]]], np.float32)
  mask = holes.draw(np.zeros((1, 1, 5), np.float32), boxes, 10)[0]
  want = np.zeros((10, 10), np.uint8)
  want[5:8, 2:6] = 1
  np.testing.assert_array_equal(mask, want)


def test_a_dot_has_no_direction():
  strokes = np.array([[[0.5, 0.5, 0.5, 0.5, 0.2]]], np.float32)
  mask = holes.draw(strokes, np.zeros((1, 0, 4), np.float32), 10)[0]
  assert mask.sum() == 12  # centres within two pixels of the middle


def test_strokes_boxes_or_both_that_leave_enough():
  h = _sample(600)
  strokes = (h['hole_strokes'][..., 4] > 0).any(1)
  boxes = (h['hole_boxes'][..., 2] > h['hole_boxes'][..., 0]).any(1)
  assert (strokes | boxes).all()
  for share in ((strokes & ~boxes), (boxes & ~strokes), (boxes & strokes)):
    assert 0.27 < share.mean() < 0.4
  ends = h['hole_strokes'][..., :4]
  assert ends.min() >= 0
  assert ends.max() <= 1
  assert h['hole_boxes'].min() >= 0
  assert h['hole_boxes'].max() <= 1
  # The strokes of a chain hang together.
  chain = h['hole_strokes'].reshape(600, holes.STEPS, holes.CHAINS, 5)
  np.testing.assert_array_equal(chain[:, 1:, :, :2], chain[:, :-1, :, 2:4])

  mask = holes.draw(h['hole_strokes'], h['hole_boxes'], 32)
  share = mask.mean((1, 2))
  assert 0.15 < share.mean() < 0.3
  assert share.min() > 0
  assert share.max() < 0.8


def test_the_device_draws_the_same():
  h = _sample(40)
  want = holes.draw(h['hole_strokes'], h['hole_boxes'], 48)
  draw = jax.jit(holes.draw, static_argnums=2)
  got = draw(jnp.asarray(h['hole_strokes']), jnp.asarray(h['hole_boxes']), 48)
  assert got.dtype == np.uint8
  assert (np.asarray(got) != want).mean() < 1e-4


def test_holes_look_the_same_at_every_size():
  h = _sample(40)
  fine = holes.draw(h['hole_strokes'], h['hole_boxes'], 96)
  coarse = holes.draw(h['hole_strokes'], h['hole_boxes'], 32)
  # The middle pixel of three has the centre of the coarse one.
  np.testing.assert_array_equal(fine[:, 1::3, 1::3], coarse)
