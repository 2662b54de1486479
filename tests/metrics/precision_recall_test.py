"""Manifolds of points on a line, and against direct distances."""

import numpy as np
import pytest

from pyramid_jax.metrics import distances
from pyramid_jax.metrics import precision_recall


def test_points_on_a_line():
  real = np.array([[0.0], [1], [3], [10]])
  radii = precision_recall.radii(real, (1, 2))
  assert radii.tolist() == [[1, 9], [1, 4], [4, 9], [49, 81]]
  # Balls of k = 1: [-1, 1], [0, 2], [1, 5], [3, 17].
  samples = np.array([[-1.5], [-0.5], [4.0], [30.0], [17.0]])
  got = precision_recall.covered(samples, real, radii[:, :1])
  np.testing.assert_allclose(got, [3 / 5])


def test_blocks_make_the_whole(monkeypatch):
  random = np.random.RandomState(0)
  real = random.randn(41, 5) + 300
  samples = 0.7 * random.randn(30, 5) + 300.5
  monkeypatch.setattr(distances, '_TILE', 7)
  monkeypatch.setattr(distances, '_EXACT', 60)
  d = lambda a, b: np.square(a[:, None] - b[None]).sum(-1)
  neighbours = (3, 5)
  reach = {}
  for name, x in (('real', real), ('samples', samples)):
    reach[name] = np.sort(d(x, x), 1)[:, neighbours]
    got = precision_recall.radii(x, neighbours)
    np.testing.assert_allclose(got, reach[name], rtol=1e-9)
  inside = lambda a, b, r: (d(a, b)[..., None] <= r).any(1).mean(0)
  want = inside(samples, real, reach['real'])
  recall = inside(real, samples, reach['samples'])
  got = precision_recall.precision_recall(real, samples, neighbours)
  np.testing.assert_allclose(got, [want, recall])
  assert got[0][0] > got[1][0] > 0  # the samples are the narrower set


def test_a_set_covers_itself_and_nothing_far_away():
  x = np.random.RandomState(0).randn(20, 3)
  got = precision_recall.precision_recall(x, x)
  np.testing.assert_array_equal(got, [[1], [1]])
  got = precision_recall.precision_recall(x, x + 100)
  np.testing.assert_array_equal(got, [[0], [0]])


def test_the_widest_balls_can_be_left_out():
  real = np.array([[0.0], [1], [2], [3], [50]])
  radii = precision_recall.radii(real, (1,), percentile=80)
  np.testing.assert_allclose(radii.ravel(), [1, 1, 1, 1, 0])


def test_bad_values():
  x = np.zeros((4, 3))
  with pytest.raises(ValueError, match=r'\(4,\), must be 1..3: there are 4'):
    precision_recall.radii(x, (4,))
  with pytest.raises(ValueError, match=r'\(4, 3\) and \(4, 2\) must have'):
    precision_recall.precision_recall(x, x[:, :2])


@pytest.mark.parametrize('scale', [1e-12, 1.0, 1e12])
def test_rounding_of_float32_decides_nothing(monkeypatch, scale):
  """Differences far below its precision, and many neighbours as near."""
  monkeypatch.setattr(distances, '_TILE', 16)
  random = np.random.RandomState(1)
  far = 1e3 * random.randn(3, 4)
  real = far[random.randint(3, size=60)] + 1e-6 * random.randn(60, 4)
  real[::7] = real[0]
  points = real[random.randint(60, size=40)] + 1e-6 * random.randn(40, 4)
  real, points = scale * real, scale * points
  d = lambda a, b: np.square(a[:, None] - b[None]).sum(-1)
  want = np.sort(d(real, real), 1)[:, 1:5]
  got = precision_recall.radii(real, (1, 2, 3, 4))
  np.testing.assert_allclose(got, want, rtol=1e-12)
  inside = (d(points, real)[..., None] <= got).any(1)
  assert 0 < inside[:, 0].mean() < 1
  np.testing.assert_array_equal(distances.are_within(points, real, got), inside)
