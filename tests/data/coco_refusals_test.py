"""What the reader of COCO refuses, and what it makes of damaged images."""

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.readers import coco
from tests.helpers import coco_files


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  return tmp_path


def test_broken_image_is_replaced_and_counted(root):
  path = root / 'coco/2017/train2017/000000000025.jpg'
  path.write_bytes(path.read_bytes()[:-40])
  reader = data.create(coco_files.make_config(root), 'train')
  batch = reader.batch(np.arange(3), np.zeros(3, np.uint64))
  assert batch['id'].tolist() == [10, 9, 9]
  assert reader.report == {'broken_images': 1, 'replaced_examples': 1}
  path.unlink()
  assert reader.batch(np.arange(1, 2), np.zeros(1, np.uint64))['id'] == 9
  for image_id in (9, 10):
    (path.parent / f'{image_id:012d}.jpg').write_bytes(b'')
  with pytest.raises(errors.UserError, match='none of the 3 images'):
    reader.batch(np.arange(3), np.zeros(3, np.uint64))


def one_line(error):
  text = str(error.value)
  assert '\n' not in text
  return text


def test_missing_files_are_named_together(root):
  base = root / 'coco' / '2017'
  (base / 'annotations' / 'stuff_train2017.json').unlink()
  (base / 'annotations' / 'captions_train2017.json').unlink()
  config = coco_files.make_config(
    root,
    'text',
    ids_file='no_ids.txt',
    category_file='/no/classes.csv',
    vocab_file='/no/vocab.txt',
  )
  with pytest.raises(FileNotFoundError) as error:
    data.create(config, 'train')
  text = one_line(error)
  for words in (
    f'{base}/annotations/stuff_train2017.json (COCO stuff',
    f'{base}/annotations/captions_train2017.json (COCO captions',
    'no_ids.txt (image ids, config.data.ids_file)',
    '/no/classes.csv (ID,Name rows, config.data.category_file)',
    '/no/vocab.txt (config.condition.vocab_file)',
  ):
    assert words in text
  assert 'instances' not in text
  assert len(data.missing_inputs(config)) == 5
  assert len(data.missing_inputs(config, ('val',))) == 2
  with pytest.raises(FileNotFoundError, match='captions_train2017'):
    coco.CocoReader(config, 'train')


def test_no_data_at_all(root):
  config = coco_files.make_config(root)
  with config.unlocked():
    config.data.root = ''
  with pytest.raises(FileNotFoundError, match=r'config\.data\.root is empty'):
    data.create(config, 'train')
  with config.unlocked():
    config.data.root = '/no/where'
  with pytest.raises(FileNotFoundError) as error:
    data.create(config, 'val')
  assert '/no/where/val2017 (image folder' in one_line(error)


@pytest.mark.parametrize(
  ('fields', 'words'),
  [
    ({'year': 2015}, 'config.data.year is 2015, must be 2014 or 2017'),
    ({'year': 2014}, 'use_stuff is True, must be False'),
    ({'crop': 'middle'}, "crop is 'middle'"),
    ({'task': 'sketch'}, "task is 'sketch', must be one of none, text"),
    (
      {'task': 'layout', 'vocab_size': 15},
      'vocab_size is 15, must be at lea',
    ),
    ({'task': 'label', 'no_tokens': 4}, 'no_tokens is 4, must be at least 5'),
    (
      {'task': 'layout', 'encoder': 'boxes', 'num_labels': 4},
      'num_labels is 4, must be at least 5',
    ),
  ],
)
def test_fields_out_of_range(root, fields, words):
  with pytest.raises(ValueError, match=words):
    data.create(coco_files.make_config(root, **fields), 'train')


def broken_documents():
  good = {
    'pictures': [coco_files.image(9)],
    'things': [coco_files.thing(9, 1, [2, 1, 2, 2])],
  }
  no_width = coco_files.image(10)
  del no_width['width']
  no_box = coco_files.thing(9, 1, [0, 0, 1, 1])
  del no_box['bbox']
  odd_mask = {
    **coco_files.thing(9, 1, [0, 0, 4, 4]),
    'segmentation': [[1, 2, 3]],
  }
  outside = coco_files.image(10, name='../{}.jpg')
  for change, words in (
    (
      {'pictures': [coco_files.image(9), no_width]},
      r'images\[1\] lacks "width"',
    ),
    (
      {'pictures': [coco_files.image(9), coco_files.image(9)]},
      r'images\[1\] has the "id" 9',
    ),
    ({'pictures': [outside]}, r'images\[0\] has "file_name"'),
    (
      {'things': [coco_files.thing(9, 1, [0, 0, 1, 1]), no_box]},
      r'\[1\] lacks "bbox"',
    ),
    (
      {'things': [coco_files.thing(8, 1, [0, 0, 1, 1])]},
      r'"image_id": 8, which no image',
    ),
    (
      {'things': [coco_files.thing(9, 3, [0, 0, 1, 1])]},
      r'"category_id": 3, which no',
    ),
    ({'things': [odd_mask]}, r'annotations\[0\] .*segmentation'),
  ):
    yield pytest.param({**good, **change}, words, id=words)


@pytest.mark.parametrize(('document', 'words'), list(broken_documents()))
def test_malformed_entries_are_named(root, document, words):
  path = root / 'coco/2017/annotations/instances_train2017.json'
  coco_files.write(
    path, document['things'], document['pictures'], coco_files.THINGS
  )
  config = coco_files.make_config(root, 'scene_graph', use_stuff=False)
  with pytest.raises(errors.UserError, match=words) as error:
    data.create(config, 'train')
  assert one_line(error).startswith(f'{path}: ')
  assert error.value.code == errors.DATA


def test_malformed_class_file(root):
  (root / 'classes.csv').write_text('/m/a,Dog\n/m/b\n')
  config = coco_files.make_config(root, category_file=str(root / 'classes.csv'))
  with pytest.raises(errors.UserError, match=r'line 2 must be ID,Name'):
    data.create(config, 'train')
