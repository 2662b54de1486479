"""What the reader of COCO refuses, and what it makes of damaged images."""

import re

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.caches import index_cache
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
  with pytest.raises(errors.UserError, match='2 of 3 images are broken'):
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


NO_WIDTH = coco_files.image(10)
del NO_WIDTH['width']
NO_BOX = coco_files.thing(9, 1, [0, 0, 1, 1])
del NO_BOX['bbox']
FAULTS = (
  ('pictures', NO_WIDTH, r'images\[1\] lacks "width"'),
  ('pictures', coco_files.image(10, width=-1), r'\[1\] has "width": -1, must'),
  ('pictures', coco_files.image(9), r'images\[1\] has the "id" 9'),
  (
    'pictures',
    coco_files.image(10, name='../{}.jpg'),
    r'images\[1\] has "file_name"',
  ),
  ('things', NO_BOX, r'annotations\[1\] lacks "bbox"'),
  (
    'things',
    coco_files.thing(9, 1, [0, 0, -1, 1]),
    r'annotations\[1\] has "bbox": \[0, 0, -1, 1\], must be \[x, y, width, hei',
  ),
  (
    'things',
    coco_files.thing(8, 1, [0, 0, 1, 1]),
    r'"image_id": 8, which no image',
  ),
  (
    'things',
    coco_files.thing(9, 3, [0, 0, 1, 1]),
    r'"category_id": 3, which no category',
  ),
  (
    'things',
    {**coco_files.thing(9, 1, [0, 0, 4, 4]), 'segmentation': [[1, 2, 3]]},
    r'annotations\[1\] .*segmentation',
  ),
)


@pytest.mark.parametrize(('kind', 'entry', 'words'), FAULTS)
def test_malformed_entries_are_left_out_and_named(
  root, caplog, kind, entry, words
):
  path = root / 'coco/2017/annotations/instances_train2017.json'
  document = {
    'things': [coco_files.thing(9, 1, [2, 1, 2, 2])],
    'pictures': [coco_files.image(9)],
  }
  document[kind].append(entry)
  coco_files.write(path, *document.values(), coco_files.THINGS)
  config = coco_files.make_config(root, 'scene_graph', use_stuff=False)
  reader = data.create(config, 'train')
  batch = reader.batch(np.arange(1), np.zeros(1, np.uint64))
  assert len(reader) == 1
  assert batch['n_boxes'].tolist() == [1]
  (line,) = [r.getMessage() for r in caplog.records if 'left' in r.getMessage()]
  name = {'pictures': 'images', 'things': 'annotations'}[kind]
  assert line.startswith(f'{path}: 1 of 2 {name} are left out, the first: ')
  assert re.search(words, line)

  document[kind] = [entry, entry]
  if words != FAULTS[2][2]:  # of two with the same number, one is kept
    coco_files.write(path, *document.values(), coco_files.THINGS)
    with pytest.raises(errors.UserError) as error:
      data.create(config, 'train')
    assert one_line(error).startswith(f'{path}: 2 of 2 {name} are left out')
    assert error.value.code == errors.DATA


def test_a_kept_index_still_says_what_is_left_out(root, caplog, monkeypatch):
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 0)
  path = root / 'coco/2017/annotations/instances_train2017.json'
  things = [coco_files.thing(9, 1, [2, 1, 2, 2])]
  pictures = [coco_files.image(9), coco_files.image(10, width=-1)]
  coco_files.write(path, things, pictures, coco_files.THINGS)
  config = coco_files.make_config(root, use_stuff=False)
  for _ in range(2):
    caplog.clear()
    data.create(config, 'train')
    assert '1 of 2 images are left out, the first: images[1]' in caplog.text


def test_images_of_another_size(root, caplog):
  """Scaled images serve, and those whose annotation is of the upright one."""
  base = root / 'coco/2017'
  path = base / 'annotations/instances_train2017.json'
  things = [coco_files.thing(i, 1, [4, 0, 4, 4]) for i in (9, 10, 25)]
  pictures = [coco_files.image(i) for i in (9, 10, 25)]
  coco_files.write(path, things, pictures, coco_files.THINGS)
  names = [base / 'train2017' / entry['file_name'] for entry in pictures]
  pixels = np.zeros((16, 32, 3), np.uint8)
  pixels[:, 16:] = 255
  scaled = Image.fromarray(pixels)
  scaled.save(names[0])
  exif = Image.Exif()
  exif[0x0112] = 6  # a quarter turn
  scaled.transpose(Image.Transpose.ROTATE_90).save(names[1], exif=exif)
  Image.new('RGB', (8, 8)).save(names[2])
  config = coco_files.make_config(root, use_stuff=False, crop='none')
  reader = data.create(config, 'train')
  batch = reader.batch(np.arange(3), np.zeros(3, np.uint64))
  assert batch['id'].tolist() == [10, 9, 9]  # in place of 25, the next
  for row in (0, 1):
    x0, _, x1, _ = batch['boxes'][row, 0]
    columns = batch['image'][row, 2, :, 0]
    inside = (np.arange(4) + 0.5 > 4 * x0) & (np.arange(4) + 0.5 < 4 * x1)
    np.testing.assert_array_equal(columns > 128, inside)
  assert '32x16 px, its annotation says 8x4; the boxes' in caplog.text
  assert '8x8 px, its annotation says 8x4' in caplog.text
  assert reader.report['broken_images'] == 1


def test_names_of_files_in_another_form_and_absent_ones(root, caplog):
  base = root / 'coco/2017'
  path = base / 'annotations/instances_train2017.json'
  things = [coco_files.thing(i, 1, [2, 1, 2, 2]) for i in (1, 2)]
  pictures = [
    coco_files.image(1, name='\u00e9{}.jpg'),
    coco_files.image(2, name='no{}.jpg'),
  ]
  coco_files.write(path, things, pictures, coco_files.THINGS)
  coco_files.draw_jpeg(base / 'train2017' / 'e\u03011.jpg')
  reader = data.create(coco_files.make_config(root, use_stuff=False), 'train')
  assert 'train2017 lacks 1 images (no2.jpg)' in caplog.text
  batch = reader.batch(np.arange(1), np.zeros(1, np.uint64))
  assert batch['id'].tolist() == [1]


def test_malformed_class_file(root):
  (root / 'classes.csv').write_text('/m/a,Dog\n/m/b\n')
  config = coco_files.make_config(root, category_file=str(root / 'classes.csv'))
  with pytest.raises(errors.UserError, match=r'line 2 must be ID,Name'):
    data.create(config, 'train')
