"""The targets of an edge predictor: edge maps as states or pixels, and back."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from pyramid_jax.conditioning import condition as condition_lib
from pyramid_jax.networks import edge_predictor
from pyramid_jax.networks.layers import resampling
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.sketch import base as sketch_base


Condition = condition_lib.Condition
Stages = system_lib.Stages
Weights = system_lib.Weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
  """The targets of each stage of a base, coarse first."""

  base: system_lib.Base  # the system whose activations are read
  shapes: tuple[sketch_base.StageShape, ...]  # the shapes of its stages
  # 'latent' for the latents of the edge map, 'pixels' for the pixels of each
  # place of the state as channels. Without a first stage there is one channel,
  # the strongest edge of a place.
  space: str

  @property
  def are_latents(self) -> bool:
    """Whether the targets are latents of the base's first stage."""
    return self.space == 'latent' and self.base.has_latents

  def channels(self, stage: int) -> int:
    """Returns the number of channels of the target of a stage."""
    state = self.shapes[stage].state
    if not self.base.has_latents:
      return 1
    if self.are_latents:
      return state[-1]
    return (self.base.image_size // state[1]) ** 2

  def of_edges(self, weights: Weights, edges: jax.Array) -> list[jax.Array]:
    """Returns the target of each stage for edges (B, H, W) in [-1, 1]."""
    if self.are_latents:
      image = jnp.repeat(edges[..., None], 3, axis=-1)
      return self.base.states(weights, image)
    targets = []
    for shape in self.shapes:
      cell = edges.shape[1] // shape.state[1]
      pixels = resampling.space_to_depth(edges[..., None], cell)
      if not self.base.has_latents:  # thin lines would fade in a mean
        pixels = pixels.max(-1, keepdims=True)
      targets.append(pixels)
    return targets

  def to_edges(
    self, weights: Weights, targets: Sequence[jax.Array]
  ) -> jax.Array:
    """Returns the (B, H, W) edge maps in [-1, 1] of the targets of stages."""
    if self.are_latents:
      stages = self.dense_stages(weights, targets[0].shape[0])
      state: list[jax.Array] = []
      for stage, target in zip(stages, targets, strict=True):
        state = stage.leave(state, target, target, None)
      return self.base.decode(weights, state).mean(-1)
    pixels = targets[-1]
    cell = self.base.image_size // pixels.shape[1]
    if self.base.has_latents:
      return resampling.depth_to_space(pixels, cell)[..., 0]
    return resampling.enlarge(pixels, cell)[..., 0]

  def dense_stages(
    self, weights: Weights, count: int, condition: Condition | None = None
  ) -> Stages:
    """Returns the stages of the base with all levels and no guidance.

    They are of `count` images; the condition is zeros if it is None.
    """
    shape = (count, self.base.image_size, self.base.image_size)
    condition = condition or self.base.example_condition()
    return self.base.stages(weights, condition, shape, self.base.dense_spec())


def distance(got: jax.Array, target: jax.Array) -> jax.Array:
  """Returns the (B,) squared errors, summed over channels, means of places."""
  error = jnp.square(got - target.astype(got.dtype))
  return error.sum(-1).mean((1, 2))


def predictors(
  config: ConfigDict, targets: Targets
) -> tuple[edge_predictor.EdgePredictor, ...]:
  """Builds one predictor for all stages, or one for each."""
  c = config.sketch

  def build(outs: Sequence[int], patches: Sequence[int]) -> Any:
    return edge_predictor.EdgePredictor(
      out_channels=tuple(outs),
      hidden=tuple(c.hidden),
      octaves=c.octaves,
      noise_input=c.noise_input,
      feature_norm=c.feature_norm,
      patches=tuple(patches),
      head=c.head,
    )

  outs = [targets.channels(stage) for stage in range(len(targets.shapes))]
  patches = targets.base.cells
  if c.shared:
    return (build(outs, patches),)
  pairs = zip(outs, patches, strict=True)
  return tuple(build([out], [patch]) for out, patch in pairs)
