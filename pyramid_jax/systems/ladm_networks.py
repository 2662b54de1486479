"""The networks of LaDM: a denoiser a stage, or one that is told the stage."""

from collections.abc import Sequence
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import laplacian
from pyramid_jax.systems import encoders


Inputs = encoders.Inputs
# U-Nets embed the noise level as an index of up to 1,000.
TIME_SCALE = 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageNetwork:
  """The raw network of one stage, between wavelet transforms.

  Attributes:
    module: a U-Net.
    stage: which stage it is told, 0 = coarsest; None where it is of one only.
    wavelet: levels of the Haar packet around it: it works on a grid smaller
      by 2^wavelet.
    halvings: from the finest resolution to the stage's.
  """

  module: nn.Module
  stage: int | None
  wavelet: int
  halvings: int

  def apply(
    self,
    variables: Any,
    x: jax.Array,
    c_noise: jax.Array,
    inputs: Inputs,
    **kwargs: Any,
  ) -> Any:
    """Returns (B, h, w, C), and what is mutable or activations if asked.

    Args:
      variables: of the module.
      x: (B, h, w, C) the preconditioned state.
      c_noise: (B,) or (1,) the noise level.
      inputs: of the condition; channels beside the image are at the finest
        resolution and pooled to the stage's.
      **kwargs: of `module.apply`.
    """
    args = self.arguments(x, c_noise, inputs)
    out = self.call(variables, *args, **self._told(inputs), **kwargs)
    if not kwargs.get('mutable') and not kwargs.get('taps'):
      return laplacian.inverse_haar(out, self.wavelet)
    return laplacian.inverse_haar(out[0], self.wavelet), out[1]

  def call(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    """Applies the module to `arguments`."""
    return self.module.apply(variables, *args, **kwargs)

  def init(self, key: jax.Array, x: jax.Array, inputs: Inputs) -> Any:
    """Returns the weights; x is (B, h, w, C) at the stage's resolution."""
    args = self.arguments(x, jnp.zeros((1,)), inputs)
    return self.module.init(key, *args, **self._told(inputs))['params']

  def arguments(
    self, x: jax.Array, c_noise: jax.Array, inputs: Inputs
  ) -> tuple[Any, ...]:
    """Returns what the module is called with, see `apply`."""
    if inputs.concat is not None:
      beside = laplacian.pooled(inputs.concat, self.halvings)
      if beside.shape[:3] != x.shape[:3]:
        raise ValueError(
          f'the condition has shape {inputs.concat.shape}, pooled'
          f' {beside.shape}, the state {x.shape}: batch and grid must be equal'
        )
      x = jnp.concatenate([x, beside], axis=-1)
    x = laplacian.haar(x, self.wavelet)
    return x, TIME_SCALE * c_noise, inputs.context, inputs.y

  def _told(self, inputs: Inputs) -> dict[str, Any]:
    """Returns the arguments by name that are there."""
    told = {'stage': self.stage, 'concat_noise': inputs.concat_noise}
    return {name: value for name, value in told.items() if value is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Networks:
  """The networks of all stages; lists are coarse to fine.

  Attributes:
    modules: one a stage, or the one that all share.
    wavelets: see `StageNetwork`.
    channels: of the state.
  """

  modules: Sequence[nn.Module]
  wavelets: tuple[int, ...]
  channels: int

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

  def init(self, key: jax.Array, inputs: Inputs, side: int) -> dict[str, Any]:
    """Returns the weights of all; `side` is the finest stage's."""
    params: dict[str, Any] = {}
    for stage in range(len(self.wavelets), 0, -1):
      if self.name(stage) not in params:
        n = side // 2 ** (stage - 1)
        params[self.name(stage)] = self.of_stage(stage).init(
          jax.random.fold_in(key, stage),
          jnp.zeros((1, n, n, self.channels)),
          inputs,
        )
    return params

  def name(self, stage: int) -> str:
    """Returns the name of a stage's network among the weights."""
    return 'shared' if self.shared else f'stage_{stage}'
