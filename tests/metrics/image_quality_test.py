"""PSNR and SSIM against direct sums over pixels."""

import numpy as np
import pytest

from pyramid_jax.metrics import image_quality


def _pair(size=16):
  random = np.random.RandomState(0)
  a = random.randint(0, 256, (2, size, size, 3)).astype(np.uint8)
  b = np.clip(a + random.randint(-30, 31, a.shape), 0, 255).astype(np.uint8)
  return a, b


def test_psnr():
  a = np.zeros((3, 8, 8, 3), np.uint8)
  b = np.stack([a[0], a[0] + 1, a[0] + 255])
  want = [np.inf, 20 * np.log10(255), 0]
  np.testing.assert_allclose(image_quality.psnr(a, b), want)


def test_ssim_is_the_mean_over_windows():
  a, b = _pair(13)
  offsets = np.arange(-5, 6)
  window = np.exp(-(offsets**2) / (2 * 1.5**2))
  window = np.outer(window, window)
  window = (window / window.sum())[..., None]
  values = []
  for y in range(13 - 10):
    for x in range(13 - 10):
      p = a[0, y : y + 11, x : x + 11].astype(float)
      q = b[0, y : y + 11, x : x + 11].astype(float)
      mp, mq = (window * p).sum((0, 1)), (window * q).sum((0, 1))
      vp = (window * (p - mp) ** 2).sum((0, 1))
      vq = (window * (q - mq) ** 2).sum((0, 1))
      cov = (window * (p - mp) * (q - mq)).sum((0, 1))
      c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
      top = (2 * mp * mq + c1) * (2 * cov + c2)
      values.append(top / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
  got = image_quality.ssim(a, b)
  np.testing.assert_allclose(got[0], np.mean(values), rtol=1e-9)
  np.testing.assert_allclose(image_quality.ssim(a, a), 1)


def test_bad_pairs():
  a, b = _pair()
  with pytest.raises(ValueError, match='must agree'):
    image_quality.psnr(a, b[:1])
  with pytest.raises(ValueError, match='got .* float64'):
    image_quality.psnr(a, b / 255)
  with pytest.raises(ValueError, match='at least 11 px, got 8 x 16'):
    image_quality.ssim(a[:, :8], b[:, :8])
