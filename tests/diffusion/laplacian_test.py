import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import laplacian
from pyramid_jax.diffusion import laplacian_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion.levels import Prediction
from tests.helpers import gaussian_bands


PROCESS = laplacian.Process(
  3, (1.2, 5.0), 'quad', (0.06, 0.10, 0.45), 0.002, 80.0
)
SMOOTH = tuple(s for s in laplacian.SCHEDULES if s != 'hard')


def make(**changes):
  fields = {
    'levels': 3,
    'switch_sigmas': (1.2, 5.0),
    'schedule': 'quad',
    'band_rms': (0.06, 0.10, 0.45),
    'sigma_min': 0.002,
    'sigma_max': 80.0,
  }
  return laplacian.Process(**(fields | changes))


def images(shape=(2, 16, 8, 3), seed=0):
  return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize('levels', [1, 2, 4])
def test_bands_add_up_to_the_image(levels):
  x = images()
  parts = laplacian.bands(x, levels)
  assert [p.shape[1] for p in parts] == [16 // 2**i for i in range(levels)]
  np.testing.assert_allclose(laplacian.merge(parts), x, atol=1e-6)
  for part in parts[:-1]:
    np.testing.assert_allclose(laplacian.down(part), 0, atol=1e-6)


def test_pooling_what_was_repeated_gives_it_back():
  x = images()
  np.testing.assert_array_equal(laplacian.down(laplacian.up(x)), x)
  one = jnp.arange(4.0).reshape(1, 2, 2, 1)
  np.testing.assert_allclose(laplacian.down(one).item(), 1.5)
  wide = laplacian.up(one)[0, :, :, 0]
  np.testing.assert_array_equal(wide, np.kron(one[0, :, :, 0], np.ones((2, 2))))


def test_bands_are_orthogonal_and_mixed_by_their_factors():
  x = images()
  parts = [laplacian.mix(row, x) for row in jnp.eye(3)]
  np.testing.assert_allclose(sum(parts), x, atol=1e-6)
  for i, a in enumerate(parts):
    for b in parts[:i]:
      assert abs(jnp.vdot(a, b)) < 1e-3 * jnp.vdot(x, x)
  ups = laplacian.bands(x, 3)
  np.testing.assert_allclose(parts[1], laplacian.up(ups[1]), atol=1e-6)
  factors = jnp.array([[0.0, 0.3, 0.9], [0.2, 0.5, 1.0]])
  mixed = laplacian.mix(factors, x)
  pairs = zip(factors.T, parts, strict=True)
  want = sum(f[:, None, None, None] * p for f, p in pairs)
  np.testing.assert_allclose(mixed, want, atol=1e-6)
  flat = laplacian.up(laplacian.down(mixed[:1]))
  np.testing.assert_array_equal(mixed[:1], flat)  # exactly, where it is 0


@pytest.mark.parametrize('level', [0, 1, 2])
def test_haar_is_orthonormal(level):
  x = images()
  y = laplacian.haar(x, level)
  assert y.shape == (2, 16 // 2**level, 8 // 2**level, 3 * 4**level)
  np.testing.assert_allclose(jnp.vdot(y, y), jnp.vdot(x, x), rtol=1e-5)
  np.testing.assert_allclose(laplacian.inverse_haar(y, level), x, atol=1e-6)
  low = laplacian.pooled(x, level) * 2**level
  np.testing.assert_allclose(y[..., :3], low, atol=1e-5)


def test_haar_puts_the_quarters_in_order():
  x = jnp.array([[1.0, 2.0], [4.0, 8.0]]).reshape(1, 2, 2, 1)
  np.testing.assert_allclose(
    laplacian.haar(x, 1).ravel(), [7.5, -4.5, -2.5, 1.5]
  )


def test_attenuation_of_channel_groups_is_that_of_bands():
  x = images((1, 8, 8, 1))
  factors = jnp.array([0.3, 1.0])
  y = laplacian.haar(x, 1) * jnp.array([1.0, 0.3, 0.3, 0.3])
  np.testing.assert_allclose(
    laplacian.inverse_haar(y, 1), laplacian.mix(factors, x), atol=1e-6
  )


@pytest.mark.parametrize('schedule', laplacian.SCHEDULES)
def test_schedules_keep_the_conditions(schedule):
  process = make(schedule=schedule)
  sigma = np.linspace(0, 6, 601)
  alpha = process.alphas(sigma)
  np.testing.assert_allclose(alpha[0], 1)
  assert (np.diff(alpha, axis=0) <= 1e-12).all()
  assert (np.diff(alpha, axis=-1) >= -1e-12).all()
  np.testing.assert_array_equal(alpha[:, -1], 1)
  if schedule != 'hard':
    for i, mark in enumerate(process.switch_sigmas):
      at = process.alphas(jnp.array([mark, 1.001 * mark, 0.999 * mark]))
      np.testing.assert_array_equal(at[:2, i], 0)
      assert at[2, i] > 0


@pytest.mark.parametrize('schedule', laplacian.SCHEDULES)
@pytest.mark.parametrize('stage', [1, 2, 3])
def test_slopes_are_those_of_the_schedules(schedule, stage):
  process = make(schedule=schedule)
  low, high = process.bounds(stage)
  sigma = np.linspace(low, high, 12)[1:-1]
  h = 1e-6
  rise = (process.alphas(sigma + h) - process.alphas(sigma - h)) / (2 * h)
  slope = process.dalphas(sigma, stage)
  np.testing.assert_allclose(
    slope[:, stage - 1 :], rise[:, stage - 1 :], atol=1e-5
  )
  np.testing.assert_array_equal(slope[:, : stage - 1], 0)


def test_the_slope_at_a_switch_is_that_from_inside():
  process = make()
  np.testing.assert_allclose(process.dalphas(1.2, 1)[0], -2 / 1.2)
  np.testing.assert_allclose(process.dalphas(1.2, 2)[0], 0)
  np.testing.assert_allclose(
    np.asarray(process.dalphas(jnp.float32(5.0), 2))[1], -2 / 5, rtol=1e-6
  )


def test_stages_own_their_levels_with_the_upper_end():
  process = make()
  assert process.bounds(1) == (0.002, 1.2)
  assert process.bounds(3) == (5.0, 80.0)


@pytest.mark.parametrize('stage', [2, 3])
def test_the_pooled_full_marginal_is_that_of_the_stage(stage):
  process = make()
  sigma = process.bounds(stage)[1] * 0.9
  x = images((1, 8, 8, 1), 1)
  noise = images((1, 8, 8, 1), 2)
  whole = laplacian.pooled(process.noised(x, noise, sigma, 1), stage - 1)
  small = laplacian.pooled(noise, stage - 1) * 2 ** (stage - 1)
  there = process.noised(process.clean(x, stage), small, sigma, stage)
  np.testing.assert_allclose(whole, there, atol=1e-5)


def test_forward_draws_the_stage_marginal():
  process = make()
  x = jnp.broadcast_to(images((1, 8, 8, 1)), (4000, 8, 8, 1))
  sigma = jnp.full((4000,), 2.0)
  y = process.forward(jax.random.key(3), x, sigma, 2)
  assert y.shape == (4000, 4, 4, 1)
  mean = process.noised(process.clean(x[:1], 2), 0.0, jnp.float32(2.0), 2)
  np.testing.assert_allclose(y.mean(0), mean[0], atol=0.08)
  np.testing.assert_allclose(y.std(0), 1.0, atol=0.05)  # 2 / 2^(s-1)


def test_the_switch_makes_white_noise():
  process = make()
  eye = jnp.eye(16).reshape(16, 4, 4, 1)
  old = jax.vmap(lambda x: process.switched(jnp.zeros((1, 4, 4, 1)), x, 2))(
    jnp.eye(4).reshape(4, 1, 2, 2, 1)
  ).reshape(4, 16)
  zero = jnp.zeros((16, 2, 2, 1))
  new = process.switched(eye, zero, 2).reshape(16, 16)
  covariance = (1.2 / 2) ** 2 * old.T @ old + new.T @ new
  np.testing.assert_allclose(covariance, 1.2**2 * np.eye(16), atol=1e-6)
  added = new.T @ new / (4 * 0.6**2)
  np.testing.assert_allclose(np.diag(added), 0.75, atol=1e-6)
  np.testing.assert_allclose(added[0, 1] / added[0, 0], -1 / 3, atol=1e-6)


def test_the_switch_can_be_undone_and_keeps_the_signal():
  process = make()
  x = images((2, 4, 4, 3))
  y = process.switch(jax.random.key(0), x, 3)
  np.testing.assert_allclose(laplacian.down(y), x, atol=1e-6)
  clean = images((1, 8, 8, 1))
  before = process.noised(process.clean(clean, 2), 0.0, 1.2, 2)
  after = process.noised(clean, 0.0, 1.2, 1)
  np.testing.assert_allclose(laplacian.up(before), after, atol=1e-6)


def test_samples_of_the_switch_are_white():
  process = make()
  x = 0.6 * images((20000, 1, 1, 1))
  y = process.switch(jax.random.key(5), x, 2).reshape(-1, 4) / 1.2
  np.testing.assert_allclose(np.cov(y.T), np.eye(4), atol=0.04)
  bare = laplacian.up(x).reshape(-1, 4) / 1.2
  assert np.cov(bare.T)[0, 1] > 0.2  # without noise it is not


def test_a_hard_switch_fills_with_the_power_of_the_band():
  process = make(schedule='hard')
  zero = jnp.zeros((1, 2, 2, 1))
  noise = images((1, 4, 4, 1))
  y = process.switched(noise, zero, 2)
  std = np.sqrt(1.2**2 + 4 / 3 * 0.06**2)
  want = std * (noise - laplacian.up(laplacian.down(noise)))
  np.testing.assert_allclose(y, want, rtol=1e-5)


TABLE = {
  'euler': {
    5: (0.6991, 0.7881, 0.8918),
    20: (0.9140, 0.9421, 0.9712),
    160: (0.9885, 0.9925, 0.9961),
  },
  'ddim': {
    5: (0.6935, 0.7854, 0.8918),
    20: (0.9122, 0.9413, 0.9712),
    160: (0.9882, 0.9924, 0.9961),
  },
  'heun': {
    5: (1.2173, 1.0916, 1.0330),
    20: (1.0118, 1.0053, 1.0016),
    160: (0.9998, 1.0000, 0.9998),
  },
  'ancestral': {
    5: (0.5662, 0.6592, 0.8124),
    20: (0.8309, 0.8793, 0.9418),
    160: (0.9742, 0.9828, 0.9922),
  },
}


@pytest.mark.parametrize('method', TABLE)
def test_printed_band_factors(method):
  for steps, want in TABLE[method].items():
    levels = laplacian_timesteps.sweep(PROCESS, (steps,) * 3, rho=3.0)
    got = gaussian_bands.factors(PROCESS, levels, method)
    np.testing.assert_allclose(got, want, atol=6e-5, err_msg=str(steps))


def closed_form(process, stages, method):
  """The factors by the formulas of each band, in float64."""
  beta2 = gaussian_bands.data_powers(process)
  variance = np.zeros(process.levels)
  for stage, sigma in zip(range(process.levels, 0, -1), stages, strict=True):
    variance[stage - 1] = process.bounds(stage)[1] ** 2
    alpha = process.alphas(sigma)
    slope = process.dalphas(np.maximum(sigma, 1e-9), stage)
    for i in range(stage - 1, process.levels):
      for j in range(len(sigma) - 1):
        pair = slice(j, j + 2)
        m, added = one_step(
          alpha[pair, i], slope[pair, i], sigma[pair], beta2[i], method
        )
        variance[i] = m**2 * variance[i] + added
  return np.sqrt(variance / beta2)


def one_step(a, slope, s, beta2, method):
  """The factor of a band in a step from s[0] to s[1], and the added power."""

  def parts(j, x):
    clean = a[j] * beta2 / (a[j] ** 2 * beta2 + s[j] ** 2) * x
    return clean, (x - a[j] * clean) / s[j]

  clean, eps = parts(0, 1.0)
  rate = eps + slope[0] * clean
  if method == 'ddim':
    return a[1] * clean + s[1] * eps, 0.0
  if method == 'ancestral':
    added = s[1] ** 2 * (1 - (a[0] * s[1] / (a[1] * s[0])) ** 2)
    return a[1] * clean + np.sqrt(s[1] ** 2 - added) * eps, added
  m = 1 + (s[1] - s[0]) * rate
  if method == 'heun' and s[1]:
    clean, eps = parts(1, m)
    m = 1 + (s[1] - s[0]) / 2 * (rate + eps + slope[1] * clean)
  return m, 0.0


@pytest.mark.parametrize('method', ['euler', 'ddim', 'heun', 'ancestral'])
@pytest.mark.parametrize(
  'changes',
  [
    {'schedule': 'linear'},
    {'schedule': 'coslog'},
    {'schedule': 'seglinear'},
    {
      'levels': 4,
      'switch_sigmas': (0.7, 2.0, 9.0),
      'band_rms': (0.1, 0.15, 0.2, 0.5),
      'sigma_max': 300.0,
    },
    {'levels': 1, 'switch_sigmas': (), 'band_rms': (0.5,)},
  ],
)
def test_band_factors_are_the_closed_form(method, changes):
  process = make(**changes)
  stages = [
    laplacian_timesteps.sigmas(process, s, 7)
    for s in range(process.levels, 0, -1)
  ]
  got = gaussian_bands.factors(process, stages, method)
  want = closed_form(process, stages, method)
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_heun_is_of_second_order_on_data_with_a_mean():
  # A constant clean image: a hard zero of the slope at T would cost an order.
  process = make(schedule='quad')
  mean = jnp.zeros((1, 4, 4, 1)).at[0, 0, 0, 0].set(1.0)

  def error(steps):
    begin = process.noised(mean, images((1, 4, 4, 1)), 1.2, 1)
    table = laplacian_timesteps.tabulate(
      process, 1, np.linspace(1.2, 0.2, steps + 1)
    )
    solver = solvers.create('heun')

    def denoise(x, level, first=True):
      rest = gaussian_bands.denoise(
        process, 1, x - level.times(level.alpha, mean), level
      )
      return Prediction.from_x0(x, rest.x0 + mean, level)

    stage = sampling.Stage(
      segments=(
        sampling.Segment(
          levels=table,
          denoise=lambda x, level, context, first: denoise(x, level),
        ),
      ),
      enter=lambda state, normal: (begin, None),
      leave=lambda state, x, x0, context: [x],
    )
    noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(0), 1))
    return jax.jit(lambda: sampling.run([stage], solver, noise))()[0]

  fine = error(256)
  errors = [jnp.abs(error(n) - fine).max() for n in (4, 8, 16)]
  assert errors[0] / errors[1] > 3.3
  assert errors[1] / errors[2] > 3.3


def test_more_steps_of_the_multistep_solver_are_better():
  factors = [
    gaussian_bands.factors(
      PROCESS, laplacian_timesteps.sweep(PROCESS, (n,) * 3), 'dpmpp_2m'
    )
    for n in (10, 40)
  ]
  errors = [np.abs(np.asarray(f) - 1).max() for f in factors]
  assert np.isfinite(errors).all()
  assert errors[1] < 0.5 * errors[0]
  ddim = gaussian_bands.factors(
    PROCESS, laplacian_timesteps.sweep(PROCESS, (40,) * 3), 'ddim'
  )
  assert errors[1] < 0.5 * np.abs(ddim - 1).max()


def sample(
  process, steps, key, count, side=8, solver='ddim', noiseless=False, churn=None
):
  """Gaussian data through the one sampler."""
  tables = laplacian_timesteps.sweep(
    process, (steps,) * process.levels, rho=3.0, churn=churn
  )
  stages = []
  for stage, table in zip(range(process.levels, 0, -1), tables, strict=True):

    def enter(state, normal, stage=stage, table=table):
      n = side // 2 ** (stage - 1)
      if not state:
        return table.initial_std * normal((count, n, n, 1)), None
      noise = normal((count, n, n, 1))
      return process.switched(
        noise * (not noiseless), state[-1], stage + 1
      ), None

    def denoise(x, level, context, first=True, stage=stage):
      return gaussian_bands.denoise(process, stage, x, level)

    stages.append(
      sampling.Stage(
        segments=(sampling.Segment(levels=table, denoise=denoise),),
        enter=enter,
        leave=lambda state, x, x0, context: [*state, x],
      )
    )
  method = solvers.create(solver, churn=churn.amount if churn else 0.0)

  def run(keys):
    noise = sampling.Noise.from_keys(keys)
    return sampling.run(stages, method, noise)[-1]

  return jax.jit(run)(jax.random.split(key, count))


def band_stds(x, process):
  rms = [
    jnp.sqrt(jnp.square(p).mean()) for p in laplacian.bands(x, process.levels)
  ]
  return np.array(rms) / np.array(process.band_rms)


def test_drawn_images_have_the_bands_of_the_closed_form():
  got = band_stds(sample(PROCESS, 20, jax.random.key(0), 4000), PROCESS)
  np.testing.assert_allclose(got, [0.9122, 0.9413, 0.9712], rtol=0.01)


def test_without_the_noise_of_the_switch_there_is_no_detail():
  x = sample(PROCESS, 20, jax.random.key(0), 1000, noiseless=True)
  got = band_stds(x, PROCESS)
  np.testing.assert_allclose(got[:2], 0, atol=1e-3)
  assert got[2] > 0.9


def test_churn_keeps_the_marginals():
  churn = edm_timesteps.Churn(amount=10.0)
  x = sample(PROCESS, 40, jax.random.key(1), 2000, solver='heun', churn=churn)
  np.testing.assert_allclose(band_stds(x, PROCESS), 1.0, atol=0.05)
  table = laplacian_timesteps.sweep(PROCESS, (40,) * 3, 3.0, churn)[0]
  assert table.noise[0].max() == 0  # none at a stage's first step
  assert table.noise[1:-1].min() > 0


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'levels': 0}, 'levels is 0, must be at least 1'),
    ({'schedule': 'cubic'}, "schedule 'cubic' is not one of .'quad', 'linear'"),
    ({'switch_sigmas': (5.0, 1.2)}, 'must rise from above sigma_min 0.002'),
    (
      {'switch_sigmas': (1.2,)},
      r'switch_sigmas is \(1.2,\), must be 2 numbers',
    ),
    ({'sigma_max': 4.0}, 'to below sigma_max 4.0'),
    ({'band_rms': (0.1, 0.2)}, 'must be 3 numbers for 3 levels'),
    ({'band_rms': (0.1, 0.0, 0.2)}, 'must be above 0'),
  ],
)
def test_a_process_refuses_what_it_cannot_be(changes, message):
  with pytest.raises(ValueError, match=message):
    make(**changes)


def test_sides_must_fit_the_pyramid():
  with pytest.raises(ValueError, match='sides 12 x 10 must be divisible by 4'):
    laplacian.bands(jnp.zeros((1, 12, 10, 1)), 3)
  with pytest.raises(ValueError, match='sides 3 x 4 must be divisible by 2'):
    laplacian.down(jnp.zeros((1, 3, 4, 1)))
  with pytest.raises(ValueError, match='6 channels must be divisible by 4'):
    laplacian.inverse_haar(jnp.zeros((1, 2, 2, 6)), 1)
  with pytest.raises(ValueError, match='stage 4 is not one of 1..3'):
    make().bounds(4)
  with pytest.raises(
    ValueError, match=r'steps \(3, 4\) must be one number or 3'
  ):
    laplacian_timesteps.sweep(make(), (3, 4))
