"""DiffiT in image space (arXiv:2312.02139, section 3.2), and EDM's networks.

A U-shaped network with time-dependent self-attention, inside a preconditioning
of EDM (arXiv:2206.00364), with its noise levels in training, its non-leaking
augmentation and its solver. No code of this part of the paper was released. The
network may also be one of EDM's own, DDPM++ or NCSN++ (NVlabs/edm), with their
attention or with that of DiffiT.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import augmentation
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_loss
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.networks import diffit as diffit_lib
from pyramid_jax.networks import song_unet
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights
Network = diffit_lib.DiffiT | song_unet.SongUNet
_BUFFERS = song_unet.BUFFERS

FIELDS = {
  'system.denoiser': Field(
    'diffit',
    'The network: of DiffiT, or a U-Net of EDM (song_unet).',
    choices=('diffit', 'song_unet'),
  ),
  'diffusion.preconditioning': Field(
    'edm',
    'The preconditioning of the network.',
    choices=edm.PRECONDITIONINGS,
  ),
  'diffusion.noise_distribution': Field(
    '',
    'The distribution of noise levels in training; empty for that of the'
    ' preconditioning (iddpm has none).',
    choices=('', *edm_loss.DISTRIBUTIONS),
  ),
  'diffusion.sigma_data': Field(
    0.5,
    'The standard deviation of clean images (EDM).',
    above=0,
    high=ranges.SIGMA,
  ),
  **fields_lib.LOG_NORMAL,
  'diffusion.augment': Field(
    0.0,
    'The probability of each transform of the non-leaking augmentation; 0'
    ' for none.',
    low=0,
    high=1,
  ),
  **sample_fields.COMMON,
  **sample_fields.CONTINUOUS,
  **sample_fields.CLASSIFIER,
  **sample_fields.SKETCH,
  'sample.solver': Field(
    'heun',
    'The solver that turns noise into images.',
    choices=solvers.SOLVERS,
    resumable=True,
  ),
}

CHECKS = fields_lib.GENERATIVE_CHECKS
# The networks, by `config.system.denoiser`.
NETWORKS: Mapping[str, Any] = {
  'diffit': diffit_lib.DiffiT,
  'song_unet': song_unet.SongUNet,
}


def network_class(values: Mapping[str, Any]) -> Any:
  """Returns the class whose constructor fields are `config.network`."""
  return NETWORKS[values['system.denoiser']]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffiT(sampled.Sampled):
  """The system; see the module docstring and `systems.system.Generative`."""

  # The raw network, whose windows must divide the image.
  network: Network
  precond: edm.Preconditioning
  noise_distribution: edm_loss.NoiseDistribution
  # The augmentation of the training images, None without.
  augment: augmentation.Augmentation | None

  @property
  def cells(self) -> tuple[int, ...]:
    return (self.network.stem_stride,)

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    image = jnp.zeros(self.state_shape((1, self.image_size, self.image_size)))
    variables = self.network.init(key, image, jnp.zeros((1,)))
    params = {'generator': {'network': variables['params']}}
    return params, {**self.space.extra(), **_buffers(variables)}

  def generator(self, weights: Weights) -> Any:
    return {**weights.params['generator'], **_buffers(weights.extra)}

  def latent_key(self, key: jax.Array) -> jax.Array:
    return key  # images are not drawn

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    del step
    level_key, noise_key, augment_key, drop_key, dropout_key = jax.random.split(
      key, 5
    )
    image, augment_labels = batch['image'], None
    if self.augment is not None:
      image, augment_labels = self.augment(image, augment_key)
    inputs = self.training_inputs(weights, drop_key, batch)
    tree = self.generator(weights)

    def network(x, c_noise):
      return self._call(
        _buffers(tree),
        {'params': tree['network']},
        x,
        c_noise,
        inputs,
        augment_labels=augment_labels,
        train=True,
        rngs={'dropout': dropout_key},
      )

    loss, metrics = edm_loss.loss(
      functools.partial(edm.denoise, self.precond, network),
      self.noise_distribution,
      image,
      self.noise_distribution.draw(level_key, image.shape[0]),
      jax.random.normal(noise_key, image.shape),
    )
    return {'generator': (loss, metrics)}, weights.extra

  def _call(self, buffers, variables, x, c_noise, inputs, **kwargs):
    # One level for the whole batch is embedded once.
    levels, variables = jnp.ravel(c_noise), {**variables, **buffers}
    return self.network.apply(variables, x, levels, inputs.y, **kwargs)

  def levels(self, spec: spec_lib.SamplerSpec) -> list[levels_lib.Levels]:
    return [spec.edm_timesteps().levels(self.precond, *spec.steps_of(1))]

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    del stage

    def predict(network, x, level, inputs):
      del inputs
      return edm.predict(self.precond, network, x, level)

    return denoiser_lib.Denoiser(
      call=functools.partial(self._call, _buffers(params)),
      params=params['network'],
      predict=predict,
      cached=False,  # nothing but labels is independent of the level
    )


def _buffers(tree: Mapping[str, Any]) -> Params:
  """Returns the variables of a network that are not trained, if it has any."""
  return {_BUFFERS: tree[_BUFFERS]} if _BUFFERS in tree else {}


def create(config: ConfigDict) -> DiffiT:
  """Builds the system; raises ValueError for fields that do not fit."""
  sampled.check_class_condition(config)
  encoder = conditioning.create(config)
  augment = None
  if config.diffusion.augment:
    augment = augmentation.Augmentation(probability=config.diffusion.augment)
  return DiffiT(
    **sampled.fields(config, spaces.Pixels(), encoder),
    network=_network(config, encoder, augment),
    precond=_preconditioning(config),
    noise_distribution=_noise_distribution(config),
    augment=augment,
  )


def _network(
  config: ConfigDict,
  encoder: conditioning.Encoder,
  augment: augmentation.Augmentation | None,
) -> Network:
  """Builds the network, whose labels follow from the rest."""
  fields = {
    **sampled.network_fields(config),
    'in_channels': spaces.Pixels().channels,
    'out_channels': spaces.Pixels().channels,
    # The one for none has no row.
    'num_classes': config.condition.num_classes
    if encoder.widths.classes
    else 0,
    'augment_dim': 0 if augment is None else augment.label_size,
  }
  if config.system.denoiser == 'diffit':
    fields['scan_blocks'] = config.scan_blocks
  network = NETWORKS[config.system.denoiser](**fields)
  network.check_options()
  network.check_size(config.data.image_size, config.data.image_size)
  return network


def _preconditioning(config: ConfigDict) -> edm.Preconditioning:
  d = config.diffusion
  options = {'sigma_data': d.sigma_data} if d.preconditioning == 'edm' else {}
  return edm.make_preconditioning(d.preconditioning, **options)


def _noise_distribution(config: ConfigDict) -> edm_loss.NoiseDistribution:
  d = config.diffusion
  name = d.noise_distribution or d.preconditioning
  if name not in edm_loss.DISTRIBUTIONS:
    fields_lib.check_value(
      'diffusion.noise_distribution',
      d.noise_distribution,
      edm_loss.DISTRIBUTIONS,
      f' for the preconditioning {d.preconditioning!r}, which has none of its'
      ' own',
    )
  if name == 'edm':
    return edm_loss.EDMDistribution(
      mean=d.P_mean, std=d.P_std, sigma_data=d.sigma_data
    )
  return edm_loss.make_distribution(name)
