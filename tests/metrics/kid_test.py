"""The kernel Inception distance, and shares of copies."""

import itertools

import numpy as np
import pytest

from pyramid_jax.metrics import kid
from pyramid_jax.metrics import nearest
from pyramid_jax.metrics import precision_recall


def _features():
  rng = np.random.RandomState(0)
  a = rng.standard_normal((60, 8)).astype(np.float32)
  return a, (rng.standard_normal((50, 8)) + 0.3).astype(np.float32)


def test_by_two_loops():
  a, b = (x[:7].astype(np.float64) for x in _features())
  kernel = lambda x, y: (np.dot(x, y) / 8 + 1) ** 3
  others = lambda x: [kernel(*p) for p in itertools.permutations(x, 2)]
  across = [kernel(*p) for p in itertools.product(a, b)]
  want = np.mean(others(a)) + np.mean(others(b)) - 2 * np.mean(across)
  np.testing.assert_allclose(kid.squared_mmd(a, b), want, rtol=1e-9)


def test_subsets_are_those_of_torch_fidelity():
  """Recorded with torch-fidelity 0.4.0, which computes in float32."""
  values = kid.of_subsets(*_features(), subsets=5, size=20)
  np.testing.assert_allclose(values.mean(), 0.13614072799682617, rtol=3e-6)
  np.testing.assert_allclose(values.std(), 0.1393112218378897, rtol=3e-6)


def test_precision_and_recall_are_those_of_torch_fidelity():
  samples, real = _features()
  got = precision_recall.precision_recall(real, samples)
  np.testing.assert_allclose(np.ravel(got), [0.8333333134651184, 0.86], 1e-6)


def test_few_features_are_refused():
  a, b = _features()
  with pytest.raises(ValueError, match='subsets of 55 need as many'):
    kid.of_subsets(a, b, size=55)
  with pytest.raises(ValueError, match=r'at least 2 rows.*\(1, 8\)'):
    kid.squared_mmd(a[:1], b)
  with pytest.raises(ValueError, match='at least 100 rows'):
    nearest.copied_share(a, b)


def test_copies_are_found_and_new_images_are_few():
  rng = np.random.default_rng(0)
  real, new = rng.normal(size=(2, 2000, 6))
  assert nearest.copied_share(real, real[:50] + 1e-9) == 1
  assert 0.002 < nearest.copied_share(real, new) < 0.03
  half = np.concatenate([real[:500], new[:500]])
  assert 0.5 <= nearest.copied_share(real, half) < 0.53
