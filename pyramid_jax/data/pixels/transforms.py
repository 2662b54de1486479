"""Resizing, crops and flips of decoded images.

The filters that Pillow lacks are ours, so that they give the pixels of the
official code, which resized by TensorFlow and by torchvision.
"""

from collections.abc import Callable
import dataclasses
import functools
import math

import numpy as np
from PIL import Image

from pyramid_jax import limits
from pyramid_jax.conditioning import hashing


CROPS = (
  *('center', 'random-1d', 'random-2d', 'none'),
  *('square', 'random-half', 'adm', 'adm-random'),
)
SHAPED = ('center', 'random-1d')  # whose results need not be squares
Size = tuple[int, int]  # width and height, or height and width
Window = tuple[int, int, int, int]  # left, top, width, height
Draw = int | np.integer
AnyImage = np.ndarray | Image.Image  # (H, W, 3) uint8, or of the mode RGB
Resize = Callable[[AnyImage, Size, Window], np.ndarray]
# Words of the hash, one for each choice of an example.
_LEFT, _TOP, _SIDE, _FLIP = 101, 102, 103, 104


def _taps(
  inputs: int, outputs: int, first: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns both source indices and the weight of the second, float32."""
  scale = np.float32(inputs) / np.float32(outputs)
  index = np.arange(first, first + count, dtype=np.float32)
  source = scale * (index + np.float32(0.5)) - np.float32(0.5)
  source = np.maximum(source, np.float32(0))
  low = np.minimum(source.astype(np.int64), inputs - 1)
  high = np.minimum(low + 1, inputs - 1)
  return low, high, source - low.astype(np.float32)


def _shape(image: AnyImage) -> Size:
  """Returns height and width."""
  if isinstance(image, Image.Image):
    return image.height, image.width
  return image.shape[0], image.shape[1]


def _part_of(image: AnyImage, window: Window) -> AnyImage:
  """Returns the pixels of a window."""
  left, top, width, height = window
  if isinstance(image, Image.Image):
    return image.crop((left, top, left + width, top + height))
  return image[top : top + height, left : left + width]


def resize_bilinear(image: AnyImage, size: Size, window: Window) -> np.ndarray:
  """Resizes as Frido does: bilinear, no antialiasing, truncated to uint8.

  That is `torch.nn.functional.interpolate(align_corners=False)` of a uint8
  tensor in torchvision 0.8.1, on which the published FID references depend.
  `size` is the width and height of the whole result, of which only the
  `window` (left, top, width, height) is computed.
  """
  left, top, width, height = window
  rows, columns = _shape(image)
  x0, x1, wx = _taps(columns, size[0], left, width)
  y0, y1, wy = _taps(rows, size[1], top, height)
  # Only what the taps reach becomes an array.
  x, y = int(x0[0]), int(y0[0])
  reach = (x, y, int(x1[-1]) + 1 - x, int(y1[-1]) + 1 - y)
  image = np.asarray(_part_of(image, reach))
  x0, x1, y0, y1 = x0 - x, x1 - x, y0 - y, y1 - y
  rows, columns, channels = image.shape
  # Channels join the columns: NumPy is slow on a last axis of three.
  channel = np.arange(channels)
  x0 = (x0[:, None] * channels + channel).ravel()
  x1 = (x1[:, None] * channels + channel).ravel()
  wx, wy = np.repeat(wx, channels), wy[:, None]
  vx, vy = 1 - wx, 1 - wy
  flat = image.reshape(rows, columns * channels)
  above, under = flat[y0], flat[y1]
  # In the order of the original: rounding decides what truncation cuts off.
  value = (vy * vx) * above.take(x0, axis=1)
  value += (vy * wx) * above.take(x1, axis=1)
  value += (wy * vx) * under.take(x0, axis=1)
  value += (wy * wx) * under.take(x1, axis=1)
  return value.astype(np.uint8).reshape(height, width, channels)


def _fixed_taps(
  inputs: int, outputs: int, first: int, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Returns both source indices and their weights in parts of 2048, int32."""
  index = np.arange(first, first + count)
  source = ((index + 0.5) * (1 / (outputs / inputs)) - 0.5).astype(np.float32)
  low = np.floor(source).astype(np.int64)
  second = source - low.astype(np.float32)
  weights = (
    np.rint(x * np.float32(2048)).astype(np.int32) for x in (1 - second, second)
  )
  last = inputs - 1
  return low.clip(0, last), (low + 1).clip(0, last), *weights


def resize_linear(image: AnyImage, size: Size, window: Window) -> np.ndarray:
  """Resizes as OpenCV's INTER_LINEAR does: bilinear, no antialiasing, rounded.

  The arguments are those of `resize_bilinear`. The numbers are those of OpenCV
  4 for 8-bit images: weights of 11 bits, and sums that lose four bits after the
  columns and the rest after the rows.
  """
  left, top, width, height = window
  rows, columns = _shape(image)
  x0, x1, wx0, wx1 = _fixed_taps(columns, size[0], left, width)
  y0, y1, wy0, wy1 = _fixed_taps(rows, size[1], top, height)
  x, y = int(x0[0]), int(y0[0])
  reach = (x, y, int(x1[-1]) + 1 - x, int(y1[-1]) + 1 - y)
  pixels = np.asarray(_part_of(image, reach))
  rows, columns, channels = pixels.shape
  channel = np.arange(channels)
  x0, x1 = (((i - x)[:, None] * channels + channel).ravel() for i in (x0, x1))
  wx0, wx1 = np.repeat(wx0, channels), np.repeat(wx1, channels)
  flat = pixels.reshape(rows, columns * channels)
  total = np.full((height, width * channels), 2, np.int32)
  for at, weight in ((y0, wy0), (y1, wy1)):
    near = flat[at - y]
    row = near.take(x0, axis=1) * wx0 + near.take(x1, axis=1) * wx1
    total += (weight[:, None] * (row >> 4)) >> 16
  return (total >> 2).astype(np.uint8).reshape(height, width, channels)


def _resize(
  image: AnyImage, size: Size, window: Window, kind: Image.Resampling
) -> np.ndarray:
  left, top, width, height = window
  rows, columns = _shape(image)
  x, y = columns / size[0], rows / size[1]
  box = (left * x, top * y, (left + width) * x, (top + height) * y)
  return np.asarray(_opened(image).resize((width, height), kind, box))


def _opened(image: AnyImage) -> Image.Image:
  if isinstance(image, Image.Image):
    return image
  return Image.fromarray(image)


# Pillow's antialiased filters, and means over areas; the arguments are those of
# `resize_bilinear`.
resize_bicubic = functools.partial(_resize, kind=Image.Resampling.BICUBIC)
resize_lanczos = functools.partial(_resize, kind=Image.Resampling.LANCZOS)
resize_area = functools.partial(_resize, kind=Image.Resampling.BOX)
RESIZES: dict[str, Resize] = {
  'bilinear': resize_bilinear,
  'linear': resize_linear,
  'bicubic': resize_bicubic,
  'lanczos': resize_lanczos,
  'area': resize_area,
}


def middle(shape: tuple[int, ...], part: Size = (1, 1)) -> np.ndarray:
  """Returns the largest crop in the middle with the aspect ratio of a part.

  Args:
    shape: (H, W, ...) of the image.
    part: height and width, of a square by default.

  Returns:
    (4,) x0, y0, x1, y1 in [0, 1].
  """
  height, width = shape[:2]
  scale = min(height / part[0], width / part[1])
  x = 0.5 - scale * part[1] / width / 2
  y = 0.5 - scale * part[0] / height / 2
  return np.array([x, y, 1 - x, 1 - y])


def cut_map(
  values: np.ndarray,
  crop: np.ndarray,
  size: int | Size,
  flipped: bool = False,
) -> np.ndarray:
  """Cuts and resizes a map (H, W) as its image was, by nearest neighbours.

  `crop` (4,) is x0, y0, x1, y1 in [0, 1] of the full image, `size` px of both
  sides of the result, or its height and width, `flipped` whether the image is
  mirrored.
  """
  sizes = (size, size) if isinstance(size, int) else size
  places = []
  for axis, count, side in zip((1, 0), values.shape, sizes, strict=True):
    middles = (np.arange(side) + 0.5) / side
    part = crop[axis] + middles * (crop[axis + 2] - crop[axis])
    # What lies on the border of two pixels belongs to the second.
    index = np.floor(part * count + 1e-6).astype(np.int64)
    places.append(index.clip(0, count - 1))
  cut = values[places[0][:, None], places[1]]
  return cut[:, ::-1] if flipped else cut


def _covering(
  shape: tuple[int, ...], part: Size, is_rounded: bool = False
) -> Size:
  """Returns width and height of an image that just covers a part.

  The longer side is cut off to a whole number, or rounded, halves to even.
  """
  (height, width), (columns, rows) = shape[:2], part
  if is_rounded:
    scale = max(columns / width, rows / height)
    return max(columns, round(width * scale)), max(rows, round(height * scale))
  if width * rows > height * columns:
    return rows * width // height, rows
  return columns, columns * height // width


def _share(corner: Size, part: Size, whole: Size) -> np.ndarray:
  """Returns a part in pixels as x0, y0, x1, y1 in [0, 1] of the whole."""
  (left, top), (columns, rows) = corner, part
  box = np.array([left, top, left + columns, top + rows], np.float64)
  return box / (*whole, *whole)


def mirrored(pixels: np.ndarray) -> np.ndarray:
  """Returns an image (H, W, 3) uint8 with left and right exchanged.

  Pixels are moved as units of three bytes, in a fourth of the time that NumPy
  takes for single ones.
  """
  units = np.ascontiguousarray(pixels).view('V3')
  return np.ascontiguousarray(units[:, ::-1]).view(np.uint8)


@dataclasses.dataclass(frozen=True)
class Cut:
  """An image that was resized and cut before.

  Attributes:
    image: of the size of the result, not mirrored.
    crop: (4,) float64, the crop of the full image.
  """

  image: AnyImage
  crop: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
  """Resize, crop and flip of one example.

  The crops of taming-transformers (data/image_transforms.py): 'center' and
  'random-1d' resize the shorter side to `size`, then cut a square in the
  middle or anywhere along the longer side; 'random-2d' cuts a random square
  of at least `size` pixels, then resizes; 'none' squashes. With the filter
  'linear', 'center' and 'random-1d' are those of albumentations, which rounds
  the longer side and where the middle begins otherwise (taming-transformers:
  data/base.py, of faces and ImageNet). With `short_side` they cut out of a
  larger image, anywhere in both directions.

  Those of latent-diffusion (ldm/data): 'square' cuts the middle square, then
  resizes (lsun.py); 'random-half' does so with a random square of at least
  half the shorter side (imagenet.py, of super-resolution).

  Those of guided-diffusion (image_datasets.py): 'adm' halves the image by
  means while it is twice too large, resizes the shorter side by Pillow's
  bicubic filter whatever `resize` says, then cuts the middle; 'adm-random'
  resizes to a random side of at most 5 / 4 of `size` and cuts anywhere.

  Attributes:
    size: both sides of the result.
    crop: one of `CROPS`.
    flip: whether to mirror with chance one half.
    resize: one of the values of `RESIZES`.
    short_side: the shorter side in px before a square is cut by the crops of
      `SHAPED`; 0 for `size`.
  """

  size: int
  crop: str = 'center'
  flip: bool = False
  resize: Resize = resize_bilinear
  short_side: int = 0

  def __post_init__(self):
    if self.crop not in CROPS:
      raise ValueError(
        f'crop is {self.crop!r}, must be one of {", ".join(CROPS)}.'
      )
    least = self.size if self.crop in SHAPED else np.inf
    if self.short_side and self.short_side < least:
      raise ValueError(
        f'short_side is {self.short_side}, must be 0 or at least the image size'
        f' {self.size}, and 0 unless crop is one of {", ".join(SHAPED)}; it is'
        f' {self.crop!r}.'
      )

  def __call__(
    self, image: AnyImage | Cut, draw: Draw, shape: Size | None = None
  ) -> tuple[np.ndarray, np.ndarray, bool]:
    """Applies the choices of a draw, the seed of the example.

    `shape` is the height and width of the result in place of `size`, which the
    crops of `SHAPED` can have. An image that was cut before is only mirrored.

    Returns:
      (size, size, 3) uint8; the crop (4,) float64 as x0, y0, x1, y1 of the
      full image in [0, 1], before mirroring; whether it is mirrored.
    """
    size = self.size
    if isinstance(image, Cut):
      pixels, crop = np.asarray(image.image), image.crop
    elif self.crop in ('none', 'random-2d', 'random-half', 'square'):
      pixels, crop = self._resized(image, draw)
    elif self.crop in ('adm', 'adm-random'):
      pixels, crop = self._halved(image, draw)
    else:
      rows, columns = shape or (size, size)
      resized = self._whole(_shape(image), (columns, rows))
      left, top, crop = self._part(resized, (columns, rows), draw)
      pixels = self.resize(image, resized, (left, top, columns, rows))
    flipped = self.flip and bool(hashing.uniforms(draw, _FLIP) < 0.5)
    return mirrored(pixels) if flipped else pixels, crop, flipped

  def pixel_crop(self, shape: tuple[int, ...], crop: np.ndarray) -> np.ndarray:
    """Returns a crop as its pixels were cut.

    The box of 'center' is exactly in the middle, its pixels begin at whole
    numbers. `shape` is (H, W, ...) of the full image, which became a square.
    """
    if self.crop != 'center':
      return crop
    part = (self.size, self.size)
    resized = self._whole(shape, part)
    left, top, _ = self._part(resized, part, 0)
    return _share((left, top), part, resized)

  def _whole(self, shape: tuple[int, ...], part: Size) -> Size:
    """Returns width and height of the image out of which a part is cut."""
    short, is_square = self.short_side, part == (self.size, self.size)
    least = (short, short) if short and is_square else part
    return _covering(shape, least, self.resize is resize_linear)

  def _resized(
    self, image: AnyImage, draw: Draw
  ) -> tuple[np.ndarray, np.ndarray]:
    """Cuts a square, or with 'none' everything, then resizes it."""
    height, width = _shape(image)
    side, size, left, top = min(width, height), self.size, 0, 0
    if self.crop == 'random-2d' and side > size:
      side = size + int(hashing.below(side - size + 1, draw, _SIDE))
    elif self.crop == 'random-half':
      side = max(1, int(side * (0.5 + hashing.uniforms(draw, _SIDE) / 2)))
    columns, rows = (width, height) if self.crop == 'none' else (side, side)
    if self.crop == 'square':
      left, top = (width - side) // 2, (height - side) // 2
    elif self.crop != 'none':
      left = int(hashing.below(width - side + 1, draw, _LEFT))
      top = int(hashing.below(height - side + 1, draw, _TOP))
    part = _part_of(image, (left, top, columns, rows))
    pixels = self.resize(part, (size, size), (0, 0, size, size))
    return pixels, _share((left, top), (columns, rows), (width, height))

  def _halved(
    self, image: AnyImage, draw: Draw
  ) -> tuple[np.ndarray, np.ndarray]:
    """The crops of guided-diffusion."""
    whole, size = _opened(image), self.size
    is_random, short = self.crop == 'adm-random', self.size
    if is_random:
      more = math.ceil(size / 0.8) - size
      short += int(hashing.below(more + 1, draw, _SIDE))
    while min(whole.size) >= 2 * short:
      half = (whole.width // 2, whole.height // 2)
      whole = whole.resize(half, Image.Resampling.BOX)
    scale = short / min(whole.size)
    width, height = (round(side * scale) for side in whole.size)
    left, top = (width - size) // 2, (height - size) // 2
    if is_random:
      left = int(hashing.below(width - size + 1, draw, _LEFT))
      top = int(hashing.below(height - size + 1, draw, _TOP))
    if width * height > limits.IMAGE_PIXELS:  # of a very oblong image
      window = (left, top, size, size)
      pixels = resize_bicubic(whole, (width, height), window)
    else:
      whole = whole.resize((width, height), Image.Resampling.BICUBIC)
      pixels = np.asarray(whole)[top : top + size, left : left + size]
    return pixels, _share((left, top), (size, size), (width, height))

  def _part(
    self, resized: Size, part: Size, draw: Draw
  ) -> tuple[int, int, np.ndarray]:
    """Returns left, top and the crop of a part, width and height each."""
    width, height = resized
    columns, rows = part
    if self.crop == 'center':
      x, y = (width - columns) / 2, (height - rows) / 2
      if self.resize is resize_linear:
        left, top = int(x), int(y)
      else:
        left, top = round(x), round(y)
      # The official box is exactly in the middle, though the pixels are cut
      # at whole numbers.
      x, y = 0.5 - columns / width / 2, 0.5 - rows / height / 2
      box = np.array([x, y, x + columns / width, y + rows / height])
      return left, top, box
    left = int(hashing.below(width - columns + 1, draw, _LEFT))
    top = int(hashing.below(height - rows + 1, draw, _TOP))
    return left, top, _share((left, top), part, resized)
