"""The training loss of EDM (arXiv:2206.00364) and its noise levels."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import gaussian


# (x, sigma) -> the clean image
Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


class NoiseDistribution:
  """How often a noise level is trained, and the weight of its errors.

  Rows of table 1, for the networks of `edm`. The defaults are those of VP and
  VE.
  """

  def draw(self, key: jax.Array, count: int) -> jax.Array:
    """Returns (B,) random numbers, which `sigma` turns into levels."""
    return jax.random.uniform(key, (count,))

  def sigma(self, random: jax.Array) -> jax.Array:
    """Returns the (B,) noise levels."""
    raise NotImplementedError

  def weight(self, sigma: jax.Array) -> jax.Array:
    """Returns the (B,) weights of the squared errors."""
    return 1.0 / sigma**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class VPDistribution(NoiseDistribution):
  """Uniform in the time of the VP process."""

  process: edm.VP = edm.VP()

  def sigma(self, random: jax.Array) -> jax.Array:
    vp = self.process
    time = (1.0 - random) + random * vp.epsilon_t
    return edm.vp_sigma(time, vp.beta_d, vp.beta_min)


@dataclasses.dataclass(frozen=True, kw_only=True)
class VEDistribution(NoiseDistribution):
  """Uniform in log sigma."""

  process: edm.VE = edm.VE()

  def sigma(self, random: jax.Array) -> jax.Array:
    low, high = self.process.sigma_min, self.process.sigma_max
    return low * (high / low) ** random


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMDistribution(NoiseDistribution):
  """Normal in log sigma.

  Attributes:
    mean: the mean of log sigma.
    std: the standard deviation of log sigma.
    sigma_data: standard deviation of the clean images.
  """

  mean: float = -1.2
  std: float = 1.2
  sigma_data: float = 0.5

  def __post_init__(self):
    checks.check('P_std', self.std, self.std > 0, 'above 0')
    checks.check('sigma_data', self.sigma_data, self.sigma_data > 0, 'above 0')

  def draw(self, key: jax.Array, count: int) -> jax.Array:
    return jax.random.normal(key, (count,))

  def sigma(self, random: jax.Array) -> jax.Array:
    return jnp.exp(random * self.std + self.mean)

  def weight(self, sigma: jax.Array) -> jax.Array:
    return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2


_DISTRIBUTIONS: dict[str, Callable[..., NoiseDistribution]] = {
  'vp': lambda **options: VPDistribution(process=edm.VP(**options)),
  've': lambda **options: VEDistribution(process=edm.VE(**options)),
  'edm': EDMDistribution,
}
DISTRIBUTIONS = tuple(_DISTRIBUTIONS)


def make_distribution(name: str, **options: Any) -> NoiseDistribution:
  """Returns a distribution by name; options are of its class or process.

  Raises:
    ValueError: unknown name, or an option out of range.
  """
  checks.one_of('distribution of noise levels', name, DISTRIBUTIONS)
  return _DISTRIBUTIONS[name](**options)


def weighted_errors(
  denoiser: Denoiser,
  distribution: NoiseDistribution,
  y: jax.Array,
  random: jax.Array,
  eps: jax.Array,
) -> jax.Array:
  """Returns weight * (D(y + sigma eps) - y)^2, (B, H, W, C) float32.

  Args:
    denoiser: (noisy images, (B,) sigma) -> clean images.
    distribution: the distribution of the noise levels.
    y: (B, H, W, C) clean images, augmented.
    random: (B,) as `distribution.draw` gives it.
    eps: (B, H, W, C) standard normal.
  """
  sigma = distribution.sigma(random)
  clean = denoiser(gaussian.q_sample(y, eps, jnp.ones(()), sigma), sigma)
  weight = gaussian.per_example(distribution.weight(sigma), y)
  return weight * jnp.square(clean.astype(jnp.float32) - y)


def loss(
  denoiser: Denoiser,
  distribution: NoiseDistribution,
  y: jax.Array,
  random: jax.Array,
  eps: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Returns the training loss at recorded noise, and its metrics.

  The loss is the sum of `weighted_errors` over an image, the mean over the
  batch; the metric `loss_mean` is the mean over all values.
  """
  errors = weighted_errors(denoiser, distribution, y, random, eps)
  return errors.sum() / y.shape[0], {'loss_mean': errors.mean()}
