"""Latent DiffiT (arXiv:2312.02139): a transformer diffuses latents, as in ADM.

The noise level and the class act inside of the attention alone. The chain, the
loss of a learned variance and the steps of a sampler are those of ADM, as in
NVlabs/DiffiT: diffit/ and sample.py.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.networks import first_stages
from pyramid_jax.networks import latent_diffit as network_lib
from pyramid_jax.networks import params as params_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import latent
from pyramid_jax.systems import measuring
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Params = system_lib.Params
Weights = system_lib.Weights

TASKS = ('none', 'class')

FIELDS = {
  'diffusion.loss': Field(
    'mse',
    'The training loss: of the mean alone (mse), with the variational bound'
    ' (rescaled_mse), or the bound (rescaled_kl).',
    choices=iddpm_loss.LOSSES,
  ),
  **fields_lib.CHAIN,
  **fields_lib.SCALE,
}
CHECKS = fields_lib.GENERATIVE_CHECKS


def network_class(values: Mapping[str, Any]) -> type:
  """Returns the class whose constructor fields are `config.network`."""
  del values
  return network_lib.LatentDiffiT


def denoiser(
  network: network_lib.LatentDiffiT, params: Any, parameterization: str = 'eps'
) -> latent.Denoiser:
  """Returns the network with its weights, which takes (B,) class ids.

  Args:
    network: the denoiser.
    params: its weights.
    parameterization: what it predicts: 'eps', 'x0' or 'v'.
  """

  def call(variables, x, time, inputs, **kwargs):
    # One level for the whole batch: it is embedded once.
    t = jnp.atleast_1d(time)
    return network.apply(variables, x, t, inputs.y, **kwargs)

  return latent.Denoiser(
    call=call,
    params=params,
    parameterization=parameterization,
    cached=False,  # nothing but labels is independent of the level
  )


def make_stage(
  network: latent.Denoiser,
  levels: levels_lib.Levels,
  condition: condition_lib.Condition,
  shape: latent.Shape,
  guidance: classifier_free.Guidance | None = None,
) -> sampling.Stage:
  """Builds the only stage: noise in, the scaled latent out.

  Args:
    network: see `denoiser`.
    levels: noise levels of the solver.
    condition: of B images, of which the network takes the class ids, and the
      null condition, which guidance needs.
    shape: (B, h, w, C) of the latent.
    guidance: classifier-free guidance, None for none.
  """

  def build(inputs, shape):
    return network.stage(levels, inputs, shape)

  return classifier_free.guided_stage(
    build, shape, condition.context, condition.null, guidance
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffiT(latent.OneLatentSystem):
  """The system; see the module docstring and `systems.system.Generative`.

  Attributes, beside those of `latent.OneLatentSystem`:
    network: the denoiser, which drops labels itself.
    loss: how the loss is formed.
  """

  network: network_lib.LatentDiffiT
  loss: iddpm_loss.LossSettings

  def init(self, key: jax.Array, batch: Batch) -> tuple[Params, Params]:
    del batch  # all shapes are known
    x = jnp.zeros(self.latent_shape(1, self.image_size, self.image_size))
    labels = jnp.zeros(1, jnp.int32) if self.network.num_classes else None
    tree = self.network.init(key, x, jnp.zeros(1), labels)['params']
    return {'generator': {'network': tree}}, self.initial_scale()

  def measure(
    self,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    over: measuring.OverBatch,
  ) -> Params:
    # The latents are drawn as `losses` draws them.
    draw_key = jax.random.split(key, 4)[2]
    return self.measured(frozen, extra, draw_key, over)

  def losses(
    self,
    params: Params,
    frozen: Params,
    extra: Params,
    key: jax.Array,
    step: jax.Array,
    batch: Batch,
  ) -> tuple[Mapping[str, tuple[jax.Array, Any]], Params]:
    time_key, noise_key, draw_key, drop_key = jax.random.split(key, 4)
    z = self.scaled_latents(frozen, extra, batch, draw_key)
    labels = self.training_context(params, frozen, drop_key, batch).y
    tree = params['generator']['network']
    terms = iddpm_loss.loss(
      lambda x, t: params_lib.apply(
        self.network, tree, x, t, labels, train=True, rngs={'dropout': drop_key}
      ),
      timesteps.respaced_levels(self.chain),
      self.loss,
      z,
      jax.random.randint(time_key, z.shape[:1], 0, self.chain.length),
      jax.random.normal(noise_key, z.shape),
    )
    metrics = {name: term.mean() for name, term in terms.items()}
    return {'generator': (metrics.pop('loss'), metrics)}, extra

  def stages(
    self,
    weights: Weights,
    condition: condition_lib.Condition,
    shape: tuple[int, int, int],
    spec: spec_lib.SamplerSpec,
  ) -> list[sampling.Stage]:
    (levels,) = spec.chain_levels(self.chain)
    params = weights.params['generator']['network']
    stage = make_stage(
      denoiser(self.network, params, self.loss.parameterization),
      levels,
      condition,
      self.latent_shape(*shape),
      spec.guidance_of(0),
    )
    return [stage]

  @property
  def cells(self) -> tuple[int, ...]:
    return (self.network.patch_size,)


def create(config: ConfigDict) -> LatentDiffiT:
  """Builds the system of a config.

  Raises:
    ValueError: a field that does not fit the others; see the message.
  """
  _check(config)
  d = config.diffusion
  common = latent.one_latent_fields(config)
  return LatentDiffiT(
    **common | {'drop': 0.0},  # of the network, which has the null class
    network=_network(config, common['first_stage']),
    loss=iddpm_loss.LossSettings(
      loss=d.loss, parameterization=d.parameterization, variance=d.variance
    ),
  )


def _check(config: ConfigDict) -> None:
  """Raises ValueError if a field does not fit the others."""
  c = config.condition
  if c.task not in TASKS or c.also:
    raise ValueError(
      f'config.condition.task is {c.task!r} and config.condition.also'
      f" {c.also!r}, must be one of {', '.join(TASKS)} and '' for latent_diffit"
    )
  if c.task == 'class' and c.class_by != 'timestep':
    raise ValueError(
      f"config.condition.class_by is {c.class_by!r}, must be 'timestep' for"
      ' latent_diffit: the class is told with the noise level'
    )
  if c.task == 'class' and c.null_class and not c.cond_dropout:
    raise ValueError(
      'config.condition.cond_dropout is 0, so nothing trains the class for'
      ' none: config.condition.null_class must be False'
    )


def _network(
  config: ConfigDict, first_stage: first_stages.Network
) -> network_lib.LatentDiffiT:
  """Builds the denoiser, whose sizes and labels follow from the rest."""
  c, d = config.condition, config.diffusion
  (channels,) = first_stage.latent_channels
  by_class = c.task == 'class'
  network = network_lib.LatentDiffiT(
    **config.network.to_dict(),
    input_size=config.data.image_size // first_stage.factor,
    in_channels=channels,
    num_classes=c.num_classes if by_class else 0,
    class_dropout_prob=c.cond_dropout if by_class else 0.0,
    dtype=jnp.dtype(config.dtype),
    remat=config.remat,
    attention=config.attention,
  )
  network.check_options()
  if network.learn_sigma != (d.variance == 'learned_range'):
    raise ValueError(
      f'config.network.learn_sigma is {network.learn_sigma}, must be'
      f' {not network.learn_sigma} for config.diffusion.variance ='
      f' {d.variance!r}'
    )
  return network
