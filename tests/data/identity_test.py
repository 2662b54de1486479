"""What readers say of their data, and what messages say of a difference."""

import errno
import os
import types

import pytest

from pyramid_jax import data
from pyramid_jax.data import identity
from pyramid_jax.data.readers import tfds
from pyramid_jax.data.synthetic import scenes
from pyramid_jax.files import retries
from tests.helpers import coco_files
from tests.helpers import configs
from tests.helpers import folder_run


def folder_reader(root, split='train', **fields):
  config = configs.change(folder_run.get_config(), fields)
  config.data.root = str(root)
  return data.create(config.lock(), split)


def changes(was, now):
  facts = [identity.facts(x) for x in (was, now)]
  return identity.differences(*facts, was, now)


def test_sizes(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'b.png').write_bytes(b'12345')
  (tmp_path / 'c').write_bytes(b'')
  names = ['c', 'a/b.png', 'a/absent', 'c/within a file']
  want = {'c': 0, 'a/b.png': 5, 'a/absent': None, 'c/within a file': None}
  assert identity.sizes(tmp_path, names) == want


def test_storage_that_fails_for_a_moment(tmp_path, monkeypatch):
  (tmp_path / 'a').write_bytes(b'123')
  fails = [errno.EIO, errno.ESTALE]
  real = os.stat

  def stat(path, **options):
    if fails and str(path).endswith('/a'):
      raise OSError(fails.pop(), 'failed', path)
    return real(path, **options)

  monkeypatch.setattr(os, 'stat', stat)
  monkeypatch.setattr(retries, 'WAITS_SECS', (0.0, 0.0, 0.0))
  assert identity.sizes(tmp_path, ['a']) == {'a': 3}
  fails[:] = [errno.EACCES] * 9
  with pytest.raises(PermissionError):
    identity.sizes(tmp_path, ['a'])


def test_facts_do_not_depend_on_the_order():
  parts = {'images': {'a': 1, 'b': 2}, 'maps': {}}
  other = {'images': {'b': 2, 'a': 1}}
  assert identity.facts(parts) == identity.facts(other)
  assert identity.facts(parts)['images']['count'] == 2
  assert identity.facts({'images': {'a': 1, 'b': 3}}) != identity.facts(parts)
  assert identity.facts({'images': {'a\nb': 1}}) != identity.facts(
    {'images': {'a': 1, 'b': 1}}
  )


def test_names_that_are_no_text():
  name = os.fsdecode(b'\xff.png')
  facts = identity.facts({'images': {name: 1}})
  assert facts != identity.facts({'images': {os.fsdecode(b'\xfe.png'): 1}})


def test_differences_are_named():
  was = {'images': {f'{i}.png': i for i in range(9)}, 'files': {'x': 'a' * 64}}
  now = {'images': {**was['images'], '8.png': 80, 'y.png': 1}, 'files': {}}
  for i in range(4):
    del now['images'][f'{i}.png']
  assert changes(was, was) == []
  assert changes(was, now) == [
    'files 1 -> 0: 1 gone (x)',
    'images 9 -> 6: 4 gone (0.png, 1.png, 2.png, ...), 1 new (y.png), 1 changed'
    ' (8.png 8 -> 80 bytes)',
  ]
  now = {'images': was['images'], 'files': {'x': 'b' * 64}}
  text = 'files: 1 changed (x aaaaaaaa... -> bbbbbbbb...)'
  assert changes(was, now) == [text]
  # A part that an older version did not have is not compared.
  assert changes({'images': was['images']}, was) == []


def test_a_folder_that_moved_and_one_that_changed(tmp_path):
  folder_run.write_images(tmp_path / 'one', 4)
  (tmp_path / 'one' / 'train' / 'cat').mkdir()
  base = tmp_path / 'one' / 'train'
  (base / '001.png').rename(base / 'cat' / '001.png')
  was = folder_reader(tmp_path / 'one').identity()
  assert set(was['images']) == {'000.png', 'cat/001.png', '002.png', '003.png'}
  assert was['images']['002.png'] == (base / '002.png').stat().st_size
  (tmp_path / 'one').rename(tmp_path / 'two')
  now = folder_reader(tmp_path / 'two').identity()
  assert identity.facts(was) == identity.facts(now)
  (tmp_path / 'two' / 'train' / 'cat').rename(tmp_path / 'two' / 'train' / 'b')
  now = folder_reader(tmp_path / 'two').identity()
  text = 'images: 1 gone (cat/001.png), 1 new (b/001.png)'
  assert changes(was, now) == [text]


def test_maps_are_a_part(tmp_path):
  folder_run.write_images(tmp_path, 2)
  base = tmp_path / 'train'
  for name in ('000', '001'):
    os.link(base / f'{name}.png', base / f'{name}.map.png')
  fields = {'condition__task': 'map', 'condition__map_classes': 256}
  was = folder_reader(tmp_path, **fields).identity()
  (base / '001.map.png').unlink()
  (base / '001.map.png').write_bytes(b'1')
  now = folder_reader(tmp_path, **fields).identity()
  size = (base / '000.png').stat().st_size
  was_size = was['maps']['001.map.png']
  assert was['maps']['000.map.png'] == size
  text = f'maps: 1 changed (001.map.png {was_size} -> 1 bytes)'
  assert changes(was, now) == [text]


def test_annotations_and_lists_of_coco(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  config = coco_files.make_config(tmp_path)
  was = data.create(config, 'train').identity()
  assert len(was['images']) == 3
  files = list(tmp_path.rglob('instances_train2017.json'))
  files[0].write_text(files[0].read_text().replace('x', 'z', 1))
  now = data.create(config, 'train').identity()
  (text,) = changes(was, now)
  assert text.startswith('files: 1 changed (instances_train2017.json ')
  val = data.create(config, 'val').identity()
  assert 'instances_val2017.json' in val['files']


def test_an_image_that_was_absent_and_came(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  config = coco_files.make_config(tmp_path)
  (image,) = tmp_path.rglob('train2017/000000000009.jpg')
  content = image.read_bytes()
  image.unlink()
  was = data.create(config, 'train').identity()
  image.write_bytes(content)
  now = data.create(config, 'train').identity()
  (text,) = changes(was, now)
  assert f'000000000009.jpg absent -> {len(content)} bytes' in text


def test_scenes(monkeypatch):
  config = configs.change(folder_run.get_config(), {'data__name': 'shapes'})
  was = data.create(config, 'train').identity()
  assert data.create(config, 'val').identity() != was
  monkeypatch.setattr(scenes, 'GENERATOR', 2)
  now = data.create(config, 'train').identity()
  assert changes(was, now) == ['source: 1 changed (generator 1 -> 2)']


def tfds_info(name='tiny/1.0.0', lengths=(5, 4)):
  split = lambda lengths: types.SimpleNamespace(
    shard_lengths=list(lengths), num_bytes=100 * sum(lengths)
  )
  splits = {'train': split(lengths), 'validation': split([3])}
  return types.SimpleNamespace(full_name=name, splits=splits)


def test_sets_of_tensorflow():
  of = lambda split='train[:90%]', count=8, **options: tfds._identity_of(
    tfds_info(**options), split, count
  )
  was = of()
  assert was['shards'] == {'train-00000': 5, 'train-00001': 4}
  assert was['source']['bytes'] == 900
  assert changes(was, of()) == []
  (text,) = changes(was, of(name='tiny/1.0.1'))
  assert text == 'source: 1 changed (set tiny/1.0.0 -> tiny/1.0.1)'
  assert len(changes(was, of(lengths=(6, 3)))) == 1
  assert 'examples 8 -> 7' in changes(was, of(count=7))[0]
