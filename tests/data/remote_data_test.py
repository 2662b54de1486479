"""Data in a store are those of the same files on a disk."""

import json

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import skipping
from pyramid_jax.data.caches import manifests
from pyramid_jax.data.caches import stored_arrays
from pyramid_jax.data.pixels import given_images
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import latent_cache
from pyramid_jax.data.storage import image_files
from pyramid_jax.data.storage import listing
from pyramid_jax.files import copies
from pyramid_jax.files import stores
from tests.helpers import coco_files
from tests.helpers import configs
from tests.helpers import remote_store


store = remote_store.store_fixture
ROOT = remote_store.ROOT
LATENTS = 'configs/ldm_shapes.py:class,debug'


def paint(path, colour, size=(8, 6), mode='RGB'):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.new(mode, size, colour).save(path)


@pytest.fixture
def folder(tmp_path):
  """Images of all kinds, and what is no image."""
  base = tmp_path / 'images'
  paint(base / 'dogs' / 'b.png', 'red')
  paint(base / 'cats' / 'deep' / 'a.PNG', 'lime')
  paint(base / 'cats' / 'z.webp', 'blue')
  paint(base / 'loose.png', 'white')
  (base / 'loose.png').rename(base / 'loose')
  paint(base / '.hidden' / 'deep' / 'x.png', 'black')
  paint(base / 'cats' / '.hidden' / 'x.png', 'black')
  paint(base / '._y.png', 'black')
  paint(base / 'dogs' / 'b.map.png', 1, mode='L')
  (base / 'notes.txt').write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nloose\n')
  (base / 'README').write_text('not an image')
  lines = [
    {'file': name, 'caption': f'a {name}'} for name in ('dogs/b.png', 'loose')
  ]
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (base / 'captions.jsonl').write_text(text)
  return base


def all_of(reader):
  count = len(reader)
  draws = np.arange(count, dtype=np.uint64)
  return reader.batch(np.arange(count), draws)


def assert_same(remote, local):
  assert remote.keys() == local.keys()
  for name in local:
    np.testing.assert_array_equal(remote[name], local[name], err_msg=name)


def assert_same_reader(remote, local):
  assert_same(all_of(remote), all_of(local))
  assert remote.identity() == local.identity()
  assert remote.label_names == local.label_names
  assert remote.report == local.report


def of_folder(root, task='none'):
  fields = {'image_size': 4, 'max_length': 6, 'map_classes': 2}
  config = configs.of_reader('image_folder', root, task, **fields)
  with config.unlocked():
    config.condition.vocab_file = f'{root}/notes.txt' * (task == 'text')
    config.train.batch_size = 2
  return config


@pytest.mark.parametrize('task', ['class', 'text', 'map'])
def test_a_folder_of_images(store, folder, task):
  remote_store.put_tree(store, folder)
  assert_same_reader(
    data.create(of_folder(ROOT, task), 'train'),
    data.create(of_folder(folder, task), 'train'),
  )


def test_sizes_of_images(store, folder):
  paint(folder / 'wide.png', 'red', (80, 8))
  remote_store.put_tree(store, folder)
  readers = []
  for root in (ROOT, folder):
    config = of_folder(root)
    with config.unlocked():
      config.data.buckets = 4
      config.data.image_size = 256
      config.train.batch_size = 1
    readers.append(data.create(config, 'train'))
  members = [[list(x) for x in r.buckets.members] for r in readers]
  assert members[0] == members[1]
  assert len(members[0]) > 1


def test_what_is_left_out_is_the_same(store, folder, caplog):
  remote_store.put_tree(store, folder)
  caplog.set_level('INFO')
  found = listing.find_images(stores.path(ROOT), 'x')
  assert found == listing.find_images(folder, 'x')
  far, near = (r.getMessage().split(': ', 1)[1] for r in caplog.records)
  assert far == near
  assert '3 hidden' in far


def test_splits_have_folders(store, folder):
  remote_store.put_tree(store, folder, f'{ROOT}/train')
  remote_store.put_tree(store, folder / 'dogs', f'{ROOT}/val')
  assert len(data.create(of_folder(ROOT), 'train')) == 4
  assert len(data.create(of_folder(ROOT), 'val')) == 1
  assert len(data.create(of_folder(ROOT), 'test')) == 1


def test_coco(store, tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  local = tmp_path / 'local'
  local.mkdir()
  coco_files.write_all(local)
  remote_store.put_tree(store, local)
  for task in ('text', 'layout'):
    remote = data.create(
      coco_files.make_config(stores.path(ROOT), task=task), 'train'
    )
    same = data.create(coco_files.make_config(local, task=task), 'train')
    assert_same_reader(remote, same)


@pytest.fixture
def latents(tmp_path):
  """A cache of ten latents in three shards."""
  config = config_lib.load(LATENTS)
  folder = tmp_path / 'latents'
  folder.mkdir()
  manifest = {
    'format': latent_cache.FORMAT,
    'autoencoder': 'a' * 8,
    'data': {'name': 'shapes', 'root': ''},
    'fixed': latent_cache.fixed_fields(config),
    'label_names': ['', 'circle'],
    'layout': {'class': ['int32', []], 'latent_mean_0': ['float16', [8, 8, 4]]},
    'count': 10,
    'shard_size': 4,
    'flips': False,
  }
  manifests.write(folder, manifest)
  shards = latent_cache.shards(folder, manifest)
  rng = np.random.default_rng(0)
  for i, count in enumerate((4, 4, 2)):
    rows = {
      'latent_mean_0': rng.normal(size=(count, 8, 8, 4)).astype(np.float16),
      'class': rng.integers(0, 2, count).astype(np.int32),
    }
    shards.write(i, rows)
  return folder


def of_latents(root):
  config = config_lib.load(LATENTS)
  values = {'data.name': 'latents', 'data.root': str(root)}
  config_lib.override(config, values)
  return config


def test_latents(store, latents):
  remote_store.put_tree(store, latents)
  remote = data.create(of_latents(ROOT), 'train')
  assert_same_reader(remote, data.create(of_latents(latents), 'train'))
  assert remote_store.count(store, 'read', '.records') == 3
  again = data.create(of_latents(ROOT), 'train')
  all_of(again)
  assert remote_store.count(store, 'read', '.records') == 3


def test_a_shard_that_is_damaged_in_a_store_is_no_copy(store, latents):
  remote_store.put_tree(store, latents)
  name = f'{ROOT}/train-00001.records'
  whole = (latents / 'train-00001.records').read_bytes()
  remote_store.put(store, name, whole[:-1] + b'x')
  words = rf'{name} has a wrong CRC-32 in its record 3: damaged'
  for _ in range(2):
    with pytest.raises(errors.UserError, match=words) as error:
      all_of(data.create(of_latents(ROOT), 'train'))
    assert error.value.code == errors.DATA
  remote_store.put(store, name, whole)
  assert len(all_of(data.create(of_latents(ROOT), 'train'))['class']) == 10


def test_shards_that_are_absent_are_said(store, latents):
  (latents / 'train-00001.records').unlink()
  remote_store.put_tree(store, latents)
  words = f'{ROOT} lacks 1 of its 3 shards, the first is train-00001.records'
  with pytest.raises(errors.UserError, match=words) as error:
    data.create(of_latents(ROOT), 'train')
  assert error.value.code == errors.MISSING


def test_arrays_by_rows(store, tmp_path):
  rows = np.arange(60).reshape(20, 3)
  np.savez_compressed(tmp_path / 'x.npz', rows=rows, other=rows.T)
  remote_store.put(store, f'{ROOT}/x.npz', (tmp_path / 'x.npz').read_bytes())
  found = stored_arrays.read(stores.path(f'{ROOT}/x.npz'))
  np.testing.assert_array_equal(
    found['rows'][np.array([3, 19, 4])], rows[[3, 19, 4]]
  )
  remote_store.put(store, f'{ROOT}/x.npz', b'PK\3\4 no archive')
  with pytest.raises(ValueError, match=f'^{ROOT}/x.npz: damaged'):
    stored_arrays.read(stores.path(f'{ROOT}/x.npz'))


def test_finished_images(store, folder):
  remote_store.put_tree(store, folder / 'cats', f'{ROOT}/saved')
  remote = image_files.ImageFiles(f'{ROOT}/saved')
  local = image_files.ImageFiles(folder / 'cats')
  assert remote.names == local.names
  assert_same(all_of(remote), all_of(local))


def test_what_a_person_gives(store, folder, tmp_path):
  svg = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 4 4">'
  (folder / 'x.svg').write_text(f'{svg}<path d="M0 0L4 4" stroke="red"/></svg>')
  remote_store.put_tree(store, folder)
  for read, name in (
    (given_images.image, 'dogs/b.png'),
    (given_images.mask, 'dogs/b.map.png'),
    (given_images.class_map, 'dogs/b.map.png'),
    (given_images.sketch, 'x.svg'),
    (given_images.sketch, 'cats/z.webp'),
  ):
    near = read(folder / name, '--x')
    np.testing.assert_array_equal(read(f'{ROOT}/{name}', '--x'), near)
  for name, words in (('none.png', 'not there'), ('dogs', 'a folder')):
    with pytest.raises(errors.UserError, match=f'{ROOT}/{name}: {words}') as e:
      given_images.image(f'{ROOT}/{name}', '--x')
    assert e.value.code == errors.MISSING


def failed(config):
  """Returns the error of a reader as a command ends with it."""
  with pytest.raises(errors.UserError) as error, errors.user_errors():
    all_of(data.create(config, 'train'))
  assert '\n' not in str(error.value)
  return error.value


def test_a_folder_that_is_not_there(store):
  del store
  error = failed(of_folder(ROOT))
  assert f'{ROOT} (image folder, config.data.root)' in str(error)
  assert error.code == errors.MISSING


def test_a_folder_without_permission(store, folder):
  remote_store.put_tree(store, folder)
  remote_store.fail(store, 'data', remote_store.forbidden())
  error = failed(of_folder(ROOT))
  assert f'{ROOT}' in str(error)
  assert 'Forbidden' in str(error)
  assert error.code == errors.MISSING


def test_a_folder_inside_without_permission_is_no_smaller_set(store, folder):
  remote_store.put_tree(store, folder)
  remote_store.fail(store, 'cats/deep', remote_store.forbidden())
  error = failed(of_folder(ROOT))
  assert 'without it the data would be others' in str(error)
  assert error.code == errors.MISSING


def test_a_store_that_fails_for_a_moment_changes_nothing(store, folder):
  remote_store.put_tree(store, folder)
  for part in ('data', 'cats', 'b.png'):
    remote_store.fail(store, part, *[remote_store.unavailable()] * 3, None)
    reader = data.create(of_folder(ROOT), 'train')
    assert_same(all_of(reader), all_of(data.create(of_folder(folder), 'train')))


def test_a_store_that_fails_for_long_is_not_taken_for_broken_images(
  store, folder, monkeypatch
):
  monkeypatch.setattr(skipping, 'IN_A_ROW', 1)
  remote_store.put_tree(store, folder)
  reader = data.create(of_folder(ROOT), 'train')
  remote_store.fail(store, '.', remote_store.unavailable())
  with pytest.raises(errors.UserError, match='503') as error:
    all_of(reader)
  assert error.value.code == errors.RESTART


def test_an_image_that_is_too_large(store, folder, monkeypatch):
  remote_store.put_tree(store, folder)
  monkeypatch.setattr(images.limits, 'IMAGE_BYTES', 10)
  with pytest.raises(images.BrokenImage, match='bytes, at most 10 are read'):
    images.read(f'{ROOT}/dogs/b.png')


def test_images_are_not_copied(store, folder):
  remote_store.put_tree(store, folder)
  all_of(data.create(of_folder(ROOT), 'train'))
  assert not copies.folder().exists()
