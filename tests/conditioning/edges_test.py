"""Edge detectors against arithmetic of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from pyramid_jax.conditioning import edges


def random_images(seed=0, size=24):
  random = np.random.RandomState(seed)
  x = ndimage.gaussian_filter(random.rand(2, size, size, 3), (0, 2, 2, 0))
  x = (x - x.min()) / np.ptp(x)
  return np.round(255 * x).astype(np.uint8)


def disc(size=32, radius=9):
  y, x = np.mgrid[:size, :size] - (size - 1) / 2
  inside = np.hypot(x, y) < radius
  grey = np.where(inside, 0, 255).astype(np.uint8)
  return np.repeat(grey[None, ..., None], 3, -1), inside


def brightness(images):
  return (images.astype(np.float64) / 255) @ [0.299, 0.587, 0.114]


def test_brightness_is_not_rounded_on_an_accelerator():
  images = jnp.asarray(random_images())
  jaxpr = jax.make_jaxpr(edges.luma)(images)
  products = [e for e in jaxpr.eqns if e.primitive.name == 'dot_general']
  highest = (jax.lax.Precision.HIGHEST,) * 2
  assert [e.params['precision'] for e in products] == [highest]
  np.testing.assert_allclose(
    edges.luma(images), edges.luma(random_images()), atol=1e-6
  )


def test_sobel_by_hand():
  images = random_images()
  taps = np.exp(-0.5 * np.arange(-2, 3) ** 2.0)
  y = brightness(images)
  for axis in (1, 2):
    y = ndimage.correlate1d(y, taps / taps.sum(), axis, mode='nearest')
  ramp, mean = np.array([-1, 0, 1]), np.array([1, 2, 1])
  slope = np.zeros(y.shape)
  for along, across in ((1, 2), (2, 1)):
    g = ndimage.correlate1d(y, ramp, along, mode='nearest')
    slope += ndimage.correlate1d(g, mean / 8, across, mode='nearest') ** 2
  slope = np.sqrt(slope)
  share = slope / np.percentile(slope, 99, axis=(1, 2), keepdims=True)
  share = np.clip(share, 0, 1)
  lines = np.asarray(edges.sobel(images)) > 0
  assert not lines[share < 0.5 - 1e-4].any()
  crest = slope == ndimage.maximum_filter(slope, (1, 3, 3))
  assert lines[crest & (share > 0.5 + 1e-4)].all()
  # What the system has in [-1, 1] gives the same.
  again = edges.sobel(images.astype(np.float32) / 127.5 - 1)
  assert (lines == np.asarray(again)).mean() > 0.99


@pytest.mark.parametrize('name', ['sobel', 'canny'])
def test_outlines_are_thin_and_in_their_place(name):
  images, inside = disc()
  lines = np.asarray(edges.detector(name)(images))
  assert lines.shape == (1, 32, 32)
  assert lines.dtype == np.float32
  assert set(np.unique(lines)) == {0, 1}
  border = inside ^ ndimage.binary_erosion(inside)
  far = ndimage.distance_transform_edt(~border)
  assert far[lines[0] > 0].max() <= 1.5
  near = ndimage.distance_transform_edt(lines[0] == 0)
  assert near[border].max() <= 1.5
  assert lines.sum() < 1.5 * border.sum()
  # The light inside of the dark makes the same outline.
  other = np.asarray(edges.detector(name)(255 - images))
  assert (other == lines).mean() > 0.96


def test_a_step_between_two_pixels_is_one_line():
  images = np.zeros((1, 16, 16, 3), np.uint8)
  images[:, :, 8:] = 255
  for turned in (images, images.transpose(0, 2, 1, 3)):
    assert np.asarray(edges.sobel(turned)).sum() == 16


@pytest.mark.parametrize('flip', [1, -1])
def test_a_slanting_step_is_one_line(flip):
  y, x = np.mgrid[:20, :20]
  grey = np.where(x + y < 20, 0, 255)[:, ::flip].astype(np.uint8)
  lines = np.asarray(edges.sobel(np.repeat(grey[None, ..., None], 3, -1)))[0]
  step = np.abs((x + y - 19.5)[:, ::flip]) < 2
  assert not lines[~step].any()
  inner = lines[2:-2].sum(1)
  assert inner.min() >= 1
  assert inner.max() <= 2


@pytest.mark.parametrize('name', edges.DETECTORS)
def test_flat_images_have_no_edges(name):
  images = np.full((1, 16, 16, 3), 255, np.uint8)
  assert np.asarray(edges.detector(name)(images)).max() < 0.5
  # Nor have the steps of 8 bits.
  nearly = images.copy()
  nearly[:, :, 8:] = 254
  assert np.asarray(edges.detector(name)(nearly)).max() < 0.5


def test_xdog_by_hand():
  images = random_images(2)
  y = brightness(images)
  blurred = []
  for sigma in (0.8, 0.8 * 1.6):
    radius = int(np.ceil(3 * sigma))
    taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    z = y
    for axis in (1, 2):
      z = ndimage.correlate1d(z, taps / taps.sum(), axis, mode='nearest')
    blurred.append(z)
  d = blurred[0] - 0.98 * blurred[1]
  ink = np.where(d > 0.01, 1.0, 1 + np.tanh(10 * (d - 0.01)))
  got = np.asarray(edges.xdog(images))
  np.testing.assert_allclose(got, 1 - ink, atol=1e-5)
  assert np.asarray(edges.xdog(disc()[0])).max() > 0.5


def test_weak_edges_stay_where_they_go_on_from_strong_ones():
  # A step whose height grows downwards; smoothed by sigma 2 its slope is about
  # 1.6 times the height, weak from 0.0625 and strong from 0.125 on.
  def lines(lowest):
    height = np.linspace(0.0, lowest, 60)[:, None]
    grey = 255 * height * (np.arange(24) >= 12)
    images = np.repeat(np.round(grey)[None, ..., None], 3, -1)
    return edges.canny(images.astype(np.uint8))[0]

  assert lines(0.11).sum() == 0
  rows = np.flatnonzero(lines(0.2).any(1))
  np.testing.assert_array_equal(rows, np.arange(rows[0], 59))
  assert 0.05 < 0.2 * rows[0] / 60 < 0.075


def test_what_is_refused():
  with pytest.raises(ValueError, match=r"'hed' must be one of sobel, canny, x"):
    edges.detector('hed')
  with pytest.raises(ValueError, match=r'\(B, H, W, 3\), got \(2, 8, 8\)'):
    edges.canny(np.zeros((2, 8, 8), np.uint8))
