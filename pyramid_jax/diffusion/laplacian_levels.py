"""The noise levels of a stage of Laplacian diffusion, tabulated.

Every number that belongs to a band has a last axis of K bands, finest first:
those that a stage has. Deviations are those of the stage's own pixels.
"""

from collections.abc import Sequence
import dataclasses
import math
from typing import Any

import flax.struct
import jax
import numpy as np

from pyramid_jax.diffusion import clocks
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import stepping


@flax.struct.dataclass
class Point(schedules.Levels):
  """Levels with factors (S+1, K) for each band.

  Attributes, beside those of `schedules.Levels`, whose `alpha` has K factors:
    dalpha: (S+1, K) their slope in the stage's sigma.
  """

  dalpha: jax.Array

  @property
  def part(self) -> jax.Array:
    """(S+1,) the place in the time of a cosine chain, from 0, clean, to 1."""
    m = np if isinstance(self.sigma, np.ndarray | np.generic) else jax.numpy
    return m.arctan(self.sigma) * (2.0 / np.pi)

  @property
  def initial_std(self) -> jax.Array | float:
    """Standard deviation of the noise in which the stage begins."""
    return self.sigma[0]

  def times(self, factor: jax.Array, x: jax.Array) -> jax.Array:
    return laplacian.mix(factor, x)

  def renewed(self, ahead: schedules.Levels) -> jax.Array:
    kept = self.alpha * ahead.sigma
    whole = ahead.alpha * self.sigma
    m = np if isinstance(whole, np.ndarray) else jax.numpy
    ratio = m.where(whole > 0, kept / m.where(whole > 0, whole, 1.0), 1.0)
    return ahead.sigma * m.sqrt(m.maximum(1.0 - ratio**2, 0.0))

  def slope(self, x: jax.Array, prediction: stepping.Prediction) -> jax.Array:
    """Returns dx / d sigma of the noise-free process, in the stage's units."""
    del x
    return prediction.eps + self.times(self.dalpha, prediction.x0)


@flax.struct.dataclass
class Levels(Point):
  """The levels of a sweep and what the steps of `continuous` need.

  Attributes, beside those of `Point`: as of `clocks.Levels`; `keep` and
  `noise` are of each band.
  """

  churned: Point
  middle: Point
  keep: jax.Array
  noise: jax.Array
  length_of_step: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Churn:
  """Noise that is added anew, as in EDM (arXiv:2206.00364, algorithm 2).

  Attributes:
    amount: S_churn over all steps of a stage.
    low: the lowest sigma, on the full-resolution clock, at which it is.
    high: the highest.
    noise: its standard deviation, S_noise.
  """

  amount: float = 0.0
  low: float = 0.0
  high: float = math.inf
  noise: float = 1.0


def sigmas(
  process: laplacian.Process, stage: int, steps: int, rho: float = 7.0
) -> np.ndarray:
  """Returns the (S+1,) falling levels of a stage, full-resolution clock.

  Even in sigma^(1/rho) from T_s to T_{s-1}, both exact; the finest stage goes
  to `sigma_min` and then, by one step more, to 0.

  Args:
    process: of the stages.
    stage: s, 1 is the finest.
    steps: S.
    rho: how much they crowd at low noise.

  Raises:
    ValueError: no step.
  """
  if steps < 1:
    raise ValueError(f'sampling steps {steps} must be at least 1')
  low, high = process.bounds(stage)
  grid = clocks.edm_grid(steps + 1, low, high, rho)
  grid[0], grid[-1] = high, low
  return np.append(grid, 0.0) if stage == 1 else grid


def tabulate(
  process: laplacian.Process,
  stage: int,
  sigma: np.ndarray,
  churn: Churn | None = None,
) -> Levels:
  """Returns the levels of a sweep.

  Args:
    process: of the stages.
    stage: s, 1 is the finest.
    sigma: (S+1,) falling, within the stage's range, on the full-resolution
      clock; the last may be 0.
    churn: noise added on the way; None without.
  """
  churn = churn or Churn()
  sigma = np.asarray(sigma, float)
  gamma = np.where(
    (churn.low <= sigma) & (sigma <= churn.high),
    min(churn.amount / max(1, len(sigma) - 1), math.sqrt(2.0) - 1.0),
    0.0,
  )
  high = process.bounds(stage)[1]
  hat = np.where(sigma >= high, sigma, np.minimum(sigma * (1 + gamma), high))
  here = process.alphas(sigma)[:, stage - 1 :]
  keep = np.divide(
    process.alphas(hat)[:, stage - 1 :],
    here,
    out=np.ones_like(here),
    where=(here > 0) & (hat > sigma)[:, None],
  )
  unit = 2.0 ** (stage - 1)
  added = np.maximum(hat[:, None] ** 2 - (keep * sigma[:, None]) ** 2, 0.0)
  at, ahead = point(process, stage, sigma), np.append(sigma[1:], sigma[-1])
  return Levels(
    **{f.name: getattr(at, f.name) for f in dataclasses.fields(at)},
    churned=point(process, stage, hat),
    middle=point(process, stage, ahead),
    keep=clocks.float32(keep),
    noise=clocks.float32(churn.noise * np.sqrt(added) / unit),
    length_of_step=clocks.float32((ahead - hat) / unit),
  )


def point(process: laplacian.Process, stage: int, sigma: np.ndarray) -> Point:
  """Tabulates levels (S+1,) on the full-resolution clock."""
  unit = 2.0 ** (stage - 1)
  # Nothing is asked of a network at 0.
  safe = np.where(sigma > 0, sigma, process.sigma_min)
  zero = clocks.float32(np.zeros_like(sigma))
  return Point(
    time=clocks.float32(np.log(safe / unit) / 4.0),
    alpha=clocks.float32(process.alphas(sigma)[:, stage - 1 :]),
    sigma=clocks.float32(sigma / unit),
    log_beta=zero,
    log_variance=zero,
    length=1,
    dalpha=clocks.float32(unit * process.dalphas(safe, stage)[:, stage - 1 :]),
  )


def sweep(
  process: laplacian.Process,
  steps: int | Sequence[int],
  rho: float = 7.0,
  churn: Churn | None = None,
) -> list[Levels]:
  """Returns the levels of all stages, coarse to fine.

  Args:
    process: of the stages.
    steps: of every stage, or of each, coarse to fine.
    rho: see `sigmas`.
    churn: see `tabulate`.

  Raises:
    ValueError: steps for another number of stages.
  """
  counts = [steps] * process.levels if isinstance(steps, int) else [*steps]
  if len(counts) != process.levels:
    raise ValueError(
      f'steps {tuple(counts)} must be one number or {process.levels}, coarse to'
      ' fine'
    )
  stages = range(process.levels, 0, -1)
  return [
    tabulate(process, stage, sigmas(process, stage, count, rho), churn)
    for stage, count in zip(stages, counts, strict=True)
  ]


def as_levels(process: laplacian.Process, stage: int, given: Any) -> Levels:
  """Returns levels as they are, or tabulates their sigmas."""
  if isinstance(given, Levels):
    return given
  return tabulate(process, stage, np.asarray(given))
