"""Tar shards: what is read of them, what is left out, and what is refused."""

import json
import tarfile

import numpy as np
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.shards import tar_index
from tests.helpers import configs
from tests.helpers import tar_files


RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.fixture
def vocab(tmp_path):
  path = tmp_path / 'vocab.txt'
  path.write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncat\ndog\n')
  return str(path)


def metadata(**fields):
  """Returns what img2dataset writes, but for `fields`."""
  facts = {
    'caption': 'a dog',
    'NSFW': 'UNLIKELY',
    'similarity': 0.34,
    'key': '0',
    'status': 'success',
    'width': 8,
    'height': 6,
    **fields,
  }
  return json.dumps(facts).encode()


def sample(key, colour, text=b'a cat', number=0, **fields):
  return {
    f'{key}.png': tar_files.encoded(colour),
    f'{key}.json': metadata(**fields),
    f'{key}.txt': text,
    f'{key}.cls': str(number).encode(),
  }


@pytest.fixture
def root(tmp_path):
  """Two shards of three samples and one."""
  root = tmp_path / 'shards'
  tar_files.write(
    root / '00000.tar',
    sample('000', RED, b'a cat\n', 2)
    | sample('001', GREEN, b'dog', 0, NSFW='UNSURE', similarity=0.1)
    | sample('002', BLUE, b'', 1, width=300, height=3),
  )
  tar_files.write(root / '00001.tar', sample('003', (9, 9, 9), b'cat', 1))
  return root


def of_task(root, task='none', **fields):
  fields = {'image_size': 4, 'max_length': 6, 'num_classes': 3, **fields}
  return configs.of_reader('tar_shards', root, task, **fields)


def read_all(config, split='train'):
  reader = data.create(config, split)
  count = len(reader)
  return reader, reader.batch(np.arange(count), np.zeros(count, np.uint64))


def colours(batch):
  return batch['image'][:, 2, 2].tolist()


def test_samples_come_in_the_order_of_the_shards(root):
  reader, batch = read_all(of_task(root))
  assert colours(batch) == [[*RED], [*GREEN], [*BLUE], [9, 9, 9]]
  assert batch['id'].tolist() == [0, 1, 2, 3]
  assert 'class' not in batch
  assert reader.report == {'broken_images': 0, 'replaced_examples': 0}
  assert reader.label_names == ('',)


def test_captions(root, vocab):
  reader, batch = read_all(of_task(root, 'text', vocab_file=vocab), 'val')
  # The third has an empty text.
  assert colours(batch) == [[*RED], [*GREEN], [9, 9, 9]]
  assert batch['caption'].tolist() == [b'a cat', b'dog', b'cat']
  assert batch['caption_ids'].tolist() == [
    [2, 4, 5, 3, 0, 0],
    [2, 6, 3, 0, 0, 0],
    [2, 5, 3, 0, 0, 0],
  ]
  assert reader.report['without_caption'] == 1
  assert list(reader.captions()) == ['a cat', 'dog', 'cat']


def test_captions_in_a_field_of_the_metadata(root, vocab):
  config = of_task(root, 'text', vocab_file=vocab, text_field='caption')
  _, batch = read_all(config, 'val')
  assert batch['caption'].tolist() == [b'a dog'] * 4
  config = of_task(root, 'text', vocab_file=vocab, text_field='TEXT')
  with pytest.raises(errors.UserError, match='2 shards .*: 4 without_caption'):
    data.create(config, 'train')


def test_classes(root, tmp_path):
  reader, batch = read_all(of_task(root, 'class'))
  assert batch['class'].tolist() == [3, 1, 2, 2]
  assert reader.label_names == ('', '0', '1', '2')
  words = (
    r'00000.tar, the image at byte 512 has the class 2, must be below .* 2'
  )
  with pytest.raises(errors.UserError, match=words):
    data.create(of_task(root, 'class', num_classes=2), 'train')
  listed = tmp_path / 'list.csv'
  listed.write_text('n1,Cat\nn2,Dog\nn3,Cow\n')
  reader = data.create(
    of_task(root, 'class', category_file=str(listed)), 'train'
  )
  assert reader.label_names == ('', 'Cat', 'Dog', 'Cow')


def test_classes_in_a_field_of_the_metadata(tmp_path):
  root, listed = tmp_path / 'x.tar', tmp_path / 'list.csv'
  listed.write_text('n1,Cat\nn2,Dog\nn3,Cow\n')
  tar_files.write(
    root,
    sample('a', RED, kind='dog')
    | sample('b', GREEN, kind=0)
    | sample('c', BLUE, kind='N3')
    | sample('d', BLUE, kind='pig')
    | sample('e', BLUE, kind=-1),
  )
  config = of_task(root, 'class', label_field='kind', category_file=str(listed))
  reader, batch = read_all(config)
  assert batch['class'].tolist() == [2, 1, 3]
  assert reader.report['without_label'] == 2


@pytest.mark.parametrize(
  ('fields', 'kept', 'report'),
  [
    ({'nsfw': ('UNLIKELY',)}, [0, 2, 3], {'unsafe': 1}),
    ({'nsfw': ('UNLIKELY', 'UNSURE')}, [0, 1, 2, 3], {}),
    ({'min_similarity': 0.3}, [0, 2, 3], {'low_similarity': 1}),
    ({'min_similarity': 0.34}, [0, 2, 3], {'low_similarity': 1}),
    ({'min_side': 6}, [0, 1, 3], {'too_small': 1}),
    (
      {'min_side': 6, 'nsfw': ('UNLIKELY',)},
      [0, 3],
      {'too_small': 1, 'unsafe': 1},
    ),
  ],
)
def test_filters(root, fields, kept, report):
  reader, batch = read_all(of_task(root, **fields))
  all_of = [[*RED], [*GREEN], [*BLUE], [9, 9, 9]]
  assert colours(batch) == [all_of[i] for i in kept]
  assert reader.report == {
    'broken_images': 0,
    'replaced_examples': 0,
    **report,
  }


def test_sizes_are_those_of_the_images_where_nothing_says_them(tmp_path):
  path = tar_files.write(
    tmp_path / 'x.tar',
    {
      'a.jpg': tar_files.encoded(RED, (8, 6), 'JPEG'),
      'b.webp': tar_files.encoded(RED, (6, 5), 'WEBP'),
      'b.json': b'{"width": "6", "height": 900}',
      'c.png': b'no image',
    },
  )
  reader = data.create(of_task(path, min_side=6), 'train')
  assert len(reader) == 2  # The broken one counts where it is read.
  assert reader.report['too_small'] == 1


def test_metadata_that_are_damaged(tmp_path):
  image = tar_files.encoded(RED)
  members = {'a.png': image, 'a.json': b'{', 'b.png': image, 'c.png': image}
  members['c.json'] = metadata(similarity=float('nan'))
  path = tar_files.write(tmp_path / 'x.tar', members)
  assert len(data.create(of_task(path), 'train')) == 3
  with pytest.raises(errors.UserError) as error:
    data.create(of_task(path, min_similarity=0.1), 'train')
  assert '2 without_metadata, 1 low_similarity' in str(error.value)


def test_how_members_become_samples(tmp_path):
  image = tar_files.encoded(RED)
  path = tar_files.write(
    tmp_path / 'x.tar',
    {
      'd/a.b.png': image,  # The key ends at the first dot: no image.
      'd/a.JPG': image,
      'd/.hidden.png': image,
      'e/a.png': image,  # the same key in another folder
      'e/a.seg.png': image,
      'notes': b'x',
      'f.txt': b'a text alone',
    },
  )
  reader, _ = read_all(of_task(path))
  assert len(reader) == 2
  assert reader.report['without_image'] == 1
  path = tar_files.write(tmp_path / 'y.tar', {'a.jpg': image, 'a.JPG': image})
  with pytest.raises(errors.UserError, match=r"y.tar: 'a.JPG' is there twice"):
    data.create(of_task(path), 'train')


def test_one_broken_image_of_four(root, caplog):
  members = sample('x', RED) | {'y.png': b'\x89PNG'} | sample('z', BLUE)
  tar_files.write(root / '00001.tar', members)
  reader, batch = read_all(of_task(root))
  assert batch['id'].tolist() == [0, 1, 2, 3, 5, 5]
  assert reader.report == {'broken_images': 1, 'replaced_examples': 1}
  assert f'Skipped a broken image: {root}/00001.tar, the image' in caplog.text


@pytest.mark.parametrize('cut', [1000, 1024, 3000])
def test_shards_that_are_cut_off(root, cut):
  path = root / '00001.tar'
  path.write_bytes(path.read_bytes()[:cut])
  with pytest.raises(errors.UserError, match='00001.tar: ') as error:
    data.create(of_task(root), 'train')
  assert error.value.code == errors.DATA


def test_shards_that_are_not_tars(root):
  (root / '00001.tar').write_bytes(b'not a tar ' * 200)
  with pytest.raises(errors.UserError, match='00001.tar: no tar, or damaged'):
    data.create(of_task(root), 'train')


def test_damage_in_the_middle_is_no_smaller_shard(root):
  path = root / '00000.tar'
  with tarfile.open(path) as tar:
    place = tar.getmember('001.png').offset
  whole = bytearray(path.read_bytes())
  whole[place + 148] ^= 1  # the checksum of a header
  path.write_bytes(whole)
  with pytest.raises(errors.UserError, match='00000.tar: '):
    data.create(of_task(root), 'train')


@pytest.mark.parametrize('name', ['../a.png', '/a.png'])
def test_names_that_leave_the_archive(tmp_path, name):
  path = tar_files.write(tmp_path / 'x.tar', {name: tar_files.encoded(RED)})
  with pytest.raises(errors.UserError, match='outside of the archive'):
    data.create(of_task(path), 'train')


def test_links_are_refused(tmp_path):
  path = tmp_path / 'x.tar'
  with tarfile.open(path, 'w') as tar:
    info = tarfile.TarInfo('a.png')
    info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
    tar.addfile(info)
  with pytest.raises(errors.UserError, match='no regular file'):
    data.create(of_task(path), 'train')


def test_tasks_that_shards_do_not_serve(root):
  with pytest.raises(ValueError, match="'layout', must be one of none, text"):
    data.create(of_task(root, 'layout'), 'train')


def test_other_readers_do_not_ignore_the_filters():
  config = config_lib.base('ldm')
  config.data.min_side = 6
  words = 'data.min_side is 6, must be 0 with data.name = shapes'
  with pytest.raises(errors.UserError, match=words):
    config_lib.validate(config)
  config.data.name = 'tar_shards'
  config_lib.validate(config)
  config.data.image_field = 'png'
  with pytest.raises(errors.UserError, match="image_field is 'png', must be"):
    config_lib.validate(config)


def test_the_index_of_a_large_shard_is_kept(root, cache, monkeypatch):
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 1)
  read = []
  index = tar_index._index
  monkeypatch.setattr(
    tar_index,
    '_index',
    lambda *args: (read.append(args[0].name), index(*args))[1],
  )
  config = of_task(root)
  _, first = read_all(config)
  _, again = read_all(config)
  assert sorted(read) == ['00000.tar', '00001.tar']
  np.testing.assert_array_equal(first['image'], again['image'])
  read_all(of_task(root, min_side=6))  # other rules
  assert len(read) == 4
  tar_files.write(root / '00001.tar', sample('x', BLUE) | sample('y', RED))
  assert colours(read_all(config)[1])[3:] == [[*BLUE], [*RED]]
  assert read[4:] == ['00001.tar']
  (damaged, *_) = cache.rglob('*.npz')
  damaged.write_bytes(damaged.read_bytes()[:-30])
  assert len(read_all(config)[0]) == 5


def test_identity_has_shards_and_rules(root):
  one = data.create(of_task(root), 'train').identity()
  assert {name: count for name, (count, _) in one['shards'].items()} == {
    '00000.tar': 3,
    '00001.tar': 1,
  }
  size = (root / '00001.tar').stat().st_size
  assert one['shards']['00001.tar'] == [1, size]
  other = data.create(of_task(root, min_side=6), 'train').identity()
  assert one['source'] != other['source']


def test_a_shard_that_vanishes_is_no_broken_image(root, monkeypatch):
  reader = data.create(of_task(root, max_broken=5), 'train')
  monkeypatch.setattr(
    images, 'decode_image', lambda *_, **__: np.zeros((6, 8, 3), np.uint8)
  )
  (root / '00001.tar').unlink()
  batch = reader.batch(np.array([3]), np.zeros(1, np.uint64))
  assert batch['id'].tolist() == [0]
  assert reader.report['vanished_images'] == 1
