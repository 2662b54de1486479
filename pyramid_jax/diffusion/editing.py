"""Starting from an image instead of from noise, as functions of a stage.

They wrap a whole stage: classifier-free guidance and windows come first,
sketch guidance comes after.
"""

import dataclasses
from typing import Any

import jax

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.solvers import base as solver_lib


def edited(
  stage: sampling.Stage,
  z0: jax.Array,
  mask: jax.Array | None = None,
  strength: float = 1.0,
) -> sampling.Stage:
  """Begins with an image: image to image, masked sampling, or both.

  Args:
    stage: of B images.
    z0: (B, h, w, C) the image's state, scaled as the stage's.
    mask: (B, H, W) on the image's own grid, not 0 where it is made up;
      None: all of it may change. A place of the state is free if any of its
      pixels is.
    strength: in (0, 1], see `from_image`.
  """
  if strength < 1 or mask is None:
    stage = from_image(stage, z0, strength)
  if mask is None:
    return stage
  b, height, width, _ = z0.shape
  hole = (mask != 0).reshape(b, height, mask.shape[1] // height, width, -1)
  keep = 1.0 - hole.any((2, 4))[..., None].astype(z0.dtype)
  return masked(stage, z0, keep)


def from_image(
  stage: sampling.Stage, z0: jax.Array, strength: float
) -> sampling.Stage:
  """Image to image (arXiv:2108.01073): noises z0 and denoises it again.

  Of S steps the last int(strength * S) are taken; z0 is noised to the level
  where they begin, with the stage's initial noise.

  Args:
    stage: of B images.
    z0: (B, H, W, C) the clean state, scaled as the stage's.
    strength: in (0, 1], the share of the steps; 1 keeps least of z0.

  Raises:
    ValueError: a strength out of range, or without a step.
  """
  segments = _last_steps(stage.segments, steps_of(strength, stage.steps))
  level = levels_lib.row(segments[0].levels, 0)

  def enter(state, normal):
    noise, context = stage.enter(state, normal)
    _same_shape('image', z0, noise)
    noise = noise / stage.initial_std
    return level.noised(z0, noise), context

  return dataclasses.replace(stage, segments=segments, enter=enter)


def steps_of(strength: float, total: int) -> int:
  """Returns how many of so many steps a strength leaves.

  Raises:
    ValueError: a strength out of range, or without a step.
  """
  if not 0 < strength <= 1:
    raise ValueError(f'strength {strength} must lie in (0, 1]')
  count = int(round(strength * total, 6))  # 0.29 * 100 is 29
  if count < 1:
    raise ValueError(
      f'strength {strength} of {total} steps leaves none; at least'
      f' {1 / total:.3g} is needed'
    )
  return count


def _last_steps(
  segments: tuple[sampling.Segment, ...], count: int
) -> tuple[sampling.Segment, ...]:
  """Returns the last `count` steps."""
  kept: list[sampling.Segment] = []
  for segment in reversed(segments):
    taken = min(count, segment.steps)
    if taken:
      kept.insert(0, segment.part(segment.steps - taken, segment.steps))
    count -= taken
  return tuple(kept)


def masked(
  stage: sampling.Stage,
  z0: jax.Array,
  mask: jax.Array,
  *,
  composite: bool = False,
) -> sampling.Stage:
  """Fills in what a mask leaves free, by noising the rest anew at each step.

  Matches CompVis/latent-diffusion: ldm/models/diffusion/{ddim,plms}.py.

  Args:
    stage: of B images.
    z0: (B, H, W, C) the known state, scaled as the stage's.
    mask: (B or 1, H, W, 1), 1 where z0 is kept, 0 where it is made up.
    composite: also put z0 into the result, which otherwise has been denoised
      once more.

  Raises:
    ValueError: a mask of another size.
  """
  if mask.shape[1:] != (*z0.shape[1:3], 1):
    raise ValueError(
      f'the mask has shape {mask.shape}, needed is {(*z0.shape[:3], 1)}'
    )

  def keep(known: jax.Array, x: jax.Array) -> jax.Array:
    return mask * known + (1.0 - mask) * x

  def around(step: solver_lib.Step, context: Any) -> solver_lib.Step:
    del context

    def known_again(carry, denoise, level, next_level, noise):
      _same_shape('known state', z0, carry.x)
      if not noise.has_known:
        raise ValueError('a mask needs recorded noise of what it keeps')
      x = keep(level.noised(z0, noise.known()), carry.x)
      return step(carry.replace(x=x), denoise, level, next_level, noise)

    return known_again

  segments = tuple(
    dataclasses.replace(segment, around=(*segment.around, around))
    for segment in stage.segments
  )

  def leave(state, x, x0, context):
    return stage.leave(state, keep(z0, x) if composite else x, x0, context)

  return dataclasses.replace(stage, segments=segments, leave=leave)


def _same_shape(name: str, z0: jax.Array, x: jax.Array) -> None:
  if z0.shape != x.shape:
    raise ValueError(f'the {name} has shape {z0.shape}, needed is {x.shape}')
