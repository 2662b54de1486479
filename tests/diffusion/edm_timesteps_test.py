import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.solvers import heun


DATA_STD = 0.5
SHAPE = (2, 4, 4, 1)
EDM = edm.EDM()


def clean(x, sigma):
  """The best denoiser of normal data: sampling it is a known scaling."""
  return x * DATA_STD**2 / (DATA_STD**2 + sigma**2)


def stage(levels, shape=SHAPE, seen=None):
  def denoise(x, level, context, first):
    del context, first
    sigma = level.sigma / level.alpha
    if seen is not None:
      jax.debug.callback(lambda s: seen.append(float(s)), sigma)
    x0 = clean(x / level.alpha, sigma)
    return Prediction.from_x0(x, x0, level)

  return sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (levels.initial_std * normal(shape), None),
    leave=lambda state, x, x0, context: [*state, x],
  )


def drawn(count, seed=0):
  keys = jax.random.split(jax.random.key(seed), count)
  return sampling.Noise.from_keys(keys)


def sample(grid, steps, noise=None, order=2, **options):
  levels = grid.levels(EDM, steps)
  s = stage(levels, **options)
  solver = solver_of(grid, order)
  run = functools.partial(sampling.run, [s], solver)
  count = options.get('shape', SHAPE)[0]
  (x,) = jax.jit(run)(noise or drawn(count))
  return np.asarray(x), levels


def solver_of(grid, order=2):
  churn = grid.churn.amount > 0
  return heun.Heun(order=order, alpha=grid.alpha, has_churn=churn)


def churn(amount, **options):
  return edm_timesteps.Churn(amount=amount, **options)


def test_printed_levels():
  grid = edm_timesteps.EdmTimesteps()
  levels = grid.levels(EDM, 18)
  want = [80, 57.5859847, 40.7855738, 28.3745846, 19.3524530, 12.9100824]
  want += [8.40093531, 5.31519452, 3.25682152, 1.92333984, 1.08817064]
  want += [0.585348123, 0.296442284, 0.139516469, 0.0599473112]
  want += [0.0229345184, 0.00752801996, 0.002, 0]
  np.testing.assert_allclose(levels.sigma, want, rtol=1e-7)
  assert levels.sigma.dtype == np.float32
  np.testing.assert_array_equal(levels.alpha, 1)
  sigma = grid.levels(EDM, 40).sigma
  printed = [80, 69.4509460, 60.1173948, 2.24043976, 0.00367658917, 0.002]
  np.testing.assert_allclose(sigma[[0, 1, 2, 20, 38, 39]], printed, rtol=1e-7)


@pytest.mark.parametrize(
  ('discretization', 'schedule', 'scaling'),
  [
    ('vp', 'vp', 'vp'),
    ('ve', 've', 'none'),
    ('iddpm', 'linear', 'none'),
    ('edm', 'linear', 'none'),
    ('edm', 'vp', 'none'),
    ('edm', 've', 'vp'),
    ('iddpm', 'vp', 'vp'),
    ('edm', 'linear', 'vp'),
  ],
)
def test_all_processes_lead_from_noise_to_data(
  discretization, schedule, scaling
):
  grid = edm_timesteps.EdmTimesteps(
    discretization=discretization, schedule=schedule, scaling=scaling
  )
  steps = 200
  noise = sampling.Noise.recorded([jnp.ones(SHAPE)])
  x, levels = sample(grid, steps, noise)
  # x over the deviation of the noisy data never changes.
  first = levels.sigma[0] / levels.alpha[0]
  want = first * DATA_STD / np.sqrt(DATA_STD**2 + first**2)
  np.testing.assert_allclose(x, want, rtol=0.02)


def error(grid, order, steps):
  """Relative error at the lowest level instead of at 0."""
  levels, solver = grid.levels(EDM, steps), solver_of(grid, order)
  noise = sampling.Noise.recorded([jnp.ones(SHAPE)])
  s = stage(levels)
  _, (trace,) = sampling.run([s], solver, noise, trace=True)
  first, last = (np.hypot(DATA_STD, levels.sigma[i]) for i in (0, -2))
  x = trace.x[-2].ravel()[0]
  return abs(float(x) / (float(levels.sigma[0]) * last / first) - 1)


@pytest.mark.parametrize(
  ('alpha', 'order'), [(1.0, 1), (1.0, 2), (0.5, 2), (0.7, 2)]
)
def test_order_of_convergence(alpha, order):
  grid = edm_timesteps.EdmTimesteps(alpha=alpha, sigma_min=0.1, sigma_max=5.0)
  coarse, fine = error(grid, order, 13), error(grid, order, 49)
  got = np.log(coarse / fine) / np.log(4)
  if alpha == 0.5:  # for these data its third order vanishes too
    assert got > 1.75
  else:
    assert got == pytest.approx(order, abs=0.25)


def test_churn_draws_from_the_sampler_and_keeps_the_distribution():
  shape = (16, 16, 16, 1)
  noisy = edm_timesteps.EdmTimesteps(churn=churn(100, low=0.05, high=50))
  x, levels = sample(noisy, 100, shape=shape)
  assert x.std() == pytest.approx(DATA_STD, rel=0.03)
  # 40 % of the level at most, only in its interval.
  sigma = levels.sigma[:-1]
  raised = levels.hat.sigma[:-1] / sigma
  inside = (sigma >= 0.05) & (sigma <= 50)
  np.testing.assert_allclose(raised, np.where(inside, np.sqrt(2), 1), rtol=1e-5)
  np.testing.assert_allclose(
    levels.noise[:-1], np.where(inside, sigma, 0), rtol=1e-5
  )
  other, _ = sample(noisy, 9, drawn(2, 1))
  again, _ = sample(noisy, 9, drawn(2, 1))
  np.testing.assert_array_equal(other, again)


def test_little_churn_is_spread_over_the_steps():
  grid = edm_timesteps.EdmTimesteps(churn=churn(2.0, noise=1.5))
  levels = grid.levels(EDM, 20)
  sigma = levels.sigma[:-1].astype(np.float64)
  np.testing.assert_allclose(levels.hat.sigma[:-1], 1.1 * sigma, rtol=1e-6)
  added = 1.5 * sigma * np.sqrt(1.1**2 - 1)
  np.testing.assert_allclose(levels.noise[:-1], added, rtol=1e-5)


def test_churn_in_a_scaled_process():
  """The scale follows the noise: a VP state of the churned level."""
  grid = edm_timesteps.EdmTimesteps(
    discretization='vp', schedule='vp', scaling='vp', churn=churn(5.0)
  )
  levels = grid.levels(EDM, 20)
  here, hat = levels.alpha[:-1], levels.hat.alpha[:-1]
  np.testing.assert_allclose(here**2 + levels.sigma[:-1] ** 2, 1, rtol=1e-6)
  np.testing.assert_allclose(levels.keep[:-1], hat / here, rtol=1e-6)
  variance = (levels.keep * levels.sigma)[:-1] ** 2 + levels.noise[:-1] ** 2
  np.testing.assert_allclose(variance, levels.hat.sigma[:-1] ** 2, rtol=1e-5)


@pytest.mark.parametrize(('order', 'expected'), [(2, 13), (1, 7)])
def test_number_of_network_calls(order, expected):
  seen = []
  grid = edm_timesteps.EdmTimesteps()
  _, levels = sample(grid, 7, order=order, seen=seen)
  jax.effects_barrier()
  assert len(seen) == expected
  assert min(seen) == pytest.approx(float(levels.sigma[-2]))  # never at 0


def test_levels_are_those_that_the_network_knows():
  precond = edm.IDDPM()
  grid = edm_timesteps.EdmTimesteps(churn=churn(4.0))
  levels = grid.levels(precond, 10)
  u = np.float32(precond.sigmas)
  assert np.isin(levels.sigma, u).all()
  assert np.isin(levels.hat.sigma[:-1], u).all()
  np.testing.assert_array_equal(
    levels.time[:-1], precond.c_noise(levels.sigma[:-1])
  )
  assert levels.time[-1] == levels.time[-2]
  grid = edm_timesteps.EdmTimesteps()
  ve = grid.levels(edm.VE(sigma_min=0.1, sigma_max=9.0), 10)
  np.testing.assert_allclose(ve.sigma[[0, 9]], [9, 0.1], rtol=1e-6)


def test_more_steps_than_levels_stand_still():
  precond = edm.IDDPM(length=20)
  grid = edm_timesteps.EdmTimesteps(discretization='iddpm', length=20)
  levels, solver = grid.levels(precond, 40), heun.Heun()
  assert (np.diff(levels.sigma[:-1]) == 0).any()
  noise = sampling.Noise.recorded([jnp.ones(SHAPE)])
  s = stage(levels)
  _, (trace,) = sampling.run([s], solver, noise, trace=True)
  still = np.flatnonzero(np.diff(levels.sigma[:-1]) == 0)
  still = still[still > 0]
  np.testing.assert_array_equal(trace.x[still], trace.x[still - 1])


def test_one_step_is_the_denoiser():
  x, levels = sample(edm_timesteps.EdmTimesteps(), 1)
  assert levels.sigma.tolist() == [80, 0]
  noise = drawn(2).start(0)(SHAPE)
  np.testing.assert_allclose(x, clean(80 * noise, 80.0), rtol=1e-4, atol=3e-5)


def test_guidance_in_an_interval():
  """Parts of the time are those of a cosine chain: 1/2 is where sigma is 1."""
  levels = edm_timesteps.EdmTimesteps().levels(EDM, 12)
  part = np.asarray(levels.part)
  assert part[-1] == 0
  np.testing.assert_array_equal(part[:-1] > 0.5, levels.sigma[:-1] > 1)

  def build(offsets, shape):
    def denoise(x, level, context, first=True):
      del first
      x0 = clean(x, level.sigma) + context
      return Prediction.from_x0(x, x0, level)

    return sampling.Stage(
      segments=(sampling.Segment(levels=levels, denoise=denoise),),
      enter=lambda state, normal: (levels.initial_std * normal(shape), offsets),
      leave=lambda state, x, x0, context: [*state, x],
    )

  one = jnp.ones((2, 1, 1, 1))
  guided = classifier_free.guided_stage(
    build, SHAPE, one, 0 * one, classifier_free.Guidance(3.0, (0.0, 0.5))
  )
  counts = [segment.steps for segment in guided.segments]
  high = int((levels.sigma[:-1] > 1).sum())
  assert counts == [high, 12 - high]
  noise, solver = drawn(2), solvers.create('euler')
  x = jax.jit(functools.partial(sampling.run, [guided], solver))(noise)[0]
  # By hand: the offset is 3 where sigma is at most 1.
  want = 80 * noise.start(0)(SHAPE)
  for now, after in zip(levels.sigma[:-1], levels.sigma[1:], strict=True):
    x0 = clean(want, now) + (3.0 if now <= 1 else 1.0)
    want = x0 + after / now * (want - x0)
  np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('name', ['ddim', 'ddpm', 'dpmpp_2m', 'unipc', 'plms'])
@pytest.mark.parametrize('spacing', ['edm', 'log_snr'])
def test_solvers_of_chains_walk_continuous_levels(name, spacing):
  grid = edm_timesteps.EdmTimesteps(discretization=spacing)
  levels = grid.levels(EDM, 100)
  s = stage(levels, (16, 16, 16, 1))
  (x,) = sampling.run([s], solvers.create(name), drawn(16))
  assert x.std() == pytest.approx(DATA_STD, rel=0.08)


def test_image_to_image_begins_at_its_level():
  levels = edm_timesteps.EdmTimesteps().levels(EDM, 10)
  z0 = jax.random.normal(jax.random.key(4), SHAPE)
  edited = editing.from_image(stage(levels), z0, 0.5)
  (last,) = edited.segments
  np.testing.assert_array_equal(last.levels.sigma, levels.sigma[5:])
  x, _ = edited.enter([], lambda shape: jnp.ones(shape))
  np.testing.assert_allclose(x, z0 + levels.sigma[5], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'discretization': 'ddpm'}, "discretization 'ddpm' is not one of"),
    ({'schedule': 'cosine'}, "schedule 'cosine' is not one of"),
    ({'scaling': 've'}, "scaling 've' is not one of"),
    ({'alpha': 0}, 'alpha is 0, must be above 0'),
    ({'rho': -1}, 'rho is -1, must be above 0'),
    ({'epsilon_s': 1}, 'epsilon_s is 1, must be between 0 and 1'),
    ({'sigma_min': 90}, 'from sigma 90 to 80.0: must rise'),
    ({'sigma_min': -1.0}, 'from sigma 0.0 to .*: must rise from above 0'),
    ({'alpha': 1.5}, 'alpha is 1.5: a second call would lie below'),
    (
      {'discretization': 'iddpm', 'length': 5, 'sigma_max': 0.003},
      'none of the 5 levels of iddpm lies in sigma 0.002..0.003',
    ),
  ],
)
def test_bad_input_is_told(options, message):
  with pytest.raises(ValueError, match=message) as told:
    edm_timesteps.EdmTimesteps(**options).levels(EDM, 18)
  assert '\n' not in str(told.value)


def test_values_out_of_range_are_named():
  grid = edm_timesteps.EdmTimesteps()
  with pytest.raises(ValueError, match='steps 0 must be at least 1'):
    grid.levels(EDM, 0)
  with pytest.raises(ValueError, match=r'within 0.02..100.0 of the network'):
    edm_timesteps.EdmTimesteps(sigma_max=0.01).levels(edm.VE(), 18)
  with pytest.raises(ValueError, match='churn amount is -1, must be at least'):
    churn(-1)
  with pytest.raises(ValueError, match='churn noise is -1, must be at least'):
    churn(1, noise=-1)
  with pytest.raises(ValueError, match=r'order is 3, must be 1 .* or 2'):
    heun.Heun(order=3)
