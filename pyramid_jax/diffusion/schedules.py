"""Noise schedules of discrete chains, tabulated in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import checks


SCHEDULES = ('linear', 'scaled_linear', 'sqrt', 'cosine')
# What networks predict, see `gaussian.target`.
PARAMETERIZATIONS = ('eps', 'x0', 'v')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chain:
  """A variance-preserving chain of T discrete levels (float64 tables).

  Matches `register_schedule` of CompVis/latent-diffusion:
  ldm/models/diffusion/ddpm.py.

  Attributes:
    betas: (T,) float64.
    v_posterior: the variance of ancestral steps, linear from 0, that of the
      posterior, to 1, that of the forward step.
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
    """(T,) factors of x0 and x_t in the mean of q(x_{t-1} | x_t, x0)."""
    bar = self.alphas_bar
    before = np.append(1.0, bar[:-1])
    return (
      self.betas * np.sqrt(before) / (1.0 - bar),
      (1.0 - before) * np.sqrt(1.0 - self.betas) / (1.0 - bar),
    )

  def loss_weights(self, parameterization: str) -> np.ndarray:
    """Returns the (T,) weights of the errors in the variational bound.

    Element 0 repeats element 1, and 'x0' has a formula of its own, as in
    ldm/models/diffusion/ddpm.py; errors of 'v' are those of 'eps' over
    sqrt(alphas_bar).
    """
    bar, variance = self.alphas_bar, self.posterior_variance
    if parameterization == 'x0':
      weights = 0.5 * np.sqrt(bar) / (2.0 - bar)
    else:
      with np.errstate(divide='ignore'):
        weights = self.betas**2 / (
          2.0 * variance * (1.0 - self.betas) * (1.0 - bar)
        )
      if parameterization == 'v':
        weights = weights * bar
    weights[0] = weights[1]
    return weights

  def alpha(self, t: jax.Array) -> jax.Array:
    """Returns sqrt(alphas_bar) at integer t, float32."""
    return jnp.asarray(np.sqrt(self.alphas_bar), jnp.float32)[t]

  def sigma(self, t: jax.Array) -> jax.Array:
    """Returns sqrt(1 - alphas_bar) at integer t, float32."""
    return jnp.asarray(np.sqrt(1.0 - self.alphas_bar), jnp.float32)[t]


def make_chain(
  kind: str = 'scaled_linear',
  timesteps: int = 1000,
  linear_start: float = 0.0015,
  linear_end: float = 0.0155,
  cosine_s: float = 8e-3,
  v_posterior: float = 0.0,
) -> Chain:
  """Builds a chain.

  Matches `make_beta_schedule` of CompVis/latent-diffusion:
  ldm/modules/diffusionmodules/util.py, where 'scaled_linear', linear in
  sqrt(beta), is 'linear', and 'linear' is 'sqrt_linear'.

  Raises:
    ValueError: unknown kind.
  """
  checks.one_of('beta schedule', kind, SCHEDULES)
  if kind == 'scaled_linear':
    betas = np.linspace(linear_start**0.5, linear_end**0.5, timesteps) ** 2
  elif kind == 'linear':
    betas = np.linspace(linear_start, linear_end, timesteps)
  elif kind == 'sqrt':
    betas = np.linspace(linear_start, linear_end, timesteps) ** 0.5
  else:
    k = np.arange(timesteps + 1) / timesteps
    bar = np.cos((k + cosine_s) / (1 + cosine_s) * np.pi / 2) ** 2
    betas = np.clip(1 - bar[1:] / bar[:-1], 0, 0.999)
  return Chain(betas=betas, v_posterior=v_posterior)
