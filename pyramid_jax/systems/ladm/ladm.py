"""LaDM (arXiv:2411.07126): Laplacian diffusion, coarse to fine in one image.

The stages are the resolutions of a Laplacian pyramid. The coarsest begins with
noise; where a band is about to appear, the state is doubled and the missing
noise is added. A finished scale is (B, h, w, 2C): the state at the stage's last
noise level and the clean image of its last step. The report shows the idea and
no numbers: filters, rates, switches, noise levels, losses and sizes are our
choices.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any
from typing import ClassVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict
import numpy as np

from pyramid_jax import errors
from pyramid_jax import placement
from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoding as conditioning
from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_loss
from pyramid_jax.diffusion import laplacian_timesteps
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.ladm import fields
from pyramid_jax.systems.ladm import stage_networks


BHW = system_lib.BHW
Batch = system_lib.Batch
Condition = condition_lib.Condition
Inputs = condition_lib.Inputs
Params = system_lib.Params
SamplerSpec = spec_lib.SamplerSpec
Stages = system_lib.Stages
Weights = system_lib.Weights

FIELDS, CHECKS = fields.FIELDS, fields.CHECKS
network_class = stage_networks.network_class


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaDM(sampled.Sampled):
  """The system; see the module docstring and `systems.system.Generative`.

  Lists of stages are coarse to fine; a stage's number is 1 for the finest.
  """

  networks: stage_networks.Networks
  process: laplacian.Process  # the bands, their fading, the switches
  # The kind of the preconditioning, see `laplacian_loss.Preconditioning`.
  kind: str
  noise_distribution: laplacian_loss.NoiseDistribution
  stage_batch: tuple[int, ...]  # examples of a batch for each stage
  # Share of noise in the clean image of the stage before, which conditions
  # finer stages in training; None where it does not.
  coarse_noise: float | None
  # Whether the networks are conditioned on the aspect ratio.
  takes_aspect: bool = False
  any_shape: ClassVar[bool] = True

  @property
  def stage_numbers(self) -> tuple[int, ...]:
    """The stages as the process counts them, coarse to fine: L .. 1."""
    return tuple(range(self.process.levels, 0, -1))

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    keys = jax.random.split(key)
    params, zeros = self.init_condition(keys[1])
    inputs = self.shaped(zeros, (1, self.image_size, self.image_size))
    params['networks'] = self.networks.init(
      lambda stage, key, x: self.networks.of_stage(stage).init(key, x, inputs),
      keys[0],
      self.image_size // self.space.factor,
    )
    extra = {'process': self.fingerprint(), **self.space.extra()}
    return {'generator': params}, extra

  def fingerprint(self) -> dict[str, jax.Array]:
    """Returns the process as arrays, which are saved in a checkpoint."""
    p = self.process
    return {
      'schedule': jnp.asarray(laplacian.SCHEDULES.index(p.schedule)),
      # The ends and the switches between them: never empty.
      'sigmas': jnp.asarray(
        (p.sigma_min, *p.switch_sigmas, p.sigma_max), jnp.float32
      ),
      'band_rms': jnp.asarray(p.band_rms, jnp.float32),
    }

  def check_extra(self, extra: Params) -> None:
    for name, value in self.fingerprint().items():
      trained = np.asarray(extra['process'][name])
      if not np.allclose(trained, value, rtol=1e-6):
        raise ValueError(
          f'config.laplacian is of another process than the checkpoint: {name}'
          f' is {np.asarray(value).tolist()}, the weights were trained with'
          f' {trained.tolist()}'
        )

  def latent_key(self, key: jax.Array) -> jax.Array:
    return jax.random.split(key, 3)[1]

  def losses(
    self, weights: Weights, key: jax.Array, step: jax.Array, batch: Batch
  ) -> tuple[system_lib.Losses, Params]:
    drop_key, latent_key, key = jax.random.split(key, 3)
    generator = self.generator(weights)
    (clean,) = self.space.training(weights, batch, latent_key)
    encoded = self.training_inputs(weights, drop_key, batch)
    inputs = self.inputs(encoded, batch)
    shares = self.noise_distribution.shares(self.process)
    total, metrics = jnp.zeros(()), {}
    for index, stage in enumerate(self.stage_numbers):
      loss, parts = self._stage_loss(
        generator['networks'],
        stage,
        jax.random.fold_in(key, stage),
        *self.rows_of_stage((clean, inputs), index),
      )
      total += float(shares[stage - 1]) * loss
      metrics[f'loss_stage_{stage}'] = loss
      metrics |= {f'{name}_stage_{stage}': v for name, v in parts.items()}
    return {'generator': (total, metrics)}, weights.extra

  def rows_of_stage(self, tree: Any, index: int) -> Any:
    """Returns the rows of a batch (B, ...) that train a stage, 0 = coarsest.

    Neighbouring rows are a group, of which each stage takes its share; the
    greatest common divisor of `stage_batch` is the number of groups. Devices
    that hold whole groups need no rows of others.
    """
    groups = math.gcd(*self.stage_batch)
    end = sum(self.stage_batch[: index + 1]) // groups
    begin = end - self.stage_batch[index] // groups

    def part(x):
      x = x.reshape(groups, -1, *x.shape[1:])[:, begin:end]
      return x.reshape(-1, *x.shape[2:])

    return placement.rows(jax.tree.map(part, tree))

  def _stage_loss(
    self,
    params: Any,
    stage: int,
    key: jax.Array,
    whole: jax.Array,
    inputs: Inputs,
  ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
    """Returns the loss of a stage on its part of a batch."""
    sigma_key, noise_key, dropout_key = jax.random.split(key, 3)
    clean = self.process.clean(whole, stage)
    network, given = self.network(stage), {}
    if self.coarse_noise is not None and stage < self.process.levels:
      coarse = laplacian.down(clean)
      eps = jax.random.normal(jax.random.fold_in(noise_key, 1), coarse.shape)
      given['coarse'] = gaussian.mix_noise(coarse, eps, self.coarse_noise)
    return laplacian_loss.loss(
      lambda x, time: network.apply(
        {'params': self.networks.params_of(params, stage)},
        x,
        time,
        inputs,
        train=True,
        rngs={'dropout': dropout_key},
        **given,
      ),
      self.precond(stage),
      clean,
      self.noise_distribution.draw(
        sigma_key, self.process, stage, whole.shape[0]
      ),
      jax.random.normal(noise_key, clean.shape),
      inputs.prior,
    )

  # `LaDMControl` overrides these, and `generator`.

  def network(self, stage: int) -> stage_networks.StageNetwork:
    """Returns the network of a stage, 1 = finest."""
    return self.networks.of_stage(stage)

  def inputs(self, inputs: Inputs, batch: Batch) -> Inputs:
    """Adds arrays of the batch itself to the inputs."""
    if not self.takes_aspect:
      return inputs
    aspect = batch.get('aspect')
    if aspect is None:  # squares
      aspect = jnp.zeros((next(iter(batch.values())).shape[0], 2))
    return dataclasses.replace(inputs, aspect=aspect)

  def shaped(self, inputs: Inputs, shape: BHW) -> Inputs:
    """Adds the aspect ratio of images (B, H, W) to the inputs."""
    if not self.takes_aspect:
      return inputs
    sides = np.array(shape[1:], np.float32)
    aspect = jnp.tile(np.log(sides / self.image_size), (shape[0], 1))
    return dataclasses.replace(inputs, aspect=aspect)

  def check_shape(self, shape: tuple[int, int]) -> None:
    """Refuses images (H, W) that the networks cannot make.

    Raises:
      UserError: sides that are no multiples of a place of the coarsest stage,
        or an area that is far from that of the square.
    """
    cells = zip(self.stage_numbers, self.networks.cells, strict=True)
    cell = self.space.factor * max(2 ** (s - 1) * n for s, n in cells)
    area = shape[0] * shape[1] / self.image_size**2
    if shape[0] % cell or shape[1] % cell or not 0.5 < area < 2:
      raise errors.UserError(
        f'an image of {shape[0]} x {shape[1]} px must have sides that are'
        f' multiples of {cell}, and between half and twice the area of'
        f' {self.image_size} x {self.image_size}'
      )

  def precond(self, stage: int) -> laplacian_loss.Preconditioning:
    """Returns the preconditioning of the network of a stage."""
    return laplacian_loss.Preconditioning(self.process, stage, self.kind)

  def check_spec(self, spec: SamplerSpec) -> None:
    fields.check_spec(spec, self.process)
    super().check_spec(spec)

  @property
  def stage_count(self) -> int:
    return self.process.levels

  @property
  def cells(self) -> tuple[int, ...]:
    return self.networks.cells

  def levels(self, spec: SamplerSpec) -> list[levels_lib.Levels]:
    return laplacian_timesteps.sweep(
      self.process,
      spec.steps_of(self.stage_count),
      spec.rho,
      spec.churn,
      'karras' if spec.spacing == 'auto' else spec.spacing,
    )

  def stages(
    self, weights: Weights, condition: Condition, shape: BHW, spec: SamplerSpec
  ) -> Stages:
    self.check_shape(shape[1:])
    shaped = condition.map(lambda inputs: self.shaped(inputs, shape))
    return super().stages(weights, shaped, shape, spec)

  def state_shape(self, shape: BHW, stage: int = 0) -> sampled.Shape:
    count, height, width = shape
    f = self.space.factor * 2 ** (self.process.levels - 1 - stage)
    return count, height // f, width // f, self.space.channels

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    number = self.stage_numbers[stage]
    network, channels = self.network(number), self.space.channels

    def predict(network, x, level, inputs):
      return self.precond(number).predict(network, x, level, inputs.prior)

    def begin(state, noise):
      return self.process.switched(noise, state[-1][..., :channels], number + 1)

    def coarse(state, grid):
      del grid
      if self.coarse_noise is None or number == self.process.levels:
        return {}
      return {'coarse': state[-1][..., channels:]}

    return denoiser_lib.Denoiser(
      call=network.apply,
      params=self.networks.params_of(params['networks'], number),
      predict=predict,
      coarse=coarse,
      begin=begin if number < self.process.levels else None,
      finish=lambda x, x0: jnp.concatenate([x, x0], axis=-1),
    )

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    (whole,) = self.space.states(weights, image)
    return [self.process.clean(whole, stage) for stage in self.stage_numbers]

  def edited(
    self, weights: Weights, stages: Stages, edit: system_lib.Edit
  ) -> Stages:
    cleans = self.states(weights, edit.image)
    return editing.edited_stages(stages, cleans, edit.mask, edit.strength)

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    """Returns images at the resolution of the last finished stage.

    Before the finest stage they are the network's estimate of the mean.
    """
    x, x0 = jnp.split(state[-1], 2, axis=-1)
    # The stage before has a quarter of the area, see `check_shape`.
    area = x.shape[1] * x.shape[2] * self.space.factor**2
    is_whole = 2 * area > self.image_size**2
    return self.space.decode(weights, [x if is_whole else x0])


def create(config: ConfigDict) -> LaDM:
  """Builds the system; raises ValueError for fields that do not fit."""
  fields.check_low_resolution(config)
  f = config.laplacian
  kind = f.preconditioning
  fields_lib.check_value(
    'laplacian.preconditioning', kind, laplacian_loss.KINDS
  )
  space = spaces.one_scale(config) if f.latent else spaces.Pixels()
  process = fields.process(config, space)
  encoder = conditioning.create(config)
  wavelets = fields.per_stage(config, 'wavelets')
  return LaDM(
    **sampled.fields(config, space, encoder),
    networks=stage_networks.create(config, space, encoder, wavelets),
    process=process,
    kind=kind,
    noise_distribution=laplacian_loss.NoiseDistribution(
      config.diffusion.P_mean, config.diffusion.P_std
    ),
    stage_batch=fields.stage_batch(config),
    coarse_noise=config.diffusion.noise_mix_ratio if f.self_context else None,
    takes_aspect=config.data.buckets > 0,
  )
