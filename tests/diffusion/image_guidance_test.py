"""Guidance towards an image, by hand and through every solver."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import image


CHAIN = schedules.make_chain('linear', 100, 1e-3, 0.2)
STEPS, SHAPE = 10, (2, 3, 3, 1)
X = jax.random.normal(jax.random.key(0), SHAPE)
WANTED = jax.random.normal(jax.random.key(1), SHAPE)


def denoise(x, level, context=None, first=True):
  """Data of the standard normal distribution: eps = sigma x, x0 = alpha x."""
  del context, first
  return levels_lib.Prediction.from_eps(x, level.sigma * x, level)


def distance(x0):
  return 0.5 * jnp.square(x0 - WANTED).sum((1, 2, 3))


def sampled(name, scale):
  levels = timesteps.spaced_levels(CHAIN, STEPS, solvers.SPACINGS[name])
  stage = sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (normal(SHAPE), None),
    leave=lambda state, x, x0, context: [*state, x],
  )
  stage = image.image_guided(stage, distance, scale)
  steps = jax.random.normal(jax.random.key(2), (STEPS, *SHAPE))
  noise = sampling.Noise.recorded([X], [steps])
  _, (trace,) = sampling.run([stage], solvers.create(name), noise, trace=True)
  return levels, trace


def test_the_first_step_by_hand():
  """The slope of the distance goes through the estimate x0 = alpha x."""
  levels, trace = sampled('ddim', 0.3)
  first, second = (levels_lib.row(levels, i) for i in (0, 1))
  slope = first.alpha * (first.alpha * X - WANTED)
  eps = first.sigma * X + first.sigma * 0.3 * slope
  x0 = (X - first.sigma * eps) / first.alpha
  want = second.alpha * x0 + second.sigma * eps
  np.testing.assert_allclose(trace.x[0], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', ['ddim', 'dpmpp_2m', 'plms'])
def test_samples_come_nearer_to_the_image(name):
  far = distance(sampled(name, 0.0)[1].x[-1])
  near = distance(sampled(name, 1.0)[1].x[-1])
  assert (near < 0.8 * far).all()
