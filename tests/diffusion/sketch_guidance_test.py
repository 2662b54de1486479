import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import edm
from pyramid_jax.diffusion import edm_timesteps
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.guidance import sketch as sketch_guidance
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.levels import row
from pyramid_jax.diffusion.solvers import base as solver_lib
from pyramid_jax.diffusion.solvers import heun


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
# Two programs of the same numbers round alike if they are fused.
FUSED = {'xla_cpu_use_fusion_emitters': True}
SHAPE = (2, 4, 4, 1)
COND, NULL = (jnp.array(c)[:, None, None, None] for c in ([1.0, 2.0], [0, 0.0]))
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


def levels_of(name):
  kind = 'ddim' if name == 'noisy' else name
  return timesteps.spaced_levels(CHAIN, STEPS, solvers.SPACINGS[kind])


def plain(levels, condition, seen=None):
  """A network alone, whose only activation is the noisy state, squared."""
  shape = (len(condition), *SHAPE[1:])

  def denoise(x, level, context, first=True, features=()):
    del first
    if seen is not None:
      seen.append((x.shape[0], bool(features)))
    eps = jnp.tanh(x) * level.time / 1000 + 0.3 * context
    prediction = Prediction.from_eps(x, eps, level)
    found = {'square': x + 0.1 * context * x**2}
    asked = {name: found[name] for name in features}
    return prediction.replace(features=asked)

  return sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (normal(shape), condition),
    leave=lambda state, x, x0, context: [*state, x],
  )


def guided(levels, scale=3.0, interval=(0.0, 1.0), seen=None):
  return classifier_free.guided_stage(
    lambda condition, shape: plain(levels, condition, seen),
    SHAPE,
    COND,
    NULL,
    classifier_free.Guidance(scale, interval),
  )


def loss(prediction, level, initial):
  del level, initial
  return jnp.square(prediction.features['square'] - TARGET).sum((1, 2, 3))


def steered(stage, beta=1.6, **options):
  sketch = sketch_guidance.SketchGuidance(
    loss=loss, features=['square'], beta=beta, **options
  )
  return sketch_guidance.sketch_guided(stage, sketch)


def watched(stage, watch):
  """Calls watch(before, moved, after) at every step that is corrected.

  `moved` is the carry after the solver's step, `after` that with the
  correction.
  """

  def around(segment):
    (inner,) = segment.around

    def owned(step, context):
      def call(carry, at):
        moved = []

        def noted(*args):
          moved.append(step(*args))
          return moved[-1]

        after = inner(noted, context)(carry, at)
        watch(carry.x, moved[0], after)
        return after

      return call

    return dataclasses.replace(segment, around=(owned,))

  segments = tuple(
    around(segment) if segment.around else segment for segment in stage.segments
  )
  return dataclasses.replace(stage, segments=segments)


def sample(solver, stage, trace=False):
  noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(3)))
  run = functools.partial(sampling.run, [stage], solver, trace=trace)
  return jax.jit(run, compiler_options=FUSED)(noise)


def length(d):
  return jnp.sqrt(jnp.square(d).sum((1, 2, 3)))


@pytest.mark.turns(3)
@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_no_strength_is_no_guidance(name):
  solver = SAMPLERS[name]
  interval = (0.2, 0.705) if name in ('noisy', 'unipc') else (0.0, 1.0)
  stage = guided(levels_of(name), interval=interval)
  want = sample(solver, stage)[0]

  @functools.partial(jax.jit, compiler_options=FUSED)
  def run(beta):
    noise = sampling.Noise.from_keys(jax.random.split(jax.random.key(3)))
    return sampling.run([steered(stage, beta=beta)], solver, noise)[0]

  atol = 1e-6 * np.abs(want).max()
  np.testing.assert_allclose(run(0.0), want, rtol=0, atol=atol)
  assert np.abs(run(1.6) - want).max() > 0.05


@pytest.mark.parametrize('name', sorted(SAMPLERS))
def test_each_correction_is_as_long_as_its_step_times_beta(name):
  lengths, wanted = [], []

  def watch(before, moved, after):
    mean = moved.x if moved.mean is None else moved.mean
    jax.debug.callback(
      lambda got, want: (lengths.append(got), wanted.append(want)),
      length(after.x - moved.x),
      0.7 * length(mean - before),
    )

  whole = steered(plain(levels_of(name), COND), beta=0.7, stop_fraction=1.0)
  sample(SAMPLERS[name], watched(whole, watch))
  jax.effects_barrier()
  assert len(lengths) == whole.steps
  # The states are far longer than the last steps, and alpha^2 + sigma^2 is 1 to
  # the last digit only.
  np.testing.assert_allclose(lengths, wanted, rtol=1e-5, atol=1e-5)


def test_a_step_is_measured_without_the_noise_that_it_draws():
  solver = SAMPLERS['ddpm']
  whole = plain(levels_of('ddpm'), COND)
  first = dataclasses.replace(whole, segments=(whole.segments[0].part(0, 1),))
  moves = {}

  def jump(norm_ref):
    def watch(before, moved, after):
      del before
      jax.debug.callback(
        lambda **arrays: moves.update(arrays), x=moved.x, mean=moved.mean
      )

    stage = steered(first, stop_fraction=1.0, norm_ref=norm_ref)
    got = sample(solver, watched(stage, watch))[0]
    jax.effects_barrier()
    return np.abs(got - moves['x']).max()

  jumps = [jump(norm_ref) for norm_ref in sketch_guidance.NORM_REFS]
  assert np.abs(moves['x'] - moves['mean']).max() > 0.1
  assert jumps[1] > 1.05 * jumps[0]


@pytest.mark.parametrize('fraction', [0.0, 0.3, 1.0])
def test_only_the_first_steps_are_steered(fraction):
  solver = SAMPLERS['ddim']
  levels = levels_of('ddim')
  stage = guided(levels)
  got = steered(stage, stop_fraction=fraction)
  lengths = [segment.steps for segment in got.segments]
  count = round(fraction * STEPS)
  assert lengths == [n for n in (count, STEPS - count) if n]
  _, (trace,) = sample(solver, got, trace=True)
  _, (free,) = sample(solver, stage, trace=True)
  differs = np.abs(trace.x - free.x).max((1, 2, 3, 4)) > 1e-4
  assert differs.all() == (count > 0)
  if count < STEPS:  # the rest is what unguided sampling makes of the state
    rest = dataclasses.replace(
      stage,
      segments=(stage.segments[0].part(count, STEPS),),
      enter=lambda state, normal: (
        trace.x[count - 1] if count else normal(SHAPE),
        stage.enter(state, normal)[1],
      ),
    )
    want = sample(solver, rest)[0]
    np.testing.assert_allclose(trace.x[-1], want, rtol=1e-5, atol=1e-5)


def test_guidance_within_an_interval_meets_steering():
  seen = []
  within = guided(levels_of('ddim'), 3.0, (0.2, 0.705), seen)
  stage = steered(within, stop_fraction=0.5)
  lengths = [segment.steps for segment in stage.segments]
  assert lengths == [2, 3, 3, 2]
  sample(SAMPLERS['ddim'], stage)
  # Steered alone, steered beside the null condition, in pairs, alone.
  assert {(2, True), (2, False), (4, False)} == set(seen)


def one_step(stage, x, index, step=None):
  """Returns the carry after the corrected step from x at a level."""
  (segment,) = stage.segments
  _, context = stage.enter([], lambda shape: x)
  ends = (
    row(jax.tree.map(jnp.asarray, segment.levels), index + i) for i in (0, 1)
  )
  owned = segment.around[0](step or SAMPLERS['ddim'].step, context)
  denoise = lambda x, level, first: segment.denoise(x, level, context, first)
  carry = solver_lib.Carry(x=x, prediction=solver_lib.nothing(x))
  return owned(carry, solver_lib.StepInputs(denoise, *ends, lambda: x))


def test_examples_do_not_know_of_each_other():
  x = jax.random.normal(jax.random.key(5), SHAPE)
  levels = levels_of('ddim')

  @jax.jit
  def corrected(x, target, condition):
    sketch = sketch_guidance.SketchGuidance(
      loss=lambda p, level, initial: jnp.square(
        p.features['square'] - target
      ).sum((1, 2, 3)),
      features=['square'],
      beta=1.6,
      stop_fraction=1.0,
    )
    stage = sketch_guidance.sketch_guided(plain(levels, condition), sketch)
    return one_step(stage, x, 2).x

  both = corrected(x, TARGET, COND)
  for i in range(2):
    one = slice(i, i + 1)
    got = corrected(x[one], TARGET[one], COND[one])
    np.testing.assert_allclose(got, both[one], rtol=1e-5, atol=1e-5)


def test_the_correction_lies_along_the_gradient_of_finite_differences():
  with jax.enable_x64(True):
    levels = jax.tree.map(
      lambda a: jnp.asarray(a, None if a.dtype == bool else jnp.float64),
      levels_of('ddim'),
    )
    stage = steered(guided(levels), stop_fraction=1.0)
    x = jax.random.normal(jax.random.key(5), SHAPE, jnp.float64)
    moved = []

    def step(*args):
      moved.append(SAMPLERS['ddim'].step(*args))
      return moved[-1]

    got = one_step(stage, x, 2, step).x
    correction = moved[0].x - got

    def value(x):
      condition = jnp.asarray(COND, jnp.float64)
      return jnp.square(x + 0.1 * condition * x**2 - TARGET).sum((1, 2, 3))

    h, directions = 1e-6, jax.random.normal(jax.random.key(6), (3, *SHAPE))
    # A direction's slope is in proportion to its part in the correction.
    ratios = []
    for direction in jnp.asarray(directions, jnp.float64):
      slope = (value(x + h * direction) - value(x - h * direction)) / (2 * h)
      ratios.append(slope / (correction * direction).sum((1, 2, 3)))
    np.testing.assert_allclose(ratios[1], ratios[0], rtol=1e-6)
    np.testing.assert_allclose(ratios[2], ratios[0], rtol=1e-6)
    assert (ratios[0] > 0).all()


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
  grid = edm_timesteps.EdmTimesteps(churn=edm_timesteps.Churn(amount=5.0))
  solver = heun.Heun(has_churn=True)
  stage = plain(grid.levels(precond, 6), COND)
  first = stage.enter

  def enter(state, normal):
    x, context = first(state, normal)
    return stage.segments[0].levels.initial_std * x, context

  stage = dataclasses.replace(stage, enter=enter)
  want = sample(solver, stage)[0]
  got = sample(solver, steered(stage, beta=0.0))[0]
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert np.isfinite(sample(solver, steered(stage))[0]).all()


def test_steps_are_measured_as_in_a_variance_preserving_chain():
  # EDM's states keep the image's scale: divided by sqrt(1 + sigma^2) they are
  # those of such a chain, whose first steps hardly turn the noise.
  precond = edm.make_preconditioning('edm', sigma_data=0.5)
  levels = edm_timesteps.EdmTimesteps().levels(precond, 6)
  stage = steered(plain(levels, COND), stop_fraction=1.0, beta=0.7)
  x, mean = jax.random.normal(jax.random.key(0), (2, *SHAPE))
  s, t = float(levels.sigma[0]), float(levels.sigma[1])
  assert s == 80
  x, mean = s * x, t * (x + 0.01 * mean)

  def step(carry, at):
    prediction = at.denoise(carry.x, at.level, True)
    return carry.replace(x=mean, prediction=prediction)

  got = one_step(stage, x, 0, step).x
  turned = mean / np.hypot(1, t) - x / np.hypot(1, s)
  np.testing.assert_allclose(
    length(got - mean), 0.7 * np.hypot(1, t) * length(turned), rtol=1e-4
  )
  assert (length(got - mean) < 0.02 * length(x)).all()


@pytest.mark.turns(3)
@pytest.mark.parametrize('strength', [0.3, 0.5, 0.8])
@pytest.mark.parametrize('is_masked', [False, True])
def test_an_edited_stage_is_steered_in_the_steps_that_are_left(
  strength, is_masked
):
  """Without a share of its own, a short edit would not be guided at all."""
  z0 = jax.random.normal(jax.random.key(8), SHAPE)
  mask = jnp.ones((2, 4, 4)).at[:, :2].set(0) if is_masked else None
  edited = editing.edited(guided(levels_of('ddim')), z0, mask, strength)
  left = round(strength * STEPS)
  assert edited.steps == left
  stage = steered(edited, stop_fraction=0.5)
  assert [segment.steps for segment in stage.segments] == [
    round(0.5 * left),
    left - round(0.5 * left),
  ]
  solver = SAMPLERS['ddim']
  want, got = sample(solver, edited)[0], sample(solver, stage)[0]
  assert np.abs(got - want).max() > 0.01
  still = sample(solver, steered(edited, beta=0.0, stop_fraction=0.5))[0]
  np.testing.assert_allclose(still, want, rtol=1e-5, atol=1e-5)


def test_wrong_values_are_named():
  stage = plain(levels_of('ddim'), COND)
  with pytest.raises(ValueError, match=r'stop fraction 1.2 must lie in \[0, 1'):
    steered(stage, stop_fraction=1.2)
  with pytest.raises(ValueError, match="norm_ref 'step' is not one of"):
    steered(stage, norm_ref='step')
