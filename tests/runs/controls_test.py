"""Which controls join a run, and what they must have in common."""

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import controls


def write(folder, system, **fields):
  """Writes the config of a run of a system."""
  config = config_lib.base(system)
  config_lib.override(
    config, {k.replace('__', '.'): v for k, v in fields.items()}
  )
  folder.mkdir()
  (folder / 'config.json').write_text(config_lib.to_json(config))
  return config.lock()


@pytest.fixture
def runs(tmp_path):
  """The folders of a base, two controls and a third that they join."""
  write(tmp_path / 'base', 'ladm')
  for name, fields in {
    'edges': {'control__map': 'edges', 'data__maps': 'edges'},
    'depth': {
      'control__map': 'depth',
      'data__maps': 'mask',
      'condition__map_classes': '256',
    },
    'both': {
      'control__map': 'edges',
      'data__maps': 'edges',
      'control__also': 'ONE,TWO',
      'control__also_weights': '0.5,0.75',
    },
  }.items():
    write(tmp_path / name, 'ladm_control', control__base='BASE', **fields)
  return tmp_path


def on(folder, *paths, **weights):
  given = {str(folder.parent / x): None for x in paths}
  given |= {str(folder.parent / k): x for k, x in weights.items()}
  return controls.on(
    folder, config_lib.from_json((folder / 'config.json').read_bytes()), given
  )


def test_the_first_control_is_opened_on_the_base(runs):
  config, folder = on(runs / 'base', edges=2, depth=0.5)
  assert folder == runs / 'edges'
  c = config.control
  assert (c.base, c.weight) == (str(runs / 'base'), 2.0)
  assert (c.also, c.also_weights) == ((str(runs / 'depth'),), (0.5,))
  config, _ = on(runs / 'base', 'edges')
  assert (config.control.weight, config.control.also) == (1.0, ())


def test_controls_join_those_that_are_there(runs):
  config, folder = on(runs / 'both', 'depth')
  assert folder == runs / 'both'
  assert config.control.base == 'BASE'
  assert config.control.also == ('ONE', 'TWO', str(runs / 'depth'))
  assert config.control.also_weights == (0.5, 0.75, 1.0)


def test_paths_and_strengths_are_read():
  assert controls.strengths('a') == {'a': None}
  assert controls.strengths(['a', 'b']) == {'a': None, 'b': None}
  assert controls.strengths({'a': 0.5}) == {'a': 0.5}
  assert not controls.strengths(())


def test_data_give_the_maps_of_all_controls(runs):
  config, _ = on(runs / 'base', 'edges', 'depth')
  found = controls.with_maps(config)
  assert found.data.maps == ('edges', 'mask')
  assert found.condition.map_classes == 256
  alone, _ = on(runs / 'base', 'edges')
  assert controls.with_maps(alone) is alone


def test_what_is_no_control_is_refused(runs):
  write(runs / 'ldm', 'ldm')
  for folder, name in (('base', 'ldm'), ('base', 'base'), ('ldm', 'edges')):
    with pytest.raises(errors.UserError, match="system '(ldm|ladm)'; controls"):
      on(runs / folder, name)
  with pytest.raises(errors.UserError, match='also_weights'):
    on(runs / 'base', edges=1, depth=-1)


def test_controls_have_one_base(runs, monkeypatch):
  config, folder = on(runs / 'base', 'edges', 'depth')
  was, theirs = {'base': 'x'}, {'base': 'x'}
  monkeypatch.setattr(checkpoints, 'frozen', lambda folder, step: was)
  newest = lambda folder: (7, {'frozen': theirs})
  monkeypatch.setattr(checkpoints, 'newest_meta', newest)
  controls.check_bases(config, folder, 7)
  theirs['base'] = 'y'
  with pytest.raises(errors.UserError, match='depth, which was trained on ano'):
    controls.check_bases(config, folder, 7)
  was.clear()  # not known
  controls.check_bases(config, folder, 7)
