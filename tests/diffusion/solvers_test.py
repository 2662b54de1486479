import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.levels import row
from pyramid_jax.diffusion.solvers import ddim
from pyramid_jax.diffusion.solvers import ddpm


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
NAMES = solvers.SOLVERS


def levels_of(name, steps, spacing='auto'):
  """The levels that a solver walks unless it is given others."""
  spacing = solvers.SPACINGS[name] if spacing == 'auto' else spacing
  return timesteps.spaced_levels(CHAIN, steps, spacing)


def drawn(count, seed=0):
  """Noise of so many images."""
  keys = jax.random.split(jax.random.key(seed), count)
  return sampling.Noise.from_keys(keys)


def deviation(eta, levels, index):
  """The deviation of the noise that a DDIM step draws."""
  ends = row(levels, index), row(levels, index + 1)
  zero = jnp.zeros((1,))
  nothing = Prediction(x0=zero, eps=zero)
  carry = ddim.DDIM(eta=eta).step(
    ddim.base.Carry(x=zero, prediction=nothing),
    ddim.base.StepInputs(
      lambda x, level, first: nothing, *ends, lambda: jnp.ones((1,))
    ),
  )
  return float(carry.x[0])


def stage(levels, denoise_eps, shape, context=0.0):
  """A stage whose network predicts denoise_eps(x, level, context)."""

  def denoise(x, level, context, first=True):
    del first
    eps = denoise_eps(x, level, context)
    return Prediction.from_eps(x, eps, level)

  return sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
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
  levels = levels_of(name, steps)
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
  levels = levels_of(name, 5)
  one = jnp.ones((2, 1, 1, 1))
  s = classifier_free.guided_stage(
    lambda context, shape: stage(levels, toy, shape, context),
    BEGIN.shape,
    one,
    0 * one,
    classifier_free.Guidance(3.0),
  )
  (x,) = sampling.run([s], solver, noise)
  want = np.array(expected.split(), float)
  np.testing.assert_allclose(x.ravel()[: len(want)], want, atol=2e-5)


def test_printed_deviations_of_ddim():
  levels = levels_of('ddim', 5)
  np.testing.assert_allclose(
    np.square(levels.alpha[:-1][::-1]),
    [0.99699444, 0.61244285, 0.23297508, 0.04650208, 0.00412008],
    rtol=2e-6,
  )
  want = [0.02743205, 0.05469228, 0.55952282, 0.80241327, 0.93413773]
  for index, expected in enumerate(want[::-1]):
    got = deviation(1.0, levels, index)
    assert got == pytest.approx(expected, rel=2e-4)


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
  chain = schedules.make_chain('scaled_linear', length, 2e-5, 3e-4)
  grid = np.linspace(8_000, 48_000, steps + 1).astype(int)
  return timesteps.levels(chain, grid[1:], chain.alphas_bar[grid[0]])


def relative_error(solver, steps):
  levels = fine_levels(steps)
  begin = jnp.ones((1, 1, 1, 1))
  noise = sampling.Noise.recorded([begin])
  (x,) = sampling.run(
    [stage(levels, gaussian_eps, (1, 1, 1, 1))], solver, noise
  )
  first, last = (noisy_std(row(levels, i)) for i in (0, -1))
  return abs(float(x.ravel()[0] / (last / first)) - 1)


@pytest.mark.parametrize(
  ('name', 'order'),
  [('ddim', 1), ('euler', 1), ('dpmpp_2m', 2), ('heun', 2), ('unipc', 2)],
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
    ('heun', 'karras', 50, 0.02),
    ('dpmpp_2m', 'karras', 50, 0.02),
    ('unipc', 'karras', 50, 0.02),
    ('ddpm', 'karras', 300, 0.08),
    ('ddpm', 'official', 250, 0.08),
    ('dpmpp_2m', 'quad', 100, 0.03),
    ('euler', 'exact', 333, 0.03),
  ],
)
def test_samples_have_the_deviation_of_the_data(name, spacing, steps, within):
  solver = solvers.create(name)
  levels = levels_of(name, steps, spacing)
  shape = (16, 8, 8, 1)
  run = jax.jit(
    functools.partial(
      sampling.run, [stage(levels, gaussian_eps, shape)], solver
    )
  )
  noise = drawn(shape[0])
  (x,) = run(noise)
  begin = noise.start(0)(shape).std()
  first, last = (noisy_std(row(levels, i)) for i in (0, -1))
  if name == 'ddpm':
    begin = first  # it forgets where it began
  assert float(x.std()) == pytest.approx(
    float(begin / first * last), rel=within
  )


def test_even_log_snr_suits_second_order():
  def error(spacing):
    solver = solvers.create('dpmpp_2m')
    levels = levels_of('dpmpp_2m', 20, spacing)
    noise = sampling.Noise.recorded([jnp.ones((1, 1, 1, 1))])
    s = stage(levels, gaussian_eps, (1, 1, 1, 1))
    (x,) = sampling.run([s], solver, noise)
    first, last = (noisy_std(row(levels, i)) for i in (0, -1))
    return abs(float(x.ravel()[0] * first / last) - 1)

  assert error('log_snr') < error('official') / 5


@pytest.mark.parametrize('spacing', timesteps.SPACINGS)
@pytest.mark.parametrize('name', NAMES)
def test_any_solver_walks_any_spacing(name, spacing):
  """The mean of normal data that are far from 0 is found on every path."""
  levels = levels_of(name, 50, spacing)
  mean = 2.0
  eps = lambda x, level, context: gaussian_eps(x - level.alpha * mean, level, 0)
  shape = (4, 8, 8, 1)
  s = stage(levels, eps, shape)
  (x,) = sampling.run([s], solvers.create(name), drawn(4))
  assert np.isfinite(x).all()
  begun = float(levels.alpha[0])  # 'quad' begins at 0.8 T, where data are left
  off = abs(float(x.mean()) - mean)
  assert off < 0.15 + 3 * begun


@pytest.mark.parametrize('steps', [1, 2, 20, 50, 333, 999])
def test_log_snr_spacing_takes_every_count(steps):
  times = timesteps.log_snr_timesteps(CHAIN, steps)
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
    timesteps.log_snr_timesteps(CHAIN, 1000)


@pytest.mark.parametrize('steps', [1, 2, 7, 30, 333, 1000])
def test_exact_spacing_takes_every_count(steps):
  levels = timesteps.spaced_levels(CHAIN, steps, 'exact')
  assert levels.time.shape == (steps + 1,)
  assert levels.time[0] == 999
  assert np.all(np.diff(levels.time[:-1]) < 0)
  assert levels.sigma[-1] == 0


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('steps', [1, 2, 3])
def test_few_steps_stay_finite(name, steps):
  for spacing in ('auto', 'official', 'exact', 'log_snr'):
    official = spacing == 'auto' and solvers.SPACINGS[name] == 'official'
    if steps == 3 and (official or spacing == 'official'):
      continue  # refused
    s = stage(levels_of(name, steps, spacing), gaussian_eps, (1, 2, 2, 1))
    (x,) = sampling.run([s], solvers.create(name), drawn(1))
    assert np.isfinite(x).all()


def calls(name, steps):
  """Counts the network calls of a run."""
  solver, levels = solvers.create(name), levels_of(name, steps)
  seen = []

  def eps(x, level, context):
    jax.debug.callback(lambda t: seen.append(float(t)), level.time)
    return gaussian_eps(x, level, context)

  s = stage(levels, eps, (1, 2, 2, 1))
  jax.block_until_ready(sampling.run([s], solver, drawn(1)))
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
    ('euler', 10),
  ],
)
def test_number_of_network_calls(name, expected):
  assert calls(name, 10) == expected


@pytest.mark.parametrize('name', NAMES)
def test_program_does_not_grow_with_the_steps(name):
  solver = solvers.create(name)

  def size(steps):
    levels = levels_of(name, steps)
    s = stage(levels, toy, (1, 4, 4, 1))
    run = jax.jit(functools.partial(sampling.run, [s], solver))
    lowered = run.lower(drawn(1))
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
    eta = 1.0 if name == 'ddim' else 0.0
    solver = solvers.create(name, eta=eta, temperature=temperature)
    noise = sampling.Noise.recorded([jnp.ones(shape)], [steps])
    s = stage(levels_of(name, 5), toy, shape)
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
    solver = ddpm.DDPM(clip=clip)
    wrong = lambda x, level, context: (x - 3 * level.alpha) / level.sigma
    s = stage(levels_of('ddpm', 20), wrong, shape)
    (x,), (trace,) = sampling.run([s], solver, drawn(1), trace=True)
    expected = 1.0 if clip else 3.0
    np.testing.assert_allclose(x, np.full(shape, expected), rtol=1e-4)
    np.testing.assert_allclose(trace.x0, expected, rtol=1e-3)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'name': 'dpm3'}, "'dpm3' is not one of .*heun"),
    ({'name': 'heun', 'eta': 0.5}, 'eta is 0.5, but heun'),
    ({'name': 'plms', 'temperature': 0.5}, 'temperature is 0.5, but plms'),
    ({'name': 'ddpm', 'eta': 1.0}, 'eta is 1.0, but ddpm'),
    ({'name': 'ddim', 'churn': 2.0}, 'churn is 2.0, but ddim'),
  ],
)
def test_options_that_do_not_fit_are_told(options, message):
  with pytest.raises(ValueError, match=message):
    solvers.create(**options)


def test_unknown_spacings_are_named():
  with pytest.raises(ValueError, match="'even' is not one of .*'karras'"):
    timesteps.spaced_levels(CHAIN, 5, 'even')


def test_karras_spacing_is_even_in_a_root_of_sigma():
  levels = timesteps.spaced_levels(CHAIN, 9, 'karras', rho=3.0)
  ratio = np.asarray(levels.sigma, float)[:-1] / levels.alpha[:-1]
  bar = CHAIN.alphas_bar[[-1, 0]]
  np.testing.assert_allclose(ratio[[0, -1]], np.sqrt(1 / bar - 1), rtol=1e-5)
  gaps = np.diff(ratio ** (1 / 3))
  np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-3)
  # The network is given the time at which the chain has the level.
  assert levels.time[0] == 999
  assert levels.time[-2] == pytest.approx(0, abs=1e-6)
  middle = levels.time[4]
  below, above = (
    np.sqrt(1 / CHAIN.alphas_bar[int(f(middle))] - 1)
    for f in (np.floor, np.ceil)
  )
  assert below <= ratio[4] <= above
  assert levels.sigma[-1] == 0


# Counts at which the reference code fails with an index error.
BAD = [*range(3, 10, 6), 27, 36, 37, *range(101, 112), *range(251, 334)]
BAD += range(501, 1001)


def test_official_spacing_refuses_what_the_reference_cannot():
  for steps in range(1, 1001):
    if steps in BAD:
      with pytest.raises(ValueError, match=f'^{steps} .*exact') as error:
        timesteps.uniform_timesteps(1000, steps)
      assert '\n' not in str(error.value)
    else:
      timesteps.uniform_timesteps(1000, steps)


def test_official_spacing_miscounts_as_the_reference_does():
  real = {64: 67, 75: 77, 120: 125, 150: 167, 175: 200, 220: 250, 350: 500}
  for steps, count in real.items():
    assert len(timesteps.uniform_timesteps(1000, steps)) == count


def test_quadratic_spacing_equals_its_formula():
  got = timesteps.quadratic_timesteps(1000, 5)
  expected = [int((k * np.sqrt(800) / 4) ** 2) + 1 for k in range(4)]
  assert got[:4].tolist() == expected
  assert got[4] in (800, 801)  # the rounding of a square root
  levels = timesteps.spaced_levels(CHAIN, 5, 'quad')
  assert levels.time[:-1].tolist() == got[::-1].tolist()


def test_no_solver_multiplies_matrices():
  """Accelerators round the factors of matrix products by default."""
  for name in NAMES:
    solver, levels = solvers.create(name), levels_of(name, 5)
    # The toy network has no product of matrices of its own.
    s = stage(levels, toy, (1, 4, 4, 1))
    run = functools.partial(sampling.run, [s], solver)
    assert 'dot_general' not in str(jax.make_jaxpr(run)(drawn(1))), name
