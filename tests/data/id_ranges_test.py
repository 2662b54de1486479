"""Ids that no table has a row for are refused before anything is built."""

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors


def shapes(task, **condition):
  config = config_lib.base('ldm')
  config.data.name, config.data.level = 'shapes', 1
  config.condition.update(
    {'task': task, 'max_objects': 9, 'max_length': 40, **condition}
  )
  return config


@pytest.mark.parametrize(
  ('task', 'field', 'least', 'more'),
  [
    ('text', 'vocab_size', 58, {}),
    ('scene_graph', 'vocab_size', 58, {}),
    ('layout', 'vocab_size', 1024, {}),
    ('layout', 'vocab_size', 1034, {'shift': 10}),
    ('label', 'vocab_size', 1024, {}),
    ('layout', 'num_labels', 25, {'encoder': 'boxes'}),
    ('class', 'num_classes', 24, {}),
    ('text', 'num_classes', 24, {'also': 'class'}),
    ('map', 'map_classes', 29, {}),
    ('layout', 'max_length', 27, {}),
    ('layout', 'max_length', 29, {'encode_crop': True}),
    ('label', 'max_length', 9, {}),
  ],
)
def test_ids_of_shapes(task, field, least, more):
  config = shapes(task, **more, **{field: least})
  reader = data.create(config, 'train')
  assert len(reader)
  config.condition[field] = least - 1
  for split in data.SPLITS:
    words = f'condition.{field} is {least - 1}, must be at least {least}'
    with pytest.raises(errors.UserError, match=words) as error:
      data.create(config, split)
    assert error.value.code == errors.USAGE


def test_the_message_names_reader_and_range():
  with pytest.raises(errors.UserError) as error:
    data.create(shapes('layout', vocab_size=256), 'train')
  assert str(error.value) == (
    'config.condition.vocab_size is 256, must be at least 1024: the ids of'
    ' condition_ids of config.data.name = shapes lie in [0, 1023].'
  )


def test_maps_in_addition_to_a_task():
  config = shapes('none', map_classes=28)
  data.create(config, 'train')
  config.data.maps = ('mask',)
  with pytest.raises(errors.UserError, match='map_classes is 28'):
    data.create(config, 'train')


@pytest.mark.parametrize(
  ('field', 'value'), [('pad_id', 80), ('null_prefix', (2, 80))]
)
def test_the_null_text_is_in_the_table(field, value):
  config = shapes('text', vocab_size=80)
  config.condition[field] = value
  with pytest.raises(ValueError, match=f'{field} is .*80.* below .* = 80'):
    config_lib.validate(config)
  config.condition.task = 'layout'
  config_lib.validate(config)
