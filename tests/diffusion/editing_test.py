import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax.diffusion import editing
from pyramid_jax.diffusion import gaussian
from pyramid_jax.diffusion import sampling
from pyramid_jax.diffusion import schedules
from pyramid_jax.diffusion import solvers
from pyramid_jax.diffusion import timesteps
from pyramid_jax.diffusion.guidance import classifier_free
from pyramid_jax.diffusion.levels import Prediction
from pyramid_jax.diffusion.levels import row


CHAIN = schedules.make_chain('scaled_linear', 1000, 0.0015, 0.0195)
SHAPE = (2, 4, 4, 1)


def eps_of(x, level):
  return jnp.tanh(x) * level.time / 1000 + 0.05 * x


def stage(levels, shape=SHAPE, seen=None):
  def denoise(x, level, context, first=True):
    del first, context
    if seen is not None:
      jax.debug.callback(lambda t, x: seen.append((float(t), x)), level.time, x)
    return Prediction.from_eps(x, eps_of(x, level), level)

  return sampling.Stage(
    segments=(sampling.Segment(levels=levels, denoise=denoise),),
    enter=lambda state, normal: (normal(shape), None),
    leave=lambda state, x, x0, context: [*state, x],
  )


def normal(seed, shape=SHAPE):
  return jax.random.normal(jax.random.key(seed), shape)


def levels_of(steps):
  return timesteps.spaced_levels(CHAIN, steps, 'official')


def run(s, name='ddim', **recorded):
  noise = sampling.Noise.recorded([normal(0)], **recorded)
  return np.asarray(sampling.run([s], solvers.create(name), noise)[0])


@pytest.mark.parametrize('name', ['ddim', 'plms', 'heun'])
def test_image_to_image_takes_the_last_steps(name):
  levels = levels_of(10)
  z0 = normal(1)
  got = run(editing.from_image(stage(levels), z0, 0.4), name)
  # By hand: the levels of times 301, 201, 101, 1 and the end.
  tail = row(levels, slice(6, None))
  assert tail.time.tolist() == [301, 201, 101, 1, 1]
  begin = gaussian.q_sample(z0, normal(0), tail.alpha[0], tail.sigma[0])
  (want,) = sampling.run(
    [stage(tail)], solvers.create(name), sampling.Noise.recorded([begin])
  )
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_the_whole_strength_still_begins_with_the_image():
  levels = levels_of(5)
  s = editing.from_image(stage(levels), normal(1), 1.0)
  x, _ = s.enter([], lambda shape: normal(0))
  assert s.steps == 5
  want = gaussian.q_sample(
    normal(1), normal(0), levels.alpha[0], levels.sigma[0]
  )
  np.testing.assert_allclose(x, want, rtol=1e-6)


@pytest.mark.parametrize(
  ('strength', 'steps', 'taken'), [(0.29, 100, 29), (0.3, 10, 3), (0.39, 10, 3)]
)
def test_number_of_steps(strength, steps, taken):
  levels = levels_of(steps)
  s = editing.from_image(stage(levels), normal(1), strength)
  assert s.steps == taken


def test_strength_cuts_through_the_segments_of_guidance():
  levels = levels_of(10)
  guided = classifier_free.guided_stage(
    lambda condition, shape: stage(levels, shape),
    SHAPE,
    jnp.zeros(2),
    jnp.zeros(2),
    classifier_free.Guidance(2.0, (0.0, 0.25)),
  )
  assert [part.steps for part in guided.segments] == [7, 3]
  longer = editing.from_image(guided, normal(1), 0.5)
  assert [part.steps for part in longer.segments] == [2, 3]
  shorter = editing.from_image(guided, normal(1), 0.2)
  assert [part.steps for part in shorter.segments] == [2]
  # No condition: guidance changes nothing.
  want = run(editing.from_image(stage(levels), normal(1), 0.5))
  np.testing.assert_allclose(run(longer), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('strength', [0.0, -0.5, 1.5, 0.05])
def test_strengths_that_cannot_work_are_told(strength):
  levels = levels_of(10)
  with pytest.raises(ValueError, match=f'^strength {strength} '):
    editing.from_image(stage(levels), normal(1), strength)


def half():
  return (
    jnp.broadcast_to(jnp.arange(4)[:, None] < 2, (1, 4, 4))[..., None] * 1.0
  )


@pytest.mark.parametrize('name', ['ddim', 'plms', 'dpmpp_2m', 'unipc'])
def test_masked_sampling_equals_a_plain_loop(name):
  # Every place of the toy network is on its own, so the free places must not
  # change, and each call sees the known ones at the noise of its level.
  levels = levels_of(5)
  z0, mask = normal(1), half()
  before = normal(2, (5, *SHAPE))
  seen = []
  s = editing.masked(stage(levels, seen=seen), z0, mask)
  got = run(s, name, known=[before])
  jax.effects_barrier()
  free = run(stage(levels), name)
  np.testing.assert_allclose(got[:, 2:], free[:, 2:], rtol=1e-5, atol=1e-6)
  # The second call of the first PLMS step is no new step.
  calls = seen[:1] + seen[2:] if name == 'plms' else seen
  assert [t for t, _ in calls] == [801, 601, 401, 201, 1]
  for i, (_, x) in enumerate(calls):
    want = levels.alpha[i] * z0 + levels.sigma[i] * before[i]
    np.testing.assert_allclose(x[:, :2], want[:, :2], rtol=1e-5, atol=1e-6)
  assert np.abs(got[:, :2] - z0[:, :2]).max() > 1e-3


def test_drawn_noise_of_the_mask_is_its_own():
  # eta = 1 draws in every step; masking must not change what is drawn there.
  solver, levels = solvers.create('ddim', eta=1.0), levels_of(5)
  keys = jax.random.split(jax.random.key(5), SHAPE[0])
  noise = sampling.Noise.from_keys(keys)
  (free,) = sampling.run([stage(levels)], solver, noise)
  seen = []
  s = editing.masked(stage(levels, seen=seen), jnp.zeros(SHAPE), half())
  (got,) = sampling.run([s], solver, noise)
  np.testing.assert_allclose(got[:, 2:], free[:, 2:], rtol=1e-5, atol=1e-6)
  jax.effects_barrier()
  drawn = [x[:, :2] / levels.sigma[i] for i, (_, x) in enumerate(seen)]
  assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 0.9
  for x in drawn:
    assert 0.4 < x.std() < 1.8


def test_images_and_masks_of_another_size_are_told():
  levels = levels_of(5)
  with pytest.raises(ValueError, match=r'mask has shape \(1, 5, 4, 1\)'):
    editing.masked(stage(levels), normal(1), jnp.ones((1, 5, 4, 1)))
  large = normal(1, (2, 8, 8, 1))
  with pytest.raises(ValueError, match=r'image has shape \(2, 8, 8, 1\)'):
    run(editing.from_image(stage(levels), large, 0.5))
  s = editing.masked(stage(levels), large, jnp.ones((1, 8, 8, 1)))
  with pytest.raises(ValueError, match='known state has shape'):
    run(s, known=[normal(2, (5, *SHAPE))])


def test_recorded_noise_must_serve_the_mask():
  levels = levels_of(5)
  s = editing.masked(stage(levels), normal(1), half())
  with pytest.raises(ValueError, match='a mask needs recorded noise'):
    run(s)
