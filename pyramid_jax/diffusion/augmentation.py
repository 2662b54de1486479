"""Non-leaking augmentation (arXiv:2006.06676, as arXiv:2206.00364 uses it).

Training images are transformed and the network is given the parameters, so
that given zeros it draws images that were not transformed. Matches NVlabs/edm:
training/augment.py, without what EDM does not use: quarter turns, whole shifts
and changes of colour.
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
    scale: (B,) log2 of the factor over its deviation.
    angle: (B,) radians of a rotation.
    aniso: (B,) log2 of the factor along an axis, over its deviation.
    axis: (B,) radians of that axis.
    translation: (B, 2) in x and y, over its deviation.
  """

  xflip: jax.Array
  yflip: jax.Array
  scale: jax.Array
  angle: jax.Array
  aniso: jax.Array
  axis: jax.Array
  translation: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
  """How often images are transformed, and how much.

  Each of the six transforms is applied to an image with `probability` times
  its own factor; 0 leaves out the transform and its labels. The defaults are
  those of EDM (CIFAR-10; 0.15 for FFHQ), with nine labels.

  Attributes:
    probability: p, of each transform.
    xflip: factor of mirroring; so large, every image has an even chance.
    yflip: factor of mirroring top and bottom.
    scale: factor of scaling.
    rotate_frac: factor of rotations.
    aniso: factor of stretching along an axis.
    translate_frac: factor of shifts.
    scale_std: standard deviation of log2 of the scale.
    rotate_frac_max: the largest rotation, part of a half turn.
    aniso_std: standard deviation of log2 of the stretching.
    aniso_rotate_prob: how often the axis is not the x axis.
    translate_frac_std: standard deviation of a shift, part of the side.
  """

  probability: float = 0.12
  xflip: float = 1e8
  yflip: float = 1.0
  scale: float = 1.0
  rotate_frac: float = 1.0
  aniso: float = 1.0
  translate_frac: float = 1.0
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
    return jax.eval_shape(lambda: self.labels(draw())).shape[1]

  def __call__(
    self, images: jax.Array, key: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """Transforms (B, H, W, C) float32 images at random.

    Returns:
      The images and their labels (B, `label_size`), zeros for an image that
      was not transformed.
    """
    params = self.draw(key, images.shape[0])
    return self.apply(images, params), self.labels(params)

  def draw(self, key: jax.Array, count: int) -> AugmentParams:
    """Draws the transforms of `count` images."""
    # In the official order; the other keys are those of what is left out.
    keys = iter(jax.random.split(key, 18)[np.r_[1:6, 9:18]])
    shape = (count,)

    def chosen(factor: float, values: jax.Array) -> jax.Array:
      hit = jax.random.uniform(next(keys), shape) < factor * self.probability
      hit = gaussian.per_example(hit, values)
      return jnp.where(hit, values, jnp.zeros_like(values))

    def angle(part: float) -> jax.Array:
      return (jax.random.uniform(next(keys), shape) * 2.0 - 1.0) * part * np.pi

    turned = jax.random.uniform(next(keys), shape) < self.aniso_rotate_prob
    return AugmentParams(
      xflip=chosen(self.xflip, jax.random.randint(next(keys), shape, 0, 2)),
      yflip=chosen(self.yflip, jax.random.randint(next(keys), shape, 0, 2)),
      scale=chosen(self.scale, jax.random.normal(next(keys), shape)),
      angle=chosen(self.rotate_frac, angle(self.rotate_frac_max)),
      aniso=chosen(self.aniso, jax.random.normal(next(keys), shape)),
      axis=jnp.where(turned, angle(1.0), 0.0),
      translation=chosen(
        self.translate_frac, jax.random.normal(next(keys), (count, 2))
      ),
    )

  def labels(self, params: AugmentParams) -> jax.Array:
    """Returns what the network is given, (B, `label_size`) float32.

    In the order of the fields: both flips 0 or 1; log2 of the scale; cos - 1
    and sin of the angle; the stretching along x and y; the shift. All but
    angles are in units of the deviations.
    """
    r = params.axis
    parts = [
      (self.xflip, [params.xflip]),
      (self.yflip, [params.yflip]),
      (self.scale, [params.scale]),
      (self.rotate_frac, [jnp.cos(params.angle) - 1.0, jnp.sin(params.angle)]),
      (self.aniso, [params.aniso * jnp.cos(r), params.aniso * jnp.sin(r)]),
      (self.translate_frac, list(params.translation.T)),
    ]
    used = [x.astype(jnp.float32) for f, xs in parts if f > 0 for x in xs]
    return jnp.stack(used, axis=1) if used else jnp.zeros((len(r), 0))

  def apply(self, images: jax.Array, params: AugmentParams) -> jax.Array:
    """Transforms (B, H, W, C) images; transforms of factor 0 cost nothing."""
    b, height, width, _ = images.shape
    pick = lambda mask: mask.reshape(b, 1, 1, 1) > 0
    if self.xflip:
      images = jnp.where(pick(params.xflip), images[:, :, ::-1], images)
    if self.yflip:
      images = jnp.where(pick(params.yflip), images[:, ::-1], images)
    if max(self.scale, self.rotate_frac, self.aniso, self.translate_frac) == 0:
      return images
    inverse = self._inverse(params, (height, width))
    warped = (inverse != jnp.eye(3)).any(axis=(1, 2))
    return jnp.where(pick(warped), warping.warp(images, inverse), images)

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
