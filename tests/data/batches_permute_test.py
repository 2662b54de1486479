import numpy as np
import pytest

from pyramid_jax.data import batches


@pytest.mark.parametrize('length', [1, 2, 3, 4, 5, 15, 16, 17, 64, 65, 1000])
def test_bijection(length):
  got = batches.permute(np.arange(length), length, 3, 0)
  assert sorted(got) == list(range(length))
  assert got.dtype == np.int64


def test_order_depends_on_seed_and_epoch_and_is_random_access():
  index = np.arange(1000)
  base = batches.permute(index, 1000, 3, 0)
  assert not np.array_equal(base, index)
  assert not np.array_equal(base, batches.permute(index, 1000, 4, 0))
  assert not np.array_equal(base, batches.permute(index, 1000, 3, 1))
  some = np.array([[7, 999], [0, 7]])
  np.testing.assert_array_equal(batches.permute(some, 1000, 3, 0), base[some])
  epochs = np.array([0, 1])
  both = batches.permute(np.array([5, 5]), 1000, 3, epochs)
  assert both[0] == base[5]
  assert both[1] == batches.permute(np.array(5), 1000, 3, 1)


def test_known_values_stay():
  # A changed order would make a resumed run repeat and miss examples.
  np.testing.assert_array_equal(
    batches.permute(np.arange(8), 2**31 - 1, 3, 0)[:3],
    [1477079296, 1429470606, 1290000760],
  )


def test_looks_shuffled():
  n = 5000
  got = batches.permute(np.arange(n), n, 0, 0)
  assert abs(np.corrcoef(np.arange(n), got)[0, 1]) < 0.05
  assert abs(np.corrcoef(got[:-1], got[1:])[0, 1]) < 0.05
  assert abs(np.mean(got % 2 == np.arange(n) % 2) - 0.5) < 0.05


def test_out_of_range_is_refused():
  with pytest.raises(ValueError, match=r'\[0, 10\), got 0\.\.10'):
    batches.permute(np.arange(11), 10, 0, 0)
