"""Family `adm.guided`: sampling along the gradient of a classifier.

openai/guided-diffusion: guided_diffusion/gaussian_diffusion.py, the loops with
`cond_fn`, around analytic networks without weights.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion.guidance import classifier
from pyramid_jax.diffusion.solvers import base
from pyramid_jax.diffusion.solvers import ddim
from pyramid_jax.diffusion.solvers import ddpm
from pyramid_jax.systems.classifier import classifier as classifier_lib
from tests.parity import families
from tests.parity.families import adm
from tests.parity.families import chains


CLASSES = 4


def run(case: families.Case) -> dict[str, np.ndarray]:
  """Computes the states after every step of both loops.

  Raises:
    Unsupported: see `adm.build`.
  """
  config = dict(case.config)
  scale, eta = config.pop('classifier_scale'), config.pop('eta')
  process = adm.build({'kind': 'guided', **config})
  x_T = jnp.asarray(chains.nhwc(case.inputs['x_T']))
  steps = jnp.asarray(chains.nhwc(case.inputs['loop_noise']))
  labels = jnp.asarray(case.inputs['y']) + 1  # from 1
  variance = process.settings.variance

  def denoise(x, level, context, first):
    del context, first
    value = adm.analytic(x, level, variance)
    prediction = levels_lib.Prediction.of('eps', x, value, level)
    return prediction.clipped(x, level)

  def log_probability(x, level):
    logits = _logits(x, level.time)
    return -classifier_lib.cross_entropy(logits, labels)

  def sample(solver: base.Solver, name: str) -> Any:
    segment = sampling.Segment(levels=process.levels, denoise=denoise)
    stage = classifier.classifier_guided(
      sampling.Stage(
        segments=(segment,),
        enter=lambda state, normal: (normal(x_T.shape), None),
        leave=lambda state, x, x0, context: [*state, x],
      ),
      classifier.ClassifierGuidance(
        log_probability=log_probability,
        scale=scale,
        form=classifier.form_of(name),
      ),
    )
    noise = sampling.Noise.recorded([x_T], [steps])
    _, (trace,) = sampling.run([stage], solver, noise, trace=True)
    return trace.x

  found = {
    'p_sample_loop/x': jax.jit(
      lambda: sample(ddpm.DDPM(variance=variance), 'ddpm')
    )(),
    'ddim_sample_loop/x': jax.jit(lambda: sample(ddim.DDIM(eta=eta), 'ddim'))(),
  }
  return {name: chains.nchw(x) for name, x in found.items()}


def _logits(x: jax.Array, time: jax.Array) -> jax.Array:
  """Returns the (B, CLASSES) logits of the recorded classifier."""
  moved = jnp.cos(jnp.roll(x, 1, axis=2))
  rows = [
    (jnp.sin((1 + i) * x) * moved).mean((1, 2, 3)) for i in range(CLASSES)
  ]
  return jnp.stack(rows, axis=-1) * (2.0 - time / 1000)
