"""How near pictures are to given ones."""

import numpy as np
from scipy import ndimage

from pyramid_jax.data.synthetic import detector


MAX_PSNR = 100.0  # dB; equal pictures have no finite one
SSIM_SIGMA = 1.5
SSIM_RADIUS = 5  # an 11 x 11 window
SSIM_C1 = (0.01 * 255) ** 2
SSIM_C2 = (0.03 * 255) ** 2


def _check_pair(
  images: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  detector.check(images)
  detector.check(targets)
  if images.shape != targets.shape:
    raise ValueError(
      f'images {images.shape} and targets {targets.shape} must agree.'
    )
  return images.astype(np.float64), targets.astype(np.float64)


def psnr(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns the peak signal-to-noise ratio of each image in dB.

  Args:
    images: (N, H, W, 3) uint8.
    targets: the same.

  Returns:
    (N,) float64, infinite for equal images.

  Raises:
    ValueError: other types, or shapes that differ.
  """
  a, b = _check_pair(images, targets)
  error = np.square(a - b).mean((1, 2, 3))
  with np.errstate(divide='ignore'):
    return 10 * np.log10(255**2 / error)


def capped(decibels: np.ndarray) -> np.ndarray:
  """Returns ratios that have a mean: at most 100 dB."""
  return np.minimum(decibels, MAX_PSNR)


def _blur(x: np.ndarray) -> np.ndarray:
  """Gaussian means over the 11 x 11 windows of (N, H, W, C)."""
  sigma = (0, SSIM_SIGMA, SSIM_SIGMA, 0)
  radius = (0, SSIM_RADIUS, SSIM_RADIUS, 0)
  return ndimage.gaussian_filter(x, sigma, radius=radius, mode='reflect')


def ssim(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns the structural similarity of each image, the mean of channels.

  Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03,
  population variances; windows that leave the image do not count.

  Args:
    images: (N, H, W, 3) uint8, H and W at least 11.
    targets: the same.

  Returns:
    (N,) float64.

  Raises:
    ValueError: other types, shapes that differ, or images that are too small.
  """
  a, b = _check_pair(images, targets)
  if min(a.shape[1:3]) <= 2 * SSIM_RADIUS:
    raise ValueError(
      f'ssim needs images of at least {2 * SSIM_RADIUS + 1} px, '
      f'got {a.shape[1]} x {a.shape[2]}.'
    )
  mean_a, mean_b = _blur(a), _blur(b)
  var_a = _blur(a * a) - mean_a**2
  var_b = _blur(b * b) - mean_b**2
  cov = _blur(a * b) - mean_a * mean_b
  top = (2 * mean_a * mean_b + SSIM_C1) * (2 * cov + SSIM_C2)
  bottom = (mean_a**2 + mean_b**2 + SSIM_C1) * (var_a + var_b + SSIM_C2)
  inner = slice(SSIM_RADIUS, -SSIM_RADIUS)
  return (top / bottom)[:, inner, inner].mean((1, 2, 3))
