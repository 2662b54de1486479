"""First stages: reconstruction, perceptual and adversarial game.

The losses of CompVis/taming-transformers: taming/modules/losses/
vqperceptual.py, as used by davidhalladay/Frido: taming/models/msvqgan.py.
The reference alternates generator and discriminator; here both are
differentiated at the same parameters, in one step.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditions import condition as condition_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.networks import discriminator as discriminator_lib
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import lpips
from pyramid_jax.networks import msvqgan
from pyramid_jax.networks.layers import quantizer
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

Network = msvqgan.MSVQGAN | first_stages.AutoencoderKL | first_stages.VQModel

# config.system.network -> the class whose fields are config.network
NETWORKS: Mapping[str, Callable[..., Network]] = {
  'msvqgan': msvqgan.MSVQGAN,
  'kl': first_stages.AutoencoderKL,
  'vq': first_stages.VQModel,
}
PERCEPTUAL = ('lpips', 'pyramid', 'none')
PIXEL_LOSSES = ('l1', 'l2')
DISC_LOSSES = ('hinge', 'vanilla')
MAX_ADAPTIVE_WEIGHT = 1e4


@dataclasses.dataclass(frozen=True, kw_only=True)
class LossSettings:
  """How the losses of a vector-quantised first stage are formed.

  Attributes:
    perceptual_weight: of the perceptual distance.
    codebook_weight: of the codebook loss.
    disc_weight: of the adversarial term, times the adaptive weight.
    disc_start: first step with the adversarial term.
    disc_loss: 'hinge' or 'vanilla'.
    disc_factor: of both adversarial losses once they have started.
    pixel_loss: 'l1', or 'l2' as one of the reference files allows.
  """

  perceptual_weight: float = 1.0
  codebook_weight: float = 1.0
  disc_weight: float = 0.8
  disc_start: int = 0
  disc_loss: str = 'hinge'
  disc_factor: float = 1.0
  pixel_loss: str = 'l1'

  def __post_init__(self):
    if self.pixel_loss not in PIXEL_LOSSES:
      raise ValueError(
        f'pixel_loss is {self.pixel_loss!r}, must be one of {PIXEL_LOSSES}'
      )
    if self.disc_loss not in DISC_LOSSES:
      raise ValueError(
        f'disc_loss is {self.disc_loss!r}, must be one of {DISC_LOSSES}'
      )

  def factor(self, step: jax.Array) -> jax.Array:
    """Returns disc_factor from disc_start on, 0 before."""
    return jnp.where(step >= self.disc_start, self.disc_factor, 0.0)


def reconstruction_loss(
  image: jax.Array,
  reconstruction: jax.Array,
  perceptual: Callable[[jax.Array, jax.Array], jax.Array],
  weight: float,
  pixel_loss: str = 'l1',
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns (nll, mean pixel loss, mean perceptual distance), scalars.

  Args:
    image: (B, H, W, C) in [-1, 1].
    reconstruction: the same shape.
    perceptual: (x, y) -> (B,).
    weight: of the perceptual distance.
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
  features: jax.Array,
  kernel: jax.Array,
  reconstruct: Callable[[jax.Array, jax.Array], jax.Array],
  perceptual: Callable[[jax.Array, jax.Array], jax.Array],
  discriminate: Callable[[jax.Array], jax.Array] | None,
  codebook_loss: jax.Array,
  step: jax.Array,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The generator's loss (vqperceptual.py, optimizer_idx 0).

  Args:
    settings: see `LossSettings`.
    image: (B, H, W, 3).
    features: (B, H, W, F), what the decoder's last convolution is fed.
    kernel: that convolution's kernel; the adaptive weight compares the
      gradients of both terms there.
    reconstruct: (features, kernel) -> image.
    perceptual: (x, y) -> (B,).
    discriminate: image -> logits; None for no adversarial term.
    codebook_loss: scalar.
    step: finished updates.

  Returns:
    The loss and metrics under the official names.
  """

  def nll_of(features, kernel):
    return reconstruction_loss(
      image,
      reconstruct(features, kernel),
      perceptual,
      settings.perceptual_weight,
      settings.pixel_loss,
    )

  nll, rec, distance = nll_of(features, kernel)
  total = nll + settings.codebook_weight * codebook_loss
  metrics = {
    'nll_loss': nll,
    'rec_loss': rec + settings.perceptual_weight * distance,
    'p_loss': distance,
    'quant_loss': codebook_loss,
  }
  if discriminate is not None:

    def g_of(features, kernel):
      return -discriminate(reconstruct(features, kernel)).mean()

    g = g_of(features, kernel)
    # Constants for the weight: nothing is differentiated twice.
    still, at = jax.lax.stop_gradient((features, kernel))
    weight = settings.disc_weight * adaptive_weight(
      jax.grad(lambda k: nll_of(still, k)[0])(at),
      jax.grad(lambda k: g_of(still, k))(at),
    )
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
  """The discriminator's loss (vqperceptual.py, optimizer_idx 1).

  Args:
    settings: see `LossSettings`.
    real: logits of images.
    fake: logits of reconstructions, constants for the generator.
    step: finished updates.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder:
  """A multi-scale VQGAN in training; see `systems.system.System`.

  Attributes:
    model: the autoencoder.
    discriminator: None for no adversarial term.
    perceptual: 'lpips', 'pyramid' (the substitute without weights) or 'none'.
    perceptual_path: file of the LPIPS weights.
    settings: of the losses.
    image_size: px.
  """

  model: msvqgan.MSVQGAN
  discriminator: discriminator_lib.PatchDiscriminator | None
  perceptual: str
  perceptual_path: str
  settings: LossSettings
  image_size: int

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    del batch  # all shapes are known
    keys = jax.random.split(key)
    image = jnp.zeros((1, self.image_size, self.image_size, 3))
    params = {'generator': self.model.init(keys[0], image)['params']}
    extra = {}
    if self.discriminator is not None:
      variables = self.discriminator.init(keys[1], image)
      params['discriminator'] = variables['params']
      extra['batch_stats'] = variables.get('batch_stats', {})
    return params, extra

  def frozen_parts(self) -> Mapping[str, system_lib.FrozenPart]:
    if self.perceptual != 'lpips':
      return {}
    image = jnp.zeros((1, 32, 32, 3))
    part = system_lib.FrozenPart(
      init=lambda key: lpips.LPIPS().init(key, image, image)['params'],
      family='lpips',
      path=self.perceptual_path,
      field='loss.perceptual_weights',
    )
    return {'lpips': part}

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Any]], Params]:
    del key
    image = batch['image']
    generator = params['generator']
    out = system_lib.apply(self.model, generator, image)
    discriminate = None
    if self.discriminator is not None:
      fixed = jax.lax.stop_gradient(params['discriminator'])
      discriminate = lambda x: self._logits(fixed, extra, x)[0]
    loss, metrics = generator_loss(
      self.settings,
      image,
      out['features'],
      generator['decoder']['conv_out']['kernel'],
      lambda features, kernel: self._last_conv(generator, features, kernel),
      lambda x, y: self._distance(frozen, x, y),
      discriminate,
      sum(out['codebook_losses']),
      step,
    )
    metrics |= self._codebook_metrics(out['codes'])
    losses = {'generator': (loss, metrics)}
    if self.discriminator is not None:
      fake = jax.lax.stop_gradient(out['reconstruction'])
      real_logits, extra = self._logits(params['discriminator'], extra, image)
      fake_logits, extra = self._logits(params['discriminator'], extra, fake)
      losses['discriminator'] = discriminator_loss(
        self.settings, real_logits, fake_logits, step
      )
    return losses, extra

  def _last_conv(
    self, generator: Any, features: jax.Array, kernel: jax.Array
  ) -> jax.Array:
    """The last convolution with another kernel in place of its own."""
    decoder = generator['decoder']
    conv = {**decoder['conv_out'], 'kernel': kernel}
    tree = {**generator, 'decoder': {**decoder, 'conv_out': conv}}
    return system_lib.apply(self.model, tree, features, method='last_conv')

  def _logits(
    self, params: Any, extra: Params, image: jax.Array
  ) -> tuple[jax.Array, Params]:
    """Returns logits in training mode and the new running statistics."""
    assert self.discriminator is not None
    logits, state = self.discriminator.apply(
      {'params': params, 'batch_stats': extra['batch_stats']},
      image,
      train=True,
      mutable=['batch_stats'],
    )
    return logits, jax.lax.stop_gradient(state)

  def _distance(self, frozen: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    if self.perceptual == 'lpips':
      return system_lib.apply(lpips.LPIPS(), frozen['lpips'], x, y)
    if self.perceptual == 'pyramid':
      return lpips.pyramid_l1_l2(x, y)
    return jnp.zeros(x.shape[:1])

  def _codebook_metrics(self, codes: list[jax.Array]) -> dict[str, jax.Array]:
    metrics = {}
    for s, size in enumerate(self.model.n_embed):
      counts = quantizer.code_counts(codes[s], size)
      metrics[f'perplexity_{s}'] = quantizer.perplexity(counts)
      metrics[f'dead_codes_{s}'] = quantizer.dead_codes(counts)
    return metrics

  def ema_patterns(self) -> list[str]:
    return []  # the reference averages nothing here

  @property
  def solver(self) -> solvers.Solver:
    raise ValueError('a first stage reconstructs, it does not sample')

  def condition(
    self, weights: Weights, batch: Batch
  ) -> condition_lib.Condition:
    del weights, batch
    return condition_lib.Condition()

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
  ) -> list[sampling.Stage]:
    del weights, condition, shape
    raise ValueError('a first stage reconstructs, it does not sample')

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    tree = weights.params['generator']
    image = system_lib.apply(self.model, tree, state, method='decode')
    return jnp.clip(image, -1.0, 1.0)

  def reconstruct(
    self, weights: Weights, image: jax.Array
  ) -> tuple[jax.Array, list[jax.Array]]:
    """Returns reconstructions in [-1, 1] and the codes of each scale."""
    out = system_lib.apply(self.model, weights.params['generator'], image)
    return jnp.clip(out['reconstruction'], -1.0, 1.0), out['codes']

  def preview(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> jax.Array:
    del key
    return self.reconstruct(weights, batch['image'])[0]


def network(config: ConfigDict) -> Network:
  """Builds the autoencoder that a first-stage config describes.

  Raises:
    ValueError: `config.system.network` is not one of `NETWORKS`.
  """
  kind = config.system.get('network', 'msvqgan')
  if kind not in NETWORKS:
    raise ValueError(
      f'config.system.network is {kind!r}, must be one of {", ".join(NETWORKS)}'
    )
  fields = config.network.to_dict()
  return NETWORKS[kind](
    **fields, dtype=jnp.dtype(config.dtype), remat=config.remat
  )


def factor(model: Network) -> int:
  """Returns how many pixels a side of a cell of the finest latent has."""
  return 2 ** (len(model.ddconfig['ch_mult']) - 1)


def channels(model: Network) -> tuple[int, ...]:
  """Returns the channels of the latent of each scale, coarse first."""
  embed = model.embed_dim
  return (embed,) if isinstance(embed, int) else tuple(embed)


def create(config: ConfigDict) -> Autoencoder:
  """Builds the system of a first-stage config.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  c = config.loss
  if c.perceptual not in PERCEPTUAL:
    raise ValueError(
      f'config.loss.perceptual is {c.perceptual!r}, must be one of'
      f' {", ".join(PERCEPTUAL)}'
    )
  model = network(config)
  coarsest = 2 ** (len(model.edconfig['ch_mult']) - 1)
  if config.data.image_size % coarsest:
    raise ValueError(
      f'config.data.image_size is {config.data.image_size}, must be a'
      f' multiple of {coarsest}, the factor of the coarsest scale'
    )
  discriminator = None
  if c.disc_weight:
    discriminator = discriminator_lib.PatchDiscriminator(
      ndf=c.disc_width, n_layers=c.disc_layers
    )
  return Autoencoder(
    model=model,
    discriminator=discriminator,
    perceptual=c.perceptual,
    perceptual_path=c.perceptual_weights,
    settings=LossSettings(
      perceptual_weight=c.perceptual_weight,
      codebook_weight=c.codebook_weight,
      disc_weight=c.disc_weight,
      disc_start=c.disc_start,
      disc_loss=c.disc_loss,
    ),
    image_size=config.data.image_size,
  )
