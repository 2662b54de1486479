import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import continuous
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import guidance
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import sketch_guidance
from pyramid_jax.diffusion import solvers


CHAIN = schedules.make_chain('linear', 1000, 0.0015, 0.0195)
SHAPE = (2, 4, 4, 1)
COND, NULL = [1.0, 2.0], [0.0, 0.0]
TARGET = jnp.linspace(-1, 1, 32).reshape(SHAPE)
STEPS = 10
# Samplers of every kind, with noise of their own and without.
SAMPLERS = {
  'ddim': solvers.create('ddim'),
  'noisy': solvers.create('ddim', eta=1.0),
  'ddpm': solvers.create('ddpm'),
  'plms': solvers.create('plms'),
  'dpmpp_2m': solvers.create('dpmpp_2m'),
  'unipc': solvers.create('unipc'),
  'heun': solvers.create('heun'),
}


def plain(levels, condition, seen=None):
  """A network alone, whose only activation is the noisy state, squared."""
  shape = (len(condition), *SHAPE[1:])
  condition = jnp.asarray(condition)[:, None, None, None]

  def denoise(x, level, context, first=True, taps=()):
    del first
    if seen is not None:
      seen.append((x.shape[0], bool(taps)))
    eps = jnp.tanh(x) * level.time / 1000 + 0.3 * context
    prediction = solvers.Prediction.from_eps(x, eps, level)
    found = {'square': x + 0.1 * context * x**2}
    return prediction.replace(taps={name: found[name] for name in taps})

  return sampling.Stage(
    spans=((levels, denoise),),
    enter=lambda state, normal: (normal(shape), condition),
    leave=lambda state, x, x0, context: [*state, x],
  )


def guided(levels, scale=3.0, interval=(), seen=None):
  return guidance.classifier_free(
    plain(levels, COND + NULL, seen),
    scale,
    interval,
    plain(levels, COND, seen),
    null=plain(levels, NULL, seen),
  )


def loss(prediction, level, initial):
  del level, initial
  return jnp.square(prediction.taps['square'] - TARGET).sum((1, 2, 3))


def steered(stage, beta=1.6, **options):
  return sketch_guidance.steered(stage, loss, ['square'], beta=beta, **options)


def sample(solver, stage, trace=False):
  noise = sampling.Noise.from_key(jax.random.key(3))
  run = functools.partial(sampling.run, [stage], solver, trace=trace)
  return jax.jit(run)(noise)


@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_no_strength_is_no_guidance(name):
  solver = SAMPLERS[name]
  interval = (0.2, 0.705) if name in ('noisy', 'unipc') else ()
  stage = guided(solver.levels(CHAIN, STEPS), interval=interval)
  want = sample(solver, stage)[0]

  @jax.jit
  def run(beta):
    noise = sampling.Noise.from_key(jax.random.key(3))
    return sampling.run([steered(stage, beta=beta)], solver, noise)[0]

  atol = 1e-6 * np.abs(want).max()
  np.testing.assert_allclose(run(0.0), want, rtol=0, atol=atol)
  assert np.abs(run(1.6) - want).max() > 0.05


@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_each_correction_is_as_long_as_its_step_times_beta(name):
  solver = SAMPLERS[name]
  levels = solver.levels(CHAIN, STEPS)
  stage = plain(levels, COND)
  lengths, wanted = [], []

  def watch(x_next, x, prediction, mean, ends):
    result = after(x_next, x, prediction, mean, ends)
    length = lambda d: jnp.sqrt(jnp.square(d).sum((1, 2, 3)))
    jax.debug.callback(
      lambda got, want: (lengths.append(got), wanted.append(want)),
      length(result - x_next),
      0.7 * length(mean - x),
    )
    return result

  whole = steered(stage, beta=0.7, stop_fraction=1.0)
  after = whole.after
  sample(solver, dataclasses.replace(whole, after=watch))
  assert len(lengths) == len(levels.time) - 1
  # The states are far longer than the last steps, and alpha^2 + sigma^2 is 1 to
  # the last digit only.
  np.testing.assert_allclose(lengths, wanted, rtol=1e-5, atol=1e-5)


def test_a_step_is_measured_without_the_noise_that_it_draws():
  solver = SAMPLERS['ddpm']
  levels = solver.levels(CHAIN, STEPS)
  stage = steered(plain(levels, COND), stop_fraction=1.0)
  steps = {}

  def watch(x_next, x, prediction, mean, ends):
    del prediction, ends
    jax.debug.callback(
      lambda **arrays: steps.update(arrays), x_next=x_next, x=x, mean=mean
    )
    return x_next

  sample(solver, dataclasses.replace(stage, after=watch))
  # The last step of a chain that ends clean draws nothing.
  np.testing.assert_allclose(steps['x_next'], steps['mean'], atol=1e-6)
  first = dataclasses.replace(
    stage, spans=((solvers.row(levels, slice(0, 2)), stage.spans[0][1]),)
  )
  sample(solver, dataclasses.replace(first, after=watch))
  assert np.abs(steps['x_next'] - steps['mean']).max() > 0.1
  jumps = [
    np.abs(
      sample(solver, dataclasses.replace(first, after=s.after))[0]
      - steps['x_next']
    ).max()
    for s in (
      steered(plain(levels, COND), norm_ref=ref)
      for ref in sketch_guidance.NORM_REFS
    )
  ]
  assert jumps[1] > 1.05 * jumps[0]


@pytest.mark.parametrize('fraction', [0.0, 0.3, 1.0])
def test_only_the_first_steps_are_steered(fraction):
  solver = SAMPLERS['ddim']
  levels = solver.levels(CHAIN, STEPS)
  stage = guided(levels)
  got = steered(stage, stop_fraction=fraction)
  lengths = [len(part.time) - 1 for part, _ in got.spans]
  count = round(fraction * STEPS)
  assert lengths == [n for n in (count, STEPS - count) if n]
  _, (trace,) = sample(solver, got, trace=True)
  _, (free,) = sample(solver, stage, trace=True)
  differs = np.abs(trace.x - free.x).max((1, 2, 3, 4)) > 1e-4
  assert differs.all() == (count > 0)
  if count < STEPS:  # the rest is what unguided sampling makes of the state
    rest = dataclasses.replace(
      stage,
      spans=((solvers.row(levels, slice(count, None)), stage.spans[0][1]),),
      enter=lambda state, normal: (
        trace.x[count - 1] if count else normal(SHAPE),
        stage.enter(state, normal)[1],
      ),
    )
    want = sample(solver, rest)[0]
    np.testing.assert_allclose(trace.x[-1], want, rtol=1e-5, atol=1e-5)


def test_guidance_within_an_interval_meets_steering():
  solver = SAMPLERS['ddim']
  levels = solver.levels(CHAIN, STEPS)
  seen = []
  stage = steered(guided(levels, 3.0, (0.2, 0.705), seen), stop_fraction=0.5)
  lengths = [len(part.time) - 1 for part, _ in stage.spans]
  assert lengths == [2, 3, 3, 2]
  sample(solver, stage)
  # Steered alone, steered beside the null condition, in pairs, alone.
  assert {(2, True), (2, False), (4, False)} == set(seen)


def test_examples_do_not_know_of_each_other():
  solver = SAMPLERS['ddim']
  levels = solver.levels(CHAIN, STEPS)
  x = jax.random.normal(jax.random.key(5), SHAPE)
  row = solvers.row(jax.tree.map(jnp.asarray, levels), 2)

  def corrected(x, target, condition):
    stage = steered(plain(levels, condition), stop_fraction=1.0)
    own = sketch_guidance.steered(
      plain(levels, condition),
      lambda p, level, initial: jnp.square(p.taps['square'] - target).sum(
        (1, 2, 3)
      ),
      ['square'],
      beta=1.6,
    )
    _, context = stage.enter([], lambda shape: x)
    prediction = own.spans[0][1](x, row, context, True)
    ends = row, solvers.row(jax.tree.map(jnp.asarray, levels), 3)
    return own.after(x + 1, x, prediction, x + 1, ends)

  both = jax.jit(corrected)(x, TARGET, jnp.asarray(COND))
  alone = jax.jit(corrected)
  for i in range(2):
    one = slice(i, i + 1)
    got = alone(x[one], TARGET[one], jnp.asarray(COND)[one])
    np.testing.assert_allclose(got, both[one], rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_finite_differences():
  with jax.enable_x64(True):
    levels = solvers.row(
      jax.tree.map(
        lambda a: jnp.asarray(a, jnp.float64),
        SAMPLERS['ddim'].levels(CHAIN, STEPS),
      ),
      slice(None),
    )
    stage = steered(guided(levels), stop_fraction=1.0)
    x = jax.random.normal(jax.random.key(5), SHAPE, jnp.float64)
    row = solvers.row(levels, 2)
    _, context = stage.enter([], lambda shape: x)
    denoise = jax.jit(lambda x: stage.spans[0][1](x, row, context, True))
    got = denoise(x).gradient

    def value(x):
      condition = jnp.asarray(COND)[:, None, None, None]
      return jnp.square(x + 0.1 * condition * x**2 - TARGET).sum()

    direction = jax.random.normal(jax.random.key(6), SHAPE, jnp.float64)
    h = 1e-6
    want = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
    np.testing.assert_allclose((got * direction).sum(), want, rtol=1e-8)


def test_corrections_lead_towards_the_target():
  x = jax.random.normal(jax.random.key(1), SHAPE)
  distances = []
  for _ in range(6):
    gradient = 2 * (x - TARGET)
    step = jnp.full(SHAPE, 0.1)
    x = x - sketch_guidance.correction(gradient, step, 1.0)
    distances.append(float(jnp.abs(x - TARGET).sum()))
  assert distances == sorted(distances, reverse=True)
  still = sketch_guidance.correction(jnp.zeros(SHAPE), step, 1.0)
  np.testing.assert_array_equal(still, jnp.zeros(SHAPE))
  each = sketch_guidance.correction(gradient, step, jnp.array([0.0, 2.0]))
  np.testing.assert_array_equal(each[0], jnp.zeros(SHAPE[1:]))
  length = float(jnp.sqrt(jnp.square(each[1]).sum()))
  assert length == pytest.approx(2 * 0.1 * 4, rel=1e-5)


def test_continuous_time_with_churn():
  precond = edm.make_preconditioning('edm', sigma_data=0.5)
  solver = continuous.Heun(churn=5.0)
  stage = plain(solver.levels(precond, 6), COND)
  first = stage.enter

  def enter(state, normal):
    x, context = first(state, normal)
    return stage.spans[0][0].initial_std * x, context

  stage = dataclasses.replace(stage, enter=enter)
  want = sample(solver, stage)[0]
  got = sample(solver, steered(stage, beta=0.0))[0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert np.isfinite(sample(solver, steered(stage))[0]).all()


def test_steps_are_measured_as_in_a_variance_preserving_chain():
  # EDM's states keep the image's scale: divided by sqrt(1 + sigma^2) they are
  # those of such a chain, whose first steps hardly turn the noise.
  precond = edm.make_preconditioning('edm', sigma_data=0.5)
  levels = continuous.Heun().levels(precond, 6)
  stage = steered(plain(levels, COND), stop_fraction=1.0, beta=0.7)
  x, mean = jax.random.normal(jax.random.key(0), (2, *SHAPE))
  first, second = (solvers.row(levels, i) for i in (0, 1))
  s, t = float(first.sigma), float(second.sigma)
  assert s == 80
  x, mean = s * x, t * (x + 0.01 * mean)
  gradient = jnp.ones(SHAPE)
  prediction = solvers.Prediction(x0=x, eps=x, gradient=gradient)
  got = stage.after(mean, x, prediction, mean, (first, second))
  length = lambda d: jnp.sqrt(jnp.square(d).sum((1, 2, 3)))
  turned = mean / np.hypot(1, t) - x / np.hypot(1, s)
  np.testing.assert_allclose(
    length(got - mean), 0.7 * np.hypot(1, t) * length(turned), rtol=1e-4
  )
  assert (length(got - mean) < 0.02 * length(x)).all()


def test_wrong_values_are_named():
  stage = plain(SAMPLERS['ddim'].levels(CHAIN, STEPS), COND)
  with pytest.raises(ValueError, match=r'stop fraction 1.2 must lie in \[0, 1'):
    steered(stage, stop_fraction=1.2)
  with pytest.raises(ValueError, match="norm_ref 'step' is not one of"):
    steered(stage, norm_ref='step')
