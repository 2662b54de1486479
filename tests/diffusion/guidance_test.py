import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.levels import row


Guidance = classifier_free.Guidance
CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
SHAPE = (2, 4, 4, 1)
COND, NULL = (jnp.array(c)[:, None, None, None] for c in ([1.0, 2.0], [0, 0.0]))


def eps_of(x, level, condition):
  return jnp.tanh(x) * level.time / 1000 + 0.3 * condition


def levels_of(name, steps=10):
  return timesteps.spaced_levels(CHAIN, steps, solvers.SPACINGS[name])


def builder(levels, seen=None):
  """Builds stages of as many images as there are conditions."""

  def build(condition, shape):
    def denoise(x, level, context, first=True):
      del first
      if seen is not None:
        seen.append(x.shape[0])
      return Prediction.from_eps(x, eps_of(x, level, context), level)

    return sampling.Stage(
      segments=(sampling.Segment(levels=levels, denoise=denoise),),
      enter=lambda state, normal: (normal(shape), condition),
      leave=lambda state, x, x0, context: [*state, x],
    )

  return build


def guided(levels, guidance, seen=None):
  return classifier_free.guided_stage(
    builder(levels, seen), SHAPE, COND, NULL, guidance
  )


def sample(name, s):
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(3)))
  run = functools.partial(sampling.run, [s], solvers.create(name))
  return jax.jit(run)(noise)[0]


def masked_scale(levels, scale, interval):
  """The same by one stage whose scale depends on the level."""

  def denoise(x, level, context, first=True):
    del first, context
    cond, null = (eps_of(x, level, c) for c in (COND, NULL))
    part = level.time / 1000
    inside = (interval[0] <= part) & (part <= interval[1])
    eps = null + jnp.where(inside, scale, 1.0) * (cond - null)
    return Prediction.from_eps(x, eps, level)

  return sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (normal(SHAPE), None),
    leave=lambda state, x, x0, context: [*state, x],
  )


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', ['ddim', 'ddpm', 'dpmpp_2m', 'unipc'])
@pytest.mark.parametrize('interval', [(0.2, 0.705), (0.0, 0.5), (0.6, 1.0)])
def test_an_interval_equals_a_scale_that_depends_on_the_level(name, interval):
  levels = levels_of(name)
  got = sample(name, guided(levels, Guidance(3.0, interval)))
  want = sample(name, masked_scale(levels, 3.0, interval))
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
  everywhere = sample(name, masked_scale(levels, 3.0, (0.0, 1.0)))
  assert np.abs(want - everywhere).max() > 0.01


def test_plms_keeps_its_history_over_the_border():
  levels = levels_of('plms')
  interval = (0.0, 0.65)  # not in the first step, which looks ahead
  got = sample('plms', guided(levels, Guidance(3.0, interval)))
  want = sample('plms', masked_scale(levels, 3.0, interval))
  np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def test_outside_the_interval_the_network_sees_b_images():
  seen = []
  s = guided(levels_of('ddim'), Guidance(3.0, (0.2, 0.705)), seen)
  lengths = [segment.steps for segment in s.segments]
  assert lengths == [2, 6, 2]  # times 901 .. 1, the middle is 701 .. 201
  outside = [segment.denoise.guidance is None for segment in s.segments]
  assert outside == [True, False, True]
  sample('ddim', s)
  assert seen == [2, 4, 2]


def test_none_builds_no_half_and_any_number_does():
  levels = levels_of('ddim', 5)
  for guidance, counts in ((None, [2]), (Guidance(1.0), [4])):
    seen = []
    sample('ddim', guided(levels, guidance, seen))
    assert seen == counts
  seen = []
  build = builder(levels, seen)
  s = classifier_free.guided_stage(build, SHAPE, COND, None, Guidance(3.0))
  sample('ddim', s)
  assert seen == [2]


def test_two_scales_are_one_compilation():
  levels, traced = levels_of('ddim', 5), []
  solver = solvers.create('ddim')
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(3)))

  @jax.jit
  def run(spec):
    traced.append(spec.guidance is None)
    stage = guided(levels, spec.guidance_of(0))
    return sampling.run([stage], solver, noise)[0]

  def spec(scale):
    guidance = None if scale is None else Guidance(scale)
    return spec_lib.SamplerSpec(guidance=guidance)

  results = [run(spec(scale)) for scale in (2.0, 5.0)]
  assert traced == [False]
  assert np.abs(results[0] - results[1]).max() > 0.1
  one = run(spec(1.0))
  assert traced == [False]
  none = run(spec(None))
  assert traced == [False, True]
  np.testing.assert_allclose(one, none, rtol=1e-5, atol=1e-5)


def test_a_scale_for_each_stage():
  guidance = Guidance(np.array([2.0, 5.0]), (0.1, 0.9))
  assert float(guidance.of_stage(1).scale) == 5
  assert guidance.of_stage(0).interval == (0.1, 0.9)
  assert Guidance(3.0).of_stage(1).scale == 3.0


def test_halves_lie_beside_each_other():
  tree = {'a': jnp.arange(3.0), 'b': jnp.arange(6).reshape(3, 2)}
  other = jax.tree.map(lambda x: -x, tree)
  both = classifier_free.pair(tree, other)
  assert both['a'].tolist() == [0, 0, 1, -1, 2, -2]
  cond, null = classifier_free.unpair(both)
  np.testing.assert_array_equal(cond['b'], tree['b'])
  np.testing.assert_array_equal(null['b'], other['b'])


# Four channels: eps differs by the condition, which is 1 or 0.
FOUR = (2, 2, 2, 4)


def four(levels, guidance, variance=False):
  def build(half, shape):
    def denoise(x, level, context, first=True):
      del first
      eps = jnp.tanh(x) + context * jnp.arange(1.0, 5.0)
      prediction = Prediction.from_eps(x, eps, level)
      raw = jnp.sin(x) + context if variance else None
      return prediction.replace(variance=raw)

    return sampling.Stage(
      segments=(sampling.Segment(levels=levels, denoise=denoise),),
      enter=lambda state, normal: (normal(shape), half),
      leave=lambda state, x, x0, context: [*state, x],
    )

  one = jnp.ones((2, 1, 1, 1))
  return classifier_free.guided_stage(build, FOUR, one, 0 * one, guidance)


def predicted(stage, levels, index=0):
  """Returns what a guided stage predicts of one state, and that state."""
  x = jax.random.normal(jax.random.key(5), FOUR)
  _, context = stage.enter([], lambda shape: x)
  return stage.segments[0].denoise(x, row(levels, index), context), x


def test_guided_channels():
  levels = levels_of('ddim', 5)
  got, x = predicted(four(levels, Guidance(3.0, channels=3), True), levels)
  cond = jnp.tanh(x) + jnp.arange(1.0, 5.0)
  # The others are those of the condition, bit for bit.
  np.testing.assert_array_equal(got.eps[..., 3], cond[..., 3])
  np.testing.assert_array_equal(got.variance, jnp.sin(x) + 1)
  want = jnp.tanh(x) + 3.0 * jnp.arange(1.0, 5.0)
  np.testing.assert_allclose(got.eps[..., :3], want[..., :3], rtol=1e-5)
  whole, _ = predicted(four(levels, Guidance(3.0)), levels)
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
  levels = timesteps.levels(CHAIN, times[::-1], 1.0)
  part = levels.part[:-1]
  got = classifier_free.power_cosine(4.4, jnp.asarray(part), 4.0)
  np.testing.assert_allclose(got, list(PRINTED.values()), atol=1e-6)
  stage = four(levels, Guidance(4.4, power=4.0))
  for index, scale in enumerate(PRINTED.values()):
    prediction, x = predicted(stage, levels, index)
    want = jnp.tanh(x) + scale * jnp.arange(1.0, 5.0)
    np.testing.assert_allclose(prediction.eps, want, rtol=1e-5, atol=1e-5)


def test_ancestral_steps_take_the_variance_of_the_condition():
  """Without noise in what is predicted, the spread is that of the steps."""
  solver = solvers.create('ddpm', variance='learned_range')
  levels = timesteps.spaced_levels(CHAIN, 2, 'iddpm')
  guided = four(levels, Guidance(2.0, channels=3), True)
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
    ({'channels': 0}, 'guidance channels is 0, must be at least 1'),
    ({'power': 0.0}, 'guidance power is 0.0, must be above 0'),
  ],
)
def test_bad_options_are_told(options, message):
  with pytest.raises(ValueError, match=message):
    Guidance(3.0, **options)
