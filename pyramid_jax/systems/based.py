"""What the systems share that are sampled through a frozen run, their base."""

from collections.abc import Collection
from collections.abc import Mapping
import dataclasses
import os
from typing import ClassVar

import jax

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.networks import pretrained
from pyramid_jax.systems import fields as fields_lib
from pyramid_jax.systems import system as system_lib


Batch = system_lib.Batch
Condition = condition_lib.Condition
Params = system_lib.Params
SamplerSpec = spec_lib.SamplerSpec
Stages = system_lib.Stages
Weights = system_lib.Weights

BASE = 'base'  # the frozen part that is the trained system
FIRST_STAGE = 'first_stage'  # the part that may lie in the base's workdir


def with_first_stage(
  parts: Mapping[str, pretrained.PretrainedPart], path: str
) -> dict[str, pretrained.PretrainedPart]:
  """Returns the parts of a base whose first stage may lie in its workdir."""
  found = dict(parts)
  first = found.get(FIRST_STAGE)
  if first is not None and not first.path:
    folder = os.path.join(path, FIRST_STAGE)
    found[FIRST_STAGE] = dataclasses.replace(first, path=folder)
  return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class Based:
  """The sampling of `systems.system.Generative`, done by the base.

  A system adds its guidance, in `guided` or in `stages`.
  """

  base: system_lib.Base  # the sampled system
  base_path: str  # the workdir of its weights
  # The variance of the steps of ddpm, as the base was trained.
  variance: str = 'fixed_small'
  base_field: ClassVar[str]  # the field of the config that names the workdir
  guided_by: ClassVar[str]  # what guides, for messages
  any_shape: ClassVar[bool] = False

  @property
  def image_size(self) -> int:
    return self.base.image_size

  @property
  def accepts(self) -> frozenset[str]:
    return self.base.accepts

  @property
  def stage_count(self) -> int:
    return self.base.stage_count

  def scale_shape(self, stage: int) -> tuple[int, int]:
    return self.base.scale_shape(stage)

  def check_extra(self, extra: Params) -> None:
    del extra

  def check_spec(self, spec: SamplerSpec) -> None:
    self.base.check_spec(dataclasses.replace(spec, variance=self.variance))
    reason = f' with a {self.guided_by}'
    fields_lib.check_value('sample.windows', spec.windows, ((0, 0),), reason)

  def check_rows(self, names: Collection[str]) -> None:
    self.base.check_rows(names)

  def example_condition(self) -> Condition:
    return self.base.example_condition()

  def base_weights(self, frozen: Params) -> Weights:
    """Returns the weights of the base."""
    base = frozen[BASE]
    return Weights(params=base['params'], frozen=frozen, extra=base['extra'])

  def pretrained_parts(self) -> Mapping[str, pretrained.PretrainedPart]:
    def init(key):
      return dict(zip(('params', 'extra'), self.base.init(key), strict=True))

    whole = pretrained.PretrainedPart(
      init=init,
      family='',
      path=self.base_path,
      field=self.base_field,
      loss_name='',
      is_denoiser=True,
    )
    others = with_first_stage(self.base.pretrained_parts(), self.base_path)
    return {BASE: whole, **others}

  def condition(self, weights: Weights, batch: Batch) -> Condition:
    return self.base.condition(self.base_weights(weights.frozen), batch)

  def stages(
    self,
    weights: Weights,
    condition: Condition,
    shape: system_lib.BHW,
    spec: SamplerSpec,
  ) -> Stages:
    base = self.base_weights(weights.frozen)
    own = dataclasses.replace(spec, variance=self.variance)
    return self.base.stages(base, condition, shape, own)

  def states(self, weights: Weights, image: jax.Array) -> list[jax.Array]:
    return self.base.states(self.base_weights(weights.frozen), image)

  def edited(
    self, weights: Weights, stages: Stages, edit: system_lib.Edit
  ) -> Stages:
    return self.base.edited(self.base_weights(weights.frozen), stages, edit)

  def decode(self, weights: Weights, state: list[jax.Array]) -> jax.Array:
    return self.base.decode(self.base_weights(weights.frozen), state)
