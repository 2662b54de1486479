"""Latent DiffiT (arXiv:2312.02139): a transformer diffuses latents, as in ADM.

The noise level and the class act inside of the attention alone, or in the
network of DiT (arXiv:2212.09748) on the norms. The chain, the loss of a learned
variance and the steps of a sampler are those of ADM, as in NVlabs/DiffiT:
diffit/ and sample.py, and in facebookresearch/DiT.
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
from pyramid_jax.diffusion import sample_fields
from pyramid_jax.networks import dit
from pyramid_jax.networks import latent_diffit as network_lib
from pyramid_jax.networks import params as params_lib
from pyramid_jax.systems import denoiser as denoiser_lib
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import iddpm
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces
from pyramid_jax.systems import system as system_lib


Params = system_lib.Params

FIELDS = {
  'system.denoiser': Field(
    'diffit',
    'The network: of DiffiT, or of DiT.',
    choices=('diffit', 'dit'),
  ),
  **iddpm.LOSS,
  **fields_lib.CHAIN,
  **fields_lib.SCALE,
  **sample_fields.CLASSIFIER,
}
CHECKS = fields_lib.GENERATIVE_CHECKS
# The networks, by `config.system.denoiser`.
NETWORKS: Mapping[str, type[network_lib.LatentDiffiT]] = {
  'diffit': network_lib.LatentDiffiT,
  'dit': dit.DiT,
}


def network_class(values: Mapping[str, Any]) -> Any:
  """Returns the class whose constructor fields are `config.network`."""
  return NETWORKS[values['system.denoiser']]


def denoiser(
  network: network_lib.LatentDiffiT, params: Any, parameterization: str = 'eps'
) -> denoiser_lib.Denoiser:
  """Returns the network with its weights, which predicts 'eps', 'x0' or 'v'."""

  def call(variables, x, t, inputs, **kwargs):
    return network.apply(variables, x, t, inputs.y, **kwargs)

  return denoiser_lib.Denoiser(
    call=call,
    params=params,
    predict=denoiser_lib.from_output(parameterization),
    cached=False,  # nothing but labels is independent of the level
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentDiffiT(iddpm.IDDPM):
  """The system; see the module docstring and `systems.system.Generative`."""

  network: network_lib.LatentDiffiT  # the denoiser, which drops labels itself

  @property
  def cells(self) -> tuple[int, ...]:
    return (self.network.patch_size,)

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    x = jnp.zeros(self.state_shape((1, self.image_size, self.image_size)))
    labels = jnp.zeros(1, jnp.int32) if self.network.num_classes else None
    tree = self.network.init(key, x, jnp.zeros(1), labels)['params']
    return {'generator': {'network': tree}}, self.space.extra()

  def call(
    self,
    generator: Any,
    x: jax.Array,
    t: jax.Array,
    inputs: condition_lib.Inputs,
    key: jax.Array,
  ) -> jax.Array:
    tree, rngs = generator['network'], {'dropout': key}
    return params_lib.apply(
      self.network, tree, x, t, inputs.y, train=True, rngs=rngs
    )

  def denoiser(self, params: Any, stage: int) -> denoiser_lib.Denoiser:
    del stage
    parameterization = self.loss.parameterization
    return denoiser(self.network, params['network'], parameterization)


def create(config: ConfigDict) -> LatentDiffiT:
  """Builds the system; raises ValueError for fields that do not fit."""
  _check(config)
  d = config.diffusion
  space = spaces.one_scale(config)
  common = sampled.chain_fields(config, space)
  return LatentDiffiT(
    # The network, which has the null class, drops labels itself.
    **common | {'cond_dropout': 0.0},
    network=_network(config, space),
    loss=iddpm_loss.LossSettings(
      loss=d.loss, parameterization=d.parameterization, variance=d.variance
    ),
  )


def _check(config: ConfigDict) -> None:
  """Raises ValueError if a field does not fit the others."""
  c = config.condition
  sampled.check_class_condition(config)
  reason = ' for latent_diffit'
  fields_lib.check_value('condition.also', c.also, ('',), reason)
  if c.task == 'class' and c.null_class and not c.cond_dropout:
    raise ValueError(
      'config.condition.cond_dropout is 0, so nothing trains the class for'
      ' none: config.condition.null_class must be False'
    )


def _network(
  config: ConfigDict, space: spaces.Latents
) -> network_lib.LatentDiffiT:
  c, d = config.condition, config.diffusion
  by_class = c.task == 'class'
  network = NETWORKS[config.system.denoiser](
    **sampled.network_fields(config),
    input_size=config.data.image_size // space.factor,
    in_channels=space.channels,
    num_classes=c.num_classes if by_class else 0,
    class_dropout_prob=c.cond_dropout if by_class else 0.0,
  )
  network.check_options()
  fields_lib.check_value(
    'network.learn_sigma',
    network.learn_sigma,
    (d.variance == 'learned_range',),
    f' for config.diffusion.variance = {d.variance!r}',
  )
  return network
