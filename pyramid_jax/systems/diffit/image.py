"""DiffiT in image space (arXiv:2312.02139, section 3.2), trained as EDM.

A U-shaped network with time-dependent self-attention, inside a preconditioning
of EDM (arXiv:2206.00364): its law of noise levels in training, its non-leaking
augmentation, its solver. No code of this part of the paper was released.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import augmentation
from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_loss
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.networks import diffit as diffit_lib
from pyramid_jax.networks import params as params_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Inputs = condition_lib.Inputs
Params = system_lib.Params
Weights = system_lib.Weights
Shape = tuple[int, int, int, int]

TASKS = ('none', 'class')
CHANNELS = 3

FIELDS = {
  'diffusion.preconditioning': Field(
    'edm',
    'The preconditioning of the network.',
    choices=edm.PRECONDITIONINGS,
  ),
  'diffusion.noise_distribution': Field(
    '',
    'The distribution of noise levels in training; empty for that of the'
    ' preconditioning (iddpm has none).',
    choices=('', *edm_loss.LAWS),
  ),
  'diffusion.sigma_data': Field(
    0.5, 'The standard deviation of clean images (EDM).', above=0
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
  **sample_fields.SKETCH,
  'sample.solver': Field(
    'heun',
    'The solver that turns noise into images.',
    choices=solvers.SOLVERS,
    resumable=True,
  ),
}

CHECKS = fields_lib.GENERATIVE_CHECKS


def network_class(values: Mapping[str, Any]) -> type:
  """Returns the class whose constructor fields are `config.network`."""
  del values
  return diffit_lib.DiffiT


def raw_network(
  network: diffit_lib.DiffiT,
  params: Any,
  inputs: Inputs,
  features: Sequence[str] = (),
  found: dict[str, jax.Array] | None = None,
  **kwargs: Any,
) -> edm.Network:
  """Returns the network that a preconditioning stands around.

  Args:
    network: F.
    params: its weights.
    inputs: of the condition, of which it takes the classes.
    features: names of activations that every call puts into `found`.
    found: takes the activations by name.
    **kwargs: of `network.apply`.
  """

  def call(x: jax.Array, c_noise: jax.Array) -> jax.Array:
    # One level for the whole batch is embedded once.
    levels = jnp.ravel(c_noise)
    out = params_lib.apply(
      network, params, x, levels, inputs.y, features=features, **kwargs
    )
    if not features:
      return out
    assert found is not None
    found.update(out[1])
    return out[0]

  return call


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """The network with its weights inside a preconditioning.

  Attributes:
    network: the raw network.
    params: its weights.
    precond: what stands around it.
  """

  network: diffit_lib.DiffiT
  params: Any
  precond: edm.Preconditioning

  def stage(
    self, levels: levels_lib.Levels, inputs: Inputs, shape: Shape
  ) -> sampling.Stage:
    """Builds the stage of one batch of conditions, without guidance.

    Args:
      levels: noise levels of the solver.
      inputs: the condition of B images.
      shape: (B, H, W, 3) of the images.
    """

    def enter(state, normal):
      del state
      return levels.initial_std * normal(shape), None

    def denoise(x, level, context, first=True, features=()):
      del context, first
      found: dict[str, jax.Array] = {}
      raw = raw_network(self.network, self.params, inputs, features, found)
      prediction = edm.predict(self.precond, raw, x, level)
      return dataclasses.replace(prediction, features=found)

    def leave(state, x, x0, context):
      del x0, context
      return [*state, x]

    segment = sampling.Segment(levels=levels, denoise=denoise)
    return sampling.Stage(segments=(segment,), enter=enter, leave=leave)


def make_stage(
  denoiser: Denoiser,
  levels: levels_lib.Levels,
  condition: condition_lib.Condition,
  shape: Shape,
  guidance: classifier_free.Guidance | None = None,
) -> sampling.Stage:
  """Builds the only stage: noise in, the image out.

  Args:
    denoiser: the network with its weights.
    levels: noise levels of the solver.
    condition: of B images, and the null condition, which guidance needs.
    shape: (B, H, W, 3) of the images.
    guidance: classifier-free guidance, None for none.
  """

  def build(inputs, shape):
    return denoiser.stage(levels, inputs, shape)

  return classifier_free.guided_stage(
    build,
    shape,
    condition.context,
    condition.null,
    guidance,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffiT(system_lib.Sampled):
  """The system; see the module docstring and `systems.system.Generative`.

  Attributes:
    network: the raw network.
    encoder: of the classes.
    precond: what stands around the network.
    law: of the noise levels in training.
    augment: of the training images, None without.
    drop: share of classes replaced by none in training.
    image_size: px of a sample, which the network's windows must divide.
  """

  network: diffit_lib.DiffiT
  encoder: conditioning.Encoder
  precond: edm.Preconditioning
  law: edm_loss.Law
  augment: augmentation.Augmentation | None
  drop: float
  image_size: int

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    del batch  # all shapes are known
    image = jnp.zeros((1, self.image_size, self.image_size, CHANNELS))
    params = self.network.init(key, image, jnp.zeros((1,)))['params']
    return {'generator': {'network': params}}, {}

  def frozen_parts(self) -> Mapping[str, pretrained.FrozenPart]:
    return {}

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Any]], Params]:
    del step
    level_key, noise_key, move_key, drop_key, dropout_key = jax.random.split(
      key, 5
    )
    generator = params['generator']
    image, moves = batch['image'], None
    if self.augment is not None:
      image, moves = self.augment(image, move_key)
    inputs = conditioning.training_context(
      self.encoder, generator, frozen, self.drop, drop_key, batch
    )
    network = raw_network(
      self.network,
      generator['network'],
      inputs,
      augment_labels=moves,
      train=True,
      rngs={'dropout': dropout_key},
    )
    loss, metrics = edm_loss.loss(
      functools.partial(edm.denoise, self.precond, network),
      self.law,
      image,
      self.law.draw(level_key, image.shape[0]),
      jax.random.normal(noise_key, image.shape),
    )
    return {'generator': (loss, metrics)}, extra

  def ema_patterns(self) -> list[str]:
    return ['generator/.*']

  def condition(
    self, weights: Weights, batch: Batch
  ) -> condition_lib.Condition:
    tree = self.encoder.weights(weights.params['generator'], weights.frozen)
    return conditioning.condition(self.encoder, tree, batch)

  def check_spec(self, spec: spec_lib.SamplerSpec) -> None:
    conditioning.check_guidance(self.encoder, spec.guidance)
    spec.make_solver()
    spec.check_channels(CHANNELS)
    spec.edm_timesteps().levels(self.precond, spec.steps_of(1)[0])
    spec.check_scales(self.stage_count)
    if spec.windows != (0, 0):
      raise ValueError(
        f'config.sample.windows is {spec.windows}, must be (0, 0) for diffit'
      )

  def dense_spec(self) -> spec_lib.SamplerSpec:
    return spec_lib.SamplerSpec(
      solver='euler', steps=(system_lib.CONTINUOUS_LEVELS,)
    )

  def example_condition(self) -> condition_lib.Condition:
    return conditioning.blank(self.encoder)

  @property
  def cells(self) -> tuple[int, ...]:
    return (self.network.stem_stride,)

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
    spec: spec_lib.SamplerSpec,
  ) -> list[sampling.Stage]:
    denoiser = Denoiser(
      network=self.network,
      params=weights.params['generator']['network'],
      precond=self.precond,
    )
    levels = spec.edm_timesteps().levels(self.precond, spec.steps_of(1)[0])
    size = (*shape, CHANNELS)
    return [make_stage(denoiser, levels, condition, size, spec.guidance_of(0))]

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    del weights  # the state is the image
    return [image]

  def edited(
    self,
    weights: Weights,
    stages: list[sampling.Stage],
    edit: system_lib.Edit,
  ) -> list[sampling.Stage]:
    del weights  # the state is the image
    (stage,) = stages
    return [editing.edited(stage, edit.image, edit.mask, edit.strength)]

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    del weights
    return jnp.clip(state[-1], -1.0, 1.0)


def create(config: ConfigDict) -> DiffiT:
  """Builds the system of a config.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  encoder = _encoder(config)
  augment = None
  if config.diffusion.augment:
    augment = augmentation.Augmentation(probability=config.diffusion.augment)
  return DiffiT(
    network=_network(config, encoder, augment),
    encoder=encoder,
    precond=_preconditioning(config),
    law=_law(config),
    augment=augment,
    drop=config.condition.cond_dropout,
    image_size=config.data.image_size,
  )


def _encoder(config: ConfigDict) -> conditioning.Encoder:
  c = config.condition
  if c.task not in TASKS:
    raise ValueError(
      f'config.condition.task {c.task!r} is not served by diffit, must be one'
      f' of {", ".join(TASKS)}'
    )
  encoder = conditioning.create(config)
  if encoder.widths.context:
    raise ValueError(
      f"config.condition.class_by is {c.class_by!r}, must be 'timestep' for"
      ' diffit, which is told the class with the noise level'
    )
  return encoder


def _network(
  config: ConfigDict,
  encoder: conditioning.Encoder,
  augment: augmentation.Augmentation | None,
) -> diffit_lib.DiffiT:
  """Builds the network, whose labels follow from the rest."""
  network = diffit_lib.DiffiT(
    **config.network.to_dict(),
    in_channels=CHANNELS,
    out_channels=CHANNELS,
    # The one for none has no row.
    num_classes=config.condition.num_classes if encoder.widths.classes else 0,
    augment_dim=0 if augment is None else augment.label_size,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
    attention=config.attention,
  )
  network.check_options()
  network.check_size(config.data.image_size, config.data.image_size)
  return network


def _preconditioning(config: ConfigDict) -> edm.Preconditioning:
  d = config.diffusion
  options = {}
  if d.preconditioning == 'edm':
    options['sigma_data'] = d.sigma_data
  return edm.make_preconditioning(d.preconditioning, **options)


def _law(config: ConfigDict) -> edm_loss.Law:
  d = config.diffusion
  name = d.noise_distribution or d.preconditioning
  if name not in edm_loss.LAWS:
    raise ValueError(
      f'config.diffusion.noise_distribution is {d.noise_distribution!r}, must'
      ' be one of'
      f' {", ".join(edm_loss.LAWS)} for the preconditioning'
      f' {d.preconditioning!r}, which has none of its own'
    )
  if name == 'edm':
    return edm_loss.EDMLaw(mean=d.P_mean, std=d.P_std, sigma_data=d.sigma_data)
  return edm_loss.make_law(name)
