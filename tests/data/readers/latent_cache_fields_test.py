"""A cache of latents fixes how its labels are numbered and its texts read."""

import json

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import errors
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.readers import latent_cache


def make(task, **fields):
  config = config_lib.base('ldm')
  config.data.name, config.condition.task = 'latents', task
  config_lib.override(config, {k: str(v) for k, v in fields.items()})
  return config


def opened(folder, config, was):
  """Opens an empty cache that was made with the config `was`."""
  manifest = {
    'format': latent_cache.FORMAT,
    'autoencoder': '',
    'data': {**was.data.to_dict(), 'name': 'coco'},
    'fixed': latent_cache.fixed_fields(was),
    'layout': {'latent_mean_0': ['float16', [8, 8, 4]]},
    'label_names': [''],
    'count': 0,
    'shard_size': 1,
    'flips': False,
  }
  (folder / manifests.NAME).write_text(json.dumps(manifest))
  config.data.root = str(folder)
  return latent_cache.LatentReader(config, 'train')


def test_numbers_of_labels(tmp_path):
  plain = make('layout')
  listed = make('layout', **{'data.category_file': 'openimages'})
  assert len(opened(tmp_path, plain, plain)) == 0
  assert len(opened(tmp_path, listed, listed)) == 0
  message = "category_file is 'openimages', the cache in .* is of ''"
  with pytest.raises(errors.UserError, match=message):
    opened(tmp_path, listed, plain)


def test_full_stops_of_texts(tmp_path):
  dropped = make('text', **{'condition.drop_full_stops': 'true'})
  kept = make('text')
  assert len(opened(tmp_path, dropped, dropped)) == 0
  assert len(opened(tmp_path, kept, kept)) == 0
  with pytest.raises(errors.UserError, match='full_stops is False, .* of True'):
    opened(tmp_path, kept, dropped)


@pytest.mark.parametrize(
  ('field', 'value', 'words'),
  [
    ('fixed', None, 'has "fixed": None, must be an object'),
    ('data', {'name': 'coco'}, 'must be the fields of the data'),
    ('data', [], 'must be the fields of the data'),
    ('label_names', ['', 3], 'must be a list of texts'),
    ('autoencoder', 1, 'must be a text'),
    ('count', -1, 'must be a number from 0'),
    ('count', True, 'must be a number from 0'),
    ('shard_size', 0, 'must be a number from 1'),
    ('shard_size', 1.5, 'must be a number from 1'),
    ('flips', 0, 'must be true or false'),
    ('layout', {'a': ['object', []]}, 'the types and shapes of arrays'),
    ('layout', {'a': ['float16', [-1]]}, 'the types and shapes of arrays'),
    ('layout', {'a': ['float64', [2**30, 2**30]]}, 'the types and shapes'),
    ('count', 10**12, 'is of 1000000000000 shards, at most 1000000 are read'),
    ('format', 0, 'has format 0, needed'),
  ],
)
def test_a_manifest_that_is_none(tmp_path, field, value, words):
  config = make('layout')
  opened(tmp_path, config, config)
  file = tmp_path / manifests.NAME
  manifest = json.loads(file.read_text())
  for change in ({field: value}, None):
    if change is None:
      del manifest[field]
      words = f'has "?{field}"?:? None'
    manifest |= change or {}
    file.write_text(json.dumps(manifest))
    for read in (
      lambda: latent_cache.LatentReader(config, 'train'),
      lambda: latent_cache.source(config),
    ):
      with pytest.raises(errors.UserError, match=words) as error:
        read()
      assert error.value.code == errors.DATA
      assert str(file) in str(error.value)
