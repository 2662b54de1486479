"""The scenes: reproducible, inside the image, apart from each other."""

import numpy as np
import pytest

from pyramid_jax.data.synthetic import scenes
from tests.helpers import shapes_renderer


@pytest.mark.parametrize('level', range(4))
def test_a_scene_depends_on_seed_and_index_alone(level):
  together = scenes.sample(1, np.arange(20), level)
  alone = scenes.sample(1, np.array([17, 4]), level)
  for name in ('labels', 'geometry', 'boxes', 'parents', 'texture', 'n_boxes'):
    a, b = getattr(together, name)[[17, 4]], getattr(alone, name)
    np.testing.assert_array_equal(a, b)
  other = scenes.sample(2, np.arange(20), level)
  assert (together.texture != other.texture).any(axis=1).all()


def test_scenes_never_change():
  """Models and tables were made of these numbers: a change is a new set."""
  spec = scenes.sample(7, np.array([3]), 2)
  assert spec.n_boxes.tolist() == [2]
  assert spec.labels[0, :3].tolist() == [17, 19, 0]
  assert spec.parents[0, :3].tolist() == [-1, 0, -1]
  np.testing.assert_allclose(
    spec.geometry[0, :2],
    [
      [0.27467212, 0.7064268, 0.4634197, 0],
      [0.2820294, 0.8341842, 0.17378238, 0],
    ],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    spec.texture[0],
    [
      0.50384724,
      0.4986466,
      0.47541866,
      5,
      5.622543,
      0.16557735,
      0.5866089,
      0,
    ],
    rtol=1e-6,
  )
  assert spec.background.tolist() == [0]


@pytest.mark.parametrize(
  ('level', 'low', 'high', 'mean'),
  [(0, 1, 1, 1.0), (1, 1, 4, 2.5), (2, 2, 6, 3.47), (3, 3, 9, 4.97)],
)
def test_counts(level, low, high, mean):
  spec = scenes.sample(0, np.arange(4000), level)
  valid = np.arange(spec.labels.shape[1]) < spec.n_boxes[:, None]
  np.testing.assert_array_equal(spec.labels > 0, valid)
  assert spec.n_boxes.max() == high
  # Objects in the way of a big one are dropped, the big one and its own stay.
  assert spec.n_boxes.min() == (2 if level == 3 else low)
  assert abs(spec.n_boxes.mean() - mean) < 0.08


@pytest.mark.parametrize('level', range(4))
def test_objects_are_inside_the_image_and_apart(level):
  spec = scenes.sample(3, np.arange(500), level)
  valid = spec.labels > 0
  boxes = spec.boxes[valid]
  assert boxes.min() >= 0.0099
  assert boxes.max() <= 0.9901
  for b in range(len(spec)):
    for i in range(spec.n_boxes[b]):
      for j in range(i):
        a, c = spec.boxes[b, i], spec.boxes[b, j]
        gap = np.maximum(a[:2] - c[2:], c[:2] - a[2:]).max()
        if spec.parents[b, i] == j:
          assert (a[:2] > c[:2]).all()
          assert (a[2:] < c[2:]).all()
        else:
          assert gap > 0.009


@pytest.mark.parametrize('level', [2, 3])
def test_nested_objects(level):
  """A child has another colour and covers no pixel outside of its parent."""
  spec = scenes.sample(3, np.arange(300), level)
  rows = np.flatnonzero((spec.parents >= 0).any(1))
  assert 0.3 < len(rows) / len(spec) < 0.6
  np.testing.assert_array_equal(spec.parents[rows, 1], 0)
  colours = (spec.labels[rows, :2] - 1) % 6
  assert (colours[:, 0] != colours[:, 1]).all()
  assert spec.geometry[rows, 0, 2].min() >= 0.45
  for b in rows[:40]:
    one = scenes.Scenes(
      n_boxes=np.array([1]),
      labels=spec.labels[[b]],
      geometry=spec.geometry[[b]],
      parents=spec.parents[[b]],
      boxes=spec.boxes[[b]],
      background=spec.background[[b]],
      texture=spec.texture[[b]],
    )
    parent = shapes_renderer.render(one, 64)['instance'][0] == 1
    whole = scenes.sample(3, [b], level)
    both = shapes_renderer.render(whole, 64)['instance'][0]
    assert parent[both == 2].all()


@pytest.mark.parametrize('level', range(4))
def test_boxes_are_the_extents_of_the_pictures(level):
  spec = scenes.sample(3, np.arange(60), level)
  instance = shapes_renderer.render(spec, 256)['instance']
  for b in range(len(spec)):
    for i in range(spec.n_boxes[b]):
      y, x = np.nonzero(instance[b] == i + 1)
      seen = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1]) / 256
      # A turned corner is thinner than a pixel at its tip.
      assert np.abs(seen - spec.boxes[b, i]).max() < 2.5 / 256


def test_turns_only_at_level_three():
  for level in range(3):
    assert not scenes.sample(0, np.arange(50), level).geometry[..., 3].any()
  turns = np.rad2deg(scenes.sample(0, np.arange(500), 3).geometry[..., 3])
  assert 16 < turns.max() <= 17
  assert -17 <= turns.min() < -16


def test_every_kind_is_as_frequent_as_it_should_be():
  spec = scenes.sample(0, np.arange(8000), 1)
  things = spec.labels[spec.labels > 0]
  parts = np.bincount(things, minlength=25)[1:] / len(things)
  assert np.abs(parts - 1 / 24).max() < 0.006
  parts = np.bincount(spec.background, minlength=4) / len(spec)
  assert np.abs(parts - 0.25).max() < 0.02


def test_uniforms_are_uniform_and_their_streams_apart():
  u = scenes.uniforms(0, np.arange(5000), 1, 4)
  np.testing.assert_array_equal(
    u[:, :2], scenes.uniforms(0, np.arange(5000), 1, 2)
  )
  assert u.min() >= 0
  assert u.max() < 1
  assert np.abs(u.mean(0) - 0.5).max() < 0.02
  other = scenes.uniforms(0, np.arange(5000), 2, 4)
  correlation = np.corrcoef(np.concatenate([u, other], 1).T) - np.eye(8)
  assert np.abs(correlation).max() < 0.06


def test_splits_and_bad_values():
  assert scenes.split_seed(5, 'train') == 5
  assert scenes.split_seed(5, 'val') == 5 + 2**32
  assert scenes.split_seed(5, 'test') == 5 + 2**33
  with pytest.raises(ValueError, match="train.*val.*test.*got 'dev'"):
    scenes.split_seed(5, 'dev')
  with pytest.raises(ValueError, match='level must be 0..3, got 4'):
    scenes.sample(0, np.arange(2), 4)
