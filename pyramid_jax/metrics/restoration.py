"""How near restored images are to the whole ones, and what costs nothing.

Super-resolution stands beside bicubic enlargement, inpainting beside a hole of
one colour: what a model adds is the distance to these.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses

import numpy as np
from PIL import Image

from pyramid_jax.metrics import bootstrap
from pyramid_jax.metrics import image_quality
from pyramid_jax.metrics import states


Size = tuple[int, int]  # height and width
Examples = Mapping[str, np.ndarray]
TASKS = ('superres', 'inpaint')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Degradation:
  """How the low-resolution images of a data set were made."""

  score: str  # the name of the score of consistency with them
  # ((N, H, W, 3) uint8, (h, w)) -> (N, h, w, 3) uint8
  apply: Callable[[np.ndarray, Size], np.ndarray]


def bicubic(low: np.ndarray, size: Size) -> np.ndarray:
  """Enlarges (N, h, w, 3) uint8 by Pillow's bicubic filter.

  `size` is the height and width of the result.
  """
  resized = [
    Image.fromarray(x).resize(size[::-1], Image.Resampling.BICUBIC) for x in low
  ]
  return np.stack([np.asarray(x) for x in resized])


def mean_filled(images: np.ndarray, holes: np.ndarray) -> np.ndarray:
  """Fills holes (N, H, W) with the mean colour of the known pixels.

  They become middle grey where no pixel of (N, H, W, 3) uint8 is known.
  """
  known = (holes == 0)[..., None]
  count = known.sum((1, 2))
  total = (images * known).sum((1, 2), dtype=np.float64)
  colour = np.where(count > 0, total / np.maximum(count, 1), 127.5)
  fill = np.round(colour).astype(np.uint8)[:, None, None]
  return np.where(known, images, fill)


def region_psnr(
  images: np.ndarray, targets: np.ndarray, region: np.ndarray
) -> np.ndarray:
  """Returns the peak signal-to-noise ratio (N,) of a part of each image in dB.

  It is infinite where nothing differs, NaN for an empty part; images are
  (N, H, W, 3) uint8, `region` is (N, H, W) bool.
  """
  error = np.square(images.astype(np.float64) - targets).mean(-1)
  count = region.sum((1, 2))
  with np.errstate(divide='ignore', invalid='ignore'):
    return 10 * np.log10(255**2 * count / (error * region).sum((1, 2)))


def _check(task: str, images: np.ndarray, examples: Examples) -> None:
  if task not in TASKS:
    raise ValueError(f'task must be one of {TASKS}, got {task!r}.')
  shape = images.shape
  if task == 'inpaint' and examples['inpaint_mask'].shape != shape[:3]:
    raise ValueError(
      f'images {shape} and holes {examples["inpaint_mask"].shape} must agree.'
    )
  if task == 'superres':
    low = examples['lr_image'].shape
    factor = shape[1] // low[1] if low[1] else 0
    if not factor or shape[1:3] != (factor * low[1], factor * low[2]):
      raise ValueError(
        f'images {shape} must be a whole number of times as large as their '
        f'low-resolution versions {low}.'
      )


def pairs(
  task: str,
  images: np.ndarray,
  examples: Examples,
  degradation: Degradation | None = None,
) -> dict[str, np.ndarray]:
  """Returns `bootstrap.mean_pairs` of restored images (N, H, W, 3) uint8.

  superres: psnr (dB), ssim, and under the degradation's name the psnr (dB) of
  the degraded image to the one that was given; without `image` only the last.
  inpaint: hole_psnr, known_psnr (dB) of the parts, psnr and ssim of all. Ratios
  are at most 100 dB, also where nothing differs.

  Args:
    task: superres | inpaint.
    images: (N, H, W, 3) uint8.
    examples: `image` (N, H, W, 3) uint8, the whole images, and `lr_image`
      (N, h, w, 3) uint8 or `inpaint_mask` (N, H, W), 1 = hole.
    degradation: that made `lr_image`; None where it cannot be repeated.

  Raises:
    ValueError: unknown task, or sizes that do not fit.
  """
  _check(task, images, examples)
  ratios = {}
  if task == 'inpaint':
    hole = examples['inpaint_mask'] > 0
    for name, region in (('hole_psnr', hole), ('known_psnr', ~hole)):
      ratios[name] = region_psnr(images, examples['image'], region)
  if 'image' in examples:
    ratios['psnr'] = image_quality.psnr(images, examples['image'])
    ratios['ssim'] = image_quality.ssim(images, examples['image'])
  if task == 'superres' and degradation is not None:
    low = examples['lr_image']
    small = degradation.apply(images, low.shape[1:3])
    ratios[degradation.score] = image_quality.psnr(small, low)
  capped = {name: image_quality.capped(x) for name, x in ratios.items()}
  return {name: bootstrap.mean_pairs(x) for name, x in capped.items()}


def baseline(task: str, examples: Examples, size: Size) -> np.ndarray:
  """Returns (N, H, W, 3) uint8 images that need no model; see `pairs`."""
  if task == 'superres':
    return bicubic(examples['lr_image'], size)
  return mean_filled(examples['image'], examples['inpaint_mask'])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restoration:
  """The scores of restored images as a `states.Measure`.

  The ceiling is the score of the whole images, the floor that of `baseline`.
  """

  task: str
  degradation: Degradation | None = None
  bounds: bool = True  # whether there are ceilings and floors

  def of_images(self, batch: states.Batch) -> states.Columns:
    return pairs(self.task, batch.images, batch.examples, self.degradation)

  def of_real(self, batch: states.Batch) -> states.Columns:
    examples = batch.conditions
    if not self.bounds or batch.real is None:
      return {}
    plain = baseline(self.task, examples, batch.real.shape[1:3])
    score = lambda x: pairs(self.task, x, examples, self.degradation)
    return {
      **states.named(states.CEILING, score(batch.real)),
      **states.named(states.FLOOR, score(plain)),
    }

  def needs_others(self, examples: states.Columns) -> bool:
    del examples
    return False

  def rows(
    self, images: states.Columns, real: states.Columns
  ) -> list[bootstrap.Row]:
    return states.rows(
      bootstrap.ratios(images),
      bootstrap.ratios(states.part(states.CEILING, real)),
      bootstrap.ratios(states.part(states.FLOOR, real)),
    )
