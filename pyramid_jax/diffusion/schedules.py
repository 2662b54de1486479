"""Noise schedules of discrete chains, tabulated in float64."""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import respacing


SCHEDULES = ('linear', 'cosine', 'sqrt_linear', 'sqrt')
SPACINGS = ('official', 'exact', 'log_snr', 'quad', 'adm', 'strided')
# What a network may predict of a noisy state; see `gaussian.target`.
PARAMETERIZATIONS = ('eps', 'x0', 'v')


@flax.struct.dataclass
class Levels:
  """Noise levels: S+1 rows in sampling order, the last is the end level.

  A noisy state is `alpha * x0 + sigma * eps`. One row, as a solver sees it,
  has scalars.

  Attributes:
    time: (S+1,) float32, what the network is told.
    alpha: (S+1,) float32 in (0, 1].
    sigma: (S+1,) float32 in [0, 1).
    log_beta: (S+1,) float32, log variance of the noise that leads from the
      next row's level to this one's (ancestral sampling; 0 in the last row).
    log_variance: (S+1,) float32, clipped log variance of the posterior.
    length: T, the number of levels of the chain they were taken from.
  """

  time: jax.Array
  alpha: jax.Array
  sigma: jax.Array
  log_beta: jax.Array
  log_variance: jax.Array
  length: int = flax.struct.field(pytree_node=False)

  @property
  def part(self) -> jax.Array:
    """(S+1,) the place in the chain's time, from 0, clean, to 1."""
    return self.time / self.length

  @property
  def initial_std(self) -> jax.Array | float:
    """Standard deviation of the state in which a whole sweep begins.

    A chain ends so near to pure noise that it is taken for it.
    """
    return 1.0

  # What solvers do to a state at one row. Levels with several bands, whose
  # `alpha` and other factors are one number a band, do it band by band.

  def times(self, factor: jax.Array, x: jax.Array) -> jax.Array:
    """Returns the state x (B, H, W, C) times a factor of this row."""
    return factor * x

  def noised(self, x0: jax.Array, eps: jax.Array) -> jax.Array:
    """Returns the noisy state of a clean one and of standard noise."""
    return self.times(self.alpha, x0) + self.sigma * eps

  def renewed(self, ahead: 'Levels') -> jax.Array:
    """Returns the deviation of the noise that eta = 1 draws anew (DDIM).

    Args:
      ahead: the next row.
    """
    ratio = jnp.square(self.alpha / ahead.alpha)
    return ahead.sigma / self.sigma * jnp.sqrt(1.0 - ratio)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
  """A variance-preserving chain of T discrete levels (float64 tables).

  Buffers of CompVis/latent-diffusion: ldm/models/diffusion/ddpm.py
  `register_schedule`.

  Attributes:
    betas: (T,) float64.
    v_posterior: 0 gives ancestral steps the variance of the posterior, 1 that
      of the forward step, between is linear.
  """

  betas: np.ndarray
  v_posterior: float = 0.0

  @property
  def length(self) -> int:
    return len(self.betas)

  @property
  def alphas_bar(self) -> np.ndarray:
    """(T,) the product of 1 - beta up to and including each index."""
    return np.cumprod(1.0 - self.betas)

  @property
  def posterior_variance(self) -> np.ndarray:
    """(T,) variance of q(x_{t-1} | x_t, x0), see `v_posterior`."""
    bar = self.alphas_bar
    return self.step_variance(self.betas, np.append(1.0, bar[:-1]), bar)

  def step_variance(
    self, beta: np.ndarray, before: np.ndarray, bar: np.ndarray
  ) -> np.ndarray:
    """Returns the variance of a step by beta from level bar to `before`."""
    small = beta * (1.0 - before) / (1.0 - bar)
    return (1.0 - self.v_posterior) * small + self.v_posterior * beta

  @property
  def posterior_mean(self) -> tuple[np.ndarray, np.ndarray]:
    """(T,) factors of x0 and of x_t in the mean of q(x_{t-1} | x_t, x0)."""
    bar = self.alphas_bar
    before = np.append(1.0, bar[:-1])
    return (
      self.betas * np.sqrt(before) / (1.0 - bar),
      (1.0 - before) * np.sqrt(1.0 - self.betas) / (1.0 - bar),
    )

  @property
  def vlb_weights(self) -> np.ndarray:
    """(T,) weights of the eps loss in the variational bound.

    Element 0 repeats element 1, as in ldm/models/diffusion/ddpm.py.
    """
    with np.errstate(divide='ignore'):
      weights = self.betas**2 / (
        2.0
        * self.posterior_variance
        * (1.0 - self.betas)
        * (1.0 - self.alphas_bar)
      )
    weights[0] = weights[1]
    return weights

  @property
  def vlb_weights_x0(self) -> np.ndarray:
    """(T,) the same for a network that predicts x0 (official form)."""
    bar = self.alphas_bar
    weights = 0.5 * np.sqrt(bar) / (2.0 - bar)
    weights[0] = weights[1]
    return weights

  @property
  def vlb_weights_v(self) -> np.ndarray:
    """(T,) the same for v: its error is that of eps over sqrt(alphas_bar)."""
    weights = self.vlb_weights * self.alphas_bar
    weights[0] = weights[1]
    return weights

  def loss_weights(self, parameterization: str) -> np.ndarray:
    """Returns the (T,) weights of the variational bound.

    Args:
      parameterization: one of `PARAMETERIZATIONS`.
    """
    return {
      'eps': self.vlb_weights,
      'x0': self.vlb_weights_x0,
      'v': self.vlb_weights_v,
    }[parameterization]

  def alpha(self, t: jax.Array) -> jax.Array:
    """Returns sqrt(alphas_bar) at integer t, float32."""
    return jnp.asarray(np.sqrt(self.alphas_bar), jnp.float32)[t]

  def sigma(self, t: jax.Array) -> jax.Array:
    """Returns sqrt(1 - alphas_bar) at integer t, float32."""
    return jnp.asarray(np.sqrt(1.0 - self.alphas_bar), jnp.float32)[t]


def make_chain(
  kind: str = 'linear',
  timesteps: int = 1000,
  linear_start: float = 0.0015,
  linear_end: float = 0.0155,
  cosine_s: float = 8e-3,
  v_posterior: float = 0.0,
) -> Chain:
  """Builds a chain.

  Matches `make_beta_schedule` of CompVis/latent-diffusion:
  ldm/modules/diffusionmodules/util.py. 'linear' is linear in sqrt(beta).

  Raises:
    ValueError: unknown kind.
  """
  if kind == 'linear':
    betas = np.linspace(linear_start**0.5, linear_end**0.5, timesteps) ** 2
  elif kind == 'sqrt_linear':
    betas = np.linspace(linear_start, linear_end, timesteps)
  elif kind == 'sqrt':
    betas = np.linspace(linear_start, linear_end, timesteps) ** 0.5
  elif kind == 'cosine':
    k = np.arange(timesteps + 1) / timesteps
    bar = np.cos((k + cosine_s) / (1 + cosine_s) * np.pi / 2) ** 2
    betas = np.clip(1 - bar[1:] / bar[:-1], 0, 0.999)
  else:
    raise ValueError(f'beta schedule {kind!r} is not one of {SCHEDULES}')
  return Chain(betas=betas, v_posterior=v_posterior)


def uniform_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns the official DDIM time steps, ascending.

  `range(0, T, T // S) + 1` of ldm/modules/diffusionmodules/util.py: T // S may
  give more than S steps, and counts that would reach index T are refused.

  Raises:
    ValueError: steps out of range, or a count that the rule cannot serve.
  """
  if not 1 <= steps <= length:
    raise ValueError(f'sampling steps {steps} must lie in 1..{length}')
  times = np.arange(0, length, length // steps) + 1
  if times[-1] >= length:
    raise ValueError(
      f'{steps} sampling steps: the official spacing of {length} levels would'
      f' reach level {times[-1]}; take a divisor of {length} below {length},'
      " such as 10, 20, 25, 50, 100, 200, 250 of 1000, or spacing 'exact'"
    )
  return times


def spread_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns `steps` ascending indices from 0 to length - 1, evenly spread."""
  if not 1 <= steps <= length:
    raise ValueError(f'sampling steps {steps} must lie in 1..{length}')
  if steps == 1:
    return np.array([length - 1])
  return np.round(np.linspace(0, length - 1, steps)).astype(np.int64)


def quadratic_timesteps(length: int, steps: int) -> np.ndarray:
  """Returns the official DDIM time steps that grow with the square, ascending.

  The first of them may repeat; they end near 0.8 T. From
  ldm/modules/diffusionmodules/util.py, `ddim_discretize` = 'quad'.
  """
  if not 1 <= steps <= length:
    raise ValueError(f'sampling steps {steps} must lie in 1..{length}')
  return (np.linspace(0, np.sqrt(0.8 * length), steps) ** 2).astype(int) + 1


def log_snr_timesteps(chain: Chain, steps: int) -> np.ndarray:
  """Returns `steps` + 1 indices from 0 to T - 1, even in log(alpha / sigma).

  Levels are whole numbers: where the rule would repeat one (many steps, little
  noise) it takes the next.
  """
  if not 1 <= steps < chain.length:
    raise ValueError(
      f'sampling steps {steps} must lie in 1..{chain.length - 1}'
    )
  bar = chain.alphas_bar
  snr = np.log(bar) - np.log1p(-bar)
  even = np.linspace(snr[0], snr[-1], steps + 1)
  places = np.round(np.interp(-even, -snr, np.arange(chain.length)))
  order = np.arange(steps + 1)
  times = order + np.maximum.accumulate(places.astype(int) - order)
  return np.minimum(times, chain.length - 1 - order[::-1])


def spaced_levels(chain: Chain, steps: int, spacing: str) -> Levels:
  """Returns the levels of a sweep.

  'official' and 'quad' are the rules of CompVis/latent-diffusion: the number
  of steps of the former may differ from `steps` (`uniform_timesteps`), and the
  sample keeps the noise of the chain's first level. 'exact' takes exactly
  `steps` levels, any number of 1..T, evenly spread from the last one of the
  chain to the first, and ends clean. 'log_snr' takes exactly `steps` levels
  evenly spread in the log signal-to-noise ratio, which solvers of higher order
  follow best, and ends at the chain's first level. 'adm' and 'strided' are
  ADM's rules 'S' and 'ddimS' and end clean (`respaced_levels`).

  Args:
    chain: the trained chain.
    steps: S.
    spacing: one of `SPACINGS`.

  Raises:
    ValueError: a count that the rule cannot serve.
  """
  if spacing in ('adm', 'strided'):
    rule = 'ddim' if spacing == 'strided' else ''
    return respaced_levels(chain, f'{rule}{steps}')
  if spacing == 'exact':
    return levels(chain, spread_timesteps(chain.length, steps), 1.0)
  if spacing == 'log_snr':
    times = log_snr_timesteps(chain, steps)
    return levels(chain, times[1:], chain.alphas_bar[0])
  count = {'official': uniform_timesteps, 'quad': quadratic_timesteps}[spacing]
  return levels(chain, count(chain.length, steps), chain.alphas_bar[0])


def respaced(chain: Chain, times: np.ndarray) -> Chain:
  """Returns the short chain of ascending `times`, each level as noisy."""
  bar = chain.alphas_bar[times]
  betas = 1.0 - bar / np.append(1.0, bar[:-1])
  return dataclasses.replace(chain, betas=betas)


def respaced_levels(
  chain: Chain, sections: str | Sequence[int] = '', rescale: bool = False
) -> Levels:
  """Returns the levels of a respaced chain, as ADM samples it.

  Matches openai/guided-diffusion: guided_diffusion/respace.py. The network is
  told the index in the long chain; the sweep ends clean and the last step has
  the log variance of the one before it, not that of no noise.

  Args:
    chain: the trained chain.
    sections: see `respacing.space_timesteps`; '' keeps every level.
    rescale: tell the network the index of a chain of 1000 (a real number).

  Raises:
    ValueError: sections that the rule cannot serve.
  """
  times = respacing.space_timesteps(chain.length, sections)
  rows = levels(chain, times, 1.0)
  variance: Any = np.array(rows.log_variance)
  if len(times) > 1:
    variance[-2] = variance[-3]
  rows = dataclasses.replace(rows, log_variance=variance)
  if not rescale:
    return rows
  time = rows.time * (1000.0 / chain.length)
  return dataclasses.replace(rows, time=time, length=1000)


def levels(chain: Chain, times: np.ndarray, end_bar: float) -> Levels:
  """Tabulates the levels of ascending `times` for a falling sweep.

  Args:
    chain: the trained chain.
    times: (S,) ascending indices into it.
    end_bar: alphas_bar of the end level: 1 for a clean end, or
      `chain.alphas_bar[0]` for the official DDIM.

  Returns:
    `Levels` of S+1 rows, highest noise first, on the host. The end row
    repeats the last time (PLMS may evaluate the network there).
  """
  bar = np.append(chain.alphas_bar[times][::-1], end_bar)
  before = bar[1:]
  beta = 1.0 - bar[:-1] / before
  variance = chain.step_variance(beta, before, bar[:-1])
  f32: Callable[..., Any] = lambda x: np.asarray(x, np.float32)
  return Levels(
    time=f32(np.append(times[::-1], times[0])),
    alpha=f32(np.sqrt(bar)),
    sigma=f32(np.sqrt(1.0 - bar)),
    log_beta=f32(np.append(np.log(np.maximum(beta, 1e-20)), 0.0)),
    log_variance=f32(np.append(np.log(np.maximum(variance, 1e-20)), 0.0)),
    length=chain.length,
  )
