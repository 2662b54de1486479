"""What a solver does to Gaussian data of a Laplacian process, exactly.

The best denoiser of such data multiplies each band by a number, so a sweep is
linear: one wave of every band, and one at every step's noise, tell all.
"""

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_timesteps
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import solvers


def factors(process, levels, method, **options):
  """Returns how well a sampler keeps the power of each band.

  The deviations at the end over those of the data, (L,), finest first.

  Args:
    process: a `laplacian.Process`.
    levels: of each stage, coarse to fine: `Levels`, or falling sigmas (S+1,)
      on the full-resolution clock.
    method: a solver's name, or 'ancestral', which is DDIM with eta = 1.
    **options: of `solvers.create`.
  """
  if method == 'ancestral':
    method, options = 'ddim', {'eta': 1.0}
  solver = solvers.create(method, **options)
  tables = [
    given
    if isinstance(given, levels_lib.Levels)
    else laplacian_timesteps.tabulate(process, stage, np.asarray(given))
    for stage, given in zip(range(process.levels, 0, -1), levels, strict=True)
  ]
  return jax.jit(lambda: _factors(process, tables, solver))()


def _factors(process, tables, solver):
  powers = data_powers(process)
  variances = jnp.zeros((0,))  # of the bands so far, finest first
  for stage, table in zip(range(process.levels, 0, -1), tables, strict=True):
    begin = process.bounds(stage)[1] ** 2
    variances = jnp.concatenate([jnp.full((1,), begin), variances])
    variances = _swept(process, stage, table, solver, variances)
  return jnp.sqrt(variances / powers)


def data_powers(process):
  """Returns (L,) the variance of one orthonormal coefficient of each band."""
  rms = np.asarray(process.band_rms)
  share = np.full(process.levels, 4.0 / 3.0)
  share[-1] = 1.0
  return share * 4.0 ** np.arange(process.levels) * rms**2


def denoise(process, stage, x, level):
  """Returns the best prediction of Gaussian data at a level of a stage."""
  power = data_powers(process)[stage - 1 :] / 4.0 ** (stage - 1)
  kept = level.alpha * power / (level.alpha**2 * power + level.sigma**2)
  return levels_lib.Prediction.from_x0(x, level.times(kept, x), level)


def _swept(process, stage, levels, solver, variances):
  """Returns the variances (K,) of a stage's bands at its end."""
  waves = _waves(len(variances))  # (K, n, n, 1)
  wave = waves.sum(0)
  count = levels.time.shape[0] - 1
  bound = lambda x, level, first: denoise(process, stage, x, level)
  # Image 0 begins with the waves, image j gets them as the noise of step j.
  images = jnp.zeros((count + 1, *wave.shape)).at[0].set(wave)

  def step(carry, scanned):
    index, level, ahead = scanned
    noise = lambda: jnp.zeros_like(images).at[index + 1].set(wave)
    inputs = solvers.base.StepInputs(bound, level, ahead, noise)
    carry = solver.step(carry, inputs)
    return carry.replace(mean=None), None  # lives for the step alone

  carry = solver.start(images, levels)
  assert solver.first_step is None  # that goes band by band
  rows = (
    jnp.arange(count),
    levels_lib.row(levels, slice(0, -1)),
    levels_lib.row(levels, slice(1, None)),
  )
  carry, _ = jax.lax.scan(step, carry, rows)
  gains = jnp.einsum('bhwc,khwc->bk', carry.x, waves)
  gains = gains / jnp.square(waves).sum((1, 2, 3))
  # Noise is white in units of the stage's pixels.
  added = 4.0 ** (stage - 1) * jnp.square(gains[1:]).sum(0)
  return jnp.square(gains[0]) * variances + added


def _waves(count):
  """Returns one pattern (K, n, n, 1) of each of K bands, finest first."""
  side = 2 ** (count - 1)
  corner = jnp.zeros((1, side, side, 1)).at[0, 0, 0, 0].set(1.0)
  return jnp.concatenate([laplacian.mix(row, corner) for row in jnp.eye(count)])
