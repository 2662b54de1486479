"""The losses of the first stages, as pure functions.

Two families. Vector quantised: CompVis/taming-transformers,
taming/modules/losses/vqperceptual.py, as used by davidhalladay/Frido:
taming/models/msvqgan.py; all terms are means. Kullback-Leibler:
CompVis/latent-diffusion, ldm/modules/losses/contperceptual.py,
LPIPSWithDiscriminator; the reconstruction is a sum over an image, whose
scale the logarithm of a variance may learn.
"""

from collections.abc import Callable
import dataclasses

import jax
import jax.numpy as jnp


PIXEL_LOSSES = ('l1', 'l2')
DISC_LOSSES = ('hinge', 'vanilla')
MAX_ADAPTIVE_WEIGHT = 1e4


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """What both families of losses have."""

  perceptual_weight: float = 1.0  # Weighs the perceptual distance.
  disc_weight: float = 0.8  # Times the adaptive weight.
  disc_start: int = 0  # first step with the adversarial term
  disc_loss: str = 'hinge'  # or 'vanilla'
  disc_factor: float = 1.0  # Scales both adversarial losses.
  pixel_loss: str = 'l1'  # or 'l2', as one of the reference files allows

  def __post_init__(self):
    for name, allowed in (
      ('pixel_loss', PIXEL_LOSSES),
      ('disc_loss', DISC_LOSSES),
    ):
      value = getattr(self, name)
      if value not in allowed:
        raise ValueError(f'{name} is {value!r}, must be one of {allowed}')

  def factor(self, step: jax.Array) -> jax.Array:
    """Returns disc_factor from disc_start on, 0 before."""
    return jnp.where(step >= self.disc_start, self.disc_factor, 0.0)

  def reduce(
    self, rec: jax.Array, size: int, logvar: jax.Array | float
  ) -> jax.Array:
    """Returns the reconstruction's part of the loss.

    Args:
      rec: mean pixel loss and weighted perceptual distance.
      size: the number of values of an image.
      logvar: the log variance of the reconstruction, for `KLSettings`.
    """
    del size, logvar
    return rec

  def regularise(
    self, value: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the latent's part of the loss, and its metrics.

    Args:
      value: the codebook loss (), or the divergence of each example (B,).
    """
    raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class VQSettings(LossSettings):
  """The losses of a vector-quantised first stage."""

  codebook_weight: float = 1.0

  def regularise(
    self, value: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    return self.codebook_weight * value, {'quant_loss': value}


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLSettings(LossSettings):
  """The losses of a Kullback-Leibler first stage."""

  kl_weight: float = 1.0  # Weighs the divergence summed over a latent.

  def reduce(
    self, rec: jax.Array, size: int, logvar: jax.Array | float
  ) -> jax.Array:
    return size * (rec / jnp.exp(logvar) + logvar)

  def regularise(
    self, value: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    kl = value.mean()
    return self.kl_weight * kl, {'kl_loss': kl}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LastConvolution:
  """The end of a decoder, where the adaptive weight compares gradients."""

  features: jax.Array  # (B, H, W, F), the input of the convolution
  kernel: jax.Array  # (K, K, F, 3)
  # (features, kernel) -> (B, H, W, 3), the reconstruction
  apply: Callable[[jax.Array, jax.Array], jax.Array]


def reconstruction_loss(
  image: jax.Array,
  reconstruction: jax.Array,
  perceptual: Callable[[jax.Array, jax.Array], jax.Array],
  weight: float,
  pixel_loss: str = 'l1',
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns (their weighted sum, mean pixel loss, mean perceptual distance).

  Args:
    image: (B, H, W, C) in [-1, 1].
    reconstruction: the same shape.
    perceptual: (x, y) -> (B,).
    weight: the weight of the perceptual distance.
    pixel_loss: 'l1' or 'l2'.
  """
  difference = image - reconstruction
  measure = jnp.abs if pixel_loss == 'l1' else jnp.square
  pixels = measure(difference).mean()
  distance = perceptual(image, reconstruction).mean()
  return pixels + weight * distance, pixels, distance


def generator_loss(
  settings: LossSettings,
  image: jax.Array,
  last: LastConvolution,
  perceptual: Callable[[jax.Array, jax.Array], jax.Array],
  discriminate: Callable[[jax.Array], jax.Array] | None,
  regularizer: jax.Array,
  step: jax.Array,
  logvar: jax.Array | float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The generator's loss (optimizer_idx 0 of both reference files).

  Args:
    settings: `VQSettings` or `KLSettings`.
    image: (B, H, W, 3).
    last: the end of the decoder.
    perceptual: (x, y) -> (B,).
    discriminate: image -> logits; None for no adversarial term.
    regularizer: the argument of `settings.regularise`.
    step: finished updates.
    logvar: () of the reconstruction, for `KLSettings`.

  Returns:
    The loss and metrics under the official names.
  """
  logvar = jnp.asarray(logvar, jnp.float32)

  def nll_of(features, kernel):
    rec, _, distance = reconstruction_loss(
      image,
      last.apply(features, kernel),
      perceptual,
      settings.perceptual_weight,
      settings.pixel_loss,
    )
    return settings.reduce(rec, image[0].size, logvar), rec, distance

  nll, rec, distance = nll_of(last.features, last.kernel)
  latent, metrics = settings.regularise(regularizer)
  total = nll + latent
  metrics |= {'nll_loss': nll, 'rec_loss': rec, 'p_loss': distance}
  if isinstance(settings, KLSettings):
    metrics['logvar'] = logvar
  if discriminate is not None:

    def g_of(features, kernel):
      return -discriminate(last.apply(features, kernel)).mean()

    g = g_of(last.features, last.kernel)
    # Constants for the weight: nothing is differentiated twice.
    still, at = jax.lax.stop_gradient((last.features, last.kernel))
    weight = settings.disc_weight * adaptive_weight(
      jax.grad(lambda k: nll_of(still, k)[0])(at),
      jax.grad(lambda k: g_of(still, k))(at),
    )
    if isinstance(settings, KLSettings) and not settings.disc_factor > 0:
      weight = jnp.zeros_like(weight)  # that file does not compute it then
    factor = settings.factor(step)
    total += weight * factor * g
    metrics |= {'g_loss': g, 'd_weight': weight, 'disc_factor': factor}
  metrics['total_loss'] = total
  return total, metrics


def adaptive_weight(nll_grad: jax.Array, g_grad: jax.Array) -> jax.Array:
  """Returns the ratio of the gradients' norms, clipped, a constant."""
  ratio = jnp.linalg.norm(nll_grad.ravel()) / (
    jnp.linalg.norm(g_grad.ravel()) + 1e-4
  )
  return jax.lax.stop_gradient(jnp.clip(ratio, 0.0, MAX_ADAPTIVE_WEIGHT))


def discriminator_loss(
  settings: LossSettings,
  real: jax.Array,
  fake: jax.Array,
  step: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The discriminator's loss (optimizer_idx 1 of both reference files).

  `real` and `fake` are logits of images and of reconstructions; `step` counts
  finished updates.
  """
  if settings.disc_loss == 'hinge':
    terms = jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean()
  else:
    terms = jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean()
  loss = settings.factor(step) * 0.5 * terms
  return loss, {
    'disc_loss': loss,
    'logits_real': real.mean(),
    'logits_fake': fake.mean(),
  }
