"""The base: the frozen system whose activations an edge predictor reads."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.networks.layers import remat as remat_lib
from pyramid_jax.systems import based
from pyramid_jax.systems import system as system_lib


Weights = system_lib.Weights

# The fields of a predictor that must be those of its base.
_SHARED = (
  'data.image_size',
  'condition.task',
  'condition.also',
  'condition.encoder',
  'condition.max_length',
  'condition.vocab_size',
  'condition.no_tokens',
  'condition.num_classes',
  'condition.null_class',
  'condition.map_classes',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageShape:
  """The shapes of a stage of the base."""

  state: tuple[int, ...]  # (B, h, w, C)
  features: tuple[jax.ShapeDtypeStruct, ...]  # (B, h_k, w_k, C_k) each


@functools.lru_cache(maxsize=8)
def create(
  text: str, attention: str, remat: str, features: tuple[str, ...]
) -> tuple[system_lib.Base, tuple[StageShape, ...]]:
  """Builds a base and traces the shapes of its stages, once in a process.

  Args:
    text: the `config.json` of the base.
    attention: `config.attention` of the predictor.
    remat: `config.remat` of the predictor; 'none' for that of the base.
    features: names of the activations that are read.

  Raises:
    ValueError: activations that the network does not have.
  """
  config = config_lib.from_json(text)
  with config.unlocked():
    config.attention = attention
    config.remat = config.remat if remat == remat_lib.NONE else remat
  base: Any = systems.create(config)
  try:
    return base, _stage_shapes(base, features)
  except TypeError as error:
    raise ValueError(
      f'the system {config.system.name!r} of config.sketch.base has no named'
      f' activations: {error}'
    ) from error


def _stage_shapes(
  base: system_lib.Base, features: Sequence[str]
) -> tuple[StageShape, ...]:
  def trace(key):
    params, extra = base.init(key)
    frozen = {  # encoders of images and conditions are not traced
      name: part.init(key)
      for name, part in base.pretrained_parts().items()
      if name not in (based.FIRST_STAGE, 'condition')
    }
    weights = Weights(params=params, frozen=frozen, extra=extra)
    size, found = base.image_size, []
    state: list[jax.Array] = []
    condition = base.example_condition()
    spec = base.dense_spec()
    for stage in base.stages(weights, condition, (1, size, size), spec):
      segment, *_ = stage.segments
      x, context = stage.enter(state, jnp.zeros)
      levels = jax.tree.map(jnp.asarray, segment.levels)
      level = levels_lib.row(levels, 0)
      prediction = segment.denoise(x, level, context, True, features=features)
      found.append((x, [prediction.features[name] for name in features]))
      state = stage.leave(state, x, prediction.x0, context)
    return found

  return tuple(
    StageShape(state=x.shape, features=tuple(read))
    for x, read in jax.eval_shape(trace, jax.random.key(0))
  )


def check(config: ConfigDict, base_config: ConfigDict) -> None:
  """Raises ValueError for a base without samples or with other conditions."""
  path = config.sketch.base
  if base_config.system.name in ('autoencoder', 'hdr', 'sketch'):
    raise ValueError(
      f'config.sketch.base is {path}, a run of the system'
      f' {base_config.system.name!r}, which cannot be sampled by itself'
    )
  mine, theirs = config_lib.flatten(config), config_lib.flatten(base_config)
  for name in _SHARED:
    if mine[name] != theirs[name]:
      raise ValueError(
        f'config.{name} is {mine[name]!r}, must be {theirs[name]!r} as in'
        f' config.sketch.base = {path}'
      )
