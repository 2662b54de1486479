"""The classifier of noisy states, and the systems that it guides."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.diffusion import levels as levels_lib
from pyramid_jax.diffusion import spec as spec_lib
from pyramid_jax.systems import system as system_lib
from pyramid_jax.systems.classifier import classifier as classifier_lib
from pyramid_jax.systems.classifier import guided as guided_lib
from tests.helpers import configs
from tests.helpers import system_weights


FILE = 'classifier_shapes.py:{},debug'
SMALLEST = {
  'network__channel_mult': '1',
  'network__attention_resolutions': '()',
}
LDM, IMAGE_DIFFIT = 'ldm_shapes.py:class,debug', 'diffit_shapes.py:class,debug'
BATCH = {
  'image': jax.random.uniform(jax.random.key(1), (3, 32, 32, 3), minval=-1),
  'class': jnp.array([1, 24, 7]),
}


def load(kind='images', **fields):
  return configs.load(FILE.format(kind), **{**SMALLEST, **fields})


def base_config(file=LDM, **fields):
  return configs.load(file, sample__steps=2, sample__guidance=1, **fields)


@functools.cache
def guided(file=LDM):
  """Returns a guided system, random weights and its spec."""
  base = base_config(file)
  kind = 'latents' if 'first_stage' in base else 'images'
  system = guided_lib.create(load(kind), base)
  spec = spec_lib.from_config(base).replace(classifier_scale=1.0)
  system.check_spec(spec)
  return system, system_weights.weights_of(system), spec


@pytest.mark.turns(3, group='systems')
@pytest.mark.parametrize('kind', ['images', 'latents'])
def test_the_loss_is_the_cross_entropy_of_noised_states(kind):
  base = base_config() if kind == 'latents' else None
  system = systems.create(load(kind), base)
  weights = system_weights.weights_of(system)
  key = jax.random.key(7)
  run = jax.jit(functools.partial(system.losses, step=0))
  results, _ = run(weights, key, batch=BATCH)
  loss, metrics = results['generator']

  time_key, noise_key, _ = jax.random.split(key, 3)
  t = jax.random.randint(time_key, (3,), 0, 1000)
  noise_key, draw_key = jax.random.split(noise_key)
  z = BATCH['image']
  if kind == 'latents':
    first = systems.create(base).space
    extra = weights.frozen['latents']['extra']
    (z,) = jax.jit(first.training)(
      weights.replace(extra=extra), BATCH, draw_key
    )
  eps = jax.random.normal(noise_key, z.shape)
  bar = system.chain.alphas_bar[t][:, None, None, None].astype(np.float32)
  x = np.sqrt(bar) * z + np.sqrt(1 - bar) * eps
  tree = weights.params['generator']['network']
  logits = jax.jit(system.network.apply)({'params': tree}, x, t)
  log_p = jax.nn.log_softmax(logits)[np.arange(3), BATCH['class'] - 1]
  np.testing.assert_allclose(loss, -log_p.mean(), rtol=1e-3)
  best = np.argsort(-np.asarray(logits))[:, :5]
  hits = best == np.asarray(BATCH['class'])[:, None] - 1
  assert metrics['acc_1'] == pytest.approx(hits[:, :1].any(1).mean())
  assert metrics['acc_5'] == pytest.approx(hits.any(1).mean())


def test_an_image_without_a_class_counts_for_nothing():
  logits = jnp.array([[1.0, 2.0], [3.0, 0.0]])
  found = classifier_lib.cross_entropy(logits, jnp.array([0, 2]))
  np.testing.assert_allclose(found, [0.0, 3 + np.log1p(np.exp(-3))], rtol=1e-6)
  right = classifier_lib.is_among(logits, jnp.array([0, 1]), 5)
  np.testing.assert_array_equal(right, [0.0, 1.0])


def test_previews_show_what_is_classified():
  system = systems.create(load())
  weights = system_weights.weights_of(system)
  images = jax.jit(system.preview)(weights, jax.random.key(0), BATCH)
  distance = np.abs(images - BATCH['image']).mean((1, 2, 3))
  assert images.shape == BATCH['image'].shape
  assert (np.diff(distance) > 0.02).all()  # PREVIEW_TIMES rise


@pytest.mark.turns(3, group='systems')
@pytest.mark.parametrize(
  'file', [LDM, pytest.param(IMAGE_DIFFIT, marks=pytest.mark.slow)]
)
def test_guidance_makes_the_classes_likelier(file):
  system, weights, spec = guided(file)
  keys = system_lib.image_keys(0, [0, 1, 2])

  @jax.jit
  def sample(weights, spec):
    _, (state,) = system_lib.generate(system, weights, keys, BATCH, spec)
    tree = weights.params['generator']['network']
    logits = system.classifier.classify(tree, state, jnp.zeros((1,)))
    errors = classifier_lib.cross_entropy(logits, BATCH['class'])
    return state, errors

  plain, before = sample(weights, spec.replace(classifier_scale=0.0))
  found, after = sample(weights, spec.replace(classifier_scale=20.0))
  assert after.mean() < before.mean()
  base = jax.jit(
    lambda weights: system_lib.generate(
      system.base, weights, keys, BATCH, spec.replace(classifier_scale=None)
    )[1][0]
  )(system.base_weights(weights.frozen))
  np.testing.assert_allclose(plain, base, rtol=1e-4, atol=1e-5)
  assert np.abs(found - base).max() > 1e-3


def test_levels_of_other_processes_are_found_in_the_chain():
  """EDM's states are x + sigma noise, those of the chain have a deviation."""
  system, weights, spec = guided(IMAGE_DIFFIT)
  (levels,) = system.base.levels(spec.replace(steps=(4,)))
  chain = system.classifier.chain
  ratios = np.sqrt((1 - chain.alphas_bar) / chain.alphas_bar)
  for place in (1, 2):
    level = jax.tree.map(jnp.asarray, levels_lib.row(levels, place))
    index = float(system._index(level))
    assert ratios[int(index)] <= level.sigma <= ratios[int(index) + 1]
    call = system._log_probability(weights, BATCH['class'])
    x = 2.0 * BATCH['image']
    length = np.sqrt(1 + level.sigma**2)
    tree = weights.params['generator']['network']
    logits = system.classifier.classify(tree, x / length, jnp.array([index]))
    want = -classifier_lib.cross_entropy(logits, BATCH['class'])
    np.testing.assert_allclose(call(x, level), want, rtol=1e-4)


def test_levels_of_the_chain_keep_their_index():
  system, _, spec = guided(LDM)
  (levels,) = system.base.levels(spec)
  level = levels_lib.row(levels, 0)
  assert system._index(level) == level.time


def test_a_run_without_a_condition_needs_the_class():
  base = configs.load('ldm_shapes.py:none,debug')
  system = guided_lib.create(load('latents'), base)
  with pytest.raises(ValueError, match='needs the class'):
    system.check_rows({'image'})
  system.check_rows({'class'})


@pytest.mark.parametrize(
  ('file', 'fields', 'message'),
  [
    ('frido_shapes.py:layout,debug', {}, "'frido' takes no classifier"),
    ('ladm_shapes.py:class,debug', {}, "'ladm' takes no classifier"),
    ('ldm_shapes.py:text,debug', {}, "'text', must be one of class, none"),
    (LDM, {'data.image_size': 64}, 'data.image_size is 32, must be 64'),
    (LDM, {'condition.num_classes': 9}, 'num_classes is 24, must be 9'),
  ],
)
def test_runs_that_a_classifier_cannot_guide_are_refused(file, fields, message):
  base = configs.change(configs.load(file), fields)
  with pytest.raises(ValueError, match=message):
    guided_lib.create(load('latents'), base)


def test_what_a_classifier_is_trained_on_must_fit():
  with pytest.raises(ValueError, match='classifier.base is not set'):
    systems.create(load('latents'))
  with pytest.raises(ValueError, match="'none', must be 'class'"):
    systems.create(load(condition__task='none'))
  config = config_lib.from_json(config_lib.to_json(load('latents')))
  config.data.image_size = 64
  with pytest.raises(ValueError, match='image_size is 64, must be 32'):
    systems.create(config, base_config())


def test_windows_are_refused_with_a_classifier():
  system, _, spec = guided(LDM)
  with pytest.raises(ValueError, match='with a classifier'):
    system.check_spec(dataclasses.replace(spec, windows=(4, 2)))
