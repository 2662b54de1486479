import json

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import scene_graph
from pyramid_jax.data import batches
from pyramid_jax.data import images
from pyramid_jax.data import index_cache
from pyramid_jax.data.readers import coco


THINGS = [
  {'supercategory': 'person', 'id': 1, 'name': 'person'},
  {'supercategory': 'animal', 'id': 2, 'name': 'dog'},
  {'supercategory': 'sports', 'id': 10, 'name': 'kite'},
]
STUFF = [
  {'supercategory': 'textile', 'id': 92, 'name': 'banner'},
  {'supercategory': 'other', 'id': 183, 'name': 'other'},
]
# Sorted as strings: 1 person, 10 kite, 2 dog, 92 banner.
PERSON, KITE, DOG, BANNER = 1, 2, 3, 4


def image(image_id, width=8, height=4, name='{:012d}.jpg'):
  return {
    'license': 4,
    'file_name': name.format(image_id),
    'coco_url': f'http://images.cocodataset.org/{image_id}.jpg',
    'height': height,
    'width': width,
    'date_captured': '2013-11-14 17:02:52',
    'flickr_url': 'http://farm7.staticflickr.com/x.jpg',
    'id': image_id,
  }


def thing(image_id, category, bbox, crowd=None):
  x, y, w, h = bbox
  polygon = [[x, y, x + w, y, x + w, y + h, x, y + h]]
  return {
    'segmentation': crowd or polygon,
    'area': float(w * h),
    'iscrowd': int(crowd is not None),
    'image_id': image_id,
    'bbox': list(bbox),
    'category_id': category,
    'id': 1000 * image_id + category,
  }


# A crowd that fills columns 5 to 7 of 8x4: 20 cells of background, 12 set.
CROWD = {'counts': [20, 12], 'size': [4, 8]}
# The same, compressed as in the stuff files: 20 -> 'd0', 12 -> '<'.
STUFF_MASK = {'counts': 'd0<', 'size': [4, 8]}


def write(path, annotations, pictures, categories):
  document = {
    'info': {'description': 'COCO', 'year': 2017},
    'licenses': [{'id': 4, 'name': 'x', 'url': 'y'}],
    'images': pictures,
    'annotations': annotations,
    'categories': categories,
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(document))


def draw_jpeg(path, width=8, height=4, seed=0):
  pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3))
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(pixels.astype(np.uint8)).save(path, 'JPEG', quality=90)


@pytest.fixture
def root(tmp_path, monkeypatch):
  """Three images of each split of 2017; see `OBJECTS` of image 9."""
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  base = tmp_path / 'coco' / '2017'
  pictures = [image(9), image(10, 4, 8), image(25), image(30)]
  instances = [
    thing(9, 1, [2, 1, 2, 2]),
    thing(10, 10, [0, 0, 4, 8]),
    thing(9, 2, [5, 0, 3, 4], CROWD),
    thing(25, 1, [2, 0, 4, 4]),
  ]
  stuff = [
    thing(9, 92, [0, 2, 1.5, 2]),
    thing(9, 183, [0, 0, 8, 4]),
    thing(30, 183, [0, 0, 8, 4]),
    thing(25, 92, [5, 0, 3, 4], STUFF_MASK),
  ]
  captions = [
    {'image_id': 9, 'id': 1, 'caption': 'A man walks a dog.'},
    {'image_id': 25, 'id': 2, 'caption': 'a man'},
    {'image_id': 9, 'id': 3, 'caption': 'Another one.'},
  ]
  for part in ('train2017', 'val2017'):
    files = base / 'annotations'
    write(files / f'instances_{part}.json', instances, pictures, THINGS)
    write(files / f'stuff_{part}.json', stuff, pictures, STUFF)
    write(files / f'captions_{part}.json', captions, pictures, [])
    for seed, entry in enumerate(pictures):
      draw_jpeg(
        base / part / entry['file_name'], entry['width'], entry['height'], seed
      )
  ids = base / 'annotations' / 'deprecated-challenge2017'
  ids.mkdir()
  (ids / 'train-ids.txt').write_text('000000000025\n000000000009\n')
  (tmp_path / 'vocab.txt').write_text(
    '[PAD]\n[UNK]\n[CLS]\n[SEP]\na\nman\nwalks\ndog\nperson\nbanner\nleft\n'
    'right\nof\nabove\nbelow\ninside\nsurrounding\n,\nb\n'
  )
  return tmp_path


def make_config(root, task='none', **fields):
  config = config_lib.base('ldm')
  config.data.update(
    name='coco',
    root=str(root),
    year=2017,
    image_size=4,
    max_objects=3,
    crop='center',
    eval_crop='center',
  )
  config.condition.update(
    task=task, max_objects=3, no_tokens=16, vocab_file=str(root / 'vocab.txt')
  )
  for name, value in fields.items():
    section = config.data if name in config.data else config.condition
    section[name] = value
  return config.lock()


def one(reader, image_id, draw=0):
  """The example of an image id, as a batch of one."""
  for index in range(len(reader)):
    batch = reader.batch(np.array([index]), np.array([draw], np.uint64))
    if batch['id'][0] == image_id:
      return batch
  raise AssertionError(image_id)


def test_splits_images_and_labels(root):
  reader = data.create(make_config(root), 'train')
  assert reader.label_names == ('', 'person', 'kite', 'dog', 'banner')
  # As strings; image 30 has an annotation of the dropped 'other' alone.
  ids = reader.batch(np.arange(3), np.zeros(3, np.uint64))['id']
  assert ids.tolist() == [10, 25, 9]
  assert len(reader) == 3
  assert len(data.create(make_config(root), 'val')) == 3


def test_example_by_hand(root):
  reader = data.create(make_config(root), 'train')
  batch = one(reader, 9)
  assert {k: v.dtype.name for k, v in batch.items()} == {
    'image': 'uint8',
    'boxes': 'float32',
    'labels': 'int32',
    'box_flags': 'int32',
    'n_boxes': 'int32',
    'boxes_full': 'float32',
    'crop': 'float32',
    'flipped': 'bool',
    'id': 'int64',
  }
  picture = images.read(root / 'coco/2017/train2017/000000000009.jpg')
  np.testing.assert_array_equal(batch['image'][0], picture[:, 2:6])
  np.testing.assert_array_equal(batch['crop'][0], [0.25, 0, 0.75, 1])
  assert not batch['flipped'][0]
  # The banner ends left of the crop; the dog goes on at its right.
  assert batch['n_boxes'][0] == 2
  assert sorted(batch['labels'][0]) == [0, PERSON, DOG]
  assert batch['labels'][0, 2] == 0
  person = int(batch['labels'][0].tolist().index(PERSON))
  dog = 1 - person
  np.testing.assert_array_equal(batch['box_flags'][0, [person, dog]], [0, 1])
  np.testing.assert_allclose(
    batch['boxes'][0, [person, dog, 2]],
    [[0, 0.25, 0.5, 0.75], [0.75, 0, 1, 1], [0, 0, 0, 0]],
  )
  np.testing.assert_allclose(
    batch['boxes_full'][0, [person, dog, 2]],
    [[0.25, 0.25, 0.5, 0.75], [0.625, 0, 1, 1], [0, 0, 0, 0]],
  )


def test_order_of_objects_is_drawn(root):
  reader = data.create(make_config(root), 'train')
  orders = {tuple(one(reader, 9, draw)['labels'][0]) for draw in range(20)}
  assert orders == {(PERSON, DOG, 0), (DOG, PERSON, 0)}
  again = one(reader, 9, 3)
  for key, value in one(reader, 9, 3).items():
    np.testing.assert_array_equal(value, again[key])


def test_things_only(root):
  reader = data.create(make_config(root, use_stuff=False), 'train')
  assert reader.label_names == ('', 'person', 'kite', 'dog')
  assert DOG not in one(reader, 25)['labels']


def test_filters(root):
  # Areas: image 9 has 4/32, 12/32 and 3/32; image 25 has 16/32 and 12/32.
  config = make_config(root, min_area=0.125, min_objects=2)
  assert len(data.create(config, 'train')) == 1
  assert one(data.create(config, 'train'), 25)['n_boxes'][0] == 2
  assert len(data.create(config, 'val')) == 3
  config = make_config(root, min_area=0.1, min_objects=2, max_objects_image=2)
  assert len(data.create(config, 'train')) == 2
  config = make_config(root, eval_max_objects=1)
  assert len(data.create(config, 'test')) == 1
  with pytest.raises(errors.UserError, match='no image.*min_objects=9') as e:
    data.create(make_config(root, min_objects=9), 'train')
  assert e.value.code == errors.DATA


def test_id_files_are_found_in_the_data(root):
  name = 'deprecated-challenge2017/train-ids.txt'
  reader = data.create(make_config(root, ids_file=name), 'train')
  assert len(reader) == 2
  given = str(root / 'mine.txt')
  (root / 'mine.txt').write_text('10\n77\n')
  reader = data.create(make_config(root, eval_ids_file=given), 'val')
  assert len(reader) == 1
  assert len(data.create(make_config(root, eval_ids_file=given), 'train')) == 3


def triples(ids):
  return {tuple(row) for row in ids.reshape(-1, 3).tolist()}


def test_layout_tokens_with_the_crop(root):
  config = make_config(root, 'layout', encode_crop=True)
  ids = one(data.create(config, 'train'), 9)['condition_ids'][0]
  # A 4x4 grid over the FULL image. Person: (.25, .25) -> cell 5, (.5, .75) ->
  # x 1.5 to even = 2, y 2.25 -> 2: 10. Dog: (.625, 0) -> 1.875 -> 2, and 15.
  assert triples(ids[:9]) == {(0, 5, 10), (2, 2, 15), (15, 15, 15)}
  # Crop: (.25, 0) -> 1, (.75, 1) -> x 2.25 -> 2: 14.
  np.testing.assert_array_equal(ids[9:], [1, 14])
  assert ids.dtype == np.int32


def test_layout_tokens_mirrored(root):
  config = make_config(root, 'layout', encode_crop=True, flip=True)
  reader = data.create(config, 'train')
  draw = next(d for d in range(50) if one(reader, 9, d)['flipped'][0])
  batch = one(reader, 9, draw)
  picture = images.read(root / 'coco/2017/train2017/000000000009.jpg')
  np.testing.assert_array_equal(batch['image'][0], picture[:, 5:1:-1])
  ids = batch['condition_ids'][0]
  # Person .5..75 -> (2, 1) and (2, 2); dog 0...375 -> (0, 0), (1.125, 3).
  assert triples(ids[:9]) == {(0, 6, 10), (2, 0, 13), (15, 15, 15)}
  np.testing.assert_array_equal(ids[9:], [1, 14])
  person = batch['labels'][0].tolist().index(PERSON)
  np.testing.assert_allclose(batch['boxes'][0, person], [0.5, 0.25, 1, 0.75])
  np.testing.assert_allclose(
    batch['boxes_full'][0, person], [0.25, 0.25, 0.5, 0.75]
  )
  # Validation does not mirror.
  val = data.create(config, 'val')
  assert not any(one(val, 9, d)['flipped'][0] for d in range(20))


def test_layout_tokens_of_the_crop(root):
  config = make_config(root, 'layout', encode_crop=False, shift=100)
  ids = one(data.create(config, 'train'), 9)['condition_ids'][0]
  # In the crop: person (0, .25) -> 4, (.5, .75) -> 10; dog (.75, 0) -> 2, 15.
  assert triples(ids) == {(0, 104, 110), (2, 102, 115), (15, 15, 15)}


def test_label_tokens(root):
  ids = one(data.create(make_config(root, 'label'), 'train'), 9)
  assert sorted(ids['condition_ids'][0]) == [0, 2, 15]


def test_text_is_the_first_caption(root):
  reader = data.create(make_config(root, 'text', max_length=8), 'val')
  assert len(reader) == 2  # image 10 has no caption
  batch = one(reader, 9)
  want = [2, 4, 5, 6, 4, 7, 3, 0]
  np.testing.assert_array_equal(batch['condition_ids'][0], want)
  np.testing.assert_array_equal(batch['caption_ids'][0], want)
  np.testing.assert_array_equal(batch['caption_mask'][0], [1] * 7 + [0])
  assert batch['caption'][0] == b'A man walks a dog'
  both = reader.batch(np.arange(2), np.zeros(2, np.uint64))
  assert sorted(both['caption']) == [b'A man walks a dog', b'a man']
  train = data.create(make_config(root, 'text', max_length=8), 'train')
  assert 'caption' not in one(train, 9)


def test_scene_graph_from_masks(root):
  config = make_config(root, 'scene_graph', max_length=16)
  batch = one(data.create(config, 'val'), 9)
  text = batch['caption'][0].decode()
  # In the crop the person's centre is left of the dog's; neither contains
  # the other. Each of both gave one relation.
  relations = text.split(' , ')
  allowed = {'person left of dog', 'dog right of person'}
  assert len(relations) == 2
  assert set(relations) <= allowed
  labels = batch['labels'][0]
  names = {PERSON: 'person', DOG: 'dog'}
  for (s, p, o), words in zip(batch['triples'][0, :2], relations, strict=True):
    predicate = scene_graph.PREDICATES[p]
    assert f'{names[labels[s]]} {predicate} {names[labels[o]]}' == words
  np.testing.assert_array_equal(batch['triples'][0, 2], [-1, -1, -1])
  vocab = (root / 'vocab.txt').read_text().split('\n')
  ids = [2, *(vocab.index(word) for word in text.split()), 3]
  np.testing.assert_array_equal(batch['condition_ids'][0, : len(ids)], ids)


def test_centroids_of_masks_decide_relations(root):
  # An L on its head: 2x1 px at the top, a stem of 0.2x3 px. Its centre of mass
  # is (2.79, 0.96), far above that of its box, (3, 2).
  files = root / 'coco' / '2017' / 'annotations'
  heavy_top = thing(9, 1, [2, 0, 2, 4])
  heavy_top['segmentation'] = [[2, 0, 4, 0, 4, 1, 2.2, 1, 2.2, 4, 2, 4]]
  other = thing(9, 2, [2, 1, 1.2, 1.8])  # centre (2.6, 1.9)
  for part in ('train2017', 'val2017'):
    path = files / f'instances_{part}.json'
    write(path, [heavy_top, other], [image(9)], THINGS)
  config = make_config(root, 'scene_graph', use_stuff=False)
  text = one(data.create(config, 'val'), 9)['caption'][0].decode()
  # The centres of the boxes would say 'right of' and 'left of'.
  assert set(text.split(' , ')) <= {'person above dog', 'dog below person'}


def test_centroids_are_mirrored(root):
  files = root / 'coco' / '2017' / 'annotations'
  heavy_top = thing(9, 1, [2, 0, 2, 4])
  heavy_top['segmentation'] = [[2, 0, 4, 0, 4, 1, 2.2, 1, 2.2, 4, 2, 4]]
  other = thing(9, 2, [2, 0.6, 1.2, 1.8])
  path = files / 'instances_train2017.json'
  write(path, [heavy_top, other], [image(9)], THINGS)
  config = make_config(root, 'scene_graph', use_stuff=False, flip=True)
  reader = data.create(config, 'train')
  draw = next(d for d in range(50) if one(reader, 9, d)['flipped'][0])
  batch = one(reader, 9, draw)
  # In the mirrored crop of 4 px the centres are (3.21, 0.96) and (3.4, 1.5);
  # a centroid that was not mirrored would lie at 2.79, left of the dog.
  for subject, predicate, _ in batch['triples'][0, :2]:
    name = scene_graph.PREDICATES[predicate]
    person = batch['labels'][0, subject] == PERSON
    assert name == ('above' if person else 'below')


def test_compressed_masks_of_stuff(root):
  config = make_config(root, 'scene_graph', crop='none')
  reader = data.create(config, 'train')
  text = reader._index.centroids[2:4]  # person and banner of image 25
  np.testing.assert_allclose(text, [[0.5, 0.5], [0.5, 0.5]])
  files = root / 'coco' / '2017' / 'annotations'
  moved = thing(9, 92, [4, 0, 4, 4], STUFF_MASK)  # columns 5..7 of 4..7
  write(files / 'stuff_train2017.json', [moved], [], STUFF)
  reader = data.create(config, 'train')
  banner = reader._index.labels.tolist().index(BANNER)
  np.testing.assert_allclose(reader._index.centroids[banner], [0.625, 0.5])


CLASSES = (
  '/m/01s55n,Suitcase\n/m/0bt9lr,Dog\n/m/01g317,Person\n'
  '/m/015qff,Traffic light\n/m/0_wall,Wall brick\n'
)


def test_categories_of_open_images(root):
  (root / 'classes.csv').write_text(CLASSES)
  config = make_config(root, category_file=str(root / 'classes.csv'))
  reader = data.create(config, 'train')
  # MIDs as strings, the suitcase last; then what has no MID, as strings.
  assert reader.label_names == (
    '',
    'Traffic light',
    'Person',
    'Wall brick',
    'Dog',
    'Suitcase',
    'kite',
    'banner',
  )
  assert set(one(reader, 9)['labels'][0]) == {0, 2, 4}


def test_names_match_with_spaces_and_dashes():
  mids = {'/m/a': 'Traffic light', '/m/b': 'Wall brick', '/m/c': 'Dog'}
  names = {10: 'traffic light', 9: 'wall-brick', 100: 'Dog', 7: 'x', 70: 'y'}
  labels, by_label = coco.number_labels({**names, 183: 'other'}, mids)
  assert labels == {10: 1, 9: 2, 100: 3, 7: 4, 70: 5, 183: 0}
  assert by_label == ['', 'Traffic light', 'Wall brick', 'Dog', 'x', 'y']


def test_edition_of_2014(root, tmp_path):
  base = tmp_path / 'other' / '2014'
  pictures = [image(73, name='COCO_val2014_{:012d}.jpg')]
  path = base / 'annotations' / 'instances_val2014.json'
  write(path, [thing(73, 1, [0, 0, 8, 4])], pictures, THINGS)
  draw_jpeg(base / 'val2014' / 'COCO_val2014_000000000073.jpg')
  config = make_config(root, year=2014, use_stuff=False)
  for place in (tmp_path / 'other', base):
    with config.unlocked():
      config.data.root = str(place)
    assert one(data.create(config, 'val'), 73)['n_boxes'][0] == 1
  with pytest.raises(FileNotFoundError, match='instances_train2014'):
    data.create(config, 'train')


def test_finish_and_batches(root):
  reader = data.create(make_config(root, 'layout'), 'train')
  run = batches.Batches(reader, 2, seed=1)
  finish = jax.jit(reader.finish)
  with batches.prefetch(run, 0, 5, jax.device_put, threads=2) as loader:
    got = [finish(batch) for batch in loader]
  assert len(got) == 5
  for step, batch in enumerate(got):
    want = run.at(step)
    assert batch['image'].shape == (2, 4, 4, 3)
    assert batch['image'].dtype == jnp.float32
    np.testing.assert_allclose(
      batch['image'], want['image'] / 127.5 - 1, atol=1e-6
    )
    np.testing.assert_array_equal(batch['id'], want['id'])
    np.testing.assert_array_equal(batch['condition_ids'], want['condition_ids'])


def test_broken_image_is_replaced_and_counted(root):
  path = root / 'coco/2017/train2017/000000000025.jpg'
  path.write_bytes(path.read_bytes()[:-40])
  reader = data.create(make_config(root), 'train')
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
  config = make_config(
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
    '/no/classes.csv (MID,Name rows, config.data.category_file)',
    '/no/vocab.txt (config.condition.vocab_file)',
  ):
    assert words in text
  assert 'instances' not in text
  assert len(data.missing_inputs(config)) == 5
  assert len(data.missing_inputs(config, ('val',))) == 2
  with pytest.raises(FileNotFoundError, match='captions_train2017'):
    coco.CocoReader(config, 'train')


def test_no_data_at_all(root):
  config = make_config(root)
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
    ({'task': 'layout', 'vocab_size': 15}, 'vocab_size is 15, .* = 16'),
    ({'task': 'label', 'no_tokens': 4}, 'no_tokens is 4, must be at least 5'),
    (
      {'task': 'layout', 'encoder': 'boxes', 'num_labels': 4},
      'num_labels is 4, must be at least 5',
    ),
  ],
)
def test_fields_out_of_range(root, fields, words):
  with pytest.raises(ValueError, match=words):
    data.create(make_config(root, **fields), 'train')


def broken_documents():
  good = {'pictures': [image(9)], 'things': [thing(9, 1, [2, 1, 2, 2])]}
  no_width = image(10)
  del no_width['width']
  no_box = thing(9, 1, [0, 0, 1, 1])
  del no_box['bbox']
  odd_mask = {**thing(9, 1, [0, 0, 4, 4]), 'segmentation': [[1, 2, 3]]}
  outside = image(10, name='../{}.jpg')
  for change, words in (
    ({'pictures': [image(9), no_width]}, r'images\[1\] lacks "width"'),
    ({'pictures': [image(9), image(9)]}, r'images\[1\] has the "id" 9'),
    ({'pictures': [outside]}, r'images\[0\] has "file_name"'),
    ({'things': [thing(9, 1, [0, 0, 1, 1]), no_box]}, r'\[1\] lacks "bbox"'),
    ({'things': [thing(8, 1, [0, 0, 1, 1])]}, r'"image_id": 8, which no image'),
    ({'things': [thing(9, 3, [0, 0, 1, 1])]}, r'"category_id": 3, which no'),
    ({'things': [odd_mask]}, r'annotations\[0\] .*segmentation'),
  ):
    yield pytest.param({**good, **change}, words, id=words)


@pytest.mark.parametrize(('document', 'words'), list(broken_documents()))
def test_malformed_entries_are_named(root, document, words):
  path = root / 'coco/2017/annotations/instances_train2017.json'
  write(path, document['things'], document['pictures'], THINGS)
  config = make_config(root, 'scene_graph', use_stuff=False)
  with pytest.raises(errors.UserError, match=words) as error:
    data.create(config, 'train')
  assert one_line(error).startswith(f'{path}: ')
  assert error.value.code == errors.DATA


def test_malformed_class_file(root):
  (root / 'classes.csv').write_text('/m/a,Dog\n/m/b\n')
  config = make_config(root, category_file=str(root / 'classes.csv'))
  with pytest.raises(errors.UserError, match=r'line 2 must be MID,Name'):
    data.create(config, 'train')


def test_cached_index_gives_the_same_examples(root, monkeypatch):
  config = make_config(root, 'text')
  want = one(data.create(config, 'val'), 9)
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 0)
  data.create(config, 'val')
  monkeypatch.setattr(coco, '_build', None)  # must not be called any more
  got = one(data.create(config, 'val'), 9)
  for key, value in want.items():
    np.testing.assert_array_equal(got[key], value)
