import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier


CHAIN = schedules.make_chain('linear', 100, 1e-3, 0.2)
STEPS, SHAPE = 10, (2, 3, 3, 1)
X = jax.random.normal(jax.random.key(0), SHAPE)
A = jax.random.normal(jax.random.key(1), SHAPE)  # gradient of log p


def log_probability(x, level):
  return (A * x).sum((1, 2, 3)) * (0.5 + level.time / 100)


def denoise(x, level, context=None, first=True):
  """Data of the standard normal distribution: eps = sigma x."""
  del context, first
  return levels_lib.Prediction.from_eps(x, level.sigma * x, level)


def guidance(form, scale=0.7):
  return classifier.ClassifierGuidance(
    log_probability=log_probability, scale=scale, form=form
  )


def sampled(name, guided, spacing='', **options):
  spacing = spacing or solvers.SPACINGS[name]
  levels = timesteps.spaced_levels(CHAIN, STEPS, spacing)
  stage = sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (normal(SHAPE), None),
    leave=lambda state, x, x0, context: [*state, x],
  )
  if guided is not None:
    stage = classifier.classifier_guided(stage, guided)
  steps = jax.random.normal(jax.random.key(2), (STEPS, *SHAPE))
  noise = sampling.Noise.recorded([X], [steps])
  solver = solvers.create(name, **options)
  _, (trace,) = sampling.run([stage], solver, noise, trace=True)
  return levels, trace.x


def test_the_score_moves_by_the_gradient():
  level = levels_lib.row(timesteps.spaced_levels(CHAIN, 5, 'exact'), 1)
  plain = denoise(X, level)
  found = guidance('score').of(plain, X, level)
  moved = 0.7 * A * (0.5 + level.time / 100)
  score = lambda p: -p.eps / level.sigma
  np.testing.assert_allclose(score(found), score(plain) + moved, rtol=1e-5)
  again = level.alpha * found.x0 + level.sigma * found.eps
  np.testing.assert_allclose(again, X, rtol=1e-5, atol=1e-5)
  assert found.gradient is None


@pytest.mark.parametrize('variance', ['fixed_small', 'fixed_large'])
def test_the_mean_of_a_step_moves_by_its_variance_times_the_gradient(variance):
  levels, plain = sampled('ddpm', None, variance=variance)
  _, found = sampled('ddpm', guidance('mean'), variance=variance)
  first = levels_lib.row(levels, 0)
  log = first.log_variance if variance == 'fixed_small' else first.log_beta
  moved = np.exp(log) * 0.7 * A * (0.5 + first.time / 100)
  np.testing.assert_allclose(found[0] - plain[0], moved, rtol=1e-4, atol=1e-6)


def test_the_last_step_of_the_posterior_has_no_variance_to_move_it():
  """Without noise the end is the clean prediction, which is not guided."""
  levels, found = sampled('ddpm', guidance('mean'), 'iddpm')
  last = levels_lib.row(levels, STEPS - 1)
  np.testing.assert_allclose(
    found[-1], denoise(found[-2], last).x0, rtol=1e-4, atol=1e-5
  )


@pytest.mark.parametrize('name', ['heun', 'dpmpp_2m', 'plms', 'unipc'])
def test_every_solver_goes_along_the_gradient(name):
  """A linear log p moves a normal distribution along its slope."""
  _, plain = sampled(name, None)
  _, zero = sampled(name, guidance('score', 0.0))
  np.testing.assert_allclose(zero, plain, rtol=1e-5, atol=1e-5)
  _, found = sampled(name, guidance('score'))
  along = (A * (found[-1] - plain[-1])).sum((1, 2, 3))
  assert (along > 0.1).all()


def test_forms_of_solvers():
  forms = {name: classifier.form_of(name) for name in solvers.SOLVERS}
  assert forms.pop('ddpm') == 'mean'
  assert set(forms.values()) == {'score'}
  with pytest.raises(ValueError, match="'noise'"):
    guidance('noise')


def test_the_scale_is_traced():
  level = levels_lib.row(timesteps.spaced_levels(CHAIN, 5, 'exact'), 1)
  count = 0

  @jax.jit
  def eps(scale):
    nonlocal count
    count += 1
    return guidance('score', scale).of(denoise(X, level), X, level).eps

  one, two = eps(jnp.float32(1.0)), eps(jnp.float32(2.0))
  assert count == 1
  plain = denoise(X, level).eps
  np.testing.assert_allclose(two - plain, 2 * (one - plain), rtol=1e-4)
