"""The networks of LaDM: one for each stage, or one conditioned on the stage."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import encoder as encoder_lib
from pyramid_jax.diffusion import laplacian
from pyramid_jax.networks import staged_diffit
from pyramid_jax.networks import unet
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import sampled
from pyramid_jax.systems import spaces


Inputs = condition_lib.Inputs
# Networks embed the noise level as an index of up to 1,000.
TIME_SCALE = 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageNetwork:
  """The raw network of one stage, between wavelet transforms."""

  module: nn.Module  # a U-Net or a DiffiT
  # Of a shared module, 0 = coarsest; None where it serves one stage.
  stage: int | None
  # Levels of the Haar packet around it, which makes its grid smaller by
  # 2^wavelet.
  wavelet: int
  halvings: int  # from the finest resolution to the stage's

  def apply(
    self,
    variables: Any,
    x: jax.Array,
    c_noise: jax.Array,
    inputs: Inputs,
    coarse: jax.Array | None = None,
    **kwargs: Any,
  ) -> Any:
    """Returns (B, h, w, C), with mutable collections or activations if given.

    Args:
      variables: the variables of the module.
      x: (B, h, w, C) the preconditioned state.
      c_noise: (B,) or (1,) the noise level.
      inputs: of the condition; `concat` is at the finest resolution and is
        pooled to the stage's.
      coarse: (B, h / 2, w / 2, C) the clean image of the stage before, for
        networks that are conditioned on it.
      **kwargs: of `module.apply`.
    """
    args = self.arguments(x, c_noise, inputs)
    given = self.named(inputs)
    if coarse is not None:
      given['coarse'] = laplacian.haar(laplacian.up(coarse), self.wavelet)
    out = self.call(variables, *args, **given, **kwargs)
    if not kwargs.get('mutable') and not kwargs.get('features'):
      return laplacian.inverse_haar(out, self.wavelet)
    return laplacian.inverse_haar(out[0], self.wavelet), out[1]

  def call(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Applies the module to `arguments`."""
    return self.module.apply(variables, *args, **kwargs)

  def init(self, key: jax.Array, x: jax.Array, inputs: Inputs) -> Any:
    """Returns the weights; x is (B, h, w, C) at the stage's resolution."""
    args = self.arguments(x, jnp.zeros((1,)), inputs)
    return self.module.init(key, *args, **self.named(inputs))['params']

  def arguments(
    self, x: jax.Array, c_noise: jax.Array, inputs: Inputs
  ) -> tuple[Any, ...]:
    """Returns the positional arguments of the module, see `apply`."""
    if inputs.concat is not None:
      pooled = laplacian.pooled(inputs.concat, self.halvings)
      if pooled.shape[:3] != x.shape[:3]:
        raise ValueError(
          f'the condition has shape {inputs.concat.shape}, pooled'
          f' {pooled.shape}, the state {x.shape}: batch and grid must be equal'
        )
      x = jnp.concatenate([x, pooled], axis=-1)
    x = laplacian.haar(x, self.wavelet)
    return x, TIME_SCALE * c_noise, inputs.context, inputs.y

  def named(self, inputs: Inputs) -> dict[str, Any]:
    """Returns the arguments by name that are there."""
    given = {
      'stage': self.stage,
      'concat_noise': inputs.concat_noise,
      'aspect': inputs.aspect,
    }
    return {name: value for name, value in given.items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
  """The networks of all stages; lists are coarse to fine."""

  modules: Sequence[nn.Module]  # one a stage, or the one that all share
  wavelets: tuple[int, ...]  # see `StageNetwork`
  channels: int  # the channels of the state

  @property
  def cells(self) -> tuple[int, ...]:
    """Sides of the squares of a state that each network sees as one place."""
    patch = getattr(self.modules[0], 'patch_size', 1)
    return tuple(patch * 2**wavelet for wavelet in self.wavelets)

  @property
  def shared(self) -> bool:
    """Whether one network serves all stages."""
    return len(self.modules) < len(self.wavelets)

  def of_stage(self, stage: int) -> StageNetwork:
    """Returns the network of a stage, 1 = finest."""
    index = len(self.wavelets) - stage
    return StageNetwork(
      module=self.modules[0 if self.shared else index],
      stage=index if self.shared else None,
      wavelet=self.wavelets[index],
      halvings=stage - 1,
    )

  def params_of(self, params: Any, stage: int) -> Any:
    """Returns the weights of a stage's network."""
    return params[self.name(stage)]

  def init(
    self, init: Callable[..., Any], key: jax.Array, side: int
  ) -> dict[str, Any]:
    """Returns {name: weights} of all networks.

    Args:
      init: (stage, key, x) -> weights; x is (1, h, w, C) of the stage.
      key: the key of all weights.
      side: the side of the finest stage's states.
    """
    params: dict[str, Any] = {}
    for stage in range(len(self.wavelets), 0, -1):
      if self.name(stage) not in params:
        n = side // 2 ** (stage - 1)
        x = jnp.zeros((1, n, n, self.channels))
        own = jax.random.fold_in(key, stage)
        params[self.name(stage)] = init(stage, own, x)
    return params

  def name(self, stage: int) -> str:
    """Returns the name of a stage's network among the weights."""
    return 'shared' if self.shared else f'stage_{stage}'


def network_class(values: Mapping[str, Any]) -> Any:
  """Returns the class whose constructor fields are `config.network`."""
  if values['laplacian.network'] == 'diffit':
    return staged_diffit.StagedDiffiT
  return unet.UNet


def create(
  config: ConfigDict,
  space: spaces.Space,
  encoder: encoder_lib.Encoder,
  wavelets: tuple[int, ...],
) -> Networks:
  """Builds the networks; raises ValueError for fields that do not fit."""
  f, widths = config.laplacian, encoder.widths
  side, last = config.data.image_size // space.factor, len(wavelets) - 1
  sides = [side // 2 ** (last - i + n) for i, n in enumerate(wavelets)]
  ins = [(space.channels + widths.concat) * 4**n for n in wavelets]
  outs = [space.channels * 4**n for n in wavelets]
  common = sampled.network_fields(config)
  common['context_dim'] = widths.context or None
  modules: Sequence[Any]
  if f.network == 'diffit':
    _check_diffit(config)
    single = [slice(i, i + 1) for i in range(len(wavelets))]
    modules = [
      staged_diffit.StagedDiffiT(
        **common,
        num_classes=widths.classes,
        stage_sides=sides[part],
        stage_in=ins[part],
        stage_out=outs[part],
        self_context=f.self_context,
      )
      for part in ([slice(None)] if f.shared else single)
    ]
  else:
    reason = " for config.laplacian.network 'unet', which has no gates"
    fields_lib.check_value(
      'laplacian.self_context', f.self_context, (False,), reason
    )
    common['num_classes'] = widths.classes or None
    common['scan_blocks'] = config.scan_blocks
    modules = [unet.StagedUNet(**common, stage_in=ins, stage_out=outs)]
    if not f.shared:
      modules = [
        unet.UNet(**common, in_channels=n, out_channels=m)
        for n, m in zip(ins, outs, strict=True)
      ]
  modules[0].check_options()
  return Networks(modules=modules, wavelets=wavelets, channels=space.channels)


def _check_diffit(config: ConfigDict) -> None:
  f = config.laplacian
  if f.self_context and not f.shared:
    raise ValueError(
      'config.laplacian.self_context is True, so config.laplacian.shared must'
      ' be True: one network for all stages has the gates'
    )
  reason = " for config.laplacian.network 'diffit', which has one size"
  fields_lib.check_value('data.buckets', config.data.buckets, (0,), reason)
