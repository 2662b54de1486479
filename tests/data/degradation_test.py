"""Degradations: their parts by hand, and what all of them keep."""

import numpy as np
from PIL import Image
import pytest
from scipy import ndimage

from pyramid_jax.data import degradation


def smooth_picture(size=64, seed=0):
  random = np.random.RandomState(seed)
  x = ndimage.gaussian_filter(random.randn(size, size, 3), (6, 6, 0))
  return np.round(255 * (x - x.min()) / np.ptp(x)).astype(np.uint8)


def test_bicubic_is_that_of_pillow():
  image = smooth_picture()
  got = degradation.degrade('bicubic', image, 4, 7)
  want = Image.fromarray(image).resize((16, 16), Image.Resampling.BICUBIC)
  np.testing.assert_array_equal(got, np.asarray(want))


def test_resize_by_hand():
  row = np.array([0.0, 4, 8, 20]).reshape(1, 4, 1)
  two = lambda kind: degradation.resize(row, (1, 2), kind).ravel()
  np.testing.assert_allclose(two('area'), [2, 14])
  np.testing.assert_allclose(two('linear'), [2, 14])  # between two pixels
  # a = -0.75 gives (-3, 19, 19, -3) / 32; the border is repeated.
  cubic = [(0 * -3 + 0 * 19 + 4 * 19 + 8 * -3) / 32]
  cubic += [(4 * -3 + 8 * 19 + 20 * 19 + 20 * -3) / 32]
  np.testing.assert_allclose(two('cubic'), cubic)
  three = degradation.resize(row, (1, 3), 'area').ravel()
  np.testing.assert_allclose(three, [1, 6, 17])
  larger = degradation.resize(row, (1, 8), 'linear').ravel()
  np.testing.assert_allclose(larger[:4], [0, 1, 3, 5])


@pytest.mark.parametrize('kind', degradation.INTERPOLATIONS)
def test_constants_stay(kind):
  image = np.full((7, 9, 3), 0.25)
  for size in ((3, 4), (7, 9), (13, 20)):
    got = degradation.resize(image, size, kind)
    assert got.shape == (*size, 3)
    np.testing.assert_allclose(got, 0.25)


def test_convolution_mirrors_at_the_borders():
  image = np.random.RandomState(0).rand(9, 8, 3)
  kernel = np.random.RandomState(1).rand(5, 3)
  got = degradation._convolve(image, kernel)
  for c in range(3):
    want = ndimage.correlate(image[..., c], kernel, mode='mirror')
    np.testing.assert_allclose(got[..., c], want, atol=1e-12)


def test_gaussian_kernels():
  kernel = degradation.gaussian(15, np.diag([4.0, 1.0]))
  t = np.arange(15) - 7
  assert kernel.sum() == pytest.approx(1)
  assert (kernel.sum(0) * t**2).sum() == pytest.approx(4, rel=0.02)
  assert (kernel.sum(1) * t**2).sum() == pytest.approx(1, rel=0.02)
  dot = degradation.gaussian(5, np.zeros((2, 2)))
  assert dot[2, 2] == pytest.approx(1)
  moved = degradation.gaussian(25, np.eye(2), 13.5)
  assert (moved.sum(0) * np.arange(25)).sum() == pytest.approx(13.5)


def test_subsampling_takes_the_middle_of_blocks():
  ramp = np.tile(np.arange(64.0)[:, None], (64, 1, 3))
  draws = degradation._Draws
  # One whose first number is not for a plain resize.
  seed = next(d for d in range(99) if draws(d).number() >= 0.8)
  got = degradation._down(ramp, draws(seed), 4)[4:12, 4:12]
  want = np.tile((4 * np.arange(4, 12) + 1.5)[:, None], (8, 1, 3))
  np.testing.assert_allclose(got, want, atol=0.05)


def test_bsr_light_is_a_function_of_the_draw():
  image = smooth_picture()
  first = [degradation.degrade('bsr_light', image, 4, d) for d in range(8)]
  again = [degradation.degrade('bsr_light', image, 4, d) for d in range(8)]
  np.testing.assert_array_equal(first, again)
  assert len({x.tobytes() for x in first}) == 8
  for x in first:
    assert x.shape == (16, 16, 3)
    assert x.dtype == np.uint8


@pytest.mark.parametrize('factor', [2, 4])
def test_bsr_light_keeps_what_is_large(factor):
  image = smooth_picture(96)
  clean = degradation.degrade('bicubic', image, factor, 0).astype(float)
  errors, biases = [], []
  for draw in range(30):
    got = degradation.degrade('bsr_light', image, factor, draw)
    errors.append(np.sqrt(np.square(got - clean).mean()))
    biases.append(abs(got.mean() - clean.mean()))
  assert 2 < np.median(errors) < 20  # something happens, the picture stays
  assert max(biases) < 4
  assert np.std(errors) > 1  # not always the same


def test_noise_has_the_level_that_is_asked():
  image = np.full((64, 64, 3), 0.5)
  levels = []
  for draw in range(60):
    got = degradation._grain(image, degradation._Draws(draw)) - image
    levels.append(255 * got.std())
  levels = np.array(levels)
  near = lambda level: (np.abs(levels - level) < 0.1).mean()
  assert near(1) > 0.25
  assert near(2) > 0.25
  assert levels.max() < 2.2


def test_bad_values():
  image = smooth_picture(30)
  with pytest.raises(ValueError, match="'blur', must be one of bicubic, bsr"):
    degradation.degrade('blur', image, 2, 0)
  with pytest.raises(ValueError, match='30 x 30 px must be divisible by 4'):
    degradation.degrade('bicubic', image, 4, 0)
