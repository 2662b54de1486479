"""What a person asks of a model: values, without anything of the model."""

from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import numbers
import os
from typing import Any

import numpy as np

from pyramid_jax import errors
from pyramid_jax.config import ranges


# A path, a PIL image or an array of uint8, (H, W) or (H, W, 3); several are a
# list or an array with one more axis.
Image = Any
Path = str | os.PathLike[str]
# An object is {'label': name, 'box': [x0, y0, x1, y1]} or (name, box), with
# coordinates in [0, 1].
Object = Mapping[str, Any] | tuple[str, Sequence[float]]

CONDITIONS = (
  *('prompt', 'layout', 'labels', 'graph', 'label', 'map'),
  *('image', 'mask', 'sketch', 'pitch', 'depth_of_field'),
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Request:
  """Images that are asked for.

  None leaves a value to the model. A condition may be one for all images, or a
  list with one for each, which serve in turn. Fields out of their range are a
  UserError.

  Attributes:
    prompt: a caption, '' for the empty one.
    layout: a list of objects, a list of such lists, or a JSON file of either.
    labels: the names of objects, separated by commas or in a list, or a list of
      such lists.
    graph: relations like 'red circle, left of, blue square; ...'.
    label: a class, its name or number from 1; a text may have several,
      separated by commas.
    map: an image of classes, or of depth for a control of it, 8-bit grey values
      or with a palette.
    image: the image to enlarge, to inpaint, or to begin with.
    mask: an image; `image` is painted anew where it is white.
    strength: in (0, 1], the share of the steps that `image` goes through.
    sketch: an image or an SVG file of lines.
    pitch: of the camera, one of `conditioning.camera.ATTRIBUTES`.
    depth_of_field: of the camera, one of `conditioning.camera.ATTRIBUTES`.
    split: 'train', 'val' or 'test' for the conditions of a split of the data.
    coarse_latent: finished scales, coarse first, (N, h, w, C) each, or a
      `latents.npz`.
    count: the number of images; by default one for each condition of a list,
      otherwise `config.sample.count`.
    seed: the seed of the noise, and of classes that are drawn.
    last_scale: the last scale to sample, by number or name; an earlier one than
      the finest gives a preview.
    shape: the height and width of the images, px.
    steps: of the solver, one number or one for each stage, coarse to fine.
    guidance: the scale of classifier-free guidance; 1 is none.
    classifier_scale: the factor of the gradient of the classifier that guides.
    solver: see `config.sample.solver`; the fields below are those of
      `config.sample`, too.
  """

  prompt: str | Sequence[str] | None = None
  layout: Path | Sequence[Object] | Sequence[Sequence[Object]] | None = None
  labels: str | Sequence[str] | Sequence[Sequence[str]] | None = None
  graph: str | Sequence[str] | None = None
  label: str | int | Sequence[str | int] | None = None
  map: Image = None
  image: Image = None
  mask: Image = None
  strength: float | None = None
  sketch: Image = None
  pitch: str | None = None
  depth_of_field: str | None = None
  split: str | None = None
  coarse_latent: Path | Sequence[np.ndarray] | None = None
  count: int | None = None
  seed: int | None = None
  last_scale: int | str | None = None
  shape: tuple[int, int] | None = None
  steps: int | Sequence[int] | None = None
  guidance: float | None = None
  classifier_scale: float | None = None
  solver: str | None = None
  guidance_interval: Sequence[float] | None = None
  guidance_channels: int | None = None
  guidance_power: float | None = None
  guidance_parts: Sequence[float] | None = None
  spacing: str | None = None
  rho: float | None = None
  eta: float | None = None
  temperature: float | None = None
  project: bool | None = None
  discretization: str | None = None
  sigma_min: float | None = None
  sigma_max: float | None = None
  churn: float | None = None
  churn_min: float | None = None
  churn_max: float | None = None
  churn_noise: float | None = None
  windows: tuple[int, int] | None = None

  def __post_init__(self) -> None:
    for name in (*CONDITIONS, 'split', 'coarse_latent'):
      _refuse_empty(name, getattr(self, name))
    _check_whole('count', self.count, 1, ranges.COUNT)
    _check_whole('seed', self.seed, 0, ranges.SEED)
    last = self.last_scale
    if not (last is None or isinstance(last, str) or _is_whole(last)):
      raise errors.UserError(
        f'last_scale={errors.shown(last)}: must be a number or a name.'
      )
    strength = self.strength
    if strength is not None and not (
      _is_number(strength) and 0 < strength <= 1
    ):
      raise errors.UserError(
        f'strength={errors.shown(strength)}: must lie in (0, 1].'
      )
    if self.shape is not None and not _is_shape(self.shape):
      raise errors.UserError(
        f'shape={errors.shown(self.shape)}: must be a height and a width in'
        f' [1, {ranges.SIDE}].'
      )

  def given(self, names: Iterable[str]) -> list[str]:
    """Returns those of some fields that are not None."""
    return [name for name in names if getattr(self, name) is not None]


NAMES = tuple(field.name for field in dataclasses.fields(Request))
# The fields of `config.sample` that a request may change.
SAMPLER = NAMES[NAMES.index('steps') :]


def _refuse_empty(name: str, value: Any) -> None:
  """Refuses '' and empty lists; only the empty caption means something."""
  if name == 'prompt' and isinstance(value, str):
    return
  is_text = isinstance(value, str) and not value.strip()
  is_list = isinstance(value, list | tuple) and not value
  is_array = 0 in getattr(value, 'shape', ())
  if is_array:
    raise errors.UserError(f'{name} is an empty array, give one or leave it.')
  if is_text or is_list:
    raise errors.UserError(
      f'{name}={errors.shown(value)}: is empty, give one or leave it.'
    )


def _check_whole(name: str, value: Any, low: int, high: int) -> None:
  if value is None or (_is_whole(value) and low <= value <= high):
    return
  raise errors.UserError(
    f'{name}={errors.shown(value)}: must be a whole number in [{low}, {high}].'
  )


def _is_whole(value: Any) -> bool:
  return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
  return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_shape(value: Any) -> bool:
  """Whether a value is two whole numbers of pixels."""
  sides = value.tolist() if isinstance(value, np.ndarray) else value
  return (
    isinstance(sides, list | tuple)
    and len(sides) == 2
    and all(_is_whole(side) and 0 < side <= ranges.SIDE for side in sides)
  )
