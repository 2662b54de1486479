"""ControlNet for LaDM: a trained LaDM stays frozen, and follows a map.

Each network of the base gets a branch (`networks/controlnet.py`) that takes the
map at the stage's resolution. A branch is stored as its difference from the
weights that it copies: at first it is the copy, and changes nothing. It is
attached as in the original ControlNet (arXiv:2302.05543); the report on LaDM
(arXiv:2411.07126) shows a copied encoder and new blocks for the map.

The branches of other runs on the same base may join those of a run: what each
of them adds is weighted and summed, as in lllyasviel/ControlNet and in the
MultiControlNet of diffusers.
"""

from collections.abc import Collection
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.conditioning import control_maps
from pyramid_jax.config import ranges
from pyramid_jax.config.field import Field
from pyramid_jax.diffusion import sample_fields
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
# What must be that of a run for the branches of another to join it.
_SHARED = ('network', 'laplacian')

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
  'control.train_base': Field(
    False,
    'Whether the base is trained with the branches; its file stays as it is.',
  ),
  'control.weight': Field(
    1.0,
    'The strength of the control in sampling: 0 for none, 1 as trained.',
    low=0,
    resumable=True,
    high=ranges.WEIGHT,
  ),
  'control.also': Field(
    (),
    'The workdirs of other runs of ladm_control on the same base, whose'
    ' branches are added.',
    items=str,
    path=True,
  ),
  'control.also_weights': Field(
    (1.0,),
    'The strength of each of them; the last number serves the rest.',
    low=0,
    resumable=True,
    high=ranges.WEIGHT,
  ),
}
CHECKS = (*ladm.CHECKS, sample_fields.not_empty('control.also_weights'))
# By key of a batch, what else gives it in sampling.
GIVEN_BY = {
  'edges': 'a sketch',
  'mask': 'a map',
  'image': 'an image and a mask',
  'inpaint_mask': 'an image and a mask',
  'lr_image': 'an image',
}
network_class = stage_networks.network_class


@dataclasses.dataclass(frozen=True, kw_only=True)
class Control:
  """A map that a network follows."""

  map: control_maps.ControlMap  # makes the map of a stage
  weight: float  # the strength: 0 for none, 1 as trained
  part: str = (
    ''  # the frozen part of its branches, '' for those that are trained
  )
  path: str = ''  # the workdir of that part


@dataclasses.dataclass(frozen=True, kw_only=True)
class ControlledNetwork(stage_networks.StageNetwork):
  """The network of a stage with its branches.

  The weights are {'base': those of the network, 'branches': a list of those of
  the branches}. A branch of strength 0 is not computed.
  """

  branches: tuple[nn.Module, ...]  # of `module`, one for each control
  weights: tuple[float, ...]  # their strengths, see `Control`

  def call(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
    params = variables['params']
    *given, maps = args
    aside = {k: v for k, v in kwargs.items() if k in _BOTH}
    added = []
    for branch, own, control, weight in zip(
      self.branches, params['branches'], maps, self.weights, strict=True
    ):
      if weight:
        found: Any = branch.apply(
          {'params': own}, *given, control=control, **aside
        )
        added.append(controlnet.weighted(found, weight))
    rest = {k: v for k, v in variables.items() if k != 'params'}
    return self.module.apply(
      {'params': params['base'], **rest},
      *given,
      control=controlnet.summed(added) if added else None,
      **kwargs,
    )

  def init_branch(self, key: jax.Array, x: jax.Array, inputs: Inputs) -> Any:
    """Returns the initial weights of the branch that is trained."""
    *args, (control, *_) = self.arguments(x, jnp.zeros((1,)), inputs)
    branch, named = self.branches[0], self.named(inputs)
    return branch.init(key, *args, control=control, **named)['params']

  def arguments(
    self, x: jax.Array, c_noise: jax.Array, inputs: Inputs
  ) -> tuple[Any, ...]:
    args = super().arguments(x, c_noise, inputs)
    assert inputs.control is not None  # see `LaDMControl.inputs`
    return *args, [maps[self.halvings] for maps in inputs.control]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LaDMControl(ladm.LaDM):
  """The system; see the module docstring and `systems.system.Generative`."""

  base_path: str  # the workdir of the base
  controls: tuple[Control, ...]  # that of the branches that are trained first
  # Whether the difference of the base from its file is trained, too.
  trains_base: bool

  @property
  def _keys(self) -> tuple[str, ...]:
    """The keys of a batch that the maps read."""
    keys = (key for control in self.controls for key in control.map.keys)
    return tuple(dict.fromkeys(keys))

  @property
  def accepts(self) -> frozenset[str]:
    given = {'edges': 'sketch', 'mask': 'map'}
    return super().accepts | {given[x] for x in self._keys if x in given}

  def check_rows(self, names: Collection[str]) -> None:
    super().check_rows(names)
    given = {*names, 'edges'} if 'sketch' in names else set(names)
    lacks = [key for key in self._keys if key not in given]
    if lacks:
      raise ValueError(
        f'the control map is missing: {lacks[0]!r} is needed,'
        f' {GIVEN_BY[lacks[0]]}, or data with config.data.maps'
      )

  def init(self, key: jax.Array) -> tuple[Params, Params]:
    base, extra = super().init(key)
    side = self.image_size
    blank = tuple(
      tuple(jnp.zeros((1, n, n, c.map.channels)) for n in self._sides(side))
      for c in self.controls
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
    trained = {'branches': branches}
    if self.trains_base:
      trained['base'] = jax.tree.map(jnp.zeros_like, base['generator'])
    return {'generator': trained}, extra

  def example_rows(self) -> Batch:
    rows = dict(super().example_rows())
    for control in self.controls:
      rows = {**control.map.example(self.image_size), **rows}
    return rows

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    part = pretrained.PretrainedPart(
      init=lambda key: super(LaDMControl, self).init(key)[0]['generator'],
      family='',
      path=self.base_path,
      field='control.base',
      is_denoiser=True,
      is_summed=True,
    )
    others = {}
    for control in self.controls[1:]:
      alone = dataclasses.replace(self, controls=(control,))
      others[control.part] = pretrained.PretrainedPart(
        init=functools.partial(_trained, alone),
        family='',
        path=control.path,
        field='control.also',
        is_denoiser=True,
        is_summed=True,
      )
    return {**super().pretrained_parts(), BASE: part, **others}

  def generator(self, weights: Weights) -> Any:
    base = jax.lax.stop_gradient(weights.frozen[BASE])
    trained = weights.params['generator']
    moved = [trained['branches']]
    moved += [
      jax.lax.stop_gradient(weights.frozen[control.part]['branches'])
      for control in self.controls[1:]
    ]
    now = base
    if self.trains_base:
      now = jax.tree.map(jnp.add, base, trained['base'])
    networks = {
      name: {
        'base': now['networks'][name],
        'branches': [_whole(own, x[name]) for x in moved],
      }
      for name, own in base['networks'].items()
    }
    return {**now, 'networks': networks}

  def network(self, stage: int) -> ControlledNetwork:
    plain = self.networks.of_stage(stage)
    assert isinstance(plain.module, unet_trunk.Trunk)  # of `ladm.create`
    is_staged = isinstance(plain.module, unet.StagedUNet)
    kind = controlnet.ControlStagedUNet if is_staged else controlnet.ControlUNet
    wavelets = self.networks.wavelets if is_staged else (plain.wavelet,)
    cells = sorted({2**n for n in wavelets})
    return ControlledNetwork(
      **vars(plain),
      branches=tuple(
        controlnet.branch(kind, plain.module, control.map.channels, cells)
        for control in self.controls
      ),
      weights=tuple(control.weight for control in self.controls),
    )

  def inputs(self, inputs: Inputs, batch: Batch) -> Inputs:
    if 'sketch' in batch:  # a sketch in the place of edges
      batch = {**batch, 'edges': (batch['sketch'] + 1.0) / 2.0}
    if inputs.concat is not None:  # enlarged, with the noise that it has
      batch = {**batch, 'lr_image': inputs.concat}
    (side,) = {batch[key].shape[1] for key in self._keys}
    maps = tuple(
      tuple(control.map(batch, n) for n in self._sides(side))
      for control in self.controls
    )
    return dataclasses.replace(inputs, control=maps)

  def _sides(self, side: int) -> list[int]:
    """Returns the side of each stage, finest first."""
    return [side // 2**halvings for halvings in range(self.process.levels)]

  def condition(self, weights: Weights, batch: Batch) -> Condition:
    condition = super().condition(weights, batch)
    return condition.map(lambda inputs: self.inputs(inputs, batch))


def _trained(system: LaDMControl, key: jax.Array) -> Params:
  """Returns the initial weights of what a system trains."""
  generator: Params = system.init(key)[0]['generator']
  return generator


def _whole(own: Params, moved: Params) -> Params:
  """Returns the weights of a branch, which copies some of the base's own."""
  return {
    k: jax.tree.map(jnp.add, own[k], tree) if k in own else tree
    for k, tree in moved.items()
  }


def create(config: ConfigDict, *others: ConfigDict) -> LaDMControl:
  """Builds the system; raises ValueError for fields that do not fit.

  Args:
    config: the config of the run.
    *others: the configs of the runs `config.control.also`.
  """
  _check(config)
  base = ladm.create(config)
  return LaDMControl(
    **vars(base),
    base_path=config.control.base,
    controls=(_own(config), *_joined(config, others)),
    trains_base=config.control.train_base,
  )


def _check(config: ConfigDict) -> None:
  """Raises ValueError for a base without branches of this kind."""
  c, f = config.control, config.laplacian
  conditions = (config.condition.task, config.condition.also)
  for name, value, only, why in (
    ('data.buckets', config.data.buckets, 0, 'maps are squares'),
    ('laplacian.network', f.network, 'unet', 'a branch is of a U-Net'),
    ('laplacian.latent', f.latent, False, 'maps are of images'),
  ):
    fields_lib.check_value(name, value, (only,), f' for ladm_control: {why}')
  if c.map == 'low_resolution' and 'superres' not in conditions:
    raise ValueError(
      f'config.control.map is {c.map!r}, so config.condition.task or'
      " config.condition.also must be 'superres', not"
      f' {conditions[0]!r} and {conditions[1]!r}'
    )
  if c.train_base and c.also:
    raise ValueError(
      f'config.control.also is {tuple(c.also)}, must be () with'
      ' config.control.train_base: they are of another base'
    )


def _own(config: ConfigDict) -> Control:
  """Returns the control whose branches a run trains."""
  c = config.control
  own = Control(map=_map_of(config), weight=c.weight)
  lacks = set(own.map.keys) - {'image', 'lr_image', *config.data.maps}
  if config.data.name == 'shapes' and lacks:
    raise ValueError(
      f'config.data.maps is {tuple(config.data.maps)}, must have'
      f' {lacks.pop()!r} for config.control.map {c.map!r}'
    )
  return own


def _joined(config: ConfigDict, others: Sequence[ConfigDict]) -> list[Control]:
  """Returns the controls of other runs, `config.control.also`."""
  c, found = config.control, []
  for place, other in enumerate(others):
    _check_other(config, c.also[place], other)
    control = Control(
      map=_map_of(other),
      weight=c.also_weights[min(place, len(c.also_weights) - 1)],
      part=f'control_{place + 1}',
      path=c.also[place],
    )
    found.append(control)
  maps = (_map_of(config), *(x.map for x in found))
  masks = {x for x in maps if 'mask' in x.keys}
  if len(masks) > 1:
    kinds = sorted(f'{x.kind} of {x.classes} classes' for x in masks)
    raise ValueError(
      f'config.control.also is {tuple(c.also)}: an image has one map, which'
      f' cannot be both {" and ".join(kinds)}'
    )
  return found


def _map_of(config: ConfigDict) -> control_maps.ControlMap:
  return control_maps.ControlMap(
    kind=config.control.map, classes=config.condition.map_classes
  )


def _check_other(config: ConfigDict, path: str, other: ConfigDict) -> None:
  """Raises ValueError for a run whose branches are of other networks."""
  fields_lib.check_value(
    'system.name', other.system.name, ('ladm_control',), f' in {path}'
  )
  trains = other.control.train_base
  reason = f' in {path}, whose base is then another'
  fields_lib.check_value('control.train_base', trains, (False,), reason)
  for name in _SHARED:
    mine, theirs = config[name].to_dict(), other[name].to_dict()
    differ = sorted(k for k in mine if mine[k] != theirs.get(k))
    if differ:
      field = f'{name}.{differ[0]}'
      raise ValueError(
        f'config.{field} is {theirs.get(differ[0])!r} in {path}, must be'
        f' {mine[differ[0]]!r} as in the run that its branches join'
      )
