"""Preconditioning, noise levels and loss of a stage of Laplacian diffusion.

They generalise EDM's (arXiv:2206.00364): with one level, or where nothing has
faded, they are EDM's with sigma_data^2 = the power of all bands. The published
report (arXiv:2411.07126) shows none of them: they are derived, or ours.
`sigma` is the full-resolution noise level, as in `laplacian`.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import levels as levels_lib


KINDS = ('scalar', 'band')
# (x, c_noise) -> the raw output
Network = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Prior:
  """The distribution of the clean image given a condition alone.

  Networks then predict the difference from its mean, as SRDiff
  (arXiv:2104.14951) does for super-resolution; the band powers are ours.

  Attributes:
    mean: (B, H, W, C) of the image, at the finest resolution.
    power: (B, L) mean square of the error of each band of the mean, finest
      first, in addition to `Process.band_rms` squared.
  """

  mean: jax.Array
  power: jax.Array


@dataclasses.dataclass(frozen=True)
class Preconditioning:
  """The preconditioning of the network of a stage.

  Attributes:
    process: the process of the stages.
    stage: s, 1 is the finest.
    kind: 'band' for unit variance of every band of the network's input and
      target at every noise level, 'scalar' for unit variance of their sum.
  """

  process: laplacian.Process
  stage: int
  kind: str = 'band'

  def __post_init__(self):
    self.process.check_stage(self.stage)
    checks.one_of('preconditioning', self.kind, KINDS)

  def c_noise(self, sigma: jax.Array) -> jax.Array:
    """Returns EDM's embedding of sigma (...) for the network."""
    return jnp.log(sigma / 2 ** (self.stage - 1)) / 4.0

  def factors(
    self, sigma: jax.Array, prior: Prior | None = None
  ) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns c_in, c_skip and c_out, (..., K), or (..., 1) of 'scalar'.

    With the prior of a batch, sigma is () or (B,).
    """
    alpha = self.process.alphas(sigma)[..., self.stage - 1 :]
    noise = jnp.square(sigma / 2 ** (self.stage - 1))[..., None]
    power = jnp.asarray(np.square(self.process.band_rms[self.stage - 1 :]))
    if prior is not None:
      power = power + prior.power[:, self.stage - 1 :]
    if self.kind == 'band':
      power = power / band_shares(self.process, self.stage)
      total = alpha**2 * power + noise
      c_out = jnp.sqrt(power * noise / total)
      return 1.0 / jnp.sqrt(total), alpha * power / total, c_out
    total = (alpha**2 * power).sum(-1, keepdims=True) + noise
    # In the form that keeps digits where little noise is left.
    lower = jnp.tril(jnp.ones((alpha.shape[-1],) * 2), -1)
    apart = jnp.square(alpha[..., :, None] - alpha[..., None, :])
    powers = power[..., :, None] * power[..., None, :]
    pairs = (lower * powers * apart).sum((-2, -1))[..., None]
    c_out = jnp.sqrt((pairs + power.sum(-1, keepdims=True) * noise) / total)
    c_skip = (alpha * power).sum(-1, keepdims=True) / total
    return 1.0 / jnp.sqrt(total), c_skip, c_out

  def denoise(
    self,
    network: Network,
    x: jax.Array,
    sigma: jax.Array,
    prior: Prior | None = None,
  ) -> jax.Array:
    """Returns the clean image of the stage, (B, h, w, C) float32.

    Args:
      network: (c_in x, c_noise) -> (B, h, w, C).
      x: (B, h, w, C) the noisy state.
      sigma: () or (B,), above 0.
      prior: the prior of the clean image given the condition; None without one.
    """
    if prior is not None:
      alpha = self.process.alphas(sigma)[..., self.stage - 1 :]
      mean = laplacian.pooled(prior.mean, self.stage - 1)
      x = x - laplacian.mix(alpha, mean)
    c_in, c_skip, c_out = self.factors(sigma, prior)
    raw = network(laplacian.mix(c_in, x), self.c_noise(sigma))
    skip = laplacian.mix(c_skip, x)
    x0 = skip + laplacian.mix(c_out, raw.astype(jnp.float32))
    return x0 if prior is None else mean + x0

  def predict(
    self, network: Network, x: jax.Array, level: Any, prior: Prior | None = None
  ) -> levels_lib.Prediction:
    """Returns the prediction of `denoise` at a row of the stage's levels."""
    sigma = level.sigma * 2 ** (self.stage - 1)
    x0 = self.denoise(network, x, sigma, prior)
    return levels_lib.Prediction.from_x0(x, x0, level)


def band_shares(process: laplacian.Process, stage: int) -> np.ndarray:
  """Returns (K,) the share of a stage's values that lie in each band."""
  depth = np.arange(process.levels - stage + 1)
  shares = 0.75 * 4.0**-depth
  shares[-1] = 4.0 ** -depth[-1]
  return shares


@dataclasses.dataclass(frozen=True)
class NoiseDistribution:
  """The noise levels of training: normal in log sigma, cut at the switches.

  Attributes:
    mean: the mean of log sigma at the coarsest stage, in its own pixels.
    std: the standard deviation of log sigma.
  """

  mean: float = -1.2
  std: float = 1.2

  def __post_init__(self):
    checks.check('P_std', self.std, self.std > 0, 'above 0')

  def range(
    self, process: laplacian.Process, stage: int
  ) -> tuple[float, float]:
    """Returns the quantiles between which the levels of a stage lie."""
    mean = self._mean(process)
    below = lambda sigma: (
      0.5 * math.erfc((mean - math.log(sigma)) / self.std / math.sqrt(2.0))
    )
    low, high = process.bounds(stage)
    return below(low), below(high)

  def shares(self, process: laplacian.Process) -> np.ndarray:
    """Returns the (L,) probabilities of the stages, 1 first."""
    ends = [self.range(process, s) for s in range(1, process.levels + 1)]
    sizes = np.array([high - low for low, high in ends])
    return sizes / sizes.sum()

  def draw(
    self, key: jax.Array, process: laplacian.Process, stage: int, count: int
  ) -> jax.Array:
    """Draws (B,) sigmas of a stage."""
    low, high = self.range(process, stage)
    u = jax.random.uniform(key, (count,), minval=low, maxval=high)
    log = self._mean(process) + self.std * jax.scipy.special.ndtri(u)
    return jnp.clip(jnp.exp(log), *process.bounds(stage))

  def _mean(self, process: laplacian.Process) -> float:
    """Returns the mean of log sigma at full resolution."""
    return self.mean + (process.levels - 1) * math.log(2.0)


def loss(
  network: Network,
  precond: Preconditioning,
  clean: jax.Array,
  sigma: jax.Array,
  eps: jax.Array,
  prior: Prior | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The training loss of a stage at recorded noise: a mean over all values.

  Args:
    network: (c_in x, c_noise) -> (B, h, w, C).
    precond: the preconditioning of the stage.
    clean: (B, h, w, C) the images at the stage's resolution.
    sigma: (B,).
    eps: (B, h, w, C) standard normal.
    prior: of the clean image given the condition; None without one.

  Returns:
    The mean of the squared errors over c_out, and the metrics `mse_band_N`,
    the mean squared errors of each band.
  """
  x = precond.process.noised(clean, eps, sigma, precond.stage)
  error = precond.denoise(network, x, sigma, prior) - clean
  _, _, c_out = precond.factors(sigma, prior)
  weighted = jnp.square(laplacian.mix(1.0 / c_out, error)).mean()
  levels = precond.process.levels - precond.stage + 1
  metrics = {
    f'mse_band_{precond.stage + i}': jnp.square(part).mean()
    for i, part in enumerate(laplacian.bands(error, levels))
  }
  return weighted, metrics
