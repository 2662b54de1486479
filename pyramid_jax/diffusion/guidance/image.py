"""Guidance towards an image by the gradient of a distance of the estimate.

arXiv:2112.10752, appendix C: the clean state that a step estimates is decoded,
mapped to the space of the given image, such as by downsampling, and compared
with it. The negative distance is log p(y | x), whose gradient by the noisy
state goes through the network and is added to the score, as that of a
classifier (`guidance.classifier`). With the distance 1/2 ||y - T(D(x0))||^2
that is a Gaussian of variance 1.
"""

from collections.abc import Callable

import jax

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.guidance import classifier


Distance = Callable[[jax.Array], jax.Array]  # x0 (B, H, W, C) -> (B,)


def image_guided(
  stage: sampling.Stage, distance: Distance, scale: jax.Array | float
) -> sampling.Stage:
  """Guides every call of the denoiser of a stage without bands.

  Args:
    stage: what is guided.
    distance: of the estimate of the clean state from what is wanted.
    scale: the factor of the gradient, ().
  """

  def guided(denoise, x, level, first):
    def total(x):
      prediction = denoise(x, level, first)
      return distance(prediction.x0).sum(), prediction

    slope, prediction = jax.grad(total, has_aux=True)(x)
    return classifier.corrected(prediction, x, level, -scale * slope)

  return classifier.with_predictions(stage, guided)
