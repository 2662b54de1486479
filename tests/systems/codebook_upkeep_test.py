import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import systems
from pyramid_jax.systems import codebook_upkeep
from pyramid_jax.systems import system as system_lib
from pyramid_jax.training import step as step_lib
from tests.helpers import configs


def _normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _observed(upkeep, state, codes, latents, key=0):
  return upkeep.observed(
    state, jnp.asarray(codes), jnp.asarray(latents), jax.random.key(key)
  )


def test_codes_start_again_where_they_are_used_too_little():
  upkeep = codebook_upkeep.Upkeep(restart_below=0.5)
  table, latents = _normal(0, 4, 3), _normal(1, 2, 5, 3)
  codes = np.array([[0, 0, 0, 0, 0], [1, 1, 1, 1, 2]])
  state = {**upkeep.initial(4, 3), 'uses': jnp.full(4, 0.25)}
  for _ in range(200):  # Running shares become those of the batch.
    state = _observed(upkeep, state, codes, latents)
  want = 0.25 * 0.99**200 + (1 - 0.99**200) * np.array([0.5, 0.4, 0.1, 0])
  np.testing.assert_allclose(state['uses'], want, rtol=1e-4)

  entries, new = upkeep.settled(jnp.asarray(table), state)

  np.testing.assert_array_equal(entries[:2], table[:2])
  rows = latents.reshape(-1, 3)
  for row in np.asarray(entries[2:]):  # 0.1 and 0 are below 0.125
    assert (row == rows).all(-1).any()
  np.testing.assert_allclose(new['uses'], [*want[:2], 0.25, 0.25], rtol=1e-4)


def test_all_codes_begin_at_latents_of_the_first_batch():
  upkeep = codebook_upkeep.Upkeep(restart_below=0.1)
  latents = _normal(1, 64, 3)
  state = _observed(upkeep, upkeep.initial(512, 3), np.zeros(64, int), latents)
  entries, _ = upkeep.settled(jnp.asarray(_normal(0, 512, 3)), state)
  found = {tuple(row) for row in np.asarray(entries)}
  # Code 0 alone was used, by 1 % of a running share that is above the limit.
  assert len(found & {tuple(row) for row in latents}) > 60
  assert len(found) <= 65


def test_entries_are_running_means_of_their_latents():
  upkeep = codebook_upkeep.Upkeep(restart_below=1e-9, decay=0.9)
  table = _normal(0, 3, 2)
  state = {
    **upkeep.initial(3, 2),
    'uses': jnp.full(3, 1 / 3),
    'sums': jnp.asarray(table / 3),
  }
  uses, sums = np.full(3, 1 / 3), table.astype(np.float64) / 3
  for seed in range(5):
    latents = _normal(seed, 4, 2)
    codes = np.array([0, 1, 1, 2])
    state = _observed(upkeep, state, codes, latents)
    entries, state = upkeep.settled(jnp.zeros((3, 2)), state)
    uses = 0.9 * uses + 0.1 * np.bincount(codes, minlength=3) / 4
    added = np.zeros((3, 2))
    np.add.at(added, codes, latents)
    sums = 0.9 * sums + 0.1 * added / 4
    np.testing.assert_allclose(entries, sums / uses[:, None], rtol=1e-4)


def _config(**fields):
  config = config_lib.load('configs/msvqgan_shapes.py:debug')
  return configs.change(config, {'loss__restart_below': 0.1, **fields})


@pytest.mark.turns(3, group='systems')
@pytest.mark.parametrize('decay', [0.0, 0.9])
def test_a_step_of_training_restarts_codes(decay):
  config = _config(loss__codebook_decay=decay)
  system = systems.create(config)
  assert isinstance(system, system_lib.Settling)
  state = step_lib.create(system, config)
  params, extra = system.settle(state.params, state.extra)
  for name in ('ms_quantize_0', 'ms_quantize_1'):
    # Nothing was observed: all begin at the latents of the initial state.
    assert not np.any(params['generator'][name]['embedding'])
    uses = extra['codebooks'][name]['uses']
    np.testing.assert_allclose(uses, 1 / len(uses))
  batch = {'image': jnp.asarray(np.tanh(_normal(0, 4, 32, 32, 3)))}
  weights = system_lib.Weights(state.params, {}, state.extra)
  _, new = jax.jit(system.losses)(weights, jax.random.key(0), state.step, batch)
  params, _ = system.settle(state.params, new)
  entries = np.asarray(params['generator']['ms_quantize_1']['embedding'])
  before = state.params['generator']['ms_quantize_1']['embedding']
  assert (np.abs(entries).sum(-1) > np.abs(before).sum(-1).max()).mean() > 0.5
  assert jax.tree.structure(new) == jax.tree.structure(state.extra)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'loss__restart_below': 0.0, 'loss__codebook_decay': 0.5}, 'decay is 0.5'),
    (
      {'network__codebook': 'linear'},
      'restart_below is 0.1, must be 0 without',
    ),
  ],
)
def test_settings_that_are_refused(fields, words):
  with pytest.raises(ValueError, match=words):
    systems.create(_config(**fields))
