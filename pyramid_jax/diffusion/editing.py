"""Starting from an image instead of from noise, as functions of stages.

They wrap whole stages: classifier-free guidance and windows come first, sketch
guidance comes after.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from pyramid_jax import errors
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.guidance import classifier_free
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
    mask: (B, H, W) on the image's own grid, not 0 where the image is made up;
      None for everywhere. A place is made up if any of its pixels is.
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


def edited_stages(
  stages: Sequence[sampling.Stage],
  cleans: Sequence[jax.Array],
  mask: jax.Array | None = None,
  strength: float = 1.0,
) -> list[sampling.Stage]:
  """Edits an image over all stages of Laplacian diffusion, see `edited`.

  `cleans` are the image at the resolution of each stage, coarse to fine, and
  the strength is the share of the steps of all stages. The image is noised to
  the level where the first of them begins, which is exact in any stage; stages
  before it are left out.
  """
  stages, cleans = list(stages), list(cleans)
  if strength < 1 or mask is None:
    counts = [stage.steps for stage in stages]
    kept = _steps_of(strength, sum(counts))
    while kept <= sum(counts[1:]):
      stages, cleans, counts = stages[1:], cleans[1:], counts[1:]
    part = (kept - sum(counts[1:])) / counts[0]
    stages[0] = from_image(_entering(stages[0], cleans[0]), cleans[0], part)
  if mask is None:
    return stages
  return [edited(s, z, mask) for s, z in zip(stages, cleans, strict=True)]


def _entering(stage: sampling.Stage, clean: jax.Array) -> sampling.Stage:
  """Lets a stage of Laplacian diffusion be entered with noise alone.

  As what the stage before made, it finds the clean image.
  """
  _, height, width, _ = clean.shape
  small = laplacian.down(clean[:, : height // 2 * 2, : width // 2 * 2])
  before = jnp.concatenate([jnp.zeros_like(small), small], axis=-1)
  stage = classifier_free.entered_from(stage, [before])

  def enter(state, normal):
    _, context = stage.enter(state, normal)
    return stage.segments[0].levels.initial_std * normal(clean.shape), context

  return dataclasses.replace(stage, enter=enter)


def from_image(
  stage: sampling.Stage, z0: jax.Array, strength: float
) -> sampling.Stage:
  """Image to image (arXiv:2108.01073): noises z0 and denoises it again.

  Of S steps the last int(strength * S) are taken; z0 (B, H, W, C) is noised to
  the level where they begin, with the stage's initial noise. A strength of 1
  keeps least of z0.

  Raises:
    ValueError: a strength out of (0, 1], or without a step.
  """
  skipped = stage.steps - _steps_of(strength, stage.steps)
  segments = stage.part(skipped, stage.steps)
  level = levels_lib.row(segments[0].levels, 0)

  def enter(state, normal):
    noise, context = stage.enter(state, normal)
    _check_shape('image', z0, noise)
    return level.noised(z0, noise / level.initial_std), context

  return dataclasses.replace(stage, segments=segments, enter=enter)


def _steps_of(strength: float, total: int) -> int:
  """Returns how many of `total` steps a strength leaves."""
  if not 0 < strength <= 1:
    raise ValueError(f'strength {strength} must lie in (0, 1]')
  count = int(round(strength * total, 6))  # 0.29 * 100 is 29
  if count < 1:
    raise errors.UserError(
      f'strength {strength} of {total} steps leaves none; at least'
      f' {1 / total:.3g} is needed'
    )
  return count


def masked(
  stage: sampling.Stage, z0: jax.Array, mask: jax.Array
) -> sampling.Stage:
  """Makes up what a mask does not keep; the rest is noised again in each step.

  Matches CompVis/latent-diffusion: ldm/models/diffusion/{ddim,plms}.py.

  Args:
    stage: of B images.
    z0: (B, H, W, C) the known state, scaled as the stage's.
    mask: (B or 1, H, W, 1), 1 where z0 is kept, 0 where it is made up.
  """
  if mask.shape[1:] != (*z0.shape[1:3], 1):
    raise ValueError(
      f'the mask has shape {mask.shape}, needed is {(*z0.shape[:3], 1)}'
    )

  def around(step: solver_lib.Step, context: Any) -> solver_lib.Step:
    del context

    def known_again(carry, at):
      _check_shape('known state', z0, carry.x)
      if not at.noise.has_known:
        raise ValueError('a mask needs recorded noise of what it keeps')
      known = at.level.noised(z0, at.noise.known())
      x = mask * known + (1.0 - mask) * carry.x
      return step(carry.replace(x=x), at)

    return known_again

  segments = tuple(
    dataclasses.replace(segment, around=(*segment.around, around))
    for segment in stage.segments
  )
  return dataclasses.replace(stage, segments=segments)


def _check_shape(name: str, z0: jax.Array, x: jax.Array) -> None:
  if z0.shape != x.shape:
    raise ValueError(f'the {name} has shape {z0.shape}, needed is {x.shape}')
