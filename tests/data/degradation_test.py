"""Degradations: their parts by hand, and what all of them keep."""

import pathlib

import numpy as np
from PIL import Image
import pytest
from scipy import ndimage

from pyramid_jax.data import degradation
from pyramid_jax.files import arrays as arrays_lib


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
  kernel = degradation.gaussian(15, (4.0, 1.0))
  t = np.arange(15) - 7
  assert kernel.sum() == pytest.approx(1)
  assert (kernel.sum(0) * t**2).sum() == pytest.approx(4, rel=0.02)
  assert (kernel.sum(1) * t**2).sum() == pytest.approx(1, rel=0.02)
  turned = degradation.gaussian(15, (4.0, 1.0), np.pi / 2)
  np.testing.assert_allclose(turned, kernel.T, atol=1e-12)
  dot = degradation.gaussian(5, (0.0, 0.0))
  assert dot[2, 2] == pytest.approx(1)
  moved = degradation.shifted(degradation.gaussian(25, (1.0, 1.0)), 1.5)
  for axis in (0, 1):
    assert (moved.sum(axis) * np.arange(25)).sum() == pytest.approx(13.5)


def test_subsampling_takes_the_middle_of_blocks():
  ramp = np.tile(np.arange(64.0)[:, None], (64, 1, 3))
  got = degradation.subsampled(ramp, 1.3, 4)[4:12, 4:12]
  want = np.tile((4 * np.arange(4, 12) + 1.5)[:, None], (8, 1, 3))
  np.testing.assert_allclose(got, want, atol=0.05)


VERSIONS = list(degradation.VERSIONS)


@pytest.fixture(scope='module')
def recorded():
  path = pathlib.Path(__file__).parent / 'recorded' / 'bsrgan_operations.npz'
  return arrays_lib.load(path)


def same(got, want, tolerance=1e-4):
  np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max())


def test_kernels_are_the_official_ones(recorded):
  for i, (size, angle, *variances) in enumerate(recorded['oriented']):
    got = degradation.gaussian(int(size), tuple(variances), angle)
    same(got, recorded[f'oriented_{i}'])
  for i, (size, sigma) in enumerate(recorded['round']):
    got = degradation.gaussian(int(size), (sigma**2, sigma**2))
    same(got, recorded[f'round_{i}'])


def test_operations_are_the_official_ones(recorded):
  image = recorded['image']
  for i in (0, 1, 3):
    got = degradation._convolve(image, recorded[f'oriented_{i}'])
    same(got, recorded[f'blurred_{i}'])
  for i, (sigma, factor) in enumerate(recorded['subsampled']):
    got = degradation.subsampled(image, sigma, int(factor))
    same(got, recorded[f'subsampled_{i}'])
  for i, size in enumerate(recorded['sizes']):
    for kind in degradation.INTERPOLATIONS:
      got = degradation.resize(image, tuple(size), kind)
      same(got, recorded[f'{kind}_{i}'])
  same(degradation.halved(image), recorded['halved'])


def test_jpeg_is_that_of_opencv(recorded):
  for i, quality in enumerate(recorded['qualities']):
    got = degradation.jpeg(recorded['image'], int(quality))
    # Decoders of two versions of libjpeg may round otherwise.
    difference = np.abs(got - recorded[f'jpeg_{i}'])
    assert difference.max() <= 2.5 / 255
    assert (difference > 1e-6).mean() < 0.02


def test_correlated_noise_has_the_official_covariance(recorded):
  for spread, matrix, exact, measured in zip(
    *(recorded[k] for k in ('spreads', 'matrices', 'exact', 'covariances')),
    strict=True,
  ):
    mixed = degradation.mixing(spread, matrix, 25 / 255)
    same(mixed.T @ mixed, exact, 1e-5)
    same(mixed.T @ mixed, measured, 0.02)


@pytest.mark.parametrize('kind', VERSIONS)
def test_whole_runs_are_distributed_as_official_ones(recorded, kind):
  image = np.round(255 * recorded['image']).astype(np.uint8)
  small = degradation.resize(255 * recorded['image'], (12, 12), 'area')
  runs = np.stack(
    [degradation.degrade(kind, image, 4, d) for d in range(600)]
  ).astype(float)
  rms = np.sort(np.sqrt(np.square(runs - small).mean((1, 2, 3))))
  rough = np.sort(np.abs(np.diff(runs, axis=2)).mean((1, 2, 3)))
  for got, name in ((rms, 'rms'), (rough, 'rough')):
    want = recorded[f'{kind}_{name}']
    # The two-sample statistic of Kolmogorov and Smirnov, of 600 and 1500 runs;
    # 0.094 is passed by chance once in a thousand times.
    places = np.searchsorted(got, want) / len(got)
    assert np.abs(places - np.arange(len(want)) / len(want)).max() < 0.094
  bias = runs.mean(0) - recorded[f'{kind}_mean']
  assert np.abs(bias.mean()) < 1.5


@pytest.mark.parametrize('kind', VERSIONS)
def test_a_degradation_is_a_function_of_the_draw(kind):
  image = smooth_picture()
  first = [degradation.degrade(kind, image, 4, d) for d in range(8)]
  again = [degradation.degrade(kind, image, 4, d) for d in range(8)]
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
    got = degradation._grain(image, degradation._Draws(draw), (1, 2)) - image
    levels.append(255 * got.std())
  levels = np.array(levels)
  near = lambda level: (np.abs(levels - level) < 0.1).mean()
  assert near(1) > 0.25
  assert near(2) > 0.25
  assert levels.max() < 2.2


def test_bad_values():
  image = smooth_picture(30)
  with pytest.raises(
    ValueError, match="'blur', must be one of bicubic, bsr_li"
  ):
    degradation.degrade('blur', image, 2, 0)
  with pytest.raises(ValueError, match='30 x 30 px must be divisible by 4'):
    degradation.degrade('bicubic', image, 4, 0)
