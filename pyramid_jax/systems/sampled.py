"""The defaults of systems that images are sampled from."""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.conditioning import stored_tokens
from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


BHW = system_lib.BHW
Batch = system_lib.Batch
Condition = condition_lib.Condition
SamplerSpec = spec_lib.SamplerSpec
Stages = system_lib.Stages
OverBatch = system_lib.OverBatch
Params = system_lib.Params
Shape = denoiser_lib.Shape
Weights = system_lib.Weights

CLASS_TASKS = ('none', 'class')  # Need no tokens or channels.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampled:
  """The defaults of `systems.system.Generative`, to be derived from.

  A system adds `init`, `losses`, `latent_key`, `levels` and `denoiser`, and
  `state_shape` if it has several stages.
  """

  space: spaces.Space  # images, or the latents of a first stage
  encoder: conditioning.Encoder
  # The share of conditions that the null condition replaces in training.
  cond_dropout: float
  image_size: int  # px of a sample
  outputs: ClassVar[str] = system_lib.SAMPLES
  any_shape: ClassVar[bool] = False
  has_windows: ClassVar[bool] = False  # whether large states are cut

  def latent_key(self, key: jax.Array) -> jax.Array:
    """Returns the part of the key of `losses` that draws latents."""
    raise NotImplementedError

  def levels(self, spec: SamplerSpec) -> list[levels_lib.Levels]:
    """Returns the levels of each stage; ValueError for an unfit spec."""
    raise NotImplementedError

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    """Returns the network of a stage, 0 = coarsest.

    Its weights are in `params`, which `generator` returns.
    """
    raise NotImplementedError

  # For the trainer.

  def example_rows(self) -> Batch:
    return self.encoder.example

  def init_condition(
    self, key: jax.Array
  ) -> tuple[dict[str, Any], condition_lib.Inputs]:
    """Returns the encoder's part of the weights, and a condition of zeros."""
    tree, inputs = conditioning.init(self.encoder, key)
    return {'condition': tree} if tree else {}, inputs

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    return {
      **self.space.pretrained_parts(),
      **conditioning.pretrained_parts(self.encoder),
    }

  def measure(
    self, frozen: Params, extra: Params, key: jax.Array, over: OverBatch
  ) -> Params:
    space = self.space
    if not isinstance(space, spaces.Latents) or not space.scale_by_std:
      return extra
    # The latents are drawn as `losses` draws them.
    scale = space.measured_scale(frozen, self.latent_key(key), over)
    return {**extra, 'latent_scale': scale}

  def generator(self, weights: Weights) -> Any:
    """Returns the weights of the networks and of the encoder."""
    return weights.params['generator']

  def training_inputs(
    self, weights: Weights, key: jax.Array, batch: Batch
  ) -> condition_lib.Inputs:
    """Encodes a batch, some of it replaced by the null condition."""
    return conditioning.training_context(
      self.encoder,
      self.generator(weights),
      weights.frozen,
      self.cond_dropout,
      key,
      batch,
    )

  def ema_patterns(self) -> list[str]:
    # The official EMA leaves a jointly trained encoder out; ours averages all.
    return ['generator/.*']

  def check_extra(self, extra: Params) -> None:
    del extra

  # For the sampler.

  @property
  def accepts(self) -> frozenset[str]:
    return frozenset(system_lib.EDITS)

  @property
  def stage_count(self) -> int:
    return 1

  @property
  def has_latents(self) -> bool:
    return self.space.has_latents

  @property
  def cells(self) -> tuple[int, ...]:
    return (1,) * self.stage_count

  def state_shape(self, shape: BHW, stage: int = 0) -> Shape:
    """Returns (B, h, w, C) of a stage's states of images (B, H, W)."""
    del stage
    count, height, width = shape
    f = self.space.factor
    return count, height // f, width // f, self.space.channels

  def scale_shape(self, stage: int) -> tuple[int, int]:
    _, height, width, _ = self.state_shape((1, *(self.image_size,) * 2), stage)
    return height, width

  def check_spec(self, spec: SamplerSpec) -> None:
    conditioning.check_guidance(self.encoder, spec.guidance)
    spec.make_solver()
    self.levels(spec)
    if not self.has_windows:
      reason = ' for this system'
      windows = spec.windows
      fields_lib.check_value('sample.windows', windows, ((0, 0),), reason)
    spec.check_guidance(self.space.channels, self.stage_count)

  def check_rows(self, names: Collection[str]) -> None:
    lacks = self.encoder.lacking(names)
    if lacks:
      raise ValueError(f'the condition is missing: {lacks[0]!r} is needed')

  def dense_spec(self) -> SamplerSpec:
    steps = (system_lib.CONTINUOUS_LEVELS,)
    return SamplerSpec(solver='euler', steps=steps)

  def example_condition(self) -> Condition:
    return conditioning.blank(self.encoder)

  def condition(self, weights: Weights, batch: Batch) -> Condition:
    tree = self.encoder.weights(self.generator(weights), weights.frozen)
    return conditioning.condition(self.encoder, tree, batch)

  def stages(
    self, weights: Weights, condition: Condition, shape: BHW, spec: SamplerSpec
  ) -> Stages:
    params = self.generator(weights)
    return [
      self.denoiser(params, stage).guided(
        levels,
        condition,
        self.state_shape(shape, stage),
        spec.guidance_of(stage),
      )
      for stage, levels in enumerate(self.levels(spec))
    ]

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    return self.space.states(weights, image)

  def edited(
    self, weights: Weights, stages: Stages, edit: system_lib.Edit
  ) -> Stages:
    zs = self.states(weights, edit.image)
    return [
      editing.edited(stage, z, edit.mask, edit.strength)
      for stage, z in zip(stages, zs, strict=True)
    ]

  def guided(
    self, weights: Weights, condition: Condition, stages: Stages
  ) -> Stages:
    del weights, condition
    return stages

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    return self.space.decode(weights, state)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OnChain(Sampled):
  """What the systems share that diffuse along a discrete chain."""

  chain: schedules.Chain  # the noise levels of training

  def levels(self, spec: SamplerSpec) -> list[levels_lib.Levels]:
    return spec.chain_levels(self.chain, self.stage_count)

  def dense_spec(self) -> SamplerSpec:
    return SamplerSpec(solver='ddpm', steps=(self.chain.length,))


def encoder_of(system: Any) -> conditioning.Encoder:
  """Returns the encoder of the condition of a system.

  Raises:
    ValueError: it has none.
  """
  found = getattr(system, 'encoder', None)
  if found is None:
    raise ValueError('config.system.name is of a system without conditions')
  return found


def with_stored_tokens(system: Any) -> Any:
  """Returns a system that trains on encodings of texts; see `stored_tokens`.

  Raises:
    ValueError: it has no pretrained encoder of texts.
  """
  encoder = stored_tokens.in_place(encoder_of(system))
  return dataclasses.replace(system, encoder=encoder)


def fields(
  config: ConfigDict, space: spaces.Space, encoder: conditioning.Encoder
) -> dict[str, Any]:
  """Returns the attributes of `Sampled` that a config describes."""
  return {
    'space': space,
    'encoder': encoder,
    'cond_dropout': config.condition.cond_dropout,
    'image_size': config.data.image_size,
  }


def chain_fields(config: ConfigDict, space: spaces.Space) -> dict[str, Any]:
  """Returns the attributes of `OnChain` that a config describes."""
  encoder = conditioning.create(config, space.first_stage)
  return {**fields(config, space, encoder), 'chain': chain(config)}


def chain(config: ConfigDict) -> schedules.Chain:
  """Returns the noise levels of training that a config describes."""
  d = config.diffusion
  return schedules.make_chain(
    d.beta_schedule, d.timesteps, d.linear_start, d.linear_end
  )


def check_fixed_variance(config: ConfigDict) -> None:
  """Raises ValueError for a learned variance, which the network lacks."""
  if config.diffusion.variance == 'learned_range':
    raise ValueError(
      "config.diffusion.variance is 'learned_range', but the network of the"
      f' system {config.system.name!r} predicts no variance here'
    )


def check_class_condition(config: ConfigDict) -> None:
  """Raises ValueError unless the only condition is an embedded class."""
  c, name = config.condition, config.system.name
  if c.task not in CLASS_TASKS:
    raise ValueError(
      f'config.condition.task {c.task!r} is not served by {name}, must be one'
      f' of {", ".join(CLASS_TASKS)}'
    )
  if c.task == 'class':
    reason = f' for {name}, which embeds the class with the noise level'
    fields_lib.check_value(
      'condition.class_by', c.class_by, ('timestep',), reason
    )


def network_fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the constructor fields of a network that a config gives."""
  return {
    **config.network.to_dict(),
    'dtype': jnp.dtype(config.dtype),
    'remat': config.remat,
    'attention': config.attention,
  }
