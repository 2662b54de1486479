"""Weights, references and saved samples in a store."""

import json

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import errors
from pyramid_jax import files
from pyramid_jax.conditioning import tokenizers
from pyramid_jax.evaluation import image_sources
from pyramid_jax.files import stores
from pyramid_jax.interop import safetensors_file
from pyramid_jax.interop import weight_file
from pyramid_jax.metrics import frechet
from pyramid_jax.metrics import inception
from pyramid_jax.metrics import inception_reference
from tests.helpers import remote_store
from tests.helpers import torch_writer


store = remote_store.store_fixture
ROOT = remote_store.ROOT
ARRAY = np.arange(6, dtype='f4').reshape(2, 3)


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'safetensors', 'npz'])
def test_weights_of_all_formats(store, tmp_path, kind):
  path = tmp_path / 'weights'
  state = {'x': torch_writer.tensor(ARRAY)}
  if kind == 'zip':
    torch_writer.write_zip(path, state)
  elif kind == 'legacy':
    torch_writer.write_legacy(path, state)
  elif kind == 'safetensors':
    safetensors_file.write(path, {'x': ARRAY}, {'said': 'here'})
  else:
    with open(path, 'wb') as file:
      np.savez_compressed(file, x=ARRAY)
  remote_store.put(store, f'{ROOT}/weights', path.read_bytes())
  (found,) = files.local_all(f'{ROOT}/weights', '--checkpoint')
  got = weight_file.read(found)
  assert list(got) == ['x']
  np.testing.assert_array_equal(got['x'], ARRAY)
  assert weight_file.metadata(got) == weight_file.metadata(
    weight_file.read(path)
  )


def test_an_index_in_a_store_names_objects_beside_it(store, tmp_path):
  safetensors_file.write(tmp_path / 'a.safetensors', {'x': ARRAY})
  safetensors_file.write(tmp_path / 'b.safetensors', {'y': ARRAY + 1})
  places = {'x': 'a.safetensors', 'y': 'b.safetensors'}
  index = tmp_path / 'model.safetensors.index.json'
  index.write_text(json.dumps({'weight_map': places}))
  remote_store.put_tree(store, tmp_path)
  got = weight_file.read(f'{ROOT}/{index.name}')
  assert sorted(got) == ['x', 'y']
  np.testing.assert_array_equal(got['y'], ARRAY + 1)


def test_several_files_may_be_anywhere(store, tmp_path):
  safetensors_file.write(tmp_path / 'a.safetensors', {'x': ARRAY})
  safetensors_file.write(tmp_path / 'b.safetensors', {'y': ARRAY})
  data = (tmp_path / 'b.safetensors').read_bytes()
  remote_store.put(store, f'{ROOT}/b.safetensors', data)
  names = f'{tmp_path}/a.safetensors,{ROOT}/b.safetensors'
  paths = files.local_all(names, 'config.first_stage.checkpoint')
  assert list(map(str, paths)) == names.split(',')
  assert sorted(weight_file.read_all(paths)) == ['x', 'y']


def test_damaged_weights_are_named_by_their_object(store):
  remote_store.put(store, f'{ROOT}/x.ckpt', b'nothing that is known')
  with pytest.raises(ValueError, match=f'^{ROOT}/x.ckpt: not a weight file'):
    weight_file.read(f'{ROOT}/x.ckpt')


def test_absent_weights_are_named(store):
  del store
  line = files.missing(f'{ROOT}/x.ckpt', 'config.first_stage.checkpoint', 'w')
  assert line == f'{ROOT}/x.ckpt (config.first_stage.checkpoint, w)'
  with pytest.raises(FileNotFoundError, match=f'{ROOT}/x.ckpt is no file'):
    inception.require_weights(f'{ROOT}/x.ckpt', 'config.evaluate.inception')
  with (
    pytest.raises(errors.UserError, match='No such file') as error,
    errors.user_errors(value=errors.DATA),
  ):
    weight_file.read(f'{ROOT}/x.ckpt')
  assert error.value.code == errors.MISSING


def test_names_of_other_places_are_refused():
  with pytest.raises(FileNotFoundError):
    weight_file.read('elsewhere/x.ckpt')
  with pytest.raises(errors.UserError, match='gs://BUCKET/NAME alone'):
    weight_file.read('s3://bucket/x.ckpt')


def test_a_vocabulary(store):
  text = '[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n'
  remote_store.put(store, f'{ROOT}/vocab.txt', text.encode())
  path = files.local(f'{ROOT}/vocab.txt', 'config.condition.vocab_file')
  assert stores.is_remote(path)
  found = tokenizers.load_word_piece(str(path), 4)
  assert found.encode('a').tolist() == [2, 4, 3, 0]


def test_a_reference(store, tmp_path):
  rows = np.random.default_rng(0).normal(size=(30, 6))
  path = tmp_path / 'reference.npz'
  np.savez(path, mu=rows.mean(0), sigma=np.cov(rows.T))
  remote_store.put(store, f'{ROOT}/reference.npz', path.read_bytes())
  got = inception_reference.read(f'{ROOT}/reference.npz')
  want = inception_reference.read(path)
  np.testing.assert_array_equal(got.pool.mean, want.pool.mean)
  np.testing.assert_array_equal(got.pool.root, want.pool.root)
  remote_store.put(store, f'{ROOT}/reference.npz', b'PK')
  with pytest.raises(ValueError, match=f'^{ROOT}/reference.npz: not an .npz'):
    inception_reference.read(f'{ROOT}/reference.npz')
  moments = frechet.moments(rows)
  new = (
    f'{ROOT}/new.npz',
    inception_reference.Statistics(
      mu=moments.mean, sigma=moments.covariance, features=rows
    ),
  )
  inception_reference.write(*new)
  got = inception_reference.read(new[0])
  np.testing.assert_allclose(got.pool.mean, moments.mean)
  with pytest.raises(FileExistsError, match='is not overwritten'):
    inception_reference.write(*new)


def test_saved_samples(store, tmp_path):
  images = np.arange(5 * 4 * 4 * 3, dtype=np.uint8).reshape(5, 4, 4, 3)
  np.savez(tmp_path / 'samples.npz', arr_0=images, level=np.arange(5))
  remote_store.put_tree(store, tmp_path)
  near = image_sources.of_saved(tmp_path, 1)
  far = image_sources.of_saved(stores.path(ROOT), 1)
  for found in (near, far):
    np.testing.assert_array_equal(
      found[0].source.batch(np.arange(5), None)['image'], images
    )
    np.testing.assert_array_equal(found[1]['level'][np.arange(5)], np.arange(5))
  assert image_sources.fingerprint(
    stores.path(ROOT)
  ) == image_sources.fingerprint(tmp_path)
  with pytest.raises(
    errors.UserError, match=f'--samples={ROOT}/x: not there'
  ) as e:
    image_sources.of_saved(stores.path(f'{ROOT}/x'), 1)
  assert e.value.code == errors.MISSING


def test_saved_images_change_with_their_objects(store, tmp_path):
  Image.new('RGB', (4, 4), 'red').save(tmp_path / 'a.png')
  remote_store.put_tree(store, tmp_path)
  was = image_sources.fingerprint(stores.path(ROOT))
  assert image_sources.fingerprint(stores.path(ROOT)) == was
  remote_store.put_tree(store, tmp_path)
  assert image_sources.fingerprint(stores.path(ROOT)) != was
  images, _ = image_sources.of_saved(stores.path(ROOT), 1)
  assert images.count == 1
