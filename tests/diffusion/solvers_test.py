import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import guidance
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers


CHAIN = schedules.make_chain('linear', 1000, 0.0015, 0.0195)
NAMES = solvers.SOLVERS


def stage(levels, denoise_eps, shape, context=0.0):
  """A stage whose network predicts denoise_eps(x, level, context)."""

  def denoise(x, level, context, first=True):
    del first
    eps = denoise_eps(x, level, context)
    return solvers.Prediction.from_eps(x, eps, level)

  return sampling.Stage(
    spans=((levels, denoise),),
    enter=lambda state, normal: (normal(shape), context),
    leave=lambda state, x, x0, context: [*state, x],
  )


def toy(x, level, context):
  """The network of the printed sampler rows."""
  return jnp.tanh(x) * level.time / 1000 + 0.05 * x + 0.1 * context


BEGIN = np.sin(0.11 * np.arange(8) + 0.2).reshape(2, 2, 2, 1)


@pytest.mark.parametrize(
  ('name', 'steps', 'expected'),
  [
    ('ddim', 5, '.533902 .878852 1.284647 1.758184 2.290803 2.860385 3.437688'),
    ('ddim', 10, '.598683 1.009921 1.532765 2.200733 3.020226 3.962754'),
    ('plms', 5, '.564985 .917038 1.320951 1.787494 2.314839 2.886479 3.474806'),
    ('plms', 10, '.643626 1.073171 1.603079 2.262283 3.058384 3.969915'),
  ],
)
def test_printed_samples_of_the_toy_network(name, steps, expected):
  solver = solvers.create(name)
  noise = sampling.Noise.recorded([jnp.asarray(BEGIN, jnp.float32)])
  levels = solver.levels(CHAIN, steps)
  (x,) = sampling.run([stage(levels, toy, BEGIN.shape)], solver, noise)
  want = np.array(expected.split(), float)
  np.testing.assert_allclose(x.ravel()[: len(want)], want, atol=2e-5)


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('ddim', '-2.091297 -1.695078 -1.323459 -.973421 -.638513 -.308696'),
    ('plms', '-.786471 -.472157 -.180788 .097766 .373875 .659011 .960828'),
  ],
)
def test_printed_samples_with_guidance(name, expected):
  # Condition 1 against 0, scale 3.
  solver = solvers.create(name)
  noise = sampling.Noise.recorded([jnp.asarray(BEGIN, jnp.float32)])
  halves = jnp.array([1.0, 1.0, 0.0, 0.0])[:, None, None, None]
  s = stage(solver.levels(CHAIN, 5), toy, (4, 2, 2, 1), halves)
  (x,) = sampling.run([guidance.classifier_free(s, 3.0)], solver, noise)
  want = np.array(expected.split(), float)
  np.testing.assert_allclose(x.ravel()[: len(want)], want, atol=2e-5)


def test_printed_deviations_of_ddim():
  solver = solvers.create('ddim', 1.0)
  levels = solver.levels(CHAIN, 5)
  np.testing.assert_allclose(
    np.square(levels.alpha[:-1][::-1]),
    [0.99699444, 0.61244285, 0.23297508, 0.04650208, 0.00412008],
    rtol=2e-6,
  )
  want = [0.02743205, 0.05469228, 0.55952282, 0.80241327, 0.93413773]
  zero = jnp.zeros((1,))
  for index, expected in enumerate(want[::-1]):
    got = solvers.ddim_update(
      solvers.Prediction(x0=zero, eps=zero),
      solvers.row(levels, index),
      solvers.row(levels, index + 1),
      1.0,
      lambda: jnp.ones((1,)),
    )
    assert float(got[0]) == pytest.approx(expected, rel=2e-4)


# Data of this deviation have a linear best denoiser and a known trajectory:
# x over the deviation of the noisy data never changes.
DATA_STD = 0.5


def noisy_std(level):
  return jnp.sqrt((level.alpha * DATA_STD) ** 2 + level.sigma**2)


def gaussian_eps(x, level, context):
  del context
  return level.sigma * x / noisy_std(level) ** 2


def fine_levels(steps):
  """Levels of a chain so fine that `steps` alone decides the error."""
  length = 64_000
  chain = schedules.make_chain('linear', length, 2e-5, 3e-4)
  grid = np.linspace(8_000, 48_000, steps + 1).astype(int)
  return schedules.levels(chain, grid[1:], chain.alphas_bar[grid[0]])


def relative_error(solver, steps):
  levels = fine_levels(steps)
  begin = jnp.ones((1, 1, 1, 1))
  noise = sampling.Noise.recorded([begin])
  (x,) = sampling.run(
    [stage(levels, gaussian_eps, (1, 1, 1, 1))], solver, noise
  )
  first, last = (noisy_std(solvers.row(levels, i)) for i in (0, -1))
  return abs(float(x.ravel()[0] / (last / first)) - 1)


@pytest.mark.parametrize(
  ('name', 'order'),
  [('ddim', 1), ('dpmpp_2m', 2), ('heun', 2), ('unipc', 2)],
)
def test_order_of_convergence(name, order):
  solver = solvers.create(name)
  coarse, fine = (relative_error(solver, steps) for steps in (12, 48))
  assert np.log(coarse / fine) / np.log(4) == pytest.approx(order, abs=0.25)


def test_second_order_is_nearer_at_equal_calls():
  error = lambda name, steps: relative_error(solvers.create(name), steps)
  assert error('dpmpp_2m', 32) < error('ddim', 32) / 5
  assert error('heun', 16) < error('ddim', 31) / 3


@pytest.mark.parametrize(
  ('name', 'spacing', 'steps', 'within'),
  [
    ('ddim', 'official', 200, 0.03),
    ('ddim', 'exact', 333, 0.03),
    ('plms', 'official', 50, 0.01),
    ('plms', 'exact', 50, 0.01),
    ('ddpm', 'exact', 300, 0.08),
    ('dpmpp_2m', 'official', 100, 0.03),
    ('dpmpp_2m', 'log_snr', 20, 0.01),
    ('unipc', 'official', 100, 0.03),
    ('unipc', 'log_snr', 20, 0.01),
    ('heun', 'official', 50, 0.02),
    ('heun', 'exact', 50, 0.02),
    ('heun', 'log_snr', 20, 0.02),
  ],
)
def test_samples_have_the_deviation_of_the_data(name, spacing, steps, within):
  solver = solvers.create(name, spacing=spacing)
  levels = solver.levels(CHAIN, steps)
  shape = (16, 8, 8, 1)
  run = jax.jit(
    functools.partial(
      sampling.run, [stage(levels, gaussian_eps, shape)], solver
    )
  )
  noise = sampling.Noise.from_key(jax.random.key(0))
  (x,) = run(noise)
  begin = noise.start(0)(shape).std()
  first, last = (noisy_std(solvers.row(levels, i)) for i in (0, -1))
  if name == 'ddpm':
    begin = first  # it forgets where it began
  assert float(x.std()) == pytest.approx(
    float(begin / first * last), rel=within
  )


def test_even_log_snr_suits_second_order():
  def error(spacing):
    solver = solvers.create('dpmpp_2m', spacing=spacing)
    levels = solver.levels(CHAIN, 20)
    noise = sampling.Noise.recorded([jnp.ones((1, 1, 1, 1))])
    s = stage(levels, gaussian_eps, (1, 1, 1, 1))
    (x,) = sampling.run([s], solver, noise)
    first, last = (noisy_std(solvers.row(levels, i)) for i in (0, -1))
    return abs(float(x.ravel()[0] * first / last) - 1)

  assert error('log_snr') < error('official') / 5


@pytest.mark.parametrize(
  ('name', 'spacing'),
  [
    ('ddim', 'official'),
    ('plms', 'official'),
    ('ddpm', 'exact'),
    ('dpmpp_2m', 'log_snr'),
    ('unipc', 'log_snr'),
    ('heun', 'log_snr'),
  ],
)
def test_the_spacing_suits_the_solver_unless_it_is_given(name, spacing):
  def times(**options):
    return solvers.create(name, **options).levels(CHAIN, 10).time.tolist()

  want = schedules.spaced_levels(CHAIN, 10, spacing).time.tolist()
  assert times() == times(spacing='auto') == want
  given = 'exact' if name == 'ddpm' else 'official'
  want = schedules.spaced_levels(CHAIN, 10, given).time.tolist()
  assert times(spacing='official') == want


@pytest.mark.parametrize('steps', [1, 2, 20, 50, 333, 999])
def test_log_snr_spacing_takes_every_count(steps):
  times = schedules.log_snr_timesteps(CHAIN, steps)
  assert len(times) == steps + 1
  assert times[0] == 0
  assert times[-1] == 999
  assert np.all(np.diff(times) > 0)
  if steps == 20:
    bar = CHAIN.alphas_bar[times[4:]]  # coarser than the levels
    gaps = np.diff(np.log(bar / (1 - bar)))
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=0.1)


def test_log_snr_spacing_refuses_as_many_steps_as_levels():
  with pytest.raises(ValueError, match='steps 1000 must lie in 1..999'):
    schedules.log_snr_timesteps(CHAIN, 1000)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('steps', [1, 2, 7, 30, 333, 1000])
def test_exact_spacing_takes_every_count(name, steps):
  solver = solvers.create(name, spacing='exact')
  levels = solver.levels(CHAIN, steps)
  assert levels.time.shape == (steps + 1,)
  assert levels.time[0] == 999
  assert np.all(np.diff(levels.time[:-1]) < 0)
  assert levels.sigma[-1] == 0


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('steps', [1, 2, 3])
def test_few_steps_stay_finite(name, steps):
  for spacing in ('auto', 'official', 'exact', 'log_snr'):
    official = spacing == 'auto' and name in ('ddim', 'plms')
    if steps == 3 and (official or spacing == 'official'):
      continue  # refused
    solver = solvers.create(name, spacing=spacing)
    s = stage(solver.levels(CHAIN, steps), gaussian_eps, (1, 2, 2, 1))
    (x,) = sampling.run([s], solver, sampling.Noise.from_key(jax.random.key(0)))
    assert np.isfinite(x).all()


def calls(solver, steps):
  """Counts the network calls of a run."""
  levels = solver.levels(CHAIN, steps)
  seen = []

  def eps(x, level, context):
    jax.debug.callback(lambda t: seen.append(float(t)), level.time)
    return gaussian_eps(x, level, context)

  noise = sampling.Noise.from_key(jax.random.key(0))
  jax.block_until_ready(
    sampling.run([stage(levels, eps, (1, 2, 2, 1))], solver, noise)
  )
  jax.effects_barrier()
  return len(seen)


@pytest.mark.parametrize(
  ('name', 'expected'),
  [
    ('ddim', 10),
    ('plms', 11),
    ('ddpm', 10),
    ('dpmpp_2m', 10),
    ('unipc', 10),
    ('heun', 19),
  ],
)
def test_number_of_network_calls(name, expected):
  assert calls(solvers.create(name), 10) == expected


@pytest.mark.parametrize('name', NAMES)
def test_program_does_not_grow_with_the_steps(name):
  solver = solvers.create(name)

  def size(steps):
    levels = solver.levels(CHAIN, steps)
    s = stage(levels, toy, (1, 4, 4, 1))
    run = jax.jit(functools.partial(sampling.run, [s], solver))
    noise = sampling.Noise.from_key(jax.random.key(0))
    lowered = run.lower(noise)
    # The tables of the levels are longer, the operations are the same.
    return [
      line.split()[2]
      for line in lowered.as_text().splitlines()
      if line.strip().startswith('%')
    ]

  assert size(10) == size(50)


def test_temperature_scales_the_noise():
  shape = (2, 3, 3, 1)
  steps = jax.random.normal(jax.random.key(1), (5, *shape))

  def sample(name, temperature, steps):
    solver = solvers.create(name, eta=1.0, temperature=temperature)
    noise = sampling.Noise.recorded([jnp.ones(shape)], [steps])
    s = stage(solver.levels(CHAIN, 5), toy, shape)
    return sampling.run([s], solver, noise)[0]

  for name in ('ddim', 'ddpm'):
    hot = sample(name, 0.7, steps)
    np.testing.assert_allclose(
      hot, sample(name, 1.0, 0.7 * steps), rtol=1e-4, atol=1e-5
    )
    assert np.abs(hot - sample(name, 1.0, steps)).max() > 0.01


def test_clipped_ddpm_keeps_images_in_range():
  shape = (1, 2, 2, 1)
  for clip in (False, True):
    solver = solvers.DDPM(clip=clip)
    wrong = lambda x, level, context: (x - 3 * level.alpha) / level.sigma
    s = stage(solver.levels(CHAIN, 20), wrong, shape)
    noise = sampling.Noise.from_key(jax.random.key(0))
    (x,), (trace,) = sampling.run([s], solver, noise, trace=True)
    expected = 1.0 if clip else 3.0
    np.testing.assert_allclose(x, np.full(shape, expected), rtol=1e-4)
    np.testing.assert_allclose(trace.x0, expected, rtol=1e-3)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'name': 'euler'}, "'euler' is not one of .*heun"),
    (
      {'name': 'ddim', 'spacing': 'even'},
      "'even' is not one of .*'auto', 'off",
    ),
    ({'name': 'heun', 'eta': 0.5}, 'eta is 0.5, but heun'),
    ({'name': 'plms', 'temperature': 0.5}, 'temperature is 0.5, but plms'),
    ({'name': 'dpmpp_2m', 'spacing': 'quad'}, 'not for dpmpp_2m'),
  ],
)
def test_options_that_do_not_fit_are_told(options, message):
  with pytest.raises(ValueError, match=message):
    solvers.create(**options)


# Counts at which the reference code fails with an index error.
BAD = [*range(3, 10, 6), 27, 36, 37, *range(101, 112), *range(251, 334)]
BAD += range(501, 1001)


def test_official_spacing_refuses_what_the_reference_cannot():
  for steps in range(1, 1001):
    if steps in BAD:
      with pytest.raises(ValueError, match=f'^{steps} .*exact') as error:
        schedules.uniform_timesteps(1000, steps)
      assert '\n' not in str(error.value)
    else:
      schedules.uniform_timesteps(1000, steps)


def test_official_spacing_miscounts_as_the_reference_does():
  real = {64: 67, 75: 77, 120: 125, 150: 167, 175: 200, 220: 250, 350: 500}
  for steps, count in real.items():
    assert len(schedules.uniform_timesteps(1000, steps)) == count


def test_quadratic_spacing_equals_its_formula():
  got = schedules.quadratic_timesteps(1000, 5)
  expected = [int((k * np.sqrt(800) / 4) ** 2) + 1 for k in range(4)]
  assert got[:4].tolist() == expected
  assert got[4] in (800, 801)  # the rounding of a square root
  levels = solvers.create('ddim', spacing='quad').levels(CHAIN, 5)
  assert levels.time[:-1].tolist() == got[::-1].tolist()
