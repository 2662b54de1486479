"""Edge maps of images: white lines on black, as sketch guidance reads them.

Every detector maps images (B, H, W, 3), uint8 or float in [-1, 1], to
float32 (B, H, W) in [0, 1], 1 = edge. `sobel` and `xdog` are JAX, run inside
jit and can be differentiated; `canny` runs on the host.
"""

from collections.abc import Callable
import functools
import math

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from pyramid_jax.conditioning import layout


Detector = Callable[[jax.Array | np.ndarray], jax.Array | np.ndarray]
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue
THRESHOLD = 0.5  # and above is an edge
SOFTNESS = 0.1  # width of a soft threshold
FINE, WIDER = 0.8, 1.6  # sigma (px) of xdog, and of its other over it
FAINT = 0.01  # slope (1 / px) of what is no edge however flat the image is


def edges(name: str) -> Detector:
  """Returns the detector of a name, with its published constants.

  Raises:
    ValueError: there is none.
  """
  if name not in DETECTORS:
    raise ValueError(
      f'edge detector {name!r} must be one of {", ".join(DETECTORS)}.'
    )
  return DETECTORS[name]


def luma(images: jax.Array | np.ndarray) -> layout.Array:
  """Returns the brightness (B, H, W) in [0, 1] of images, float32.

  NumPy in, NumPy out.

  Raises:
    ValueError: not (B, H, W, 3).
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


@functools.partial(jax.jit, static_argnames=('soft', 'thin'))
def sobel(
  images: jax.Array | np.ndarray, soft: bool = False, thin: bool = True
) -> jax.Array:
  """Finds where brightness changes fastest.

  Args:
    images: (B, H, W, 3), uint8 or float in [-1, 1].
    soft: whether the threshold is a sigmoid, through which gradients flow.
    thin: whether only crests across an edge stay, which makes thin lines.

  Returns:
    (B, H, W) float32: 0 or 1, between them if soft. An edge is at least half
    as steep as the 99th percentile of its image.
  """
  y = _blur(jnp.asarray(luma(images)), 1.0, radius=2)
  right, down = _slopes(y)
  slope = jnp.sqrt(right**2 + down**2 + 1e-12)
  steep = jnp.percentile(slope, 99, axis=(1, 2), keepdims=True)
  share = jnp.clip(slope / jnp.maximum(steep, FAINT), 0, 1)
  if thin:
    share = jnp.where(_crests(slope, right, down), share, 0)
  if soft:
    return jax.nn.sigmoid((share - THRESHOLD) / SOFTNESS)
  return (share >= THRESHOLD).astype(jnp.float32)


@jax.jit
def xdog(
  images: jax.Array | np.ndarray,
  tau: float = 0.98,
  eps: float = 0.01,
  phi: float = 10.0,
) -> jax.Array:
  """Draws dark lines as a pen would: extended difference of Gaussians.

  Winnemoeller, Kyprianidis and Olsen, 'XDoG', 2012.

  Args:
    images: (B, H, W, 3), uint8 or float in [-1, 1].
    tau: weight of the wider Gaussian.
    eps: level above which there is no line.
    phi: how fast a line darkens below it.

  Returns:
    (B, H, W) float32 in [0, 1], strong lines near 1.
  """
  y = jnp.asarray(luma(images))
  d = _blur(y, FINE) - tau * _blur(y, WIDER * FINE)
  return jnp.where(d > eps, 0.0, -jnp.tanh(phi * (d - eps)))


def canny(
  images: jax.Array | np.ndarray,
  sigma: float = 2.0,
  low: float = 0.1,
  high: float = 0.2,
) -> np.ndarray:
  """Finds thin edges on the host, weak ones where they go on from strong ones.

  Canny, 'A computational approach to edge detection', 1986, with the units of
  scikit-image's `feature.canny`.

  Args:
    images: (B, H, W, 3), uint8 or float in [-1, 1].
    sigma: of the Gaussian that smooths first, in pixels.
    low: slope of a weak edge, in eighths of the whole range a pixel.
    high: slope of a strong one.

  Returns:
    (B, H, W) float32, 0 or 1; the outermost pixels are 0.
  """
  return np.stack(
    [_canny(y, sigma, low, high) for y in luma(np.asarray(images))]
  ).astype(np.float32)


DETECTORS: dict[str, Detector] = {
  'sobel': sobel,
  'canny': canny,
  'xdog': xdog,
}
ON_HOST = ('canny',)


def dilate(maps: jax.Array | np.ndarray, pixels: int) -> jax.Array:
  """Widens the lines of (B, H, W) maps by `pixels` to every side."""
  if pixels == 0:
    return jnp.asarray(maps)
  side = 2 * pixels + 1
  return _largest(maps, (1, side, side), (1, 1, 1), 'SAME')


def shrink(maps: jax.Array | np.ndarray, factor: int) -> jax.Array:
  """Returns the largest value of every factor x factor cell.

  Means would let thin lines fade.

  Args:
    maps: (B, H, W).
    factor: at least 1, divides H and W.

  Returns:
    (B, H / factor, W / factor).

  Raises:
    ValueError: a factor that does not divide.
  """
  if factor < 1 or maps.shape[1] % factor or maps.shape[2] % factor:
    raise ValueError(
      f'factor must divide both sides of {maps.shape}, got {factor}.'
    )
  cell = (1, factor, factor)
  return _largest(maps, cell, cell, 'VALID')


def _largest(
  maps: jax.Array | np.ndarray,
  window: tuple[int, ...],
  strides: tuple[int, ...],
  padding: str,
) -> jax.Array:
  x = jnp.asarray(maps, jnp.float32)
  return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)


def _blur(x: jax.Array, sigma: float, radius: int | None = None) -> jax.Array:
  """Convolves (B, H, W) with a Gaussian; the border goes on outside."""
  radius = radius or math.ceil(3 * sigma)
  taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
  taps /= taps.sum()
  for axis in (1, 2):
    widths = [(0, 0)] * 3
    widths[axis] = (radius, radius)
    padded = jnp.pad(x, widths, mode='edge')
    part = functools.partial(
      lax.slice_in_dim, padded, axis=axis
    )  # one shifted copy a tap
    size = x.shape[axis]
    terms = (float(t) * part(i, i + size) for i, t in enumerate(taps))
    x = sum(terms, jnp.zeros_like(x))
  return x


def _shifted(x: jax.Array, down: int, right: int) -> jax.Array:
  """Returns (B, H, W) values of the neighbours, those at the border its own."""
  _, height, width = x.shape
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1)), mode='edge')
  return padded[:, 1 + down :, 1 + right :][:, :height, :width]


def _slopes(x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns how much (B, H, W) grows a pixel, to the right and downwards."""
  shifted = functools.partial(_shifted, x)
  zero = jnp.zeros_like(x)
  beside = ((-1, 1), (0, 2), (1, 1))  # place and weight of the lines meant over
  right = sum((w * (shifted(i, 1) - shifted(i, -1)) for i, w in beside), zero)
  down = sum((w * (shifted(1, i) - shifted(-1, i)) for i, w in beside), zero)
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


def _canny(y: np.ndarray, sigma: float, low: float, high: float) -> np.ndarray:
  """Returns the (H, W) bool edges of one brightness (H, W)."""
  # Outside of the image is nothing; its share is taken out again.
  smooth = functools.partial(
    ndimage.gaussian_filter, sigma=sigma, mode='constant'
  )
  y = smooth(y.astype(np.float64)) / smooth(np.ones(y.shape))
  down, right = (ndimage.sobel(y, axis) for axis in (0, 1))
  slope = np.hypot(down, right)
  inside = np.zeros(y.shape, bool)
  inside[1:-1, 1:-1] = True
  weak = inside & (slope >= low) & _ridges(slope, down, right)
  names, count = ndimage.label(weak, np.ones((3, 3)))
  strong = np.zeros(count + 1, bool)
  strong[names[weak & (slope >= high)]] = True
  return strong[names]


def _ridges(
  slope: np.ndarray, down: np.ndarray, right: np.ndarray
) -> np.ndarray:
  """Returns where (H, W) slopes are largest along their direction.

  The values before and behind are interpolated between two neighbours.
  """
  rows, columns = np.indices(slope.shape)
  steep = np.maximum(np.maximum(np.abs(down), np.abs(right)), 1e-300)
  di, dj = down / steep, right / steep  # one of them is 1 or -1
  largest = np.ones(slope.shape, bool)
  for sign in (-1, 1):
    places = [rows + sign * di, columns + sign * dj]
    beside = ndimage.map_coordinates(slope, places, order=1, mode='constant')
    largest &= slope >= beside
  return largest
