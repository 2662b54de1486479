"""Classifier-free guidance: two conditions in one batched call."""

from collections.abc import Callable
import dataclasses
import itertools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax import placement
from pyramid_jax.diffusion import checks
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling


Levels = levels_lib.Levels
Prediction = levels_lib.Prediction
Shape = tuple[int, int, int, int]


@flax.struct.dataclass
class Guidance:
  """How predictions with a condition and without are combined.

  e = e_null + scale (e_cond - e_null): arXiv:2207.12598 in the convention of
  CompVis/latent-diffusion: ldm/models/diffusion/ddim.py, where a scale of 1
  is no guidance. Where None stands for a `Guidance`, no half for the null
  condition is built.

  Attributes:
    scale: the guidance scale, (), or one of each stage, coarse to fine. It is
      traced: another one needs no new compilation.
    interval: (from, to), both included, parts of the process's time in [0, 1]:
      the scale acts in steps that begin there (arXiv:2404.07724).
    channels: how many of the noise's channels are guided; None is all. DiT
      guides 3 of a latent's 4.
    power: the power of the power-cosine schedule, which lets the scale grow
      from 1 to `scale` as the noise falls (`power_cosine`); None is a constant
      scale.
  """

  scale: jax.Array | np.ndarray | float
  interval: tuple[float, float] = levels_lib.static((0.0, 1.0))
  channels: int | None = levels_lib.static(None)
  power: float | None = levels_lib.static(None)

  def __post_init__(self):
    channels, power = self.channels, self.power
    ok = channels is None or channels >= 1
    checks.check('guidance channels', channels, ok, 'at least 1')
    ok = power is None or power > 0
    checks.check('guidance power', power, ok, 'above 0')

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
  """The denoiser of a segment of a guided stage.

  Attributes:
    guidance: how both predictions are combined; None outside its interval,
      where the denoiser of `cond` alone is called.
    both: the denoiser of 2B images.
    cond: the stage of B images with the condition alone.
    null: the stage of B images with the null condition alone.
    index: the index of the segment of `cond` and `null` with the same steps.
  """

  guidance: Guidance | None
  both: sampling.Denoiser
  cond: sampling.Stage
  null: sampling.Stage
  index: int

  def __call__(
    self, x: jax.Array, level: Levels, context: Any, first: bool = True
  ) -> Prediction:
    if self.guidance is None:
      denoise = self.cond.segments[self.index].denoise
      return denoise(x, level, context[1], first)
    predictions = self.both(pair(x, x), level, context[0], first)
    return self.guidance.combine(*unpair(predictions), level)


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
    shape: (B, h, w, C) of the state.
    cond: the condition of B images.
    null: the null condition; None without one.
    guidance: the guidance of this stage; None without any.
  """
  alone = build(cond, shape)
  if guidance is None or null is None:
    return alone
  both = build(pair(cond, null), (2 * shape[0], *shape[1:]))
  null_stage = build(null, shape)
  cuts = [_cut(s.levels, *guidance.interval) for s in both.segments]
  everywhere = all(inside for cut in cuts for inside, _ in cut)
  segments = tuple(
    sampling.Segment(
      levels=levels,
      denoise=Guided(
        guidance if inside else None, segment.denoise, alone, null_stage, index
      ),
    )
    for index, segment in enumerate(both.segments)
    for inside, levels in cuts[index]
  )

  def enter(state, normal):
    def twice(shape):
      noise = normal((shape[0] // 2, *shape[1:]))
      return pair(noise, noise)

    x, context = both.enter([pair(s, s) for s in state], twice)
    unguided = None if everywhere else alone.enter(state, normal)[1]
    return unpair(x)[0], (context, unguided)

  def leave(state, x, x0, context):
    return both.leave(state, x, x0, context[0])

  return sampling.Stage(segments=segments, enter=enter, leave=leave)


def entered_from(
  stage: sampling.Stage, state: list[jax.Array]
) -> sampling.Stage:
  """Enters a stage, and the halves of a guided one, from given scales."""

  def entered(stage):
    enter = lambda finished, normal: stage.enter(state, normal)
    return dataclasses.replace(stage, enter=enter)

  segments = []
  for segment in stage.segments:
    denoise = segment.denoise
    if isinstance(denoise, Guided):
      cond, null = entered(denoise.cond), entered(denoise.null)
      denoise = dataclasses.replace(denoise, cond=cond, null=null)
    segments.append(dataclasses.replace(segment, denoise=denoise))
  return dataclasses.replace(entered(stage), segments=tuple(segments))


def pair(cond: Any, null: Any) -> Any:
  """Interleaves two trees of (B, ...) to (2B, ...): cond 0, null 0, cond 1, ...

  So a batch that is split over devices stays where it is.
  """

  def two(a, b):
    return jnp.stack([a, b], axis=1).reshape(2 * a.shape[0], *a.shape[1:])

  return placement.rows(jax.tree.map(two, cond, null))


def unpair(both: Any) -> tuple[Any, Any]:
  """Takes a tree of (2B, ...) of `pair` apart."""
  halves = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), both)
  half = lambda index: jax.tree.map(lambda x: x[:, index], halves)
  return half(0), half(1)


def power_cosine(
  scale: jax.Array | np.ndarray | float, part: jax.Array, power: float
) -> jax.Array:
  """Returns the guidance scale at a part t / T of the process's time.

  It grows from 1 at the noisiest level to `scale` at the cleanest, the later
  the higher the power (NVlabs/DiffiT: diffit/diffit.py, after
  arXiv:2303.14389).
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
