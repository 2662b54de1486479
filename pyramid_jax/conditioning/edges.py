"""Edge maps of images: white lines on black, as in sketch guidance.

Every detector maps images (B, H, W, 3), uint8 or float in [-1, 1], to
float32 (B, H, W) in [0, 1], 1 = edge. `sobel` and `xdog` run inside jit,
`canny` on the host.
"""

from collections.abc import Callable
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.conditioning import layout


Detector = Callable[[jax.Array | np.ndarray], jax.Array | np.ndarray]
LUMA = (0.299, 0.587, 0.114)  # The weights of red, green and blue.
THRESHOLD = 0.5  # and above is an edge
FINE, WIDER = 0.8, 1.6  # sigma (px) of xdog, and of its wider Gaussian over it
TAU = 0.98  # weight of the wider Gaussian
EPS, PHI = 0.01, 10.0  # level below which a line darkens, and how fast
CANNY_SIGMA = 2.0  # px, of the Gaussian that smooths first
# Least slopes of weak and of strong edges, in eighths of the range a pixel.
CANNY_SLOPES = (0.1, 0.2)
FAINT = 0.01  # slope (1 / px), and above may be an edge in a flat image


def detector(name: str) -> Detector:
  """Returns the detector of a name, else raises ValueError."""
  if name not in DETECTORS:
    raise ValueError(
      f'edge detector {name!r} must be one of {", ".join(DETECTORS)}.'
    )
  return DETECTORS[name]


def luma(images: jax.Array | np.ndarray) -> layout.Array:
  """Returns the brightness (B, H, W) in [0, 1] of images, float32.

  NumPy arrays give a NumPy array; other shapes than (B, H, W, 3) ValueError.
  """
  if images.ndim != 4 or images.shape[-1] != 3:
    raise ValueError(f'images must be (B, H, W, 3), got {images.shape}.')
  xp = layout.array_module(images)
  x = xp.asarray(images, np.float32)
  x = x / 255 if images.dtype == np.uint8 else (x + 1) / 2
  weights = xp.array(LUMA, np.float32)
  if xp is np:
    return x @ weights
  # Accelerators round the factors of a product unless they are asked not to.
  return jnp.matmul(x, weights, precision='highest')


@jax.jit
def sobel(images: jax.Array | np.ndarray) -> jax.Array:
  """Finds thin lines where brightness changes fastest, 0 or 1.

  An edge is the crest of a slope that is at least half as steep as the 99th
  percentile of its image.
  """
  y = _blur(jnp.asarray(luma(images)), 1.0, radius=2)
  right, down = _slopes(y)
  slope = jnp.sqrt(right**2 + down**2 + 1e-12)
  steep = jnp.percentile(slope, 99, axis=(1, 2), keepdims=True)
  share = jnp.clip(slope / jnp.maximum(steep, FAINT), 0, 1)
  share = jnp.where(_crests(slope, right, down), share, 0)
  return (share >= THRESHOLD).astype(jnp.float32)


@jax.jit
def xdog(images: jax.Array | np.ndarray) -> jax.Array:
  """Draws dark lines as a pen would: extended difference of Gaussians.

  Winnemoeller, Kyprianidis and Olsen, 'XDoG', 2012. Strong lines are near 1.
  """
  y = jnp.asarray(luma(images))
  d = _blur(y, FINE) - TAU * _blur(y, WIDER * FINE)
  return jnp.where(d > EPS, 0.0, -jnp.tanh(PHI * (d - EPS)))


def canny(images: jax.Array | np.ndarray) -> np.ndarray:
  """Finds thin edges, weak ones where they go on from strong ones, 0 or 1.

  Canny, 'A computational approach to edge detection', 1986, of scikit-image.
  The outermost pixels are 0.
  """
  from skimage import feature  # takes as long to import as the whole package

  found = [
    feature.canny(y.astype(np.float64), CANNY_SIGMA, *CANNY_SLOPES)
    for y in luma(np.asarray(images))
  ]
  return np.stack(found).astype(np.float32)


DETECTORS: dict[str, Detector] = {
  'sobel': sobel,
  'canny': canny,
  'xdog': xdog,
}
ON_HOST = ('canny',)


def _blur(x: jax.Array, sigma: float, radius: int | None = None) -> jax.Array:
  """Convolves (B, H, W) with a Gaussian; the border goes on outside."""
  radius = radius or math.ceil(3 * sigma)
  taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  taps /= taps.sum()
  for axis in (1, 2):
    widths = [(0, 0)] * 3
    widths[axis] = (radius, radius)
    padded = jnp.pad(x, widths, mode='edge')
    # One shifted copy a tap.
    part = functools.partial(lax.slice_in_dim, padded, axis=axis)
    size = x.shape[axis]
    terms = (float(t) * part(i, i + size) for i, t in enumerate(taps))
    x = sum(terms, jnp.zeros_like(x))
  return x


def _shifted(x: jax.Array, down: int, right: int) -> jax.Array:
  """Returns the neighbours of (B, H, W); at the border a pixel is its own."""
  _, height, width = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode='edge')
  return padded[:, 1 + down :, 1 + right :][:, :height, :width]


def _slopes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns how much (B, H, W) grows a pixel, to the right and downwards."""
  shifted = functools.partial(_shifted, x)
  zero = jnp.zeros_like(x)
  lines = ((-1, 1), (0, 2), (1, 1))  # offset and weight of the averaged lines
  right = sum((w * (shifted(i, 1) - shifted(i, -1)) for i, w in lines), zero)
  down = sum((w * (shifted(1, i) - shifted(-1, i)) for i, w in lines), zero)
  return right / 8, down / 8


def _crests(slope: jax.Array, right: jax.Array, down: jax.Array) -> jax.Array:
  """Returns where a slope is the largest along its own direction.

  Of two equal neighbours, as a step between two pixels has them, one stays.
  """
  turn = jnp.round(4 * jnp.arctan2(down, right) / jnp.pi).astype(jnp.int32) % 4
  crest = jnp.zeros(slope.shape, bool)
  for number, (i, j) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
    largest = (slope > _shifted(slope, i, j)) & (
      slope >= _shifted(slope, -i, -j)
    )
    crest |= (turn == number) & largest
  return crest
