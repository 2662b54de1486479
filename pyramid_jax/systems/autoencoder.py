"""First stages: autoencoders with perceptual and adversarial losses.

Multi-scale vector quantised (Frido), vector quantised and Kullback-Leibler
(latent diffusion). The reference alternates generator and discriminator; here
both are differentiated at the same parameters, in one step.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.networks import discriminator as discriminator_lib
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import lpips
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.networks.layers import quantizer
from pyramid_jax.systems import codebook_upkeep
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import first_stage_losses
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

PERCEPTUAL = ('lpips', 'pyramid', 'none')
LOGVAR = 'logvar'  # the loss that learns the scale of the reconstruction
CODEBOOKS = 'codebooks'  # the untrained state of `codebook_upkeep`
ENTRIES = 'embedding'  # the parameter of a codebook
_RESTARTS = 2  # stream of the latents at which codes start again

FIELDS = {
  'system.network': Field(
    'msvqgan',
    'The autoencoder: the multi-scale VQGAN of Frido, or one of latent'
    ' diffusion with a Kullback-Leibler term (kl) or a codebook (vq).',
    choices=tuple(first_stages.NETWORKS),
  ),
  'loss.perceptual': Field(
    'pyramid',
    'The perceptual loss: LPIPS, or L1 and L2 of image pyramids (pyramid).',
    choices=PERCEPTUAL,
  ),
  'loss.pixel_loss': Field(
    'l1',
    "The loss of pixels; the papers' is l1.",
    choices=first_stage_losses.PIXEL_LOSSES,
  ),
  'loss.perceptual_weight': Field(
    1.0, 'The weight of the perceptual loss.', low=0, high=ranges.WEIGHT
  ),
  'loss.perceptual_weights': Field(
    '', 'The weight file of LPIPS with its VGG16.', path=True
  ),
  'loss.codebook_weight': Field(
    1.0, 'The weight of the codebook loss.', low=0, high=ranges.WEIGHT
  ),
  'loss.restart_below': Field(
    0.0,
    'Codes that are used less than this part of an equal share start again at'
    ' latents of the batch, in the first step all; 0 for never.',
    low=0,
    high=1,
  ),
  'loss.codebook_decay': Field(
    0.0,
    'The decay of entries that are the running means of their latents; with 0'
    ' the gradient moves them.',
    low=0,
    below=1,
  ),
  'loss.kl_weight': Field(
    1e-6,
    'The weight of the Kullback-Leibler divergence.',
    low=0,
    high=ranges.WEIGHT,
  ),
  'loss.logvar_init': Field(
    0.0,
    'The log variance of the reconstruction of a kl network.',
    low=-ranges.LOGARITHM,
    high=ranges.LOGARITHM,
  ),
  'loss.train_logvar': Field(
    False,
    'Whether that log variance is trained; the reference keeps it.',
  ),
  'loss.disc_weight': Field(
    0.8,
    'The weight of the adversarial loss; 0 for no discriminator.',
    low=0,
    high=ranges.WEIGHT,
  ),
  'loss.disc_start': Field(
    30001, 'The first step with the adversarial loss.', low=0
  ),
  'loss.disc_loss': Field(
    'hinge',
    'The loss of the discriminator.',
    choices=first_stage_losses.DISC_LOSSES,
  ),
  'loss.disc_width': Field(
    64,
    'The number of channels after the first convolution of the discriminator.',
    low=1,
    high=ranges.WIDTH,
  ),
  'loss.disc_layers': Field(
    2,
    'The number of strided convolutions of the discriminator.',
    low=0,
    high=ranges.DEPTH,
  ),
  **sample_fields.IMAGES,
}


def network_class(values: Mapping[str, Any]) -> Any:
  """Returns the class whose constructor fields are `config.network`."""
  return first_stages.NETWORKS[values['system.network']]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Autoencoder:
  """A first stage in training; see `systems.system.Trainable`."""

  model: first_stages.Network
  # None for no adversarial term.
  discriminator: discriminator_lib.PatchDiscriminator | None
  perceptual: str  # one of `PERCEPTUAL`; 'pyramid' needs no weights
  perceptual_path: str  # file of the LPIPS weights
  # The settings of the losses; its family is that of the model.
  settings: first_stage_losses.LossSettings
  image_size: int  # px
  # The (initial) log variance of the reconstruction, `KLSettings` only.
  logvar: float = 0.0
  train_logvar: bool = False  # whether it is trained
  upkeep: codebook_upkeep.Upkeep = codebook_upkeep.Upkeep()
  outputs: ClassVar[str] = system_lib.RECONSTRUCTIONS

  def example_rows(self) -> Batch:
    return {}

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    keys = jax.random.split(key)
    image = jnp.zeros((1, self.image_size, self.image_size, 3))
    params = {'generator': self.model.init(keys[0], image)['params']}
    extra = {}
    if self.discriminator is not None:
      variables = self.discriminator.init(keys[1], image)
      params['discriminator'] = variables['params']
      extra['batch_stats'] = variables.get('batch_stats', {})
    if self.train_logvar:
      params[LOGVAR] = {'value': jnp.float32(self.logvar)}
    if self.upkeep:
      extra[CODEBOOKS] = {
        name: self.upkeep.initial(*params['generator'][name][ENTRIES].shape)
        for name in self.model.codebook_names
      }
    return params, extra

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    if self.perceptual != 'lpips':
      return {}
    path = self.perceptual_path
    return {'lpips': lpips_part(path, 'loss.perceptual_weights')}

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    image, params, extra = batch['image'], weights.params, weights.extra
    generator = params['generator']
    out = params_lib.apply(
      self.model, generator, image, self._noise(key, image.shape)
    )
    discriminate = None
    if self.discriminator is not None:
      fixed = jax.lax.stop_gradient(params['discriminator'])
      discriminate = lambda x: self._logits(fixed, extra, x)[0]
    logvar = params[LOGVAR]['value'] if self.train_logvar else self.logvar
    loss, metrics = first_stage_losses.generator_loss(
      self.settings,
      image,
      first_stage_losses.LastConvolution(
        features=out['features'],
        kernel=generator['decoder']['conv_out']['kernel'],
        apply=functools.partial(self._last_conv, generator),
      ),
      functools.partial(self._distance, weights.frozen),
      discriminate,
      out['kl'] if 'kl' in out else sum(out['codebook_losses']),
      step,
      jax.lax.stop_gradient(logvar),
    )
    metrics |= self._latent_metrics(out)
    losses = {'generator': (loss, metrics)}
    if self.train_logvar:
      rec = jax.lax.stop_gradient(metrics['rec_loss'])
      scaled = self.settings.reduce(rec, image[0].size, logvar)
      losses[LOGVAR] = (scaled, {})
    if self.discriminator is not None:
      fake = jax.lax.stop_gradient(out['reconstruction'])
      real_logits, extra = self._logits(params['discriminator'], extra, image)
      fake_logits, extra = self._logits(params['discriminator'], extra, fake)
      losses['discriminator'] = first_stage_losses.discriminator_loss(
        self.settings, real_logits, fake_logits, step
      )
    return losses, self._observed(key, extra, out)

  def _observed(
    self, key: jax.Array, extra: Params, out: Mapping[str, Any]
  ) -> Params:
    """Returns the untrained state after a batch of these codes."""
    if not self.upkeep:
      return extra
    names = self.model.codebook_names
    keys = jax.random.split(jax.random.fold_in(key, _RESTARTS), len(names))
    found = zip(names, out['codes'], out['latents'], keys, strict=True)
    states = {
      name: self.upkeep.observed(extra[CODEBOOKS][name], codes, latents, key)
      for name, codes, latents, key in found
    }
    return {**extra, CODEBOOKS: states}

  def settle(self, params: Params, extra: Params) -> tuple[Params, Params]:
    """Keeps the codebooks in use; see `system.Settling`."""
    if not self.upkeep:
      return params, extra
    generator, states = dict(params['generator']), {}
    for name, state in extra[CODEBOOKS].items():
      entries, states[name] = self.upkeep.settled(
        generator[name][ENTRIES], state
      )
      generator[name] = {**generator[name], ENTRIES: entries}
    params = {**params, 'generator': generator}
    return params, {**extra, CODEBOOKS: states}

  def _noise(self, key: jax.Array, image: tuple[int, ...]) -> jax.Array | None:
    """Returns the noise on the latents of a posterior, None without one."""
    if not self.model.is_stochastic:
      return None
    b, h, w, _ = image
    f, (channels,) = self.model.factor, self.model.latent_channels
    return jax.random.normal(key, (b, h // f, w // f, channels))

  def _last_conv(
    self, generator: Any, features: jax.Array, kernel: jax.Array
  ) -> jax.Array:
    """Applies the last convolution with another kernel."""
    decoder = generator['decoder']
    conv = {**decoder['conv_out'], 'kernel': kernel}
    tree = {**generator, 'decoder': {**decoder, 'conv_out': conv}}
    return params_lib.apply(self.model, tree, features, method='last_conv')

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
    return logits, {**extra, **jax.lax.stop_gradient(state)}

  def _distance(self, frozen: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    if self.perceptual == 'lpips':
      return params_lib.apply(lpips.LPIPS(), frozen['lpips'], x, y)
    if self.perceptual == 'pyramid':
      return lpips.pyramid_l1_l2(x, y)
    return jnp.zeros(x.shape[:1])

  def _latent_metrics(self, out: Mapping[str, Any]) -> dict[str, jax.Array]:
    if self.model.is_stochastic:
      return {'latent_std': out['latents'][0].std()}
    metrics = {}
    for s, size in enumerate(self.model.codebook_sizes):
      counts = quantizer.code_counts(out['codes'][s], size)
      metrics[f'perplexity_{s}'] = quantizer.perplexity(counts)
      metrics[f'dead_codes_{s}'] = quantizer.dead_codes(counts)
    return metrics

  def ema_patterns(self) -> list[str]:
    return []  # the reference averages nothing here

  def check_extra(self, extra: Params) -> None:
    del extra

  @property
  def codebooks(self) -> tuple[int, ...]:
    return self.model.codebook_sizes

  def reconstruct(
    self, weights: Weights, image: jax.Array, scales: int | None = None
  ) -> tuple[jax.Array, list[jax.Array]]:
    params = weights.params['generator']
    if scales is not None:
      zs = params_lib.apply(self.model, params, image, method='encode')
      zs = [*zs[:scales], *map(jnp.zeros_like, zs[scales:])]
      made = params_lib.apply(self.model, params, zs, method='decode')
      return jnp.clip(made, -1.0, 1.0), []
    # A Gaussian posterior is represented by its mean, and has no codes.
    out = params_lib.apply(self.model, params, image)
    return jnp.clip(out['reconstruction'], -1.0, 1.0), out.get('codes', [])


def network(config: ConfigDict) -> first_stages.Network:
  """Builds the autoencoder that a first-stage config describes.

  Raises:
    ValueError: `config.system.network` is not one of `first_stages.NETWORKS`.
  """
  kind = config.system.network
  fields_lib.check_value('system.network', kind, first_stages.NETWORKS)
  return first_stages.NETWORKS[kind](
    **config.network.to_dict(),
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
    attention=config.attention,
  )


def lpips_part(path: str, field: str) -> pretrained.PretrainedPart:
  """Returns the weights of LPIPS that a field of the config names."""
  image = jnp.zeros((1, 32, 32, 3))
  return pretrained.PretrainedPart(
    init=lambda key: lpips.LPIPS().init(key, image, image)['params'],
    family='lpips',
    path=path,
    field=field,
  )


def _upkeep(
  config: ConfigDict, model: first_stages.Network
) -> codebook_upkeep.Upkeep:
  """Returns what is done to the codebooks; a ValueError if there are none."""
  upkeep = codebook_upkeep.Upkeep(
    restart_below=config.loss.restart_below, decay=config.loss.codebook_decay
  )
  if upkeep and not model.codebook_names:
    raise ValueError(
      f'loss.restart_below is {config.loss.restart_below:g}, must be 0 without'
      " a codebook whose entries are trained (network.codebook='table')."
    )
  return upkeep


def create(config: ConfigDict) -> Autoencoder:
  """Builds the system; raises ValueError for fields that do not fit."""
  c = config.loss
  fields_lib.check_value('loss.perceptual', c.perceptual, PERCEPTUAL)
  model, size = network(config), config.data.image_size
  reason = ', the factor of the coarsest scale'
  fields_lib.check_multiple(
    'data.image_size', size, model.coarsest_factor, reason
  )
  discriminator = None
  if c.disc_weight:
    discriminator = discriminator_lib.PatchDiscriminator(
      ndf=c.disc_width, n_layers=c.disc_layers
    )
  is_kl = model.is_stochastic
  common = {
    name: c[name]
    for name in (
      'perceptual_weight',
      'disc_weight',
      'disc_start',
      'disc_loss',
      'pixel_loss',
    )
  }
  settings: first_stage_losses.LossSettings
  if is_kl:
    settings = first_stage_losses.KLSettings(kl_weight=c.kl_weight, **common)
  else:
    settings = first_stage_losses.VQSettings(
      codebook_weight=c.codebook_weight, **common
    )
  return Autoencoder(
    model=model,
    discriminator=discriminator,
    perceptual=c.perceptual,
    perceptual_path=c.perceptual_weights,
    settings=settings,
    image_size=size,
    upkeep=_upkeep(config, model),
    logvar=c.logvar_init if is_kl else 0.0,
    train_logvar=is_kl and c.train_logvar,
  )
