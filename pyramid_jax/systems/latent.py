"""What the systems share that diffuse the latents of a frozen first stage."""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditions import condition as condition_lib
from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.systems import autoencoder
from pyramid_jax.systems import conditioning
from pyramid_jax.systems import encoders
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentSystem:
  """A system on latents, to be derived from; see `systems.system.System`.

  Attributes:
    first_stage: the autoencoder, frozen.
    first_stage_path: its checkpoint, empty to train it.
    encoder: of the condition, None without.
    condition_part: where a frozen encoder's weights are.
    chain: the training chain.
    drop: share of conditions replaced by the null condition in training.
    solver: of sampling.
    guidance: classifier-free guidance scale, 1 = none.
    guidance_interval: where it acts, see `guidance.classifier_free`.
    image_size: px of a sample, a multiple of the first stage's factor.
  """

  first_stage: autoencoder.Network
  first_stage_path: str
  encoder: conditioning.Encoder | None
  condition_part: system_lib.FrozenPart | None
  chain: schedules.Chain
  drop: float
  solver: solvers.Solver
  guidance: float
  guidance_interval: tuple[float, ...]
  image_size: int

  @property
  def latent_channels(self) -> tuple[int, ...]:
    """Channels of the latent of each scale, coarse first."""
    return autoencoder.channels(self.first_stage)

  def init_condition(self, key: jax.Array) -> tuple[Any, Any]:
    """Returns the encoder's trained weights and a condition of zeros."""
    if self.encoder is None:
      return {}, None
    zeros = jax.tree.map(
      lambda s: jnp.zeros(s.shape, s.dtype),
      encoders.example(self.encoder, key),
    )
    tree = conditioning.trained(self.encoder, self.encoder.init(key))
    return tree, zeros

  def frozen_parts(self) -> Mapping[str, system_lib.FrozenPart]:
    size = self.image_size
    image = jnp.zeros((1, size, size, 3))
    parts = {
      'first_stage': system_lib.FrozenPart(
        init=lambda key: self.first_stage.init(key, image)['params'],
        family=autoencoder.family(self.first_stage),
        path=self.first_stage_path,
        field='first_stage.checkpoint',
      )
    }
    if self.condition_part is not None:
      parts['condition'] = self.condition_part
    return parts

  def latents(
    self, frozen: Params, image: jax.Array, noise: jax.Array | None = None
  ) -> list[jax.Array]:
    """Returns the unquantised, unscaled latents, each at its own grid.

    Args:
      frozen: with the part 'first_stage'.
      image: (B, H, W, 3) in [-1, 1].
      noise: standard normal of the latent's shape, which draws the latent of
        a first stage that has a posterior; None gives the mean.
    """
    zs = system_lib.apply(
      self.first_stage, frozen['first_stage'], image, noise, method='encode'
    )
    return [z.astype(jnp.float32) for z in jax.lax.stop_gradient(zs)]

  def batch_latents(
    self, frozen: Params, batch: Batch, key: jax.Array
  ) -> list[jax.Array]:
    """Returns the latents of a training batch, encoded here or beforehand.

    Args:
      frozen: with the part 'first_stage'.
      batch: has `image`, or `latent_mean_S` of every scale and perhaps
        `latent_std_S` (see `data.latent_cache`).
      key: of what draws a latent from its distribution.
    """
    if 'latent_mean_0' not in batch:
      b, height, width, _ = batch['image'].shape
      cell = autoencoder.factor(self.first_stage)
      shape = b, height // cell, width // cell, self.latent_channels[-1]
      noise = jax.random.normal(key, shape)
      return self.latents(frozen, batch['image'], noise)
    zs = [
      batch[f'latent_mean_{s}'].astype(jnp.float32)
      for s in range(len(self.latent_channels))
    ]
    if 'latent_std_0' not in batch:
      return zs
    noise = jax.random.normal(key, zs[0].shape)
    return [zs[0] + batch['latent_std_0'].astype(jnp.float32) * noise]

  def training_context(
    self, params: Params, frozen: Params, key: jax.Array, batch: Batch
  ) -> Any:
    """Encodes a batch, some of it replaced by the null condition."""
    return conditioning.training_context(
      self.encoder, params['generator'], frozen, self.drop, key, batch
    )

  def ema_patterns(self) -> list[str]:
    # The official EMA leaves a jointly trained encoder out; ours averages all.
    return ['generator/.*']

  def condition(
    self, weights: Weights, batch: Batch
  ) -> condition_lib.Condition:
    tree = conditioning.weights(
      self.encoder, weights.params['generator'], weights.frozen
    )
    return conditioning.condition(self.encoder, tree, batch)

  def on_grids(self, zs: list[jax.Array]) -> list[jax.Array]:
    """Returns latents at the grids where they are diffused."""
    return zs

  def edited(
    self,
    weights: Weights,
    stages: list[sampling.Stage],
    edit: system_lib.Edit,
  ) -> list[sampling.Stage]:
    raw = self.latents(weights.frozen, edit.image)
    scale = weights.extra['latent_scale']
    zs = self.on_grids([z * scale[s] for s, z in enumerate(raw)])
    return [
      editing.edited(stage, z, edit.mask, edit.strength)
      for stage, z in zip(stages, zs, strict=True)
    ]

  def decode_scaled(self, weights: Weights, zs: list[jax.Array]) -> jax.Array:
    """Maps latents as they are diffused to images in [-1, 1]."""
    scale = weights.extra['latent_scale']
    zs = [z / scale[s] for s, z in enumerate(zs)]
    tree = weights.frozen['first_stage']
    image = system_lib.apply(self.first_stage, tree, zs, method='decode')
    return jnp.clip(image.astype(jnp.float32), -1.0, 1.0)


def inverse_std(zs: list[jax.Array]) -> jax.Array:
  """Returns what scales each latent to a standard deviation of 1, (S,)."""
  return jnp.stack([1.0 / jnp.std(z, ddof=1) for z in zs])


def with_cache(params: Any, call: Callable[..., Any]) -> dict[str, Any]:
  """Returns variables that hold all that does not depend on the level.

  Args:
    params: of the denoiser.
    call: (variables, mutable=...) -> what `module.apply` returns.
  """
  variables = {'params': params}
  _, kept = call(variables, mutable=['cache'])
  return variables | kept


def fields(config: ConfigDict) -> dict[str, Any]:
  """Returns the attributes of `LatentSystem` that a config describes.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  first_stage = autoencoder.network(config.first_stage)
  scales = len(autoencoder.channels(first_stage))
  size = config.data.image_size
  coarsest = autoencoder.factor(first_stage) * 2 ** (scales - 1)
  if size % coarsest:
    raise ValueError(
      f'config.data.image_size is {size}, must be a multiple of {coarsest},'
      ' the factor of the coarsest scale'
    )
  d, sample = config.diffusion, config.sample
  encoder = conditioning.create(config, first_stage)
  return {
    'first_stage': first_stage,
    'first_stage_path': config.first_stage.checkpoint,
    'encoder': encoder,
    'condition_part': conditioning.frozen_part(encoder, config),
    'chain': schedules.make_chain(
      d.beta_schedule, d.timesteps, d.linear_start, d.linear_end
    ),
    'drop': config.condition.drop,
    'solver': solvers.create(
      sample.solver, sample.eta, sample.spacing, sample.temperature
    ),
    'guidance': sample.guidance,
    'guidance_interval': tuple(sample.guidance_interval),
    'image_size': size,
  }
