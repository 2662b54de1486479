import numpy as np
import pytest

from pyramid_jax.data.objects import mask_centroids


def test_runs_go_down_the_columns():
  # Column-major 0 0 1 1 | 1 0 1 0: three cells of column 0 and 1, and one.
  counts = [2, 3, 1, 1, 1]
  x, y = mask_centroids.centroid({'size': [4, 2], 'counts': counts})
  assert x == pytest.approx((0 + 0 + 1 + 1) / 4 + 0.5)
  assert y == pytest.approx((2 + 3 + 0 + 2) / 4 + 0.5)


def test_compressed_runs():
  # The published example: 2 3 1 1 is stored as 2 3 1 (1 - 3).
  plain = mask_centroids.centroid({'size': [7, 1], 'counts': [2, 3, 1, 1]})
  packed = mask_centroids.centroid({'size': [7, 1], 'counts': '231N'})
  assert plain == packed == (0.5, (2 + 3 + 4 + 6) / 4 + 0.5)
  # 20 needs two characters: 20 + 32 -> 'd', then 0.
  long = mask_centroids.centroid({'size': [30, 1], 'counts': 'd04'})
  assert long == (0.5, (20 + 21 + 22 + 23) / 4 + 0.5)


def test_mask_of_a_drawn_rectangle():
  mask = np.zeros((40, 60), bool)
  mask[10:20, 5:50] = True
  flat = mask.ravel(order='F')
  edges = np.flatnonzero(np.diff(flat.astype(int))) + 1
  counts = np.diff([0, *edges, flat.size]).tolist()
  got = mask_centroids.centroid({'size': [40, 60], 'counts': counts})
  assert got == pytest.approx((27.5, 15.0))


def test_polygons_in_either_direction_add_up():
  square = [0, 0, 2, 0, 2, 2, 0, 2]
  other = [10, 0, 10, 2, 12, 2, 12, 0]  # the other way around
  triangle = [0, 0, 3, 0, 0, 6]
  assert mask_centroids.centroid([square]) == pytest.approx((1, 1))
  assert mask_centroids.centroid([square, other]) == pytest.approx((6, 1))
  assert mask_centroids.centroid([triangle]) == pytest.approx((1, 2))


def test_no_area():
  assert mask_centroids.centroid([]) is None
  assert mask_centroids.centroid([[1, 1, 2, 2]]) is None
  assert mask_centroids.centroid({'size': [2, 2], 'counts': [4]}) is None


@pytest.mark.parametrize('bad', [{}, 7, {'counts': [1]}, [[1, 2, 3]]])
def test_malformed(bad):
  with pytest.raises(ValueError, match='not a segmentation'):
    mask_centroids.centroid(bad)
