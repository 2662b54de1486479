"""Forward process and losses of Gaussian diffusion on a discrete chain."""

from collections.abc import Callable
import dataclasses
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import schedules


LOSSES = ('l1', 'l2')
PARAMETERIZATIONS = schedules.PARAMETERIZATIONS

# (x, t) -> what the network predicts of x
Denoiser = Callable[[jax.Array, jax.Array], jax.Array]


def check_parameterization(name: str) -> None:
  """Raises ValueError unless networks here may predict it."""
  checks.one_of('parameterization', name, PARAMETERIZATIONS)


def array_library(x: Any) -> types.ModuleType:
  """Returns the library that an array belongs to, jax.numpy or numpy."""
  return jnp if isinstance(x, jax.Array) else np


def per_example(values: jax.Array, like: jax.Array) -> jax.Array:
  """Reshapes (B,) so that it broadcasts over (B, ...)."""
  return values.reshape(values.shape + (1,) * (like.ndim - values.ndim))


def q_sample(
  x0: jax.Array, eps: jax.Array, alpha: jax.Array, sigma: jax.Array
) -> jax.Array:
  """Returns the noisy state alpha * x0 + sigma * eps (DDPM eq. 4).

  x0 and eps are (B, H, W, C), alpha and sigma (B,) or scalars.
  """
  return per_example(alpha, x0) * x0 + per_example(sigma, x0) * eps


def target(
  parameterization: str,
  x0: jax.Array,
  eps: jax.Array,
  alpha: jax.Array,
  sigma: jax.Array,
) -> jax.Array:
  """Returns what the network should predict, (B, H, W, C).

  Args:
    parameterization: 'eps' the noise, 'x0' the clean state, or 'v', which is
      alpha * eps - sigma * x0 (arXiv:2202.00512, appendix D).
    x0: (B, H, W, C) clean.
    eps: (B, H, W, C) standard normal.
    alpha: (B,) or scalar, factor of x0.
    sigma: (B,) or scalar, factor of eps.
  """
  check_parameterization(parameterization)
  if parameterization == 'v':
    return per_example(alpha, x0) * eps - per_example(sigma, x0) * x0
  return eps if parameterization == 'eps' else x0


def mix_noise(x: jax.Array, eps: jax.Array, ratio: float) -> jax.Array:
  """Returns Frido's noise augmentation of a known scale, (1-r) x + r eps."""
  return (1.0 - ratio) * x + ratio * eps


def error(prediction: jax.Array, target: jax.Array, kind: str) -> jax.Array:
  """Returns the mean error of each example (B, ...), (B,) float32."""
  checks.one_of('loss type', kind, LOSSES)
  difference = prediction.astype(jnp.float32) - target.astype(jnp.float32)
  size = jnp.abs if kind == 'l1' else jnp.square
  return jnp.mean(size(difference), axis=tuple(range(1, difference.ndim)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """How the training loss of a discrete chain is formed.

  Attributes:
    loss_type: 'l1' or 'l2'.
    parameterization: what the network predicts: 'eps', 'x0' or 'v'.
    simple_weight: the weight of the mean error.
    elbo_weight: the weight of the variational bound.
  """

  loss_type: str
  parameterization: str = 'eps'
  simple_weight: float = 1.0
  elbo_weight: float = 0.0

  def __post_init__(self):
    check_parameterization(self.parameterization)
    checks.one_of('loss type', self.loss_type, LOSSES)


def loss(
  denoiser: Denoiser,
  chain: schedules.Chain,
  settings: LossSettings,
  x0: jax.Array,
  t: jax.Array,
  eps: jax.Array,
  logvar: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The training loss at recorded noise.

  Matches `p_losses` of CompVis/latent-diffusion: ldm/models/diffusion/ddpm.py.

  Args:
    denoiser: the network with its condition.
    chain: the training chain.
    settings: how the loss is formed.
    x0: (B, H, W, C) clean, scaled.
    t: (B,) int32, the level of each example.
    eps: (B, H, W, C) standard normal.
    logvar: (T,) log variance of the errors of each level, a trained parameter
      or a constant; None is zero.

  Returns:
    The loss and the metrics `loss_simple`, `loss_vlb` and, with `logvar`,
    `loss_gamma` and `logvar`.
  """
  alpha, sigma = chain.alpha(t), chain.sigma(t)
  prediction = denoiser(q_sample(x0, eps, alpha, sigma), t)
  wanted = target(settings.parameterization, x0, eps, alpha, sigma)
  errors = error(prediction, wanted, settings.loss_type)
  weights = chain.loss_weights(settings.parameterization)
  bound = jnp.asarray(weights, jnp.float32)[t] * errors
  metrics = {'loss_simple': errors.mean(), 'loss_vlb': bound.mean()}
  simple = metrics['loss_simple']
  if logvar is not None:
    simple = (errors / jnp.exp(logvar[t]) + logvar[t]).mean()
    metrics |= {'loss_gamma': simple, 'logvar': logvar.mean()}
  total = settings.simple_weight * simple
  if settings.elbo_weight:
    total += settings.elbo_weight * metrics['loss_vlb']
  return total, metrics
