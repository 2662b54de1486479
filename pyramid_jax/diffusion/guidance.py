"""Classifier-free guidance, as a function from stage to stage."""

import dataclasses

import jax
import jax.numpy as jnp

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers


def double(x: jax.Array) -> jax.Array:
  """Returns (2B, ...): the batch, and the batch again."""
  return jnp.concatenate([x, x])


def classifier_free(stage: sampling.Stage, scale: float) -> sampling.Stage:
  """Guides a stage: e = e_null + scale (e_cond - e_null), one batched call.

  arXiv:2207.12598 in the convention of CompVis/latent-diffusion:
  ldm/models/diffusion/ddim.py (scale 1 is no guidance).

  Args:
    stage: built for 2B images, the condition in the first half of the batch
      and the null condition in the second.
    scale: the guidance scale.

  Returns:
    A stage of B images.
  """

  def enter(state, normal):
    def both(shape):
      return double(normal((shape[0] // 2, *shape[1:])))

    x, context = stage.enter([double(s) for s in state], both)
    return jnp.split(x, 2)[0], context

  def guided(denoise):
    def call(x, level, context, first=True):
      prediction = denoise(double(x), level, context, first)
      cond, null = jnp.split(prediction.eps, 2)
      return solvers.Prediction.from_eps(x, null + scale * (cond - null), level)

    return call

  spans = tuple((levels, guided(denoise)) for levels, denoise in stage.spans)
  return dataclasses.replace(stage, spans=spans, enter=enter)
