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
SHAPE = (2, 4, 4, 1)


def eps_of(x, level, condition):
  return jnp.tanh(x) * level.time / 1000 + 0.3 * condition


def stage(levels, condition, seen=None):
  """A stage of as many images as there are conditions."""
  shape = (len(condition), *SHAPE[1:])
  condition = jnp.asarray(condition)[:, None, None, None]

  def denoise(x, level, context, first=True):
    del first
    if seen is not None:
      seen.append(x.shape[0])
    return solvers.Prediction.from_eps(x, eps_of(x, level, context), level)

  return sampling.Stage(
    spans=((levels, denoise),),
    enter=lambda state, normal: (normal(shape), condition),
    leave=lambda state, x, x0, context: [*state, x],
  )


COND, NULL = [1.0, 2.0], [0.0, 0.0]


def sample(solver, s):
  noise = sampling.Noise.from_key(jax.random.key(3))
  return jax.jit(functools.partial(sampling.run, [s], solver))(noise)[0]


def masked_scale(levels, scale, interval):
  """The same by one stage whose scale depends on the level."""
  halves = [jnp.asarray(c)[:, None, None, None] for c in (COND, NULL)]

  def denoise(x, level, context, first=True):
    del first, context
    cond, null = (eps_of(x, level, c) for c in halves)
    part = level.time / 1000
    inside = (interval[0] <= part) & (part <= interval[1])
    eps = null + jnp.where(inside, scale, 1.0) * (cond - null)
    return solvers.Prediction.from_eps(x, eps, level)

  return sampling.Stage(
    spans=((levels, denoise),),
    enter=lambda state, normal: (normal(SHAPE), None),
    leave=lambda state, x, x0, context: [*state, x],
  )


@pytest.mark.parametrize('name', ['ddim', 'ddpm', 'dpmpp_2m', 'unipc'])
@pytest.mark.parametrize('interval', [(0.2, 0.705), (0.0, 0.5), (0.6, 1.0)])
def test_an_interval_equals_a_scale_that_depends_on_the_level(name, interval):
  solver = solvers.create(name)
  levels = solver.levels(CHAIN, 10)
  guided = guidance.classifier_free(
    stage(levels, COND + NULL), 3.0, interval, stage(levels, COND)
  )
  want = sample(solver, masked_scale(levels, 3.0, interval))
  np.testing.assert_allclose(sample(solver, guided), want, rtol=2e-5, atol=2e-5)
  everywhere = sample(solver, masked_scale(levels, 3.0, (0.0, 1.0)))
  assert np.abs(want - everywhere).max() > 0.01


def test_plms_keeps_its_history_over_the_border():
  solver = solvers.create('plms')
  levels = solver.levels(CHAIN, 10)
  interval = (0.0, 0.65)  # not in the first step, which looks ahead
  guided = guidance.classifier_free(
    stage(levels, COND + NULL), 3.0, interval, stage(levels, COND)
  )
  want = sample(solver, masked_scale(levels, 3.0, interval))
  np.testing.assert_allclose(sample(solver, guided), want, rtol=2e-5, atol=2e-5)


def test_outside_the_interval_the_network_sees_b_images():
  solver = solvers.create('ddim')
  levels = solver.levels(CHAIN, 10)
  pairs, single = [], []
  guided = guidance.classifier_free(
    stage(levels, COND + NULL, pairs),
    3.0,
    (0.2, 0.705),
    stage(levels, COND, single),
  )
  lengths = [len(part.time) - 1 for part, _ in guided.spans]
  assert lengths == [2, 6, 2]  # times 901 .. 1, the middle is 701 .. 201
  sample(solver, guided)
  assert set(pairs) == {4}
  assert set(single) == {2}


def test_the_whole_interval_is_plain_guidance():
  solver = solvers.create('ddim')
  levels = solver.levels(CHAIN, 5)
  single = []
  s = stage(levels, COND + NULL)
  results = [
    sample(solver, guidance.classifier_free(s, 3.0, *options))
    for options in ([], [()], [(0.0, 1.0), stage(levels, COND, single)])
  ]
  np.testing.assert_array_equal(results[0], results[1])
  np.testing.assert_array_equal(results[0], results[2])
  assert single == []


def test_an_interval_without_a_stage_for_the_rest_is_refused():
  levels = solvers.create('ddim').levels(CHAIN, 5)
  with pytest.raises(ValueError, match=r'within \(0.2, 0.7\) needs a stage'):
    guidance.classifier_free(stage(levels, COND + NULL), 3.0, (0.2, 0.7))


# Four channels: eps of the condition in the first half, of none in the second.
def four(levels, variance=False):
  shape = (4, 2, 2, 4)

  def denoise(x, level, context, first=True):
    del context, first
    half = jnp.array([1.0, 1.0, 0.0, 0.0])[:, None, None, None]
    eps = jnp.tanh(x) + half * jnp.arange(1.0, 5.0)
    prediction = solvers.Prediction.from_eps(x, eps, level)
    raw = jnp.sin(x) + half if variance else None
    return prediction.replace(variance=raw)

  return sampling.Stage(
    spans=((levels, denoise),),
    enter=lambda state, normal: (normal(shape), None),
    leave=lambda state, x, x0, context: [*state, x],
  )


def predicted(stage, levels, index=0):
  """Returns what a guided stage predicts of one state, and that state."""
  x = jax.random.normal(jax.random.key(5), (2, 2, 2, 4))
  (_, denoise), *_ = stage.spans
  return denoise(x, solvers.row(levels, index), (None, None)), x


def test_guided_channels():
  levels = solvers.create('ddim').levels(CHAIN, 5)
  stage = guidance.classifier_free(four(levels, True), 3.0, channels=3)
  got, x = predicted(stage, levels)
  cond = jnp.tanh(x) + jnp.arange(1.0, 5.0)
  # The others are those of the condition, bit for bit.
  np.testing.assert_array_equal(got.eps[..., 3], cond[..., 3])
  np.testing.assert_array_equal(got.variance, jnp.sin(x) + 1)
  want = jnp.tanh(x) + 3.0 * jnp.arange(1.0, 5.0)
  np.testing.assert_allclose(got.eps[..., :3], want[..., :3], rtol=1e-5)
  whole, _ = predicted(guidance.classifier_free(four(levels), 3.0), levels)
  np.testing.assert_allclose(whole.eps, want, rtol=1e-5)
  assert whole.variance is None


PRINTED = {
  999: 1.0,
  800: 1.000021,
  600: 1.005495,
  500: 1.032665,
  400: 1.138970,
  300: 1.461119,
  250: 1.772948,
  200: 2.223664,
  100: 3.500668,
  50: 4.119423,
  0: 4.4,
}


def test_printed_power_cosine_schedule():
  times = np.array(list(PRINTED))
  levels = schedules.levels(CHAIN, times[::-1], 1.0)
  part = levels.part[:-1]
  got = guidance.power_cosine(4.4, jnp.asarray(part), 4.0)
  np.testing.assert_allclose(got, list(PRINTED.values()), atol=1e-6)
  stage = guidance.classifier_free(four(levels), 4.4, power=4.0)
  for index, scale in enumerate(PRINTED.values()):
    prediction, x = predicted(stage, levels, index)
    want = jnp.tanh(x) + scale * jnp.arange(1.0, 5.0)
    np.testing.assert_allclose(prediction.eps, want, rtol=1e-5, atol=1e-5)


def test_ancestral_steps_take_the_variance_of_the_condition():
  """Without noise in what is predicted, the spread is that of the steps."""
  solver = solvers.create('ddpm', variance='learned_range', spacing='adm')
  levels = solver.levels(CHAIN, 2)
  guided = guidance.classifier_free(four(levels, True), 2.0, channels=3)
  steps = jnp.ones((2, 2, 2, 2, 4))
  begin = jnp.zeros((2, 2, 2, 4))

  def first_step(scale):
    noise = sampling.Noise.recorded([begin], [scale * steps])
    _, (trace,) = sampling.run([guided], solver, noise, trace=True)
    return trace.x[0]

  # x is 0, so the raw variance is sin(0) + 1 with the condition, 0 without:
  # all of beta, not the middle of the range.
  spread = first_step(1.0) - first_step(0.0)
  want = np.exp(0.5 * levels.log_beta[0])
  np.testing.assert_allclose(spread, want, rtol=1e-4)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'channels': 0}, 'guided channels 0 must be at least 1'),
    ({'power': 0.0}, 'power 0.0 of the guidance schedule must be above 0'),
  ],
)
def test_bad_options_are_told(options, message):
  levels = solvers.create('ddim').levels(CHAIN, 5)
  with pytest.raises(ValueError, match=message):
    guidance.classifier_free(four(levels), 3.0, **options)
