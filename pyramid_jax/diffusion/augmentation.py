"""Non-leaking augmentation (arXiv:2006.06676, as arXiv:2206.00364 uses it).

Training images are transformed and the network is given the parameters, so
that given zeros it draws images that were not transformed. Matches NVlabs/edm:
training/augment.py, without its changes of colour, which EDM does not use.
"""

import dataclasses
import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import warping


@flax.struct.dataclass
class AugmentParams:
  """The transforms of each image; zeros where it has none.

  Attributes:
    xflip: (B,) 1 to mirror left and right.
    yflip: (B,) 1 to mirror top and bottom.
    quarters: (B,) counterclockwise quarter turns, 0..3.
    shift: (B, 2) whole shift in x and y, in [-1, 1] of the largest.
    scale: (B,) log2 of the factor over its deviation.
    angle: (B,) radians of a rotation.
    aniso: (B,) log2 of the factor along an axis, over its deviation.
    axis: (B,) radians of that axis.
    translation: (B, 2) in x and y, over its deviation.
  """

  xflip: jax.Array
  yflip: jax.Array
  quarters: jax.Array
  shift: jax.Array
  scale: jax.Array
  angle: jax.Array
  aniso: jax.Array
  axis: jax.Array
  translation: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """How often images are transformed, and how much.

  Each of the eight transforms is applied to an image with `probability` times
  its own factor; 0 leaves out the transform and its labels. The defaults are
  those of EDM (CIFAR-10; 0.15 for FFHQ), with nine labels.

  Attributes:
    probability: p, of each transform.
    xflip: factor of mirroring; so large, every image has an even chance.
    yflip: factor of mirroring top and bottom.
    rotate_int: factor of quarter turns.
    translate_int: factor of whole shifts.
    scale: factor of scaling.
    rotate_frac: factor of rotations.
    aniso: factor of stretching along an axis.
    translate_frac: factor of shifts.
    translate_int_max: the largest whole shift, part of the side.
    scale_std: standard deviation of log2 of the scale.
    rotate_frac_max: the largest rotation, part of a half turn.
    aniso_std: standard deviation of log2 of the stretching.
    aniso_rotate_prob: how often the axis is not the x axis.
    translate_frac_std: standard deviation of a shift, part of the side.
  """

  probability: float = 0.12
  xflip: float = 1e8
  yflip: float = 1.0
  rotate_int: float = 0.0
  translate_int: float = 0.0
  scale: float = 1.0
  rotate_frac: float = 1.0
  aniso: float = 1.0
  translate_frac: float = 1.0
  translate_int_max: float = 0.125
  scale_std: float = 0.2
  rotate_frac_max: float = 1.0
  aniso_std: float = 0.2
  aniso_rotate_prob: float = 0.5
  translate_frac_std: float = 0.125

  def __post_init__(self):
    for name, value in vars(self).items():
      if name in ('probability', 'aniso_rotate_prob'):
        checks.check(name, value, 0 <= value <= 1, 'in [0, 1]')
      checks.check(name, value, value >= 0, 'at least 0')

  @property
  def label_size(self) -> int:
    """The number of labels of an image."""
    draw = lambda: self.draw(jax.random.key(0), 1)
    return jax.eval_shape(lambda: self.labels(draw(), (1, 1))).shape[1]

  def __call__(
    self, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Transforms (B, H, W, C) float32 images at random.

    Returns:
      The images and their labels (B, `label_size`), zeros for an image that
      was not transformed.
    """
    params = self.draw(key, images.shape[0])
    labels = self.labels(params, (images.shape[1], images.shape[2]))
    return self.apply(images, params), labels

  def draw(self, key: jax.Array, count: int) -> AugmentParams:
    """Draws the transforms of `count` images."""
    keys = iter(jax.random.split(key, 18))
    shape = (count,)

    def chosen(factor: float, values: jax.Array) -> jax.Array:
      hit = jax.random.uniform(next(keys), shape) < factor * self.probability
      hit = gaussian.per_example(hit, values)
      return jnp.where(hit, values, jnp.zeros_like(values))

    def angle(part: float) -> jax.Array:
      return (jax.random.uniform(next(keys), shape) * 2.0 - 1.0) * part * np.pi

    whole = jax.random.uniform(next(keys), (count, 2), minval=-1.0)
    turned = jax.random.uniform(next(keys), shape) < self.aniso_rotate_prob
    return AugmentParams(
      xflip=chosen(self.xflip, jax.random.randint(next(keys), shape, 0, 2)),
      yflip=chosen(self.yflip, jax.random.randint(next(keys), shape, 0, 2)),
      quarters=chosen(
        self.rotate_int, jax.random.randint(next(keys), shape, 0, 4)
      ),
      shift=chosen(self.translate_int, whole),
      scale=chosen(self.scale, jax.random.normal(next(keys), shape)),
      angle=chosen(self.rotate_frac, angle(self.rotate_frac_max)),
      aniso=chosen(self.aniso, jax.random.normal(next(keys), shape)),
      axis=jnp.where(turned, angle(1.0), 0.0),
      translation=chosen(
        self.translate_frac, jax.random.normal(next(keys), (count, 2))
      ),
    )

  def labels(self, params: AugmentParams, size: tuple[int, int]) -> jax.Array:
    """Returns what the network is given, (B, `label_size`) float32.

    In the order of the fields: both flips 0 or 1; quarter turns as whether x
    and y point backwards; a whole shift as it is after rounding, of the
    largest; log2 of the scale; cos - 1 and sin of the angle; the stretching
    along x and y; the shift. All but angles are in units of the deviations.
    """
    w, r = params.quarters, params.axis
    whole = self._pixels(params, size) / self._largest_shift(size)
    parts = [
      (self.xflip, [params.xflip]),
      (self.yflip, [params.yflip]),
      (self.rotate_int, [(w == 1) | (w == 2), (w == 2) | (w == 3)]),
      (self.translate_int, list(whole.T)),
      (self.scale, [params.scale]),
      (self.rotate_frac, [jnp.cos(params.angle) - 1.0, jnp.sin(params.angle)]),
      (self.aniso, [params.aniso * jnp.cos(r), params.aniso * jnp.sin(r)]),
      (self.translate_frac, list(params.translation.T)),
    ]
    used = [x.astype(jnp.float32) for f, xs in parts if f > 0 for x in xs]
    return jnp.stack(used, axis=1) if used else jnp.zeros((len(w), 0))

  def apply(self, images: jax.Array, params: AugmentParams) -> jax.Array:
    """Transforms (B, H, W, C) images; transforms of factor 0 cost nothing."""
    b, height, width, _ = images.shape
    if self.rotate_int and height != width:
      raise ValueError(
        f'images of {height} x {width} have no quarter turns: they need to be'
        ' square'
      )
    pick = lambda mask: mask.reshape(b, 1, 1, 1) > 0
    if self.xflip:
      images = jnp.where(pick(params.xflip), images[:, :, ::-1], images)
    if self.yflip:
      images = jnp.where(pick(params.yflip), images[:, ::-1], images)
    if self.rotate_int:
      for k in (1, 2, 3):
        # A turned image is not turned again: its number is another one.
        turned = jnp.rot90(images, k, axes=(1, 2))
        images = jnp.where(pick(params.quarters == k), turned, images)
    if self.translate_int:
      x, y = self._pixels(params, (height, width)).T
      images = _shifted(_shifted(images, y, 1), x, 2)
    if max(self.scale, self.rotate_frac, self.aniso, self.translate_frac) == 0:
      return images
    inverse = self._inverse(params, (height, width))
    warped = (inverse != jnp.eye(3)).any(axis=(1, 2))
    return jnp.where(pick(warped), warping.warp(images, inverse), images)

  def _largest_shift(self, size: tuple[int, int]) -> np.ndarray:
    """Returns the largest whole shift in x and y, pixels before rounding."""
    # A maximum of zero shifts nothing, and its label is zero.
    return np.maximum(np.array(size[::-1]) * self.translate_int_max, 1e-6)

  def _pixels(self, params: AugmentParams, size: tuple[int, int]) -> jax.Array:
    """Returns the whole shift in x and y, (B, 2) pixels."""
    return jnp.round(params.shift * self._largest_shift(size))

  def _inverse(self, params: AugmentParams, size: tuple[int, int]) -> jax.Array:
    """Returns the (B, 3, 3) maps from places in the result to the source."""
    side = np.array(size[::-1], np.float32)
    scale = jnp.exp2(-self.scale_std * params.scale)
    along = jnp.exp2(-self.aniso_std * params.aniso)
    parts = [
      warping.scaling(scale, scale),
      warping.rotation(params.angle),
      warping.rotation(-params.axis),
      warping.scaling(along, 1.0 / along),
      warping.rotation(params.axis),
      warping.translation(-params.translation * self.translate_frac_std * side),
    ]
    matmul = functools.partial(jnp.matmul, precision='highest')
    product = functools.reduce(matmul, parts)
    # An axis alone turns there and back: no transform, whatever the rounding.
    still = (params.scale == 0) & (params.angle == 0) & (params.aniso == 0)
    still &= (params.translation == 0).all(axis=1)
    return jnp.where(still[:, None, None], jnp.eye(3), product)


def _shifted(images: jax.Array, pixels: jax.Array, axis: int) -> jax.Array:
  """Moves images by (B,) whole pixels; what comes in is mirrored."""
  n = images.shape[axis]
  if n == 1:
    return images
  source = jnp.arange(n) - pixels.astype(jnp.int32)[:, None]
  source = n - 1 - jnp.abs(n - 1 - source % (2 * n - 2))
  shape = [len(pixels), 1, 1, 1]
  shape[axis] = n
  return jnp.take_along_axis(images, source.reshape(shape), axis=axis)
