"""Files that were written before `config.json` carried a format."""

import json
import pathlib

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax import systems
from pyramid_jax.config import formats
from pyramid_jax.config import sections
from pyramid_jax.diffusion import schedules


RECORDED = pathlib.Path(__file__).parent / 'recorded'
# Files of format 1 that runs of `debug` variants wrote, and today's configs.
CONFIGS = {
  'diffit_latent_shapes': 'diffit_latent_shapes.py:debug',
  'diffit_shapes': 'diffit_shapes.py:debug',
  'frido_shapes_layout': 'frido_shapes.py:layout,debug',
  'ladm_shapes_layout': 'ladm_shapes.py:layout,debug',
  'ldm_shapes_class': 'ldm_shapes.py:class,debug',
}
# Values of the recipes of that time that are others today.
CHANGED = {'frido_shapes_layout': {'first_stage.loss.pixel_loss': 'l1'}}


def recorded(name):
  return json.loads((RECORDED / f'{name}.json').read_text())


def old(system, **sections_):
  """Returns a text of format 1 of a system with some fields."""
  return json.dumps({'system': {'name': system}, **sections_})


@pytest.mark.parametrize('name', sorted(CONFIGS))
def test_recorded_runs_may_resume_with_the_config_of_today(name):
  values = recorded(name)
  assert 'format' not in values
  config = config_lib.from_json(json.dumps(values))
  config_lib.validate(config)
  path = pathlib.Path(__file__).parents[2] / 'configs' / CONFIGS[name]
  today = config_lib.load(str(path))
  today.update_from_flattened_dict(CHANGED.get(name, {}))
  assert config_lib.resume_differences(config, today) == []
  assert config.to_dict() == today.to_dict()
  assert systems.create(config).image_size == values['data']['image_size']
  again = config_lib.to_json(config)
  assert list(json.loads(again))[0] == 'format'
  assert config_lib.from_json(again).to_dict() == config.to_dict()


def test_recorded_values_have_the_names_of_today():
  config = config_lib.from_json(json.dumps(recorded('ldm_shapes_class')))
  assert config.condition.cond_dropout == 0.1
  assert 'drop' not in config.condition
  assert config.diffusion.beta_schedule == 'scaled_linear'
  assert config.condition.class_by == 'crossattn'
  assert 'laplacian' not in config
  assert 'diffusion' not in config.first_stage
  assert config.first_stage.condition.cond_dropout == 0.0
  config = config_lib.from_json(json.dumps(recorded('diffit_shapes')))
  assert config.condition.class_by == 'timestep'
  assert config.diffusion.noise_distribution == ''


# Of 1000 levels from 1e-4 to 0.02, by the definitions.
GRID = np.linspace(1e-4, 0.02, 1000)
COSINE = np.cos((np.arange(1001) / 1000 + 8e-3) / 1.008 * np.pi / 2) ** 2
BETAS = {
  'linear': np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2,
  'sqrt_linear': GRID,
  'sqrt': GRID**0.5,
  'cosine': np.minimum(1.0 - COSINE[1:] / COSINE[:-1], 0.999),
}


@pytest.mark.parametrize('name', sorted(BETAS))
def test_old_beta_schedules_keep_their_numbers(name):
  text = old('ldm', diffusion={'beta_schedule': name})
  config = config_lib.from_json(text)
  config_lib.validate(config)
  kind = config.diffusion.beta_schedule
  chain = schedules.make_chain(kind, 1000, 1e-4, 0.02)
  np.testing.assert_allclose(
    chain.alphas_bar, np.cumprod(1.0 - BETAS[name]), rtol=1e-12
  )
  again = config_lib.from_json(config_lib.to_json(config))
  assert again.diffusion.beta_schedule == kind  # translated once


def test_a_file_without_a_schedule_keeps_that_of_its_time():
  config = config_lib.from_json(old('ldm'))
  chain = schedules.make_chain(
    config.diffusion.beta_schedule,
    config.diffusion.timesteps,
    config.diffusion.linear_start,
    config.diffusion.linear_end,
  )
  betas = np.linspace(0.0015**0.5, 0.0155**0.5, 1000) ** 2
  np.testing.assert_allclose(chain.betas, betas, rtol=1e-12)


@pytest.mark.parametrize(
  ('system', 'was', 'now'),
  [
    ('ldm', ('condition', 'drop', 0.2), ('condition.cond_dropout', 0.2)),
    (
      'ldm',
      ('condition', 'camera_drop', 0.3),
      ('condition.camera_dropout', 0.3),
    ),
    (
      'diffit',
      ('diffusion', 'law', 'vp'),
      ('diffusion.noise_distribution', 'vp'),
    ),
    (
      'ldm',
      ('condition', 'class_by', 'adm'),
      ('condition.class_by', 'timestep'),
    ),
    ('ldm', ('sample', 'spacing', 'adm'), ('sample.spacing', 'iddpm')),
    ('ldm', ('data', 'resize', 'plain'), ('data.resize', 'bilinear')),
    ('ldm', ('data', 'resize', 'smooth'), ('data.resize', 'bicubic')),
    ('ldm', ('data', 'resize', 'area'), ('data.resize', 'area')),
    ('ldm', ('data', 'crop', 'adm'), ('data.crop', 'adm')),
    ('sketch', ('sketch', 'taps', ['in1']), ('sketch.features', ('in1',))),
    ('sketch', ('sketch', 'tap_norm', 'none'), ('sketch.feature_norm', 'none')),
    (
      'sketch',
      ('sketch', 'foreign', True),
      ('sketch.shuffled_condition', True),
    ),
  ],
)
def test_renamed(system, was, now):
  section, field, value = was
  name, want = now
  nested = {
    'first_stage': {
      'system': {'name': 'autoencoder'},
      'checkpoint': 'DIR',
      'data': {'resize': 'smooth'},
      'condition': {'drop': 0.5},
    }
  }
  text = old(system, **{section: {field: value}}, **nested)
  config = config_lib.from_json(text)
  config_lib.validate(config)
  flat = config_lib.flatten(config)
  assert flat[name] == want
  assert f'{section}.{field}' == name or f'{section}.{field}' not in flat
  assert flat['first_stage.data.resize'] == 'bicubic'
  assert flat['first_stage.condition.cond_dropout'] == 0.5
  assert flat['first_stage.checkpoint'] == 'DIR'


@pytest.mark.parametrize('format_', [1, 2, 3])
@pytest.mark.parametrize(
  ('data', 'task', 'want'),
  [
    ('coco', 'text', True),
    ('coco', 'scene_graph', True),
    ('coco', 'layout', False),
    ('latents', 'text', True),
    ('image_folder', 'text', False),
  ],
)
def test_runs_on_captions_of_coco_go_on_dropping_full_stops(
  format_, data, task, want
):
  values = {
    'format': format_,
    'system': {'name': 'ldm'},
    'data': {'name': data},
    'condition': {'task': task},
  }
  config = config_lib.from_json(json.dumps(values))
  assert config.condition.drop_full_stops == want
  values['condition']['drop_full_stops'] = not want
  config = config_lib.from_json(json.dumps(values))
  assert config.condition.drop_full_stops != want


def test_every_old_name_has_a_field_and_every_old_value_a_meaning():
  fields = {}
  for name in systems.SYSTEMS:
    fields |= sections.of(name).fields
  for was, now in formats.RENAMED.items():
    assert was not in fields
    assert now in fields
  for name, values in formats.VALUES.items():
    for was, now in values.items():
      assert fields[name].problem(now) == ''
      assert fields[name].problem(was) != ''


@pytest.mark.parametrize('version', [{}, {'format': 2}, {'format': 3}])
def test_network_fields_that_are_gone_are_left_out(version):
  network = {'model_channels': 32, 'image_size': 8, 'use_split_head': True}
  values = version | {'system': {'name': 'frido'}, 'network': network}
  config = config_lib.from_json(json.dumps(values))
  assert config.network.to_dict() == {'model_channels': 32}


@pytest.mark.parametrize('version', [{}, {'format': 2}])
@pytest.mark.parametrize(
  ('remat', 'network', 'want'),
  [
    ({'remat': False}, {'remat_keeps': 'products'}, 'none'),
    ({'remat': True}, {'remat_keeps': 'products'}, 'products'),
    ({'remat': True}, {'remat_keeps': 'nothing'}, 'full'),
    ({'remat': True}, {}, 'full'),
    ({}, {}, 'none'),
  ],
)
def test_remat_has_the_name_of_what_it_kept(version, remat, network, want):
  nested = {'system': {'name': 'autoencoder'}, **remat, 'network': network}
  values = {
    **version,
    'system': {'name': 'latent_diffit'},
    'network': network,
    **remat,
    'first_stage': nested,
  }
  config = config_lib.from_json(json.dumps(values))
  assert (config.remat, config.first_stage.remat) == (want, want)
  assert 'remat_keeps' not in config.network
  assert config_lib.from_json(config_lib.to_json(config)).remat == want


def test_remat_is_a_name_since_format_3():
  values = {'format': 3, 'system': {'name': 'ldm'}, 'remat': True}
  config = config_lib.from_json(json.dumps(values))
  with pytest.raises(errors.UserError, match='config.remat is True, must be'):
    config_lib.validate(config)


def test_the_newest_format_is_read_as_it_is():
  text = json.dumps(
    {
      'format': 3,
      'system': {'name': 'ldm'},
      'diffusion': {'beta_schedule': 'linear'},
    }
  )
  assert config_lib.from_json(text).diffusion.beta_schedule == 'linear'


@pytest.mark.parametrize(
  ('values', 'message'),
  [
    ({'format': 4}, 'of format 4, must be at most 3'),
    ({'format': 'two'}, "of format 'two', must be at most 3"),
    (
      {'format': 2, 'condition': {'drop': 0.1}},
      'config.condition.drop: .* no such field',
    ),
    ({'format': 2, 'laplacian': {'levels': 3}}, 'config.laplacian.levels: '),
    (
      {'format': 2, 'first_stage': {'diffusion': {'timesteps': 9}}},
      'config.first_stage.diffusion.timesteps: ',
    ),
    ({'system': {'name': 'other'}}, "system.name is 'other', must be one of"),
  ],
)
def test_refused(values, message):
  text = json.dumps({'system': {'name': 'ldm'}, **values})
  with pytest.raises(ValueError, match=message) as info:
    config_lib.from_json(text)
  assert '\n' not in str(info.value)
