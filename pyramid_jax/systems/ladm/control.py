"""ControlNet for LaDM: a trained LaDM stays frozen, and follows a map.

Each network of the base gets a branch (`networks/controlnet.py`) that takes the
map at the stage's resolution. A branch is stored as its difference from the
weights that it copies: at first it is the copy, and changes nothing. It is
attached as in the original ControlNet (arXiv:2302.05543); the report on LaDM
(arXiv:2411.07126) shows a copied encoder and new blocks for the map.
"""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import control_maps
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.networks import controlnet
from pyramid_jax.networks import pretrained
from pyramid_jax.networks import unet
from pyramid_jax.networks import unet_trunk
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.ladm import ladm
from pyramid_jax.systems.ladm import stage_networks


Batch = system_lib.Batch
Condition = condition_lib.Condition
Inputs = condition_lib.Inputs
Params = system_lib.Params
Weights = system_lib.Weights

# Arguments of the network that the branch takes, too.
_BOTH = ('train', 'rngs', 'stage', 'concat_noise')

BASE = 'base'  # the frozen part that is the trained LaDM

FIELDS = {
  **ladm.FIELDS,
  'control.base': Field(
    '', 'The workdir of the frozen system ladm.', path=True
  ),
  'control.map': Field(
    'edges',
    'The map that controls the network.',
    choices=tuple(control_maps.KEYS),
  ),
  'control.weight': Field(
    1.0,
    'The strength of the control in sampling: 0 for none, 1 as trained.',
    low=0,
    resumable=True,
    high=ranges.WEIGHT,
  ),
}
CHECKS = ladm.CHECKS
network_class = stage_networks.network_class


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlledNetwork(stage_networks.StageNetwork):
  """The network of a stage with its branch.

  The weights are {'base': those of the network, 'branch': of the branch}.
  """

  branch: nn.Module  # the branch of `module`
  weight: float  # the strength of the control, 0 for none, 1 as trained

  def call(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    params = variables['params']
    *given, control = args
    aside = {k: v for k, v in kwargs.items() if k in _BOTH}
    added: Any = self.branch.apply(
      {'params': params['branch']}, *given, control=control, **aside
    )
    rest = {k: v for k, v in variables.items() if k != 'params'}
    return self.module.apply(
      {'params': params['base'], **rest},
      *given,
      control=controlnet.weighted(added, self.weight),
      **kwargs,
    )

  def init_branch(self, key: jax.Array, x: jax.Array, inputs: Inputs) -> Any:
    """Returns the initial weights of the branch."""
    *args, control = self.arguments(x, jnp.zeros((1,)), inputs)
    tree = self.branch.init(key, *args, control=control, **self.named(inputs))
    return tree['params']

  def arguments(
    self, x: jax.Array, c_noise: jax.Array, inputs: Inputs
  ) -> tuple[Any, ...]:
    args = super().arguments(x, c_noise, inputs)
    assert inputs.control is not None  # see `LaDMControl.inputs`
    return *args, inputs.control[self.halvings]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaDMControl(ladm.LaDM):
  """The system; see the module docstring and `systems.system.Generative`."""

  base_path: str  # the workdir of the base
  control_map: control_maps.ControlMap  # makes the map of a stage
  weight: float  # see `ControlledNetwork`

  @property
  def accepts(self) -> frozenset[str]:
    return super().accepts | {'sketch'}

  def check_rows(self, names: Collection[str]) -> None:
    super().check_rows(names)
    given = {*names, 'edges'} if 'sketch' in names else set(names)
    lacks = [key for key in self.control_map.keys if key not in given]
    if lacks:
      raise ValueError(
        f'the control map is missing: {lacks[0]!r} is needed, a sketch or data'
        ' with config.data.maps'
      )

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    base, extra = super().init(key)
    side = self.image_size
    blank = tuple(
      jnp.zeros((1, n, n, self.control_map.channels)) for n in self._sides(side)
    )
    _, zeros = ladm.conditioning.init(self.encoder, key)
    inputs = dataclasses.replace(zeros, control=blank)
    fresh = self.networks.init(
      lambda stage, key, x: self.network(stage).init_branch(key, x, inputs),
      key,
      side,
    )
    branches = {}
    for name, branch in fresh.items():
      own = base['generator']['networks'][name]
      branches[name] = {
        k: jax.tree.map(jnp.zeros_like, tree) if k in own else tree
        for k, tree in branch.items()
      }
    return {'generator': {'branches': branches}}, extra

  def example_rows(self) -> Batch:
    maps = self.control_map.example(self.image_size)
    return {**super().example_rows(), **maps}

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    part = pretrained.PretrainedPart(
      init=lambda key: super(LaDMControl, self).init(key)[0]['generator'],
      family='',
      path=self.base_path,
      field='control.base',
      is_denoiser=True,
      is_summed=True,
    )
    return {**super().pretrained_parts(), BASE: part}

  def generator(self, weights: Weights) -> Any:
    base = jax.lax.stop_gradient(weights.frozen[BASE])
    networks = {}
    for name, moved in weights.params['generator']['branches'].items():
      own = base['networks'][name]
      branch = {
        k: jax.tree.map(jnp.add, own[k], tree) if k in own else tree
        for k, tree in moved.items()
      }
      networks[name] = {'base': own, 'branch': branch}
    return {**base, 'networks': networks}

  def network(self, stage: int) -> ControlledNetwork:
    plain = self.networks.of_stage(stage)
    assert isinstance(plain.module, unet_trunk.Trunk)  # of `ladm.create`
    is_staged = isinstance(plain.module, unet.StagedUNet)
    kind = controlnet.ControlStagedUNet if is_staged else controlnet.ControlUNet
    wavelets = self.networks.wavelets if is_staged else (plain.wavelet,)
    return ControlledNetwork(
      **vars(plain),
      branch=controlnet.branch(
        kind,
        plain.module,
        self.control_map.channels,
        sorted({2**n for n in wavelets}),
      ),
      weight=self.weight,
    )

  def inputs(self, inputs: Inputs, batch: Batch) -> Inputs:
    if 'sketch' in batch:  # a sketch in the place of edges
      batch = {**batch, 'edges': (batch['sketch'] + 1.0) / 2.0}
    (side,) = {batch[key].shape[1] for key in self.control_map.keys}
    maps = tuple(self.control_map(batch, n) for n in self._sides(side))
    return dataclasses.replace(inputs, control=maps)

  def _sides(self, side: int) -> list[int]:
    """Returns the side of each stage, finest first."""
    return [side // 2**halvings for halvings in range(self.process.levels)]

  def condition(self, weights: Weights, batch: Batch) -> Condition:
    condition = super().condition(weights, batch)
    return condition.map(lambda inputs: self.inputs(inputs, batch))


def create(config: ConfigDict) -> LaDMControl:
  """Builds the system; raises ValueError for fields that do not fit."""
  c = config.control
  f = config.laplacian
  for name, value, only, why in (
    ('data.buckets', config.data.buckets, 0, 'maps are squares'),
    ('laplacian.network', f.network, 'unet', 'a branch is of a U-Net'),
    ('laplacian.latent', f.latent, False, 'maps are of images'),
  ):
    fields_lib.check_value(name, value, (only,), f' for ladm_control: {why}')
  control_map = control_maps.ControlMap(
    kind=c.map, classes=config.condition.map_classes
  )
  lacks = set(control_map.keys) - {'image', *config.data.maps}
  if config.data.name == 'shapes' and lacks:
    raise ValueError(
      f'config.data.maps is {tuple(config.data.maps)}, must have'
      f' {lacks.pop()!r} for config.control.map {c.map!r}'
    )
  base = ladm.create(config)
  return LaDMControl(
    **vars(base),
    base_path=c.base,
    control_map=control_map,
    weight=c.weight,
  )
