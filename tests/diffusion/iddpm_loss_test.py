import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import iddpm_loss
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.levels import row
from pyramid_jax.diffusion.solvers import ddim
from pyramid_jax.diffusion.solvers import ddpm


CHAIN = schedules.make_chain('linear', 1000, 1e-4, 0.02)
WHOLE = timesteps.respaced_levels(CHAIN)
SHORT = timesteps.respaced_levels(CHAIN, '250')


def wave(channels, shift):
  """The printed inputs: cos(0.61 j + shift) in the order of channels first."""
  j = np.arange(4 * channels)
  x = np.cos(0.61 * j + shift).reshape(1, channels, 2, 2)
  return jnp.asarray(np.moveaxis(x, 1, -1), jnp.float32)


X, VALUE, EPS = wave(4, 0), wave(8, 1), wave(4, 2)


def first_two(x):
  """The printed elements, 0 and 1 of channels first."""
  return x[0, 0, :2, 0]


def test_printed_tables():
  chain = timesteps.respaced(CHAIN, np.arange(1000))
  np.testing.assert_allclose(
    chain.betas[[0, 1, 999]], [1e-4, 1.1991992e-4, 0.02], rtol=1e-7
  )
  np.testing.assert_allclose(
    chain.alphas_bar[[0, 500, 999]],
    [0.9999, 0.0777966584, 4.03582977e-5],
    rtol=1e-8,
  )
  reverse = lambda values: np.asarray(values)[:-1][::-1]
  places = [0, 1, 2, 249]
  np.testing.assert_allclose(
    reverse(SHORT.log_beta)[places],
    [-9.21034037, -7.42013951, -6.99374573, -2.55722776],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    reverse(SHORT.log_variance)[places],
    [-9.36462816, -9.36462816, -7.83177586, -2.55723115],
    rtol=1e-6,
  )
  np.testing.assert_allclose(
    reverse(SHORT.alpha)[125] ** 2, 0.0762346668, rtol=1e-6
  )


def test_printed_tables_of_the_short_chain():
  times = np.asarray(SHORT.time)[:-1][::-1].astype(int)
  chain = timesteps.respaced(CHAIN, times)
  np.testing.assert_allclose(
    chain.betas[[0, 1, 2, 249]],
    [1e-4, 5.99065564e-4, 9.17602993e-4, 0.0775193450],
    rtol=1e-8,
  )
  of_x0, of_x = (factor[[0, 1, 249]] for factor in chain.posterior_mean)
  np.testing.assert_allclose(of_x0, [1, 0.856982492, 5.12761498e-4], rtol=1e-8)
  np.testing.assert_allclose(of_x, [0, 0.143017501, 0.960455307], rtol=1e-8)


def rows(j):
  index = len(SHORT.time) - 2 - j
  return row(SHORT, index), row(SHORT, index + 1)


@pytest.mark.parametrize(
  ('j', 'time', 'mean', 'log_variance'),
  [
    (0, 0, [0.9946467, 0.8200809], [-9.3054895, -9.2592697]),
    (1, 4, [0.9880534, 0.8207819], [-8.6193066, -8.0367966]),
    (125, 502, [0.9971769, 0.8426924], [-3.0125184, -3.0112338]),
    (249, 999, [0.9975602, 0.8565558], None),
  ],
)
def test_printed_distributions(j, time, mean, log_variance):
  level, next_level = rows(j)
  assert level.time == time
  prediction = Prediction.of('eps', X, VALUE, level)
  got = ddpm.ancestral(prediction, X, level, next_level, 'learned_range')
  np.testing.assert_allclose(first_two(got[1]), mean, rtol=2e-6)
  if log_variance:
    np.testing.assert_allclose(first_two(got[2]), log_variance, rtol=1e-6)
  clean = {125: [1.7409993, 3.1050293], 249: [72.362946, 135.190536]}
  if j in clean:
    np.testing.assert_allclose(first_two(got[0].x0), clean[j], rtol=2e-6)


@pytest.mark.parametrize(
  ('j', 'expected'),
  [(1, [0.9914139, 0.8205382]), (125, [1.0111934, 0.8416755])],
)
def test_printed_steps_of_ddim(j, expected):
  level, next_level = rows(j)
  denoise = lambda x, level, first: Prediction.of('eps', x, VALUE, level)
  solver = ddim.DDIM()
  carry = solver.start(X, level)
  inputs = ddim.base.StepInputs(denoise, level, next_level, lambda: X)
  carry = solver.step(carry, inputs)
  np.testing.assert_allclose(first_two(carry.x), expected, rtol=1e-6)


@pytest.mark.parametrize(
  ('t', 'vb'),
  [
    (0, 1.9496365),
    (1, 0.35528448),
    (500, 0.0037755936),
    (999, 0.0069897980),
  ],
)
def test_printed_losses(t, vb):
  settings = iddpm_loss.LossSettings()
  terms = iddpm_loss.loss(
    lambda x, time: VALUE, WHOLE, settings, X, jnp.array([t]), EPS
  )
  assert float(terms['mse'][0]) == pytest.approx(0.47478735, rel=1e-6)
  assert float(terms['vb'][0]) == pytest.approx(vb, rel=2e-5)
  assert float(terms['loss'][0]) == pytest.approx(0.47478735 + vb, rel=1e-5)


def gradient(part, levels=WHOLE, **settings):
  settings = iddpm_loss.LossSettings(**settings)

  def total(value):
    terms = iddpm_loss.loss(
      lambda x, time: value, levels, settings, X, jnp.array([300]), EPS
    )
    return terms[part].sum()

  return jax.grad(total)(VALUE)


def test_the_bound_trains_the_variance_alone():
  bound = gradient('vb')
  np.testing.assert_array_equal(bound[..., :4], 0)
  assert np.abs(bound[..., 4:]).min() > 0
  whole = gradient('loss')
  error = 2 * (VALUE[..., :4] - EPS) / EPS.size
  np.testing.assert_allclose(whole[..., :4], error, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(whole[..., 4:], bound[..., 4:])
  assert np.abs(gradient('loss', loss='rescaled_kl')[..., :4]).min() > 0


def test_weights_of_the_bound():
  def terms(t=7, value=VALUE, **settings):
    settings = iddpm_loss.LossSettings(**settings)
    got = iddpm_loss.loss(
      lambda x, time: value, SHORT, settings, X, jnp.array([t]), EPS
    )
    return {name: float(values[0]) for name, values in got.items()}

  plain = terms()
  rescaled = terms(loss='rescaled_mse')
  assert rescaled['vb'] == pytest.approx(0.25 * plain['vb'])
  assert rescaled['loss'] == pytest.approx(plain['mse'] + 0.25 * plain['vb'])
  kl = terms(loss='rescaled_kl')
  assert kl['loss'] == pytest.approx(250 * plain['vb'])
  fixed = terms(value=VALUE[..., :4], variance='fixed_small')
  assert fixed == {'loss': fixed['mse'], 'mse': plain['mse']}
  # With the posterior's own variance only the means differ.
  level, next_level = rows(7)
  x = level.alpha * X + level.sigma * EPS
  eps = VALUE[..., :4]
  x0 = (x - level.sigma * eps) / level.alpha
  means = [
    ddpm.posterior_mean(clean, x, level, next_level) for clean in (x0, X)
  ]
  nats = (means[0] - means[1]) ** 2 / np.exp(level.log_variance) / 2
  bound = terms(value=eps, variance='fixed_small', loss='rescaled_kl')
  assert bound['loss'] == pytest.approx(
    250 * float(nats.mean()) / math.log(2), rel=1e-4
  )


def test_each_example_has_its_own_level():
  times = []

  def denoiser(x, time):
    times.append(time)
    return jnp.concatenate([jnp.tanh(x), jnp.sin(x)], -1)

  x0, eps = jax.random.normal(jax.random.key(0), (2, 3, 4, 4, 2))
  t = jnp.array([0, 120, 249])
  settings = iddpm_loss.LossSettings()
  run = functools.partial(iddpm_loss.loss, denoiser, SHORT, settings)
  together = run(x0, t, eps)
  np.testing.assert_array_equal(times[0], [0, 481, 999])
  for i in range(3):
    alone = run(x0[i : i + 1], t[i : i + 1], eps[i : i + 1])
    for name, values in alone.items():
      np.testing.assert_allclose(together[name][i], values[0], rtol=1e-5)


def test_likelihood_of_the_bins_sums_to_one():
  bins = jnp.linspace(-1, 1, 256)
  for mean, log_scale in ((0.2, -2.0), (-0.99, -4.0), (1.4, 0.3)):
    log = iddpm_loss.discretized_log_likelihood(
      bins, jnp.asarray(mean), jnp.asarray(log_scale)
    )
    assert float(jnp.exp(log).sum()) == pytest.approx(1, abs=1e-4)
  # One bin of a wide normal: its density times the bin's width.
  log = iddpm_loss.discretized_log_likelihood(bins, 0.0, 0.0)
  want = math.log(2 / 255 / math.sqrt(2 * math.pi))
  assert float(log[128]) == pytest.approx(want, abs=2e-3)


def test_divergence_of_normals():
  kl = iddpm_loss.normal_kl(*(jnp.asarray(v) for v in (0.3, 0.5, -1.0, 1.2)))
  want = 0.5 * (-1 + 1.2 - 0.5 + math.exp(-0.7) + 1.3**2 * math.exp(-1.2))
  assert float(kl) == pytest.approx(want, rel=1e-6)
  same = iddpm_loss.normal_kl(X, 0.4, X, 0.4)
  np.testing.assert_array_equal(same, 0)


def test_prior_in_float64():
  x0 = np.asarray(X, np.float64)
  bar = CHAIN.alphas_bar[-1]
  want = 0.5 * (np.log1p(-bar) * -1 - bar + bar * x0**2).mean() / np.log(2)
  got = iddpm_loss.prior_bits(WHOLE, X)
  assert got.shape == (1,)
  assert float(got[0]) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize('variance', ddpm.VARIANCES)
def test_scanned_sampler_equals_a_loop(variance):
  """250 ancestral steps by hand, in float64 and with the same noise."""
  shape = (1, 3, 3, 2)
  begin, *noise = np.asarray(
    jax.random.normal(jax.random.key(0), (251, *shape)), np.float64
  )
  times = np.asarray(SHORT.time)[:-1].astype(int)
  chain = timesteps.respaced(CHAIN, times[::-1])
  bar, small = chain.alphas_bar, chain.posterior_variance.copy()
  small[0] = small[1]
  large = np.append(small[1], chain.betas[1:])
  before = np.append(1.0, bar[:-1])

  def network(x, time, m):
    return m.tanh(0.8 * x) * time / 1000, m.sin(x + time / 1000)

  x = begin
  for step, j in enumerate(range(249, -1, -1)):
    eps, raw = network(x, times[step], np)
    x0 = (x - np.sqrt(1 - bar[j]) * eps) / np.sqrt(bar[j])
    mean = chain.betas[j] * np.sqrt(before[j]) / (1 - bar[j]) * x0
    mean += (1 - before[j]) * np.sqrt(1 - chain.betas[j]) / (1 - bar[j]) * x
    part = (raw + 1) / 2
    log = {
      'fixed_small': np.log(small[j]),
      'fixed_large': np.log(large[j]),
      'learned_range': part * np.log(chain.betas[j])
      + (1 - part) * np.log(small[j]),
    }[variance]
    x = mean + (j > 0) * np.exp(0.5 * log) * noise[step]

  def denoise(x, level, context, first):
    value = jnp.concatenate(network(x, level.time, jnp), -1)
    return Prediction.of('eps', x, value, level)

  stage = sampling.Stage(
    segments=(sampling.Segment(levels=SHORT, denoise=denoise),),
    enter=lambda state, normal: (normal(shape), None),
    leave=lambda state, x, x0, context: [*state, x],
  )
  solver = solvers.create('ddpm', variance=variance)
  recorded = sampling.Noise.recorded(
    [jnp.asarray(begin, jnp.float32)], [jnp.asarray(noise, jnp.float32)]
  )
  (got,) = jax.jit(functools.partial(sampling.run, [stage], solver))(recorded)
  np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-4)


def test_variances_of_the_last_step_are_those_of_the_one_before():
  level, next_level = rows(0)
  second, _ = rows(1)
  prediction = Prediction.of('eps', X, VALUE, level)
  for variance in ('fixed_small', 'fixed_large'):
    log = ddpm.ancestral(prediction, X, level, next_level, variance)[2]
    assert float(log) == float(second.log_variance)


def test_clipping_keeps_the_raw_variance():
  level, next_level = rows(125)
  prediction = Prediction.of('eps', X, VALUE, level)
  clipped, mean, log = ddpm.ancestral(
    prediction, X, level, next_level, 'learned_range', clip=True
  )
  assert float(jnp.abs(clipped.x0).max()) == 1
  np.testing.assert_array_equal(clipped.variance, VALUE[..., 4:])
  want = ddpm.posterior_mean(clipped.x0, X, level, next_level)
  np.testing.assert_array_equal(mean, want)


def test_rescaled_times():
  chain = schedules.make_chain('cosine', 40)
  levels = timesteps.respaced_levels(chain, '5', rescale=True)
  times = np.array([39, 29, 20, 10, 0, 0])
  np.testing.assert_allclose(levels.time, 25.0 * times)
  np.testing.assert_allclose(levels.part, times / 40, rtol=1e-6)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'loss': 'l1'}, "loss 'l1' is not one of"),
    ({'variance': 'learned'}, "variance 'learned' is not one of"),
    ({'parameterization': 'f'}, "parameterization 'f' is not one of"),
  ],
)
def test_unknown_names_are_told(options, message):
  with pytest.raises(ValueError, match=message):
    iddpm_loss.LossSettings(**options)


def test_a_network_without_a_variance_is_told():
  settings = iddpm_loss.LossSettings()
  value = VALUE[..., :4]
  with pytest.raises(ValueError, match='needs a network with twice .* 4'):
    iddpm_loss.loss(lambda x, t: value, WHOLE, settings, X, jnp.array([3]), EPS)
  with pytest.raises(ValueError, match="variance 'none' is not one of"):
    solvers.create('ddpm', variance='none')
