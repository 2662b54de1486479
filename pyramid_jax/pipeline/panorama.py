"""Panoramas of 360 degrees, painted view by view.

The report on LaDM (arXiv:2411.07126) makes panoramas from perspective images
that a model of texts generates one after the other: each is inpainted where the
earlier ones, which it overlaps, do not show it. How views are placed, their
order, the interpolation and that an earlier view is never changed are our own.
"""

from typing import Any

from absl import logging
import numpy as np

from pyramid_jax import errors
from pyramid_jax.pipeline import pipeline
from pyramid_jax.pipeline import sphere
from pyramid_jax.runs import stopping


_HIGHEST = 8192  # px of a panorama


def make(
  pipe: pipeline.Pipeline,
  prompt: str | None = None,
  *,
  height: int = 0,
  fov: float = 90.0,
  overlap: float = 0.35,
  seed: int | None = None,
  **inputs: Any,
) -> np.ndarray:
  """Returns an equirectangular image (H, 2 H, 3) uint8 of a whole sphere.

  A view is an image of the model. What earlier views show of it is kept by
  masked sampling; a pixel of the result has the value of the first view that
  shows it.

  Args:
    pipe: a model that takes an image and a mask.
    prompt: the caption of all views.
    height: H, px; 0 for the number at which views are about as fine as the
      result where they are coarsest, in their middle.
    fov: the angle of a view, degrees.
    overlap: the share of a view that the next one repeats.
    seed: that of the first view; each has the next number.
    **inputs: other inputs of all views, see `Pipeline.request`.

  Raises:
    UserError: a model that takes no image and mask, or arguments out of their
      ranges.
  """
  side = pipe.config.data.image_size
  _check(pipe, height, fov, overlap)
  views = sphere.covering(fov, overlap, side)
  height = height or round(np.pi * views[0].focal)
  first = pipe.config.sample.seed if seed is None else seed
  canvas = Canvas(height)
  if prompt is not None:
    inputs['prompt'] = prompt
  for number, view in enumerate(views):
    stopping.check()
    image, hole = canvas.seen(view)
    if hole.any():
      given = {**inputs, 'image': image, 'mask': hole, 'count': 1}
      (image,) = pipe(seed=first + number, **given)
    canvas.paint(view, image)
    logging.info(
      'view %d of %d: %.0f %% of the sphere are there',
      *(number + 1, len(views), 100 * canvas.known.mean()),
    )
  return canvas.image()


class Canvas:
  """An equirectangular image that is painted view by view.

  Attributes:
    values: (H, 2 H, 3) float64 in [0, 255].
    known: (H, 2 H) bool, what has been painted.
  """

  def __init__(self, height: int):
    self.values = np.zeros((height, 2 * height, 3))
    self.known = np.zeros((height, 2 * height), bool)

  def seen(self, view: sphere.View) -> tuple[np.ndarray, np.ndarray]:
    """Returns what is known of a view, (side, side, 3) uint8, and what is not.

    The latter is (side, side) bool. A pixel is known if all are between which
    it lies.
    """
    both = np.concatenate([self.values, self.known[..., None]], axis=-1)
    found = sphere.seen(both, view)
    hole = found[..., 3] < 1 - 1e-9
    image = np.where(hole[..., None], 0.0, found[..., :3])
    return np.round(image).astype(np.uint8), hole

  def paint(self, view: sphere.View, image: np.ndarray) -> None:
    """Adds what a view shows and nothing earlier did."""
    values, inside = sphere.painted(image, view, len(self.values))
    new = inside & ~self.known
    self.values[new] = values[new]
    self.known |= new

  def image(self) -> np.ndarray:
    """Returns (H, 2 H, 3) uint8.

    Raises:
      UserError: views have left holes.
    """
    if not self.known.all():
      share = 100 * (1 - self.known.mean())
      raise errors.UserError(
        f'the views leave {share:.2g} % of the sphere out: a larger overlap is'
        ' needed.'
      )
    return np.round(self.values).astype(np.uint8)


def _check(
  pipe: pipeline.Pipeline, height: int, fov: float, overlap: float
) -> None:
  lacks = {'image', 'mask'} - set(pipe.requests)
  if lacks or pipe.upsampler is not None:
    raise errors.UserError(
      'a panorama needs a model without an upsampler that takes image and mask;'
      f' this one takes {", ".join(pipe.requests)}.'
    )
  for name, value, low, high in (
    ('fov', fov, 30, 120),
    ('overlap', overlap, 0.1, 0.8),
  ):
    if not low <= value <= high:
      raise errors.UserError(f'{name}={value}: must lie in [{low}, {high}].')
  if height and not 2 <= height <= _HIGHEST:
    raise errors.UserError(
      f'height={height}: must lie in [2, {_HIGHEST}], or be 0.'
    )
