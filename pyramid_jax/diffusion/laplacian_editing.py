"""Starting Laplacian diffusion from an image instead of from noise."""

import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.guidance import classifier_free


def edited(
  stages: list[sampling.Stage],
  cleans: list[jax.Array],
  mask: jax.Array | None = None,
  strength: float = 1.0,
) -> list[sampling.Stage]:
  """Image to image, masked sampling, or both, over all stages.

  The image is noised to the level where the last strength of all steps begin,
  which is exact in any stage; stages before it are left out.

  Args:
    stages: coarse to fine, of B images.
    cleans: the image at the resolution of each stage.
    mask: (B, H, W), not 0 where it is made up; None: all of it may change.
    strength: in (0, 1], the share of the steps that are taken.

  Raises:
    ValueError: a strength out of range, or without a step.
  """
  if strength < 1 or mask is None:
    stages, cleans = _begun(stages, cleans, strength)
  if mask is None:
    return stages
  return [
    editing.edited(stage, clean, mask)
    for stage, clean in zip(stages, cleans, strict=True)
  ]


def _begun(
  stages: list[sampling.Stage], cleans: list[jax.Array], strength: float
) -> tuple[list[sampling.Stage], list[jax.Array]]:
  """Leaves out what comes before the last steps."""
  counts = [stage.steps for stage in stages]
  kept = editing.steps_of(strength, sum(counts))
  while kept <= sum(counts[1:]):
    stages, cleans, counts = stages[1:], cleans[1:], counts[1:]
  part = (kept - sum(counts[1:])) / counts[0]
  first = editing.from_image(_entering(stages[0], cleans[0]), cleans[0], part)
  return [first, *stages[1:]], cleans


def _entering(stage: sampling.Stage, clean: jax.Array) -> sampling.Stage:
  """Lets a stage be entered with noise alone, whichever it is.

  It finds the clean image itself as what the stage before made.
  """

  _, height, width, _ = clean.shape
  small = laplacian.down(clean[:, : height // 2 * 2, : width // 2 * 2])
  before = jnp.concatenate([jnp.zeros_like(small), small], axis=-1)
  stage = classifier_free.entered_from(stage, [before])

  def enter(state, normal):
    _, context = stage.enter(state, normal)
    return stage.initial_std * normal(clean.shape), context

  return dataclasses.replace(stage, enter=enter)
