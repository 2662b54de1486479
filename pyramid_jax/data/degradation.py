"""Low-resolution versions of images, for super-resolution of photographs.

'bicubic' is that of LDM-SR; 'bsr_light' follows the light degradation of
BSRGAN in latent-diffusion (ldm/modules/image_degradation/bsrgan_light.py):
blur, resizing, noise and JPEG in a random order, as defects of real images. A
result depends on the image and on the draw alone. What OpenCV computes there is
computed here from its definitions.
"""

from collections.abc import Callable
import io

import numpy as np
from PIL import Image
import scipy

from pyramid_jax.conditioning import hashing


KINDS = ('bicubic', 'bsr_light')
INTERPOLATIONS = ('linear', 'cubic', 'area')
_STREAM = 106  # word of the hash
_TAPS = 25  # The taps of the Gaussian before subsampling.
_NOISE = (1, 2)  # grey levels
_QUALITY = (80, 95)  # The quality of JPEG.
# Places in the order of operations.
_BLUR, _DOWN, _TO_SIZE, _GRAIN, _JPEG = 0, 2, 3, 4, 5
_OPERATIONS = 7  # 1 and 6 are what the light version leaves out


class _Draws:
  """Random numbers one after the other, all from one draw."""

  def __init__(self, draw: int | np.integer):
    self._draw, self._count = draw, 0

  def array(self, *shape: int) -> np.ndarray:
    """Returns uniform numbers in [0, 1)."""
    size = int(np.prod(shape))
    counter = np.arange(self._count, self._count + size)
    self._count += size
    return hashing.uniforms(self._draw, _STREAM, counter).reshape(shape)

  def number(self, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(self.array(1)[0])

  def integer(self, low: int, high: int) -> int:
    """Returns one of low..high."""
    return low + int(self.number() * (high - low + 1))

  def normal(self, *shape: int) -> np.ndarray:
    return scipy.special.ndtri(self.array(*shape) + 2.0**-54)

  def interpolation(self) -> str:
    return INTERPOLATIONS[self.integer(0, 2)]


def area_weights(inputs: int, outputs: int) -> np.ndarray:
  """Returns the (outputs, inputs) matrix of means over areas along one axis."""
  scale = inputs / outputs
  edges = np.arange(outputs + 1) * scale
  pixels = np.arange(inputs)
  overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(
    edges[:-1, None], pixels
  )
  return np.maximum(overlap, 0) / scale


def _weights(inputs: int, outputs: int, kind: str) -> np.ndarray:
  """Returns the (outputs, inputs) matrix of a resize along one axis."""
  scale = inputs / outputs
  if kind == 'area' and scale > 1:
    return area_weights(inputs, outputs)
  source = (np.arange(outputs) + 0.5) * scale - 0.5
  first = np.floor(source).astype(int) - 1
  taps = first[:, None] + np.arange(4)
  x = np.abs(source[:, None] - taps)
  if kind == 'cubic':  # a = -0.75
    near = ((1.25 * x - 2.25) * x) * x + 1
    far = ((-0.75 * x + 3.75) * x - 6) * x + 3
    value = np.where(x <= 1, near, np.where(x < 2, far, 0))
  else:
    value = np.maximum(1 - x, 0)
  matrix = np.zeros((outputs, inputs))
  rows = np.arange(outputs)[:, None]
  np.add.at(matrix, (rows, taps.clip(0, inputs - 1)), value)
  return matrix


def resize(image: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
  """Resizes (H, W, C) float without antialiasing, as OpenCV does.

  'area' takes means, or is 'linear' where it enlarges. `size` is the height and
  width of the result, `kind` one of `INTERPOLATIONS`.
  """
  rows = _weights(image.shape[0], size[0], kind)
  columns = _weights(image.shape[1], size[1], kind)
  return np.einsum('yh,hwc,xw->yxc', rows, image, columns, optimize=True)


def _bicubic(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
  """Antialiased, of (H, W, C) float32."""
  planes = [
    Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC)
    for plane in np.moveaxis(image.astype(np.float32), -1, 0)
  ]
  return np.stack([np.asarray(plane) for plane in planes], -1)


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Correlates every channel with a kernel, mirrored at the borders."""
  widths = [((n - 1) // 2, n // 2) for n in kernel.shape]
  padded = np.pad(image, [*widths, (0, 0)], 'reflect')
  flipped = kernel[::-1, ::-1, None]
  return scipy.signal.fftconvolve(padded, flipped, mode='valid', axes=(0, 1))


def gaussian(
  size: int, covariance: np.ndarray, centre: float | None = None
) -> np.ndarray:
  """Returns a (size, size) kernel that sums to 1.

  `covariance` (2, 2) is of x and y in pixels, `centre` the place of the peak on
  both axes, None = the middle.
  """
  t = np.arange(size) - ((size - 1) / 2 if centre is None else centre)
  x, y = np.meshgrid(t, t)
  # A peak thinner than a pixel becomes a dot.
  inverse = np.linalg.inv(covariance + 1e-4 * np.eye(2))
  power = inverse[0, 0] * x * x + inverse[1, 1] * y * y
  power = power + (inverse[0, 1] + inverse[1, 0]) * x * y
  kernel = np.exp(-0.5 * (power - power.min()))
  return kernel / kernel.sum()


def _blur(image: np.ndarray, draws: _Draws, factor: int) -> np.ndarray:
  if draws.number() < 0.5:
    size = draws.integer(2, 11) + 3
    high = (4 + factor) / 4
    spread = np.diag([draws.number(0, high), draws.number(0, high)])
    angle = draws.number(0, np.pi)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    return _convolve(image, gaussian(size, turn @ spread @ turn.T))
  size = draws.integer(2, 4) + 3
  sigma = draws.number(0, (2 + 0.2 * factor) / 4)
  return _convolve(image, gaussian(size, sigma**2 * np.eye(2)))


def _down(image: np.ndarray, draws: _Draws, factor: int) -> np.ndarray:
  """Resizes by a random factor, or blurs and takes every n-th pixel."""
  if draws.number() < 0.8:
    shrink = draws.number(1, 2 * factor)
    height, width = (max(1, int(side / shrink)) for side in image.shape[:2])
    return resize(image, (height, width), draws.interpolation())
  sigma = draws.number(0.1, 0.6 * factor)
  # The first pixel of a block stands for its middle.
  middle = (_TAPS - 1) / 2 + (factor - 1) / 2
  kernel = gaussian(_TAPS, sigma**2 * np.eye(2), middle)
  return _convolve(image, kernel)[::factor, ::factor]


def _grain(image: np.ndarray, draws: _Draws) -> np.ndarray:
  """Adds noise: of each value, of each pixel, or between the two."""
  level = draws.integer(*_NOISE) / 255
  kind = draws.number()
  height, width, channels = image.shape
  if kind > 0.6:
    return image + level * draws.normal(height, width, channels)
  if kind < 0.4:
    return image + level * draws.normal(height, width, 1)
  spread = np.diag(draws.array(channels))
  turn, _ = np.linalg.qr(draws.array(channels, channels))
  highest = (_NOISE[1] / 255) ** 2
  covariance = np.abs(highest * turn.T @ spread @ turn)
  values, vectors = np.linalg.eigh(covariance)
  root = vectors * np.sqrt(np.maximum(values, 0))
  return image + draws.normal(height, width, channels) @ root.T


def _jpeg(image: np.ndarray, draws: _Draws) -> np.ndarray:
  data = io.BytesIO()
  quality = draws.integer(*_QUALITY)
  Image.fromarray(_to_uint8(image)).save(data, 'JPEG', quality=quality)
  return np.asarray(Image.open(data), np.float32) / 255


def _to_uint8(image: np.ndarray) -> np.ndarray:
  return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def bsr_light(
  image: np.ndarray, factor: int, draw: int | np.integer
) -> np.ndarray:
  """Degrades an image; see `degrade`."""
  draws = _Draws(draw)
  height, width = (side // factor for side in image.shape[:2])
  pixels = image.astype(np.float32) / 255
  if factor == 4 and draws.number() < 0.25:
    half = (image.shape[0] // 2, image.shape[1] // 2)
    if draws.number() < 0.5:
      pixels = resize(pixels, half, draws.interpolation())
    else:
      pixels = _bicubic(pixels, half)
    pixels, factor = np.clip(pixels, 0, 1), 2
  order = np.argsort(draws.array(_OPERATIONS), kind='stable').tolist()
  down, to_size = order.index(_DOWN), order.index(_TO_SIZE)
  if down > to_size:
    order[down], order[to_size] = order[to_size], order[down]
  steps: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    _BLUR: lambda x: _blur(x, draws, factor),
    _DOWN: lambda x: _down(x, draws, factor),
    _TO_SIZE: lambda x: resize(x, (height, width), draws.interpolation()),
    _GRAIN: lambda x: _grain(x, draws),
    _JPEG: lambda x: _jpeg(x, draws) if draws.number() < 0.9 else x,
  }
  for operation in order:
    if operation in steps:
      pixels = np.clip(steps[operation](pixels), 0, 1)
  return _to_uint8(_jpeg(pixels, draws))


def degrade(
  kind: str, image: np.ndarray, factor: int, draw: int | np.integer
) -> np.ndarray:
  """Returns the low-resolution version of an image (H, W, 3) uint8.

  `factor` divides H and W; `draw` is the seed of the example, on which
  'bicubic' does not depend.

  Raises:
    ValueError: unknown kind, or sides that `factor` does not divide.
  """
  height, width = image.shape[:2]
  if kind not in KINDS:
    raise ValueError(
      f'degradation is {kind!r}, must be one of {", ".join(KINDS)}.'
    )
  if height % factor or width % factor:
    raise ValueError(
      f'sides of {width} x {height} px must be divisible by {factor}.'
    )
  if kind == 'bsr_light':
    return bsr_light(image, factor, draw)
  size = (width // factor, height // factor)
  small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
  return np.asarray(small)
