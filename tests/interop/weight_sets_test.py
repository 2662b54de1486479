"""Which of the weights in a file are taken."""

import numpy as np
import pytest

from pyramid_jax.interop import weight_sets


KEYS = [f'{layer}.{x}' for layer in 'abc' for x in ('weight', 'bias')]


def state(*prefixes, keys=KEYS):
  return {
    prefix + key: np.full(1, i)
    for i, prefix in enumerate(prefixes)
    for key in keys
  }


def choose(found, weights='', declared=('',)):
  return weight_sets.choose(weight_sets.find(found, KEYS, declared), weights)


@pytest.mark.parametrize(
  'prefix', ['', 'module.', '_orig_mod.', '_orig_mod.module.', 'x.y.net_g.']
)
def test_any_prefix_is_found_also_beside_other_keys(prefix):
  beside = {'head.weight': np.ones(1), prefix + 'd.weight': np.ones(1)}
  choice = choose(state(prefix) | beside)
  assert choice.taken.prefix == prefix
  assert choice.taken.count == len(KEYS)
  assert choice.notes() == (
    [f'keys: those behind {prefix!r}'] if prefix else []
  )


def test_prefixes_of_releases_are_not_worth_a_note():
  declared = ('', 'first_stage_model.')
  choice = choose(state('first_stage_model.'), declared=declared)
  assert choice.notes() == []
  # Of two copies the one that releases have is taken.
  both = state('cond_stage_model.', 'first_stage_model.')
  assert choose(both, declared=declared).taken.prefix == 'first_stage_model.'


@pytest.mark.parametrize(
  ('raw', 'averaged'),
  [
    ('model.', 'ema.'),
    ('params.', 'params_ema.'),
    ('state_dict.', 'ema_state_dict.'),
    ('unet.', 'unet_ema.'),
    ('G.', 'G_ema.'),
    ('', 'ema_model.module.'),
    ('module.', 'module.ema.'),
  ],
)
def test_averages_are_taken_and_others_can_be(raw, averaged):
  found = state(raw, averaged)
  choice = choose(found)
  name, other = averaged.removesuffix('.'), raw.removesuffix('.') or 'raw'
  assert choice.taken.name == name
  assert choice.notes() == [
    f'weights: {name} (--weights takes others: {other})'
  ]
  assert choice.is_other(raw + 'a.weight')
  assert choice.is_other(raw + 'buffer')
  assert not choice.is_other(averaged + 'a.weight')
  for weights, want in [('ema', name), ('raw', other), (other, other)]:
    assert choose(found, weights).taken.name == want
  with pytest.raises(ValueError, match=f"no weights 'best'; .* {name}"):
    choose(found, 'best')


def test_flat_averages():
  flat = {
    'model_ema.decay': np.ones(()),
    **{f'model_ema.inner{key.replace(".", "")}': np.full(1, 7) for key in KEYS},
  }
  for root in ('', 'module.'):
    found = state(f'{root}model.inner.') | {
      root + key: value for key, value in flat.items()
    }
    choice = choose(found)
    assert choice.taken.name == f'{root}model_ema'
    taken = choice.taken
    assert taken.state[f'{taken.prefix}a.weight'] == 7
    assert taken.own(f'{taken.prefix}a.weight') == (
      f'{root}model_ema.inneraweight'
    )
    assert choose(found, 'raw').taken.prefix == f'{root}model.inner.'


def test_averages_of_a_few_parameters_are_no_alternative():
  found = state('model.') | state('ema.', keys=KEYS[:3])
  assert choose(found).taken.name == 'model'
  assert choose(found).notes() == ["keys: those behind 'model.'"]
  assert choose(found, 'ema').taken.name == 'ema'


def test_what_cannot_be_decided_is_listed():
  found = state('net_a.', 'net_b.')
  with pytest.raises(ValueError, match='fit: net_a, net_b; choose one by --w'):
    choose(found)
  assert choose(found, 'net_b').taken.prefix == 'net_b.'
  with pytest.raises(ValueError, match='ema_1, ema_2; choose'):
    choose(state('model.', 'ema_1.', 'ema_2.'))


def test_few_parameters_are_not_looked_for_in_other_networks():
  keys = ['embedding.weight']
  found = {'quantize.embedding.weight': 1, 'cond_stage_model.x': 1}
  find = lambda found: weight_sets.find(found, keys, ('', 'cond_stage_model.'))
  assert find(found) == []
  for prefix in ('module.cond_stage_model.', 'cond_stage_model.'):
    (one,) = find({**found, prefix + keys[0]: 1})
    assert one.prefix == prefix
  (one,) = find({'module.embedding.weight': 1, 'module.x': 1})
  assert one.prefix == 'module.'


def test_nothing_fits():
  assert choose({'x.weight': np.ones(1)}) is None
  assert choose({}) is None


def test_wrappers_within_keys():
  found = {
    'module.a._orig_mod.weight': 1,
    'module.b._fsdp_wrapped_module._checkpoint_wrapped_module.bias': 2,
    'module.my_orig_mod.weight': 3,
  }
  state, names = weight_sets.unwrapped(found)
  assert dict(state) == {
    'module.a.weight': 1,
    'module.b.bias': 2,
    'module.my_orig_mod.weight': 3,
  }
  assert [names[key] for key in state] == list(found)
  for same in ({'_orig_mod.a': 1, '_orig_mod.b': 2}, found | dict(state)):
    assert weight_sets.unwrapped(same) == (same, {})
