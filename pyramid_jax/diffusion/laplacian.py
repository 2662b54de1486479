"""Laplacian diffusion (arXiv:2411.07126): the pyramid and the process.

An image is the sum of the bands of its Laplacian pyramid. Noise is added as in
EDM, and each band fades at a rate of its own, the finer the sooner, so that
high noise levels need a small picture only. What the published report does not
show - the filters, the rates, the switches - is our choice here.

Stages are counted from 1, the finest. The clock `sigma` is the noise level of
the full-resolution image; a stage s sees it through s - 1 poolings, which
leave sigma / 2^(s-1).
"""

from collections.abc import Sequence
import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import gaussian


SCHEDULES = ('quad', 'linear', 'seglinear', 'coslog', 'vp', 'hard')
# Where `coslog` begins to fade a band, as a part of its switch.
COSLOG_START = 1.0 / 16.0


def _math(x: Any) -> types.ModuleType:
  """Returns the library that an array belongs to."""
  return jnp if isinstance(x, jax.Array) else np


def _float(x: jax.Array) -> jax.Array:
  """Casts up to float32, never down."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def down(x: jax.Array) -> jax.Array:
  """Averages squares of 2 x 2: (..., H, W, C) to (..., H/2, W/2, C).

  Raises:
    ValueError: an odd side.
  """
  *batch, height, width, channels = x.shape
  if height % 2 or width % 2:
    raise ValueError(f'sides {height} x {width} must be even to be halved')
  cells = (*batch, height // 2, 2, width // 2, 2, channels)
  return _float(x).reshape(cells).mean((-4, -2))


def up(x: jax.Array) -> jax.Array:
  """Repeats every pixel 2 x 2 times: (..., H, W, C) to (..., 2H, 2W, C)."""
  *batch, height, width, channels = x.shape
  cells = (*batch, height, 1, width, 1, channels)
  doubled = (*batch, height, 2, width, 2, channels)
  spread = jnp.broadcast_to(_float(x).reshape(cells), doubled)
  return spread.reshape(*batch, 2 * height, 2 * width, channels)


def pooled(x: jax.Array, times: int) -> jax.Array:
  """Returns x halved `times` times."""
  for _ in range(times):
    x = down(x)
  return _float(x)


def bands(x: jax.Array, levels: int) -> list[jax.Array]:
  """Takes an image apart: its Laplacian pyramid, finest first.

  x^(i) = D^(i-1) x - U D^i x, and what is left at the coarsest level.

  Args:
    x: (..., H, W, C).
    levels: L, at least 1.

  Returns:
    L arrays, (..., H / 2^(i-1), W / 2^(i-1), C).

  Raises:
    ValueError: sides that 2^(L-1) does not divide, or no level.
  """
  if levels < 1:
    raise ValueError(f'a pyramid of {levels} levels: must be at least 1')
  check_sides(x.shape[-3:-1], levels)
  x, parts = _float(x), []
  for _ in range(levels - 1):
    small = down(x)
    parts.append(x - up(small))
    x = small
  return [*parts, x]


def merge(parts: Sequence[jax.Array]) -> jax.Array:
  """Returns the image of `bands`."""
  x = _float(parts[-1])
  for part in reversed(parts[:-1]):
    x = _float(part) + up(x)
  return x


def mix(factors: jax.Array, x: jax.Array) -> jax.Array:
  """Multiplies each band of an image by a factor of its own.

  The bands are orthogonal projections: sum_i f_i Q_i x.

  Args:
    factors: (K,), finest first, for all images, or (B, K).
    x: (B, H, W, C), sides divisible by 2^(K-1).

  Returns:
    (B, H, W, C); with a factor 0 for the finest bands, exactly constant in
    their squares.
  """
  x, factors = _float(x), jnp.asarray(factors)
  smaller = [x]
  for _ in range(factors.shape[-1] - 1):
    smaller.append(down(smaller[-1]))
  steps = jnp.diff(factors, axis=-1, prepend=0.0)
  parts = [
    gaussian.per_example(steps[..., i], x) * part
    for i, part in enumerate(smaller)
  ]
  return merge(parts)


def haar(x: jax.Array, level: int) -> jax.Array:
  """Orthonormal Haar packet: (..., H, W, C) to (..., H/2^n, W/2^n, 4^n C).

  Each of the n levels transforms all channels again. The result has the
  quarters one after the other: all channels of LL, then of LH (top minus
  bottom), HL (left minus right) and HH.

  Raises:
    ValueError: sides that 2^n does not divide.
  """
  check_sides(x.shape[-3:-1], level + 1)
  x = _float(x)
  for _ in range(level):
    a, b = x[..., 0::2, 0::2, :], x[..., 0::2, 1::2, :]
    c, d = x[..., 1::2, 0::2, :], x[..., 1::2, 1::2, :]
    x = jnp.concatenate(_butterfly(a, b, c, d), axis=-1)
  return x


def inverse_haar(x: jax.Array, level: int) -> jax.Array:
  """Returns the image of `haar`.

  Raises:
    ValueError: channels that 4^n does not divide.
  """
  if x.shape[-1] % 4**level:
    raise ValueError(
      f'{x.shape[-1]} channels must be divisible by {4**level} at level {level}'
    )
  x = _float(x)
  for _ in range(level):
    *batch, height, width, channels = x.shape
    a, b, c, d = _butterfly(*jnp.split(x, 4, axis=-1))
    rows = jnp.stack([jnp.stack([a, b], -2), jnp.stack([c, d], -2)], -4)
    x = rows.reshape(*batch, 2 * height, 2 * width, channels // 4)
  return x


def _butterfly(
  a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array
) -> tuple[jax.Array, ...]:
  """The orthonormal 4 x 4 Haar matrix, which is its own inverse."""
  return (
    (a + b + c + d) / 2,
    (a + b - c - d) / 2,
    (a - b + c - d) / 2,
    (a - b - c + d) / 2,
  )


def check_sides(sides: Sequence[int], levels: int) -> None:
  """Refuses an image that cannot be halved levels - 1 times.

  Raises:
    ValueError: a side that 2^(levels-1) does not divide.
  """
  height, width = sides
  cell = 2 ** (levels - 1)
  if height % cell or width % cell:
    raise ValueError(
      f'sides {height} x {width} must be divisible by {cell} for'
      f' {levels} levels'
    )


@dataclasses.dataclass(frozen=True)
class Process:
  """How the bands fade and where the resolution changes.

  Attributes:
    levels: L, resolutions and bands.
    switch_sigmas: (T_1, ..., T_{L-1}), rising, on the full-resolution clock:
      from T_i on band i is gone. Stage s owns (T_{s-1}, T_s].
    schedule: alpha_i(sigma) below T_i, one of `SCHEDULES`: 'quad' 1 -
      (sigma/T)^2, 'linear', 'seglinear' one band at a time (pyramidal flow
      matching), 'coslog' a cosine in log sigma, 'vp' (its slope is infinite at
      T: not for Heun and Euler), 'hard' 1 until the switch (subspace
      diffusion, arXiv:2205.01490).
    band_rms: (L,) root mean square of the bands of the data, finest first,
      the last of what is left at the coarsest level.
    sigma_min: the lowest noise level.
    sigma_max: where sampling begins, on the full-resolution clock.
  """

  levels: int
  switch_sigmas: tuple[float, ...]
  schedule: str
  band_rms: tuple[float, ...]
  sigma_min: float
  sigma_max: float

  def __post_init__(self):
    if self.levels < 1:
      raise ValueError(f'levels is {self.levels}, must be at least 1')
    if self.schedule not in SCHEDULES:
      raise ValueError(
        f'schedule {self.schedule!r} is not one of {", ".join(SCHEDULES)}'
      )
    for name, count in (('switch_sigmas', 1), ('band_rms', 0)):
      value = tuple(float(v) for v in getattr(self, name))
      object.__setattr__(self, name, value)
      if len(value) != self.levels - count:
        raise ValueError(
          f'{name} is {value}, must be {self.levels - count} numbers for'
          f' {self.levels} levels'
        )
    if min(self.band_rms) <= 0:
      raise ValueError(f'band_rms is {self.band_rms}, must be above 0')
    marks = (0.0, self.sigma_min, *self.switch_sigmas, self.sigma_max)
    if any(a >= b for a, b in zip(marks, marks[1:], strict=False)):
      raise ValueError(
        f'switch_sigmas is {self.switch_sigmas}, must rise from above sigma_min'
        f' {self.sigma_min} to below sigma_max {self.sigma_max}'
      )

  def bounds(self, stage: int) -> tuple[float, float]:
    """Returns (T_{s-1}, T_s]; the finest begins at `sigma_min`."""
    self.check_stage(stage)
    marks = (self.sigma_min, *self.switch_sigmas, self.sigma_max)
    return marks[stage - 1], marks[stage]

  def check_stage(self, stage: int) -> None:
    """Raises ValueError where `stage` is none of 1 .. L."""
    if not 1 <= stage <= self.levels:
      raise ValueError(f'stage {stage} is not one of 1..{self.levels}')

  def stage_of(self, sigma: Any) -> Any:
    """Returns the stage (...), int32, that owns noise levels (...)."""
    m = _math(sigma)
    marks = m.asarray(self.switch_sigmas, m.float32)
    above = m.asarray(sigma, m.float32)[..., None] > marks
    return 1 + above.sum(-1).astype(m.int32)

  def alphas(self, sigma: Any) -> Any:
    """Returns what is left of each band, (..., L), finest first.

    Exactly 0 from T_i on, compared in float32.

    Args:
      sigma: (...) on the full-resolution clock; NumPy stays float64.
    """
    m, sigma, marks = self._table(sigma)
    shape = self._shape(m, sigma, marks)
    if self.schedule != 'hard':
      gone = sigma.astype(m.float32) >= marks.astype(m.float32)
      shape = m.where(gone, 0.0, shape)
    whole = m.ones_like(sigma)
    return m.concatenate([shape, whole], axis=-1)

  def dalphas(self, sigma: Any, stage: int) -> Any:
    """Returns d alpha / d sigma inside a stage, (..., L), finest first.

    One-sided: at sigma = T_s the slope with which band s leaves 0.

    Args:
      sigma: (...) in [T_{s-1}, T_s], on the full-resolution clock.
      stage: s; the slope of the bands that are gone there is 0.
    """
    self.check_stage(stage)
    m, sigma, marks = self._table(sigma)
    number = m.arange(1, self.levels)
    slope = self._slope(m, sigma, marks, number == stage)
    slope = m.where(number >= stage, slope, 0.0)
    return m.concatenate([slope, m.zeros_like(sigma)], axis=-1)

  def _table(self, sigma: Any) -> tuple[Any, Any, Any]:
    """Returns the library, sigma (..., 1) and the switches (L-1,)."""
    m = _math(sigma)
    sigma = m.asarray(sigma, None if m is jnp else float)
    marks = m.asarray(self.switch_sigmas, sigma.dtype)
    return m, sigma[..., None], marks

  def _shape(self, m: Any, sigma: Any, marks: Any) -> Any:
    """Returns alpha (..., L-1) below the switches."""
    part = m.clip(sigma / marks, 0.0, 1.0)
    if self.schedule == 'quad':
      return 1.0 - part**2
    if self.schedule == 'linear':
      return 1.0 - part
    if self.schedule == 'vp':
      return m.sqrt(m.maximum(1.0 - part**2, 0.0))
    if self.schedule == 'coslog':
      return m.cos(0.5 * np.pi * self._coslog(m, part))
    if self.schedule == 'seglinear':
      return m.clip((marks - sigma) / self._widths(m, marks), 0.0, 1.0)
    return m.ones_like(part)

  def _slope(self, m: Any, sigma: Any, marks: Any, own: Any) -> Any:
    """Returns d alpha / d sigma (..., L-1); `own` marks the stage's band."""
    part = sigma / marks
    if self.schedule == 'quad':
      return -2.0 * part / marks
    if self.schedule == 'linear':
      return m.broadcast_to(-1.0 / marks, part.shape)
    if self.schedule == 'vp':
      left = m.maximum(1.0 - part**2, 0.0)
      return -part / (marks * m.sqrt(m.where(left > 0, left, np.nan)))
    if self.schedule == 'coslog':
      angle = 0.5 * np.pi * self._coslog(m, part)
      rate = 0.5 * np.pi / (-np.log(COSLOG_START) * sigma)
      return m.where(part > COSLOG_START, -m.sin(angle) * rate, 0.0)
    if self.schedule == 'seglinear':
      return m.where(own, -1.0 / self._widths(m, marks), m.zeros_like(part))
    return m.zeros_like(part)

  @staticmethod
  def _coslog(m: Any, part: Any) -> Any:
    """Returns where in its fading a band is, 0 to 1."""
    log = m.log(m.maximum(part, COSLOG_START) / COSLOG_START)
    return log / -np.log(COSLOG_START)

  @staticmethod
  def _widths(m: Any, marks: Any) -> Any:
    """Returns the length of each stage's own range, from 0 on."""
    return m.diff(marks, prepend=m.zeros_like(marks[:1]))

  def forward(
    self, key: jax.Array, image: jax.Array, sigma: jax.Array, stage: int
  ) -> jax.Array:
    """Draws x_sigma of a stage: its faded bands and noise.

    Args:
      key: typed key of the noise.
      image: (B, H, W, C) at full resolution.
      sigma: () or (B,), on the full-resolution clock.
      stage: s, 1 is the finest.

    Returns:
      (B, H / 2^(s-1), W / 2^(s-1), C) float32, with noise of deviation
      sigma / 2^(s-1).
    """
    clean = self.clean(image, stage)
    noise = jax.random.normal(key, clean.shape, clean.dtype)
    return self.noised(clean, noise, sigma, stage)

  def clean(self, image: jax.Array, stage: int) -> jax.Array:
    """Returns what a stage predicts: the image at its resolution."""
    self.check_stage(stage)
    check_sides(image.shape[-3:-1], self.levels)
    return pooled(image, stage - 1)

  def noised(
    self, clean: jax.Array, noise: jax.Array, sigma: jax.Array, stage: int
  ) -> jax.Array:
    """Returns x_sigma of a stage's clean image and its standard noise."""
    sigma = jnp.asarray(sigma)
    faded = mix(self.alphas(sigma)[..., stage - 1 :], clean)
    return faded + gaussian.per_example(sigma / 2 ** (stage - 1), clean) * noise

  def switch(self, key: jax.Array, x: jax.Array, stage: int) -> jax.Array:
    """Leaves `stage` for `stage - 1` at sigma = T_{stage-1}.

    Args:
      key: typed key of the added noise.
      x: (B, h, w, C) the state there.
      stage: 2 .. L.

    Returns:
      (B, 2h, 2w, C), whose noise is white again, of twice the deviation;
      pooled it is x.
    """
    shape = (*x.shape[:-3], 2 * x.shape[-3], 2 * x.shape[-2], x.shape[-1])
    return self.switched(jax.random.normal(key, shape), x, stage)

  def switched(self, noise: jax.Array, x: jax.Array, stage: int) -> jax.Array:
    """Returns the state after the switch with given noise, see `switch`."""
    self.check_stage(stage)
    if stage == 1:
      raise ValueError('stage 1 is the finest: no switch leads on from it')
    sigma = self.switch_sigmas[stage - 2]
    std = sigma / 2 ** (stage - 2)
    if self.schedule == 'hard':  # the band is there, unseen: a Gaussian's
      std = float(np.hypot(std, np.sqrt(4 / 3) * self.band_rms[stage - 2]))
    return up(x) + std * (noise - up(down(noise)))
