"""The losses of iDDPM and ADM: the variance of a step is learned too.

arXiv:2102.09672 and openai/guided-diffusion:
guided_diffusion/gaussian_diffusion.py. All functions take recorded noise and
return values of each example; levels are those of `timesteps.respaced_levels`.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion.solvers import ddpm


LOSSES = ('mse', 'rescaled_mse', 'rescaled_kl')

# (x, `Levels.time` of each example, (B,)) -> (B, H, W, C or 2C)
Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """How the loss is formed.

  Attributes:
    loss: 'mse', the mean squared error plus, where the variance is learned,
      the variational bound, which trains the variance alone; 'rescaled_mse',
      with the bound times S / 1000; 'rescaled_kl', the bound alone, times S. S
      is the number of levels.
    parameterization: what the network predicts: 'eps', 'x0' or 'v'.
    variance: see `ddpm.ancestral`.
  """

  loss: str = 'mse'
  parameterization: str = 'eps'
  variance: str = 'learned_range'

  def __post_init__(self):
    gaussian.check_parameterization(self.parameterization)
    checks.one_of('variance', self.variance, ddpm.VARIANCES)
    checks.one_of('loss', self.loss, LOSSES)


def at(
  levels: levels_lib.Levels, t: jax.Array
) -> tuple[levels_lib.Levels, levels_lib.Levels]:
  """Returns the levels t and those at which their steps end, (B, 1, 1, 1) each.

  t (B,) int32 counts from 0, the least noisy level, to S - 1.
  """

  def rows(index):
    return jax.tree.map(
      lambda a: jnp.asarray(a)[index][:, None, None, None], levels
    )

  last = levels_lib.count(levels)
  return rows(last - 1 - t), rows(last - t)


def loss(
  denoiser: Denoiser,
  levels: levels_lib.Levels,
  settings: LossSettings,
  x0: jax.Array,
  t: jax.Array,
  eps: jax.Array,
) -> dict[str, jax.Array]:
  """The training loss of each example at recorded noise.

  Args:
    denoiser: the network with its condition.
    levels: the levels of the whole chain, or respaced.
    settings: how the loss is formed.
    x0: (B, H, W, C) clean.
    t: (B,) int32, see `at`.
    eps: (B, H, W, C) standard normal.

  Returns:
    (B,) `loss` and its terms: `mse`, the mean error, and `vb`, the weighted
    bound in bits per value.
  """
  count, (level, next_level) = levels_lib.count(levels), at(levels, t)
  x = gaussian.q_sample(x0, eps, level.alpha, level.sigma)
  value = denoiser(x, level.time.reshape(-1)).astype(jnp.float32)
  prediction = levels_lib.Prediction.of(
    settings.parameterization, x, value, level
  )

  def bound(prediction):
    """Returns this level's term of the variational bound, (B,) bits a value."""
    _, mean, log_variance = ddpm.ancestral(
      prediction, x, level, next_level, settings.variance
    )
    true_mean = ddpm.posterior_mean(x0, x, level, next_level)
    kl = normal_kl(true_mean, level.log_variance, mean, log_variance)
    likelihood = discretized_log_likelihood(x0, mean, 0.5 * log_variance)
    return _bits(jnp.where(next_level.sigma == 0, -likelihood, kl))

  if settings.loss == 'rescaled_kl':
    total = bound(prediction) * count
    return {'loss': total, 'vb': total}
  target = gaussian.target(
    settings.parameterization, x0, eps, level.alpha, level.sigma
  )
  mse = gaussian.error(value[..., : x.shape[-1]], target, 'l2')
  if settings.variance != 'learned_range':
    return {'loss': mse, 'mse': mse}
  # The bound trains the variance alone.
  fixed = jax.lax.stop_gradient((prediction.x0, prediction.eps))
  weighted = bound(prediction.replace(x0=fixed[0], eps=fixed[1]))
  if settings.loss == 'rescaled_mse':
    weighted = weighted * (count / 1000.0)
  return {'loss': mse + weighted, 'mse': mse, 'vb': weighted}


def _bits(nats: jax.Array) -> jax.Array:
  """Returns the mean of each example in bits, (B,)."""
  return nats.mean(axis=tuple(range(1, nats.ndim))) / np.log(2.0)


def normal_kl(
  mean1: jax.Array, log_var1: jax.Array, mean2: jax.Array, log_var2: jax.Array
) -> jax.Array:
  """Returns KL(N(mean1, e^log_var1) || N(mean2, e^log_var2)), nats."""
  difference = log_var1 - log_var2
  return 0.5 * (
    jnp.expm1(difference)
    - difference
    + jnp.square(mean1 - mean2) * jnp.exp(-log_var2)
  )


def discretized_log_likelihood(
  x: jax.Array, mean: jax.Array, log_scale: jax.Array
) -> jax.Array:
  """Returns the log probability of the bins of 2/255 around x, nats.

  The outermost bins reach to infinity; the cumulative distribution function is
  approximated by a logistic function of a cubic.

  Args:
    x: (B, H, W, C) images in [-1, 1]; latents are treated as images.
    mean: the mean of the normal distribution.
    log_scale: log of its standard deviation.
  """
  scale = jnp.exp(-log_scale)

  def below(edge):
    z = scale * edge
    return jax.nn.sigmoid(2.0 * np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3))

  low = below(x - mean - 1.0 / 255.0)
  high = below(x - mean + 1.0 / 255.0)
  mass = jnp.where(
    x < -0.999, high, jnp.where(x > 0.999, 1.0 - low, high - low)
  )
  return jnp.log(jnp.maximum(mass, 1e-12))


def prior_bits(levels: levels_lib.Levels, x0: jax.Array) -> jax.Array:
  """Returns KL(q(x at the noisiest level | x0) || N(0, 1)), (B,) bits."""
  first = levels_lib.row(levels, 0)
  log_variance = jnp.log1p(-(jnp.asarray(first.alpha) ** 2))
  zero = jnp.zeros(())
  return _bits(normal_kl(first.alpha * x0, log_variance, zero, zero))
