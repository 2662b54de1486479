"""How near images are to given ones."""

import numpy as np

from pyramid_jax.data.pixels import images as images_lib


MAX_PSNR = 100.0  # dB; equal images have no finite one
SSIM_SIGMA = 1.5
SSIM_WINDOW = 11  # px of a side


def _check_pair(
  images: np.ndarray, targets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  images_lib.check_batch(images)
  images_lib.check_batch(targets)
  if images.shape != targets.shape:
    raise ValueError(
      f'images {images.shape} and targets {targets.shape} must agree.'
    )
  return images.astype(np.float64), targets.astype(np.float64)


def psnr(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns the peak signal-to-noise ratio of each image in dB.

  It is (N,) float64, infinite for equal images; both are (N, H, W, 3) uint8.

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


def ssim(images: np.ndarray, targets: np.ndarray) -> np.ndarray:
  """Returns the structural similarity (N,) of each image, the mean of channels.

  Wang et al. 2004: Gaussian window of 11 x 11, sigma 1.5, K1 0.01, K2 0.03,
  population variances; windows that leave the image do not count. Both are
  (N, H, W, 3) uint8, H and W at least 11.

  Raises:
    ValueError: other types, shapes that differ, or images that are too small.
  """
  from skimage import metrics  # its import is slow

  a, b = _check_pair(images, targets)
  if min(a.shape[1:3]) < SSIM_WINDOW:
    raise ValueError(
      f'ssim needs images of at least {SSIM_WINDOW} px, '
      f'got {a.shape[1]} x {a.shape[2]}.'
    )
  values = [
    metrics.structural_similarity(
      x,
      y,
      data_range=255,
      channel_axis=-1,
      gaussian_weights=True,
      sigma=SSIM_SIGMA,
      use_sample_covariance=False,
    )
    for x, y in zip(a, b, strict=True)
  ]
  return np.array(values)
