"""Classifier-free guidance: two conditions in one batched call."""

from collections.abc import Callable
import dataclasses
import itertools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import prediction as prediction_lib
from pyramid_jax.diffusion import sampling


Levels = levels_lib.Levels
Prediction = prediction_lib.Prediction
Shape = tuple[int, int, int, int]


@flax.struct.dataclass
class Guidance:
  """How predictions with a condition and without are combined.

  e = e_null + scale (e_cond - e_null): arXiv:2207.12598 in the convention of
  CompVis/latent-diffusion: ldm/models/diffusion/ddim.py, where a scale of 1
  is no guidance. None in its place builds no half for the null condition.

  Attributes:
    scale: the guidance scale, (), or one a stage, coarse to fine. It is traced:
      another one needs no new compilation.
    interval: (from, to), both included, parts of the process's time in [0, 1]:
      the scale acts in steps that begin there (arXiv:2404.07724).
    channels: how many of the noise's channels are guided; None is all. DiT
      and its kin guide 3 of a latent's 4.
    power: of the power-cosine schedule, which lets the scale grow from 1 to
      `scale` as the noise falls (`power_cosine`); None is a constant scale.
  """

  scale: jax.Array | np.ndarray | float
  interval: tuple[float, float] = flax.struct.field(
    pytree_node=False, default=(0.0, 1.0)
  )
  channels: int | None = flax.struct.field(pytree_node=False, default=None)
  power: float | None = flax.struct.field(pytree_node=False, default=None)

  def __post_init__(self):
    if self.channels is not None and self.channels < 1:
      raise ValueError(f'guided channels {self.channels} must be at least 1')
    if self.power is not None and self.power <= 0:
      raise ValueError(
        f'power {self.power} of the guidance schedule must be above 0'
      )

  def of_stage(self, index: int) -> 'Guidance':
    """Returns the guidance of one stage, with one scale."""
    if jnp.ndim(self.scale) == 0:
      return self
    scale = jnp.asarray(self.scale)[index]
    return dataclasses.replace(self, scale=scale)

  def combine(
    self, cond: Prediction, null: Prediction, level: Levels
  ) -> Prediction:
    """Returns the guided prediction at a level."""
    scale = self.scale
    if self.power is not None:
      scale = power_cosine(scale, level.part, self.power)

    def guided(cond, null):
      far = null + scale * (cond - null)
      if self.channels is None:
        return far
      kept = cond[..., self.channels :]
      return jnp.concatenate([far[..., : self.channels], kept], axis=-1)

    return Prediction(
      x0=guided(cond.x0, null.x0),
      eps=guided(cond.eps, null.eps),
      variance=cond.variance,
    )


@dataclasses.dataclass(frozen=True)
class Guided:
  """The denoiser of a guided segment.

  Attributes:
    guidance: how both predictions are combined.
    both: the denoiser of 2B images.
    cond: the stage of B images with the condition alone.
    null: the stage of B images with the null condition alone.
    index: of the segment of `cond` and `null` that has the same steps.
  """

  guidance: Guidance
  both: sampling.Denoiser
  cond: sampling.Stage
  null: sampling.Stage
  index: int

  def __call__(
    self, x: jax.Array, level: Levels, context: Any, first: bool = True
  ) -> Prediction:
    predictions = self.both(pair(x, x), level, context[0], first)
    return self.guidance.combine(*unpair(predictions), level)


@dataclasses.dataclass(frozen=True)
class Unguided:
  """The denoiser of a segment outside the interval of guidance.

  Attributes:
    cond: the stage of B images with the condition alone.
    index: of its segment that has the same steps.
  """

  cond: sampling.Stage
  index: int

  def __call__(
    self, x: jax.Array, level: Levels, context: Any, first: bool = True
  ) -> Prediction:
    denoise = self.cond.segments[self.index].denoise
    return denoise(x, level, context[1], first)


def guided_stage(
  build: Callable[[Any, Shape], sampling.Stage],
  shape: Shape,
  cond: Any,
  null: Any,
  guidance: Guidance | None,
) -> sampling.Stage:
  """Builds a stage, guided if there is a null condition and guidance.

  Args:
    build: (condition, shape of the state) -> the stage without guidance.
    shape: of the state, (B, h, w, C).
    cond: the condition of B images.
    null: the null condition; None without one.
    guidance: of this stage, None for none.
  """
  alone = build(cond, shape)
  if guidance is None or null is None:
    return alone
  both = build(pair(cond, null), (2 * shape[0], *shape[1:]))
  parts = [
    (index, inside, levels)
    for index, segment in enumerate(both.segments)
    for inside, levels in _cut(segment.levels, *guidance.interval)
  ]
  everywhere = all(inside for _, inside, _ in parts)
  null_stage = build(null, shape)
  segments = tuple(
    sampling.Segment(
      levels=levels,
      denoise=Guided(
        guidance, both.segments[index].denoise, alone, null_stage, index
      )
      if inside
      else Unguided(alone, index),
    )
    for index, inside, levels in parts
  )

  def enter(state, normal):
    def twice(shape):
      noise = normal((shape[0] // 2, *shape[1:]))
      return pair(noise, noise)

    x, context = both.enter([pair(s, s) for s in state], twice)
    plain = None if everywhere else alone.enter(state, normal)[1]
    return unpair(x)[0], (context, plain)

  def leave(state, x, x0, context):
    return both.leave(state, x, x0, context[0])

  return sampling.Stage(segments=segments, enter=enter, leave=leave)


def entered_from(
  stage: sampling.Stage, state: list[jax.Array]
) -> sampling.Stage:
  """Enters a stage from given finished scales, whatever is finished then.

  Args:
    stage: of B images, perhaps guided: the stages of each half, too.
    state: the finished scales, coarse first.
  """

  def alone(stage):
    def enter(finished, normal):
      del finished
      return stage.enter(state, normal)

    return dataclasses.replace(stage, enter=enter)

  def halves(denoise):
    if isinstance(denoise, Guided):
      cond, null = alone(denoise.cond), alone(denoise.null)
      return dataclasses.replace(denoise, cond=cond, null=null)
    if isinstance(denoise, Unguided):
      return dataclasses.replace(denoise, cond=alone(denoise.cond))
    return denoise

  segments = tuple(
    dataclasses.replace(segment, denoise=halves(segment.denoise))
    for segment in stage.segments
  )
  return dataclasses.replace(alone(stage), segments=segments)


def pair(cond: Any, null: Any) -> Any:
  """Interleaves two trees of (B, ...) to (2B, ...): cond 0, null 0, cond 1, ...

  So a batch that is split over devices stays where it is.
  """

  def two(a, b):
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])

  return jax.tree.map(two, cond, null)


def unpair(both: Any) -> tuple[Any, Any]:
  """Takes a tree of (2B, ...) of `pair` apart."""

  def half(x, index):
    return x.reshape(x.shape[0] // 2, 2, *x.shape[1:])[:, index]

  return (
    jax.tree.map(lambda x: half(x, 0), both),
    jax.tree.map(lambda x: half(x, 1), both),
  )


def power_cosine(
  scale: jax.Array | np.ndarray | float, part: jax.Array, power: float
) -> jax.Array:
  """Returns the guidance scale at a part of the process's time.

  1 at the noisiest level, `scale` at the cleanest (NVlabs/DiffiT:
  diffit/diffit.py, after arXiv:2303.14389).

  Args:
    scale: at the cleanest level.
    part: t / T in [0, 1].
    power: how late the scale grows.
  """
  return 1.0 + (jnp.asarray(scale) - 1.0) * 0.5 * (
    1.0 - jnp.cos(jnp.pi * (1.0 - part) ** power)
  )


def _cut(levels: Levels, low: float, high: float) -> list[tuple[bool, Levels]]:
  """Cuts levels into runs of steps that begin inside or outside."""
  part = np.asarray(levels.part)[:-1]
  inside = (low <= part) & (part <= high)
  edges = [0, *(np.flatnonzero(np.diff(inside)) + 1), len(inside)]
  return [
    (bool(inside[a]), levels_lib.row(levels, slice(a, b + 1)))
    for a, b in itertools.pairwise(edges)
  ]
