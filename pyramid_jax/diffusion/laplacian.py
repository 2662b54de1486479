"""Laplacian diffusion (arXiv:2411.07126): the pyramid and the process.

An image is the sum of the bands of its Laplacian pyramid. Noise is added as in
EDM, and each band fades at a rate of its own, the finer the sooner, so that
high noise levels need a coarse image only. The filters, the rates and the
switches are ours: the published report does not show them.

Stages are counted from 1, the finest. `sigma` is always the full-resolution
noise level, that of the image before it is pooled: in stage s, after s - 1
poolings, the state has noise of the deviation sigma / 2^(s-1).
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import einops
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import gaussian


# The sigma at which `coslog` begins to fade a band, as a part of its switch.
COSLOG_START = 1.0 / 16.0
_RATE = 0.5 * np.pi / -np.log(COSLOG_START)


def _coslog_angle(m: Any, p: Any) -> Any:
  return _RATE * m.log(m.maximum(p, COSLOG_START) / COSLOG_START)


# Schedule -> the factor of a band and its slope, (NumPy or JAX, p) -> (...), at
# p = sigma / T from 0 to 1; 'seglinear' counts p from the switch before.
_FADING: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
  'quad': (lambda m, p: 1.0 - p**2, lambda m, p: -2.0 * p),
  'linear': (lambda m, p: 1.0 - p, lambda m, p: -m.ones_like(p)),
  'seglinear': (lambda m, p: 1.0 - p, lambda m, p: -m.ones_like(p)),
  'coslog': (
    lambda m, p: m.cos(_coslog_angle(m, p)),
    lambda m, p: m.where(
      p > COSLOG_START, -m.sin(_coslog_angle(m, p)) * _RATE / p, 0.0
    ),
  ),
  'vp': (
    lambda m, p: m.sqrt(m.maximum(1.0 - p**2, 0.0)),
    lambda m, p: -p / m.sqrt(m.where(p < 1.0, 1.0 - p**2, np.nan)),
  ),
  'hard': (lambda m, p: m.ones_like(p), lambda m, p: m.zeros_like(p)),
}
SCHEDULES = tuple(_FADING)


def _float(x: jax.Array) -> jax.Array:
  """Casts up to float32, never down."""
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def down(x: jax.Array) -> jax.Array:
  """Averages squares of 2 x 2: (..., H, W, C) to (..., H/2, W/2, C)."""
  check_sides(x.shape[-3:-1], 2)
  cells = '... (h a) (w b) c -> ... h a w b c'
  return einops.rearrange(_float(x), cells, a=2, b=2).mean((-4, -2))


def up(x: jax.Array) -> jax.Array:
  """Repeats every pixel 2 x 2 times: (..., H, W, C) to (..., 2H, 2W, C)."""
  cells = '... h w c -> ... (h a) (w b) c'
  return einops.repeat(_float(x), cells, a=2, b=2)


def pooled(x: jax.Array, times: int) -> jax.Array:
  """Returns x halved `times` times."""
  for _ in range(times):
    x = down(x)
  return _float(x)


def bands(x: jax.Array, levels: int) -> list[jax.Array]:
  """Returns the Laplacian pyramid of (..., H, W, C), L arrays, finest first.

  x^(i) = D^(i-1) x - U D^i x, and D^(L-1) x at the coarsest level, each
  (..., H / 2^(i-1), W / 2^(i-1), C).
  """
  checks.check('levels', levels, levels >= 1, 'at least 1')
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
  """Multiplies each band of (B, H, W, C) by a factor of its own.

  The bands are orthogonal projections: sum_i f_i Q_i x, exactly constant in
  squares where the factors of the finest bands are 0.

  Args:
    factors: (K,), finest first, for all images, or (B, K).
    x: (B, H, W, C), sides divisible by 2^(K-1).
  """
  x, factors = _float(x), jnp.asarray(factors)
  steps = jnp.diff(factors, axis=-1, prepend=0.0)
  parts = []
  for i in range(factors.shape[-1]):
    x = down(x) if i else x
    parts.append(gaussian.per_example(steps[..., i], x) * x)
  return merge(parts)


def haar(x: jax.Array, level: int) -> jax.Array:
  """Orthonormal Haar packet: (..., H, W, C) to (..., H/2^n, W/2^n, 4^n C).

  Each of the n levels transforms all channels again, to all channels of LL,
  then of LH (top minus bottom), HL (left minus right) and HH.
  """
  check_sides(x.shape[-3:-1], level + 1)
  x = _float(x)
  for _ in range(level):
    a, b = x[..., 0::2, 0::2, :], x[..., 0::2, 1::2, :]
    c, d = x[..., 1::2, 0::2, :], x[..., 1::2, 1::2, :]
    x = jnp.concatenate(_butterfly(a, b, c, d), axis=-1)
  return x


def inverse_haar(x: jax.Array, level: int) -> jax.Array:
  """Returns the image of `haar`."""
  if x.shape[-1] % 4**level:
    raise ValueError(
      f'{x.shape[-1]} channels must be divisible by {4**level} at level {level}'
    )
  x, cells = _float(x), '(a b) ... h w c -> ... (h a) (w b) c'
  for _ in range(level):
    quarters = jnp.stack(_butterfly(*jnp.split(x, 4, axis=-1)))
    x = einops.rearrange(quarters, cells, a=2, b=2)
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
  """Raises ValueError unless 2^(levels-1) divides height and width."""
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
    switch_sigmas: (T_1, ..., T_{L-1}), rising: from the noise level T_i on
      band i is gone. Stage s owns (T_{s-1}, T_s].
    schedule: alpha_i(sigma) below T_i: 'quad' 1 - (sigma/T)^2, 'linear',
      'seglinear' one band at a time (pyramidal flow matching), 'coslog' a
      cosine in log sigma, 'vp' (of infinite slope at T: not for Heun and
      Euler), 'hard' 1 until the switch (subspace diffusion, arXiv:2205.01490).
    band_rms: (L,) root mean square of the `bands` of the data, finest first.
    sigma_min: the lowest noise level.
    sigma_max: the noise level at which sampling begins.
  """

  levels: int
  switch_sigmas: tuple[float, ...]
  schedule: str
  band_rms: tuple[float, ...]
  sigma_min: float
  sigma_max: float

  def __post_init__(self):
    checks.check('levels', self.levels, self.levels >= 1, 'at least 1')
    checks.one_of('schedule', self.schedule, SCHEDULES)
    for name, count in (('switch_sigmas', 1), ('band_rms', 0)):
      value = tuple(float(v) for v in getattr(self, name))
      object.__setattr__(self, name, value)
      if len(value) != self.levels - count:
        raise ValueError(
          f'{name} is {value}, must be {self.levels - count} numbers for'
          f' {self.levels} levels'
        )
    ok = min(self.band_rms) > 0
    checks.check('band_rms', self.band_rms, ok, 'above 0')
    marks = (0.0, self.sigma_min, *self.switch_sigmas, self.sigma_max)
    if any(a >= b for a, b in zip(marks, marks[1:], strict=False)):
      raise ValueError(
        f'switch_sigmas is {self.switch_sigmas}, must rise from above sigma_min'
        f' {self.sigma_min} to below sigma_max {self.sigma_max}'
      )

  def bounds(self, stage: int) -> tuple[float, float]:
    """Returns (T_{s-1}, T_s]; that of the finest begins at `sigma_min`."""
    self.check_stage(stage)
    marks = (self.sigma_min, *self.switch_sigmas, self.sigma_max)
    return marks[stage - 1], marks[stage]

  def check_stage(self, stage: int) -> None:
    """Raises ValueError where `stage` is none of 1 .. L."""
    if not 1 <= stage <= self.levels:
      raise ValueError(f'stage {stage} is not one of 1..{self.levels}')

  def alphas(self, sigma: Any) -> Any:
    """Returns the factor of each band, (..., L), finest first; 0 from T_i on.

    NumPy arrays stay float64, but sigma and T_i are compared in float32.
    """
    m, sigma, marks, part, _ = self._table(sigma)
    shape = _FADING[self.schedule][0](m, m.clip(part, 0.0, 1.0))
    if self.schedule != 'hard':
      gone = sigma.astype(m.float32) >= marks.astype(m.float32)
      shape = m.where(gone, 0.0, shape)
    return m.concatenate([shape, m.ones_like(sigma)], axis=-1)

  def dalphas(self, sigma: Any, stage: int) -> Any:
    """Returns d alpha / d sigma inside a stage, (..., L), finest first.

    One-sided: at sigma = T_s the slope with which band s leaves 0; 0 for the
    bands that are gone.
    """
    self.check_stage(stage)
    m, sigma, _, part, width = self._table(sigma)
    number = m.arange(1, self.levels)
    moves = number == stage if self.schedule == 'seglinear' else number >= stage
    slope = m.where(moves, _FADING[self.schedule][1](m, part) / width, 0.0)
    return m.concatenate([slope, m.zeros_like(sigma)], axis=-1)

  def _table(self, sigma: Any) -> tuple[Any, ...]:
    """Returns the library, sigma (..., 1), the switches, p and dsigma / dp."""
    m = gaussian.array_library(sigma)
    sigma = m.asarray(sigma, None if m is jnp else float)[..., None]
    marks = m.asarray(self.switch_sigmas, sigma.dtype)
    begin = m.zeros_like(marks)
    if self.schedule == 'seglinear':
      begin = m.concatenate([begin[:1], marks[:-1]])
    return m, sigma, marks, (sigma - begin) / (marks - begin), marks - begin

  def forward(
    self, key: jax.Array, image: jax.Array, sigma: jax.Array, stage: int
  ) -> jax.Array:
    """Draws x_sigma of a stage from images (B, H, W, C), see `noised`."""
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
    """Returns x_sigma of a stage: its faded bands and noise.

    The clean images and the standard normal noise have the stage's resolution
    (B, H / 2^(s-1), W / 2^(s-1), C); sigma is () or (B,).
    """
    sigma = jnp.asarray(sigma)
    faded = mix(self.alphas(sigma)[..., stage - 1 :], clean)
    return faded + gaussian.per_example(sigma / 2 ** (stage - 1), clean) * noise

  def switch(self, key: jax.Array, x: jax.Array, stage: int) -> jax.Array:
    """Leaves `stage` with noise that is drawn, see `switched`."""
    shape = (*x.shape[:-3], 2 * x.shape[-3], 2 * x.shape[-2], x.shape[-1])
    return self.switched(jax.random.normal(key, shape), x, stage)

  def switched(self, noise: jax.Array, x: jax.Array, stage: int) -> jax.Array:
    """Leaves `stage`, 2 .. L, for `stage - 1` at sigma = T_{stage-1}.

    Args:
      noise: (B, 2h, 2w, C) standard normal.
      x: (B, h, w, C) the state there.

    Returns:
      (B, 2h, 2w, C), whose noise is white again, of twice the deviation;
      pooled it is x.
    """
    self.check_stage(stage)
    if stage == 1:
      raise ValueError('stage 1 is the finest: no switch leads on from it')
    sigma = self.switch_sigmas[stage - 2]
    std = sigma / 2 ** (stage - 2)
    if self.schedule == 'hard':  # the band is there, unseen: a Gaussian's
      std = float(np.hypot(std, np.sqrt(4 / 3) * self.band_rms[stage - 2]))
    return up(x) + std * (noise - up(down(noise)))
