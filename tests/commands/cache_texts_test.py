"""Captions encoded beforehand: written, trained from, refused."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.commands import cache_texts
from pyramid_jax.conditioning import encoding
from pyramid_jax.conditioning import stored_tokens
from pyramid_jax.data.caches import added_arrays
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.caches import text_cache
from pyramid_jax.distributed import initial
from pyramid_jax.interop import parts
from pyramid_jax.runs import checkpoints
from pyramid_jax.runs import hashes
from pyramid_jax.runs import workdir as workdir_lib
from pyramid_jax.systems import sampled
from pyramid_jax.training import loop
from tests.helpers import configs
from tests.helpers import folder_run


WORDS = ('a', 'b', 'c')
CAPTIONS = ('a', 'b', 'a b', 'c b a', 'a', 'b')
END = 4


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A folder of images with captions, a vocabulary, and weights of CLIP."""
  root = tmp_path_factory.mktemp('texts')
  folder_run.write_images(root / 'images', len(CAPTIONS))
  for split in ('train', 'val'):
    texts = CAPTIONS if split == 'train' else ('c', *CAPTIONS[1:])
    lines = [
      json.dumps({'file': f'{i:03d}.png', 'caption': text})
      for i, text in enumerate(texts)
    ]
    file = root / 'images' / split / 'captions.jsonl'
    file.write_text('\n'.join(lines) + '\n')
  vocab = [*(w + '</w>' for w in WORDS), '<|startoftext|>', '<|endoftext|>']
  vocab += list(WORDS)
  ids = {token: i for i, token in enumerate(vocab)}
  (root / 'vocab.json').write_text(json.dumps(ids))
  (root / 'merges.txt').write_text('#version: 0.2\n')
  part = part_of(config_of(root))
  weights = initial.evaluate(part.init, jax.random.key(0))
  parts.write(part.family, root / 'clip.safetensors', weights)
  return root


def get_config(arg=''):
  """Returns a small flow on captions; this module is a config file, too."""
  config = configs.load(f'flow_shapes.py:pixels,none,debug{arg}')
  with config.unlocked():
    config.network.use_spatial_transformer = True
  return config


def fields_of(root):
  return {
    'data.name': 'image_folder',
    'data.root': root / 'images',
    'data.image_size': 8,
    'condition.task': 'text',
    'condition.encoder': 'clip',
    'condition.weights': root / 'clip.safetensors',
    'condition.vocab_file': root / 'vocab.json',
    'condition.merges_file': root / 'merges.txt',
    'condition.vocab_size': 8,
    'condition.null_prefix': '3,4',
    'condition.pad_id': END,
    'condition.dim': 8,
    'condition.depth': 1,
    'condition.heads': 2,
    'condition.head_dim': 4,
    'condition.max_length': 6,
    'condition.cond_dropout': 0.5,
    'train.batch_size': 8,
    'train.steps': 1,
    'train.sample_every': 0,
    'train.eval_every': 0,
    'sample.guidance': 2,
    'sample.steps': 1,
    'sample.batch_size': 8,
  }


def config_of(root, **fields):
  return configs.change(get_config(), {**fields_of(root), **fields})


def part_of(config):
  return workdir_lib.create_system(config).pretrained_parts()['condition']


def write(root, output, *rest):
  flags = [f'--config.{k}={v}' for k, v in fields_of(root).items()]
  flags += [f'--config={__file__}', f'--output={output}']
  sizes = ('--shard_size=2', '--batch_size=2')
  return cache_texts.main([*flags, *sizes, *rest])


@pytest.fixture(scope='module')
def cache(made, tmp_path_factory):
  folder = tmp_path_factory.mktemp('cache') / 'texts'
  assert write(made, folder) == 0
  return folder


def opened(config):
  system = workdir_lib.create_system(config)
  encoder = stored_tokens.text_encoder(sampled.encoder_of(system))
  return encoder, text_cache.TextCache(config, encoder)


def test_files_of_a_cache(cache):
  names = sorted(p.name for p in cache.iterdir())
  shards = [f'texts-0000{i}.records' for i in range(3)]
  assert names == ['keys-00000.records', 'manifest.json', *shards]
  manifest = json.loads((cache / 'manifest.json').read_text())
  assert manifest['count'] == 5  # a, b, a b, c b a, and the empty one
  assert manifest['layout']['condition_tokens'] == ['float32', [6, 8]]


def test_tokens_are_those_of_the_encoder(made, cache):
  config = config_of(made, **{'condition.cache': cache})
  encoder, texts = opened(config)
  reader = data.create(config, 'train')
  batch = added_arrays.reader_with(reader, texts).batch(
    np.arange(6), np.zeros(6, np.uint64)
  )
  weights = initial.evaluate(encoder.init, jax.random.key(0))
  want = encoder.embedded(weights, jnp.asarray(batch['condition_ids']))
  np.testing.assert_allclose(batch['condition_tokens'], want, atol=1e-5)
  assert np.abs(want[0] - want[1]).max() > 0.1
  null = jnp.full((1, 6), END, jnp.int32).at[0, 0].set(3)
  want = encoder.embedded(weights, null)[0]
  np.testing.assert_allclose(texts.null, want, atol=1e-5)


def test_conditions_of_training_are_those_of_the_encoder(made, cache):
  config = config_of(made, **{'condition.cache': cache})
  encoder, texts = opened(config)
  reader = added_arrays.reader_with(data.create(config, 'train'), texts)
  batch = reader.finish(reader.batch(np.arange(6), np.zeros(6, np.uint64)))
  stored = sampled.with_stored_tokens(workdir_lib.create_system(config)).encoder
  assert stored.widths == encoder.widths
  assert list(stored.example) == ['condition_tokens']
  loaded = initial.evaluate(encoder.init, jax.random.key(0))

  def context(encoder, tree):
    frozen = {'condition': tree}
    arguments = {}, frozen, 0.5, jax.random.key(1), batch
    return np.asarray(encoding.training_context(encoder, *arguments).context)

  want = context(encoder, loaded)
  is_null = np.isclose(want, texts.null, atol=1e-5).all((1, 2))
  assert 0 < is_null.sum() < 6  # some were dropped
  got = context(stored, {'null': texts.null})
  np.testing.assert_allclose(got, want, atol=1e-5)
  # What both encode for sampling: the captions, and the empty one.
  both = encoding.condition(stored, {'null': texts.null}, batch)
  np.testing.assert_allclose(
    both.null.context[3],
    encoding.condition(encoder, loaded, batch).null.context[3],
    atol=1e-5,
  )


@pytest.mark.pods
def test_a_run_trains_from_a_cache_and_samples_with_the_encoder(
  made, cache, tmp_path
):
  config = config_of(made, **{'condition.cache': cache})
  loop.run(config, tmp_path / 'run')
  assert (tmp_path / 'run' / 'samples' / 'step_00000001.png').is_file()
  (line,) = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
  assert np.isfinite(json.loads(line)['loss'])
  record = checkpoints.record(tmp_path / 'run', 1)
  assert record['data']['train']['texts']['count'] == 5  # files, and encoder
  frozen = checkpoints.frozen(tmp_path / 'run', 1)
  weights = initial.evaluate(part_of(config).init, jax.random.key(0))
  assert frozen == {'condition': hashes.digest(weights)}


def test_what_is_refused(made, cache, tmp_path):
  config = config_of(made, **{'condition.cache': cache})
  _, texts = opened(config)
  reader = added_arrays.reader_with(data.create(config, 'train'), texts)
  digest = reader.made_by['condition']
  weights = initial.evaluate(part_of(config).init, jax.random.key(0))
  assert digest == hashes.digest(weights)
  with pytest.raises(errors.UserError, match=f'by the condition .* {digest}'):
    manifests.check_makers(reader, {'condition': 'other'})
  with pytest.raises(errors.UserError, match='does not have the text with'):
    texts.tokens(np.full((1, 6), 1, np.int32))
  other = config_of(made, **{'condition.cache': cache, 'dtype': 'bfloat16'})
  with pytest.raises(errors.UserError, match="dtype is 'bfloat16', the cache"):
    opened(other)
  longer = {'condition.cache': cache, 'condition.max_length': 7}
  with pytest.raises(errors.UserError, match='max_length is 7, the cache'):
    opened(config_of(made, **longer))
  absent = config_of(made, **{'condition.cache': tmp_path / 'absent'})
  words = r'absent/manifest\.json \(texts, config\.condition\.cache\)'
  with pytest.raises(errors.UserError, match=words):
    loop.run(absent, tmp_path / 'run')
  trained = configs.load('ldm_shapes.py:text,debug')
  with pytest.raises(ValueError, match="encoder = 'clip' or 't5' alone"):
    sampled.with_stored_tokens(workdir_lib.create_system(trained))


def test_writing_goes_on_where_it_stopped(made, cache, tmp_path):
  folder = shutil.copytree(cache, tmp_path / 'copy')
  kept = (folder / 'texts-00000.records').stat().st_mtime_ns
  (folder / 'texts-00001.records').write_bytes(b'half')
  (folder / 'keys-00000.records').unlink()
  assert write(made, folder) == 0
  assert (folder / 'texts-00000.records').stat().st_mtime_ns == kept
  for file in pathlib.Path(cache).iterdir():
    assert (folder / file.name).read_bytes() == file.read_bytes()


def test_a_short_element_type(made, tmp_path):
  fields = {'dtype': 'bfloat16'}
  assert write(made, tmp_path / 'short', '--config.dtype=bfloat16') == 0
  config = config_of(made, **{**fields, 'condition.cache': tmp_path / 'short'})
  _, texts = opened(config)
  assert texts.null.dtype == jnp.bfloat16
  assert config_lib.to_json(config)
