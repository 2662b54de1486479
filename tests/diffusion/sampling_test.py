import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import guidance
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers


CHAIN = schedules.make_chain('linear', 1000, 0.0015, 0.0155)
SHAPE = (2, 4, 4, 3)


def stage(solver, steps, eps_of, shape=SHAPE):
  """A stage whose denoiser predicts eps_of(x, level)."""

  def denoise(x, level, context, first=True):
    del first
    return solvers.Prediction.from_eps(x, eps_of(x, level) + context, level)

  return sampling.Stage(
    spans=((solver.levels(CHAIN, steps), denoise),),
    enter=lambda state, normal: (normal(shape), 0.0),
    leave=lambda state, x, x0, context: [*state, x],
  )


def exact(x0):
  """The noise that a perfect denoiser sees when the data is x0 alone."""
  return lambda x, level: (x - level.alpha * x0) / level.sigma


@pytest.mark.parametrize('name', ['ddim', 'plms'])
@pytest.mark.parametrize('steps', [2, 10])
def test_exact_denoiser_leaves_the_noise_of_the_first_level(name, steps):
  x0 = jnp.linspace(-1, 1, 3) * jnp.ones(SHAPE)
  solver = solvers.create(name)
  noise = sampling.Noise.from_key(jax.random.key(0))
  run = jax.jit(
    lambda n: sampling.run([stage(solver, steps, exact(x0))], solver, n)
  )
  (x,) = run(noise)
  residue = np.sqrt(CHAIN.alphas_bar[0])
  np.testing.assert_allclose(x, residue * x0, atol=0.25)
  # The residue is the same noise at the level of the chain's first entry.
  eps = (x - residue * x0) / np.sqrt(1 - CHAIN.alphas_bar[0])
  begin = noise.start(0)(SHAPE)
  first = solver.levels(CHAIN, steps)
  expected = (begin - first.alpha[0] * x0) / first.sigma[0]
  np.testing.assert_allclose(eps, expected, atol=2e-3)


def test_ddpm_with_exact_denoiser_ends_at_the_data():
  x0 = jnp.full(SHAPE, 0.3)
  solver = solvers.create('ddpm')
  noise = sampling.Noise.from_key(jax.random.key(0))
  run = jax.jit(
    lambda n: sampling.run([stage(solver, 1000, exact(x0))], solver, n)
  )
  np.testing.assert_allclose(run(noise)[0], x0, atol=1e-4)


@pytest.mark.parametrize('name', ['ddim', 'ddpm'])
def test_stochastic_sampler_keeps_the_variance_of_gaussian_data(name):
  # For x0 ~ N(0, s^2) the best denoiser is linear, and samples have that s.
  s = 0.5
  solver = solvers.create(name, eta=1.0 if name == 'ddim' else 0.0)
  steps = 500 if name == 'ddim' else 1000

  def eps_of(x, level):
    return x * level.sigma / (level.alpha**2 * s**2 + level.sigma**2)

  run = jax.jit(
    lambda n: sampling.run(
      [stage(solver, steps, eps_of, (64, 16, 16, 1))], solver, n
    )
  )
  (x,) = run(sampling.Noise.from_key(jax.random.key(1)))
  expected = s if name == 'ddpm' else np.sqrt(0.9985 * s**2 + 0.0015)
  # The small posterior variance is a first-order rule: it loses a little.
  assert float(x.std()) == pytest.approx(expected, rel=0.03)


def test_published_eta_one_deviations():
  # Frido's printed sigmas at S=200: the noise added to a zero prediction.
  solver = solvers.DDIM(eta=1.0)
  levels = solver.levels(CHAIN, 200)
  zero = jnp.zeros((1,))
  for index, expected in [(199, 0.0274266), (99, 0.1806503), (0, 0.2731831)]:
    got = solvers.ddim_update(
      solvers.Prediction(x0=zero, eps=zero),
      solvers.row(levels, index),
      solvers.row(levels, index + 1),
      1.0,
      lambda: jnp.ones((1,)),
    )
    assert float(got[0]) == pytest.approx(expected, rel=2e-4)


def test_plms_equals_a_plain_numpy_loop():
  rng = np.random.default_rng(0)
  w = rng.normal(size=(3, 3)) * 0.3
  f = lambda x, t: np.tanh(x @ w) * np.cos(t / 300)
  times = schedules.uniform_timesteps(1000, 5)[::-1]
  a = CHAIN.alphas_bar[times]
  prev = np.append(a[1:], CHAIN.alphas_bar[0])
  x = begin = rng.normal(size=SHAPE)

  def move(x, e, i):
    x0 = (x - np.sqrt(1 - a[i]) * e) / np.sqrt(a[i])
    return np.sqrt(prev[i]) * x0 + np.sqrt(1 - prev[i]) * e

  past = []
  for i, t in enumerate(times):
    e = f(x, t)
    if i == 0:
      mixed = (e + f(move(x, e, 0), times[1])) / 2
    elif i == 1:
      mixed = (3 * e - past[-1]) / 2
    elif i == 2:
      mixed = (23 * e - 16 * past[-1] + 5 * past[-2]) / 12
    else:
      mixed = (55 * e - 59 * past[-1] + 37 * past[-2] - 9 * past[-3]) / 24
    x = move(x, mixed, i)
    past.append(e)

  solver = solvers.create('plms')
  eps_of = lambda x, level: jnp.tanh(x @ w) * jnp.cos(level.time / 300)
  with jax.default_matmul_precision('highest'):
    (got,), (steps,) = sampling.run(
      [stage(solver, 5, eps_of)],
      solver,
      sampling.Noise.recorded([jnp.asarray(begin, jnp.float32)]),
      trace=True,
    )
  np.testing.assert_allclose(got, x, rtol=2e-4, atol=2e-4)
  assert steps.x.shape == (5, *SHAPE)
  np.testing.assert_array_equal(steps.x[-1], got)


def test_program_does_not_grow_with_the_steps():
  solver = solvers.create('ddim', 1.0)

  def size(steps):
    s = stage(solver, steps, lambda x, level: jnp.sin(x) * level.time)
    run = functools.partial(sampling.run, [s], solver)
    noise = sampling.Noise.from_key(jax.random.key(0))
    return len(str(jax.make_jaxpr(run)(noise)).splitlines())

  assert size(10) == size(200)


def test_guidance_extrapolates_between_the_halves():
  solver = solvers.create('ddim')
  s = stage(solver, 2, lambda x, level: jnp.zeros_like(x), (4, 4, 4, 3))

  def enter(state, normal):
    halves = jnp.array([1.0, 1.0, 0.5, 0.5])[:, None, None, None]
    return normal((4, 4, 4, 3)), halves

  s = sampling.dataclasses.replace(s, enter=enter)
  guided = guidance.classifier_free(s, 3.0)
  x, context = guided.enter([], lambda shape: jnp.ones(shape))
  assert x.shape == SHAPE
  level = solvers.row(guided.spans[0][0], 0)
  prediction = guided.spans[0][1](x, level, context)
  np.testing.assert_allclose(prediction.eps, 0.5 + 3 * (1.0 - 0.5), rtol=1e-6)


def test_starting_late_and_stopping_early():
  solver = solvers.create('ddim')
  stages = [stage(solver, 2, exact(jnp.zeros(SHAPE))) for _ in range(3)]
  noise = sampling.Noise.from_key(jax.random.key(0))
  full = sampling.run(stages, solver, noise)
  assert len(sampling.run(stages, solver, noise, last=0)) == 1
  late = sampling.run(stages, solver, noise, start=full[:2], first=2)
  np.testing.assert_array_equal(late[2], full[2])
  with pytest.raises(ValueError, match='needs 1 finished scales, got 0'):
    sampling.run(stages, solver, noise, first=1)
  with pytest.raises(ValueError, match='allowed are 0..2'):
    sampling.run(stages, solver, noise, last=3)


def test_unknown_solver_and_eta_are_named():
  with pytest.raises(ValueError, match="'euler'.*ddim"):
    solvers.create('euler')
  with pytest.raises(ValueError, match='0.5'):
    solvers.create('plms', 0.5)
