import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.levels import row
from pyramid_jax.diffusion.solvers import ddim


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0155)
SHAPE = (2, 4, 4, 3)


def levels_of(name, steps):
  return timesteps.spaced_levels(CHAIN, steps, solvers.SPACINGS[name])


def drawn(count=SHAPE[0], seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  return sampling.Noise.from_keys(keys)


def stage(name, steps, eps_of, shape=SHAPE):
  """A stage whose denoiser predicts eps_of(x, level)."""

  def denoise(x, level, context, first=True):
    del first
    return Prediction.from_eps(x, eps_of(x, level) + context, level)

  return sampling.Stage(
    segments=(
      sampling.Segment(levels=levels_of(name, steps), denoise=denoise),
    ),
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
  noise = drawn()
  run = jax.jit(
    lambda n: sampling.run([stage(name, steps, exact(x0))], solver, n)
  )
  (x,) = run(noise)
  residue = np.sqrt(CHAIN.alphas_bar[0])
  np.testing.assert_allclose(x, residue * x0, atol=0.25)
  # The residue is the same noise at the level of the chain's first entry.
  eps = (x - residue * x0) / np.sqrt(1 - CHAIN.alphas_bar[0])
  begin = noise.start(0)(SHAPE)
  first = levels_of(name, steps)
  expected = (begin - first.alpha[0] * x0) / first.sigma[0]
  np.testing.assert_allclose(eps, expected, atol=2e-3)


def test_ddpm_with_exact_denoiser_ends_at_the_data():
  x0 = jnp.full(SHAPE, 0.3)
  solver = solvers.create('ddpm')
  noise = drawn()
  run = jax.jit(
    lambda n: sampling.run([stage('ddpm', 1000, exact(x0))], solver, n)
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
      [stage(name, steps, eps_of, (64, 16, 16, 1))], solver, n
    )
  )
  (x,) = run(drawn(64, 1))
  expected = s if name == 'ddpm' else np.sqrt(0.9985 * s**2 + 0.0015)
  # The small posterior variance is a first-order rule: it loses a little.
  assert float(x.std()) == pytest.approx(expected, rel=0.03)


def test_published_eta_one_deviations():
  # Frido's printed sigmas at S=200: the noise added to a zero prediction.
  levels = levels_of('ddim', 200)
  zero = jnp.zeros((1,))
  nothing = Prediction(x0=zero, eps=zero)
  for index, expected in [(199, 0.0274266), (99, 0.1806503), (0, 0.2731831)]:
    carry = ddim.DDIM(eta=1.0).step(
      ddim.base.Carry(x=zero, prediction=nothing),
      ddim.base.StepInputs(
        lambda x, level, first: nothing,
        row(levels, index),
        row(levels, index + 1),
        lambda: jnp.ones((1,)),
      ),
    )
    assert float(carry.x[0]) == pytest.approx(expected, rel=2e-4)


def test_plms_equals_a_plain_numpy_loop():
  rng = np.random.default_rng(0)
  w = rng.normal(size=(3, 3)) * 0.3
  f = lambda x, t: np.tanh(x @ w) * np.cos(t / 300)
  times = timesteps.uniform_timesteps(1000, 5)[::-1]
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
      [stage('plms', 5, eps_of)],
      solver,
      sampling.Noise.recorded([jnp.asarray(begin, jnp.float32)]),
      trace=True,
    )
  np.testing.assert_allclose(got, x, rtol=2e-4, atol=2e-4)
  assert steps.x.shape == (5, *SHAPE)
  np.testing.assert_array_equal(steps.x[-1], got)


def test_program_does_not_grow_with_the_steps():
  solver = solvers.create('ddim', eta=1.0)

  def size(steps):
    s = stage('ddim', steps, lambda x, level: jnp.sin(x) * level.time)
    run = functools.partial(sampling.run, [s], solver)
    noise = drawn()
    return len(str(jax.make_jaxpr(run)(noise)).splitlines())

  assert size(10) == size(200)


def test_an_image_depends_on_its_key_alone():
  solver = solvers.create('ddim', eta=1.0)
  eps_of = lambda x, level: jnp.tanh(x) * level.time / 1000

  def sample(keys):
    s = stage('ddim', 5, eps_of, (len(keys), *SHAPE[1:]))
    return sampling.run([s], solver, sampling.Noise.from_keys(keys))[0]

  keys = jax.random.split(jax.random.key(7), 5)
  whole = sample(keys)
  np.testing.assert_allclose(sample(keys[3:4])[0], whole[3], rtol=1e-6)
  np.testing.assert_allclose(sample(keys[::-1])[4], whole[0], rtol=1e-6)
  assert np.abs(whole[0] - whole[1]).max() > 0.1
  with pytest.raises(ValueError, match=r'shape \(2, 4, 4, 3\) from 5 keys'):
    sampling.run([stage('ddim', 5, eps_of)], solver, sampling.Noise(keys=keys))


def test_starting_late_and_stopping_early():
  solver = solvers.create('ddim')
  stages = [stage('ddim', 2, exact(jnp.zeros(SHAPE))) for _ in range(3)]
  noise = drawn()
  full = sampling.run(stages, solver, noise)
  assert len(sampling.run(stages, solver, noise, last=0)) == 1
  late = sampling.run(stages, solver, noise, start=full[:2])
  np.testing.assert_array_equal(late[2], full[2])
  with pytest.raises(ValueError, match='last stage is 0, .* 1..2 with 1 fin'):
    sampling.run(stages, solver, noise, start=full[:1], last=0)
  with pytest.raises(ValueError, match='allowed are 0..2'):
    sampling.run(stages, solver, noise, last=3)


def test_unknown_solver_and_eta_are_named():
  with pytest.raises(ValueError, match="'dpm3'.*ddim"):
    solvers.create('dpm3')
  with pytest.raises(ValueError, match='0.5'):
    solvers.create('plms', eta=0.5)
