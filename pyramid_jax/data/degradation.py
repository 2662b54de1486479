"""Low-resolution versions of images, for super-resolution of photographs.

'bicubic' is that of LDM-SR. 'bsr' and 'bsr_light' are the degradation of BSRGAN
(arXiv:2103.14006) and its light version as in latent-diffusion
(ldm/modules/image_degradation/{bsrgan,bsrgan_light}.py,
degradation_bsrgan_variant): blurs, resizing, noise and JPEG in a random order,
as defects of real images. Neither has the noise of a camera's processing, which
is left out there. A result depends on the image and on the draw alone. What
OpenCV computes there is computed here from its definitions.
"""

from collections.abc import Callable
import dataclasses
import io

import numpy as np
from PIL import Image
import scipy

from pyramid_jax.conditioning import hashing
from pyramid_jax.networks.layers import resampling


INTERPOLATIONS = ('linear', 'cubic', 'area')
_STREAM = 106  # word of the hash
_TAPS = 25  # The taps of the Gaussian before subsampling.
# Places in the order of operations; 6 is what both versions leave out.
_BLUR, _BLUR_AGAIN, _DOWN, _TO_SIZE, _GRAIN, _JPEG = range(6)
_OPERATIONS = 7
_DOT = 1e-4  # variance, px^2, of the thinnest peak, which is a dot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Version:
  """The ranges of a version of BSRGAN's degradation; both ends are included.

  Attributes:
    blurs: the places of blurs in the order of operations.
    oriented: the sizes of anisotropic kernels, low, high and step.
    round: the sizes of isotropic kernels, low, high and step.
    narrower: by which the widths of kernels are divided.
    resized: the chance that the image is resized before it gets its size,
      rather than blurred and subsampled.
    noise: deviations in grey levels.
    quality: of JPEG.
  """

  blurs: tuple[int, ...]
  oriented: tuple[int, int, int]
  round: tuple[int, int, int]
  narrower: float
  resized: float
  noise: tuple[int, int]
  quality: tuple[int, int]


VERSIONS = {
  'bsr_light': Version(
    blurs=(_BLUR,),
    oriented=(5, 14, 1),
    round=(5, 7, 1),
    narrower=4,
    resized=0.8,
    noise=(1, 2),
    quality=(80, 95),
  ),
  'bsr': Version(
    blurs=(_BLUR, _BLUR_AGAIN),
    oriented=(7, 25, 2),
    round=(7, 25, 2),
    narrower=1,
    resized=0.75,
    noise=(2, 25),
    quality=(30, 95),
  ),
}
KINDS = ('bicubic', *VERSIONS)


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

  def integer(self, low: int, high: int, step: int = 1) -> int:
    """Returns one of low, low + step, ..., high."""
    return low + step * int(self.number() * ((high - low) // step + 1))

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
  """Returns the (outputs, inputs) matrix of a resize along one axis.

  `kind` may also be 'parts': what OpenCV does in place of means over areas
  where an image is enlarged. A pixel is then that of the input in which it
  begins, mixed with the next one by the part of it that lies there.
  """
  scale = inputs / outputs
  if kind == 'area':
    return area_weights(inputs, outputs)
  if kind == 'cubic':
    return resampling.cubic_weights(inputs, outputs)
  source = (np.arange(outputs) + 0.5) * scale - 0.5
  if kind == 'parts':
    first = np.floor(np.arange(outputs) * scale)
    part = (np.arange(outputs) + 1) - (first + 1) / scale
    source = first + np.where(part > 0, part % 1, 0)
  taps = np.floor(source).astype(int)[:, None] + np.arange(2)
  value = np.maximum(1 - np.abs(source[:, None] - taps), 0)
  matrix = np.zeros((outputs, inputs))
  rows = np.arange(outputs)[:, None]
  np.add.at(matrix, (rows, taps.clip(0, inputs - 1)), value)
  return matrix


def resize(image: np.ndarray, size: tuple[int, int], kind: str) -> np.ndarray:
  """Resizes (H, W, C) float without antialiasing, as OpenCV does.

  `size` is the height and width of the result, `kind` one of `INTERPOLATIONS`.
  """
  is_enlarged = size[0] > image.shape[0] or size[1] > image.shape[1]
  kind = 'parts' if kind == 'area' and is_enlarged else kind
  rows = _weights(image.shape[0], size[0], kind)
  columns = _weights(image.shape[1], size[1], kind)
  return np.einsum('yh,hwc,xw->yxc', rows, image, columns, optimize=True)


def halved(image: np.ndarray) -> np.ndarray:
  """Halves (H, W, C) by an antialiased bicubic filter, mirrored at the borders.

  utils_image.py: imresize_np.
  """
  border = 8  # more than the filter reaches
  height, width = (side + 2 * border for side in image.shape[:2])
  widths = ((border, border), (border, border), (0, 0))
  padded = np.pad(image.astype(np.float32), widths, 'symmetric')
  half = (width // 2, height // 2)
  planes = [
    Image.fromarray(plane).resize(half, Image.Resampling.BICUBIC)
    for plane in np.moveaxis(padded, -1, 0)
  ]
  inner = slice(border // 2, -(border // 2))
  return np.stack([np.asarray(x)[inner, inner] for x in planes], -1)


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Correlates every channel with a kernel, mirrored at the borders."""
  widths = [((n - 1) // 2, n // 2) for n in kernel.shape]
  padded = np.pad(image, [*widths, (0, 0)], 'reflect')
  flipped = kernel[::-1, ::-1, None]
  return scipy.signal.fftconvolve(padded, flipped, mode='valid', axes=(0, 1))


def gaussian(
  size: int, variances: tuple[float, float], angle: float = 0.0
) -> np.ndarray:
  """Returns a (size, size) kernel that sums to 1, with its peak in the middle.

  Args:
    size: of both sides.
    variances: px^2, along `angle` and across.
    angle: radians, of the first axis against x towards y.
  """
  t = np.arange(size) - (size - 1) / 2
  x, y = np.meshgrid(t, t)
  c, s = np.cos(angle), np.sin(angle)
  along, across = (max(value, _DOT) for value in variances)
  power = (c * x + s * y) ** 2 / along + (c * y - s * x) ** 2 / across
  kernel = np.exp(-0.5 * (power - power.min()))
  return kernel / kernel.sum()


def shifted(kernel: np.ndarray, shift: float) -> np.ndarray:
  """Moves a kernel (N, N) down and to the right, between pixels linearly."""
  n = len(kernel)
  places = np.clip(np.arange(n) - shift, 0, n - 1)
  first = np.minimum(places.astype(int), n - 2)
  rest = (places - first)[:, None]
  for _ in range(2):  # along the rows, then along the columns
    kernel = ((1 - rest) * kernel[first] + rest * kernel[first + 1]).T
  return kernel / kernel.sum()


def _blur(
  image: np.ndarray, draws: _Draws, factor: int, version: Version
) -> np.ndarray:
  if draws.number() < 0.5:
    high = (4 + factor) / version.narrower
    variances = draws.number(0, high), draws.number(0, high)
    size, angle = draws.integer(*version.oriented), draws.number(0, np.pi)
    return _convolve(image, gaussian(size, variances, angle))
  size = draws.integer(*version.round)
  sigma = draws.number(0, (2 + 0.2 * factor) / version.narrower)
  return _convolve(image, gaussian(size, (sigma**2, sigma**2)))


def _down(
  image: np.ndarray, draws: _Draws, factor: int, version: Version
) -> np.ndarray:
  """Resizes by a random factor, or blurs and takes every n-th pixel."""
  if draws.number() < version.resized:
    shrink = draws.number(1, 2 * factor)
    height, width = (max(1, int(side / shrink)) for side in image.shape[:2])
    return resize(image, (height, width), draws.interpolation())
  return subsampled(image, draws.number(0.1, 0.6 * factor), factor)


def subsampled(image: np.ndarray, sigma: float, factor: int) -> np.ndarray:
  """Blurs, then takes every n-th pixel, which stands for the middle of n."""
  kernel = shifted(gaussian(_TAPS, (sigma**2, sigma**2)), (factor - 1) / 2)
  return _convolve(image, kernel)[::factor, ::factor]


def mixing(
  spread: np.ndarray, matrix: np.ndarray, highest: float
) -> np.ndarray:
  """Returns the (C, C) matrix that makes correlated noise of independent one.

  Eigenvalues are taken by their magnitudes: rounding leaves negative ones.

  Args:
    spread: (C,) in [0, 1].
    matrix: (C, C), whose left singular vectors mix the channels.
    highest: the largest deviation.
  """
  turn = np.linalg.svd(matrix)[0]
  covariance = np.abs(highest**2 * turn.T @ np.diag(spread) @ turn)
  values, vectors = np.linalg.eigh(covariance)
  return (vectors * np.sqrt(np.abs(values))).T


def _grain(
  image: np.ndarray, draws: _Draws, levels: tuple[int, int]
) -> np.ndarray:
  """Adds noise: of each value, of each pixel, or between the two."""
  level = draws.integer(*levels) / 255
  kind = draws.number()
  height, width, channels = image.shape
  if kind > 0.6:
    return image + level * draws.normal(height, width, channels)
  if kind < 0.4:
    return image + level * draws.normal(height, width, 1)
  spread = draws.array(channels)
  mixed = mixing(spread, draws.array(channels, channels), levels[1] / 255)
  return image + draws.normal(height, width, channels) @ mixed


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
  """Returns what JPEG leaves of an image, float in [0, 1]."""
  data = io.BytesIO()
  Image.fromarray(_to_uint8(image)).save(data, 'JPEG', quality=quality)
  return np.asarray(Image.open(data), np.float32) / 255


def _to_uint8(image: np.ndarray) -> np.ndarray:
  return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _of_version(
  version: Version, image: np.ndarray, factor: int, draw: int | np.integer
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
      pixels = halved(pixels)
    pixels, factor = np.clip(pixels, 0, 1), 2
  compressed = lambda x: jpeg(x, draws.integer(*version.quality))
  order = np.argsort(draws.array(_OPERATIONS), kind='stable').tolist()
  down, to_size = order.index(_DOWN), order.index(_TO_SIZE)
  if down > to_size:
    order[down], order[to_size] = order[to_size], order[down]
  steps: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    **{
      place: lambda x: _blur(x, draws, factor, version)
      for place in version.blurs
    },
    _DOWN: lambda x: _down(x, draws, factor, version),
    _TO_SIZE: lambda x: resize(x, (height, width), draws.interpolation()),
    _GRAIN: lambda x: _grain(x, draws, version.noise),
    _JPEG: lambda x: compressed(x) if draws.number() < 0.9 else x,
  }
  for operation in order:
    if operation in steps:
      pixels = np.clip(steps[operation](pixels), 0, 1)
  return _to_uint8(compressed(pixels))


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
  if kind in VERSIONS:
    return _of_version(VERSIONS[kind], image, factor, draw)
  size = (width // factor, height // factor)
  small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
  return np.asarray(small)
