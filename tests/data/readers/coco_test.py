"""What the reader of COCO gives of a split."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.conditioning import scene_graph
from pyramid_jax.data import batches
from pyramid_jax.data import prefetching
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import coco
from tests.helpers import coco_files


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  coco_files.write_all(tmp_path)
  return tmp_path


def test_splits_images_and_labels(root):
  reader = data.create(coco_files.make_config(root), 'train')
  assert reader.label_names == ('', 'person', 'kite', 'dog', 'banner')
  # As strings; image 30 has an annotation of the dropped 'other' alone.
  ids = reader.batch(np.arange(3), np.zeros(3, np.uint64))['id']
  assert ids.tolist() == [10, 25, 9]
  assert len(reader) == 3
  assert len(data.create(coco_files.make_config(root), 'val')) == 3


def test_example_by_hand(root):
  reader = data.create(coco_files.make_config(root), 'train')
  batch = coco_files.one(reader, 9)
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
  assert sorted(batch['labels'][0]) == [0, coco_files.PERSON, coco_files.DOG]
  assert batch['labels'][0, 2] == 0
  person = int(batch['labels'][0].tolist().index(coco_files.PERSON))
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
  reader = data.create(coco_files.make_config(root), 'train')
  orders = {
    tuple(coco_files.one(reader, 9, draw)['labels'][0]) for draw in range(20)
  }
  assert orders == {
    (coco_files.PERSON, coco_files.DOG, 0),
    (coco_files.DOG, coco_files.PERSON, 0),
  }
  again = coco_files.one(reader, 9, 3)
  for key, value in coco_files.one(reader, 9, 3).items():
    np.testing.assert_array_equal(value, again[key])


def test_things_only(root):
  reader = data.create(coco_files.make_config(root, use_stuff=False), 'train')
  assert reader.label_names == ('', 'person', 'kite', 'dog')
  assert coco_files.DOG not in coco_files.one(reader, 25)['labels']


def test_filters(root):
  # Areas: image 9 has 4/32, 12/32 and 3/32; image 25 has 16/32 and 12/32.
  config = coco_files.make_config(root, min_area=0.125, min_objects=2)
  assert len(data.create(config, 'train')) == 1
  assert coco_files.one(data.create(config, 'train'), 25)['n_boxes'][0] == 2
  assert len(data.create(config, 'val')) == 3
  config = coco_files.make_config(
    root, min_area=0.1, min_objects=2, max_objects_image=2
  )
  assert len(data.create(config, 'train')) == 2
  config = coco_files.make_config(root, eval_max_objects=1)
  assert len(data.create(config, 'test')) == 1
  with pytest.raises(errors.UserError, match='no image.*min_objects=9') as e:
    data.create(coco_files.make_config(root, min_objects=9), 'train')
  assert e.value.code == errors.DATA


def test_id_files_are_found_in_the_data(root):
  name = 'deprecated-challenge2017/train-ids.txt'
  reader = data.create(coco_files.make_config(root, ids_file=name), 'train')
  assert len(reader) == 2
  given = str(root / 'mine.txt')
  (root / 'mine.txt').write_text('10\n77\n')
  reader = data.create(coco_files.make_config(root, eval_ids_file=given), 'val')
  assert len(reader) == 1
  assert (
    len(data.create(coco_files.make_config(root, eval_ids_file=given), 'train'))
    == 3
  )


def triples(ids):
  return {tuple(row) for row in ids.reshape(-1, 3).tolist()}


def test_layout_tokens_with_the_crop(root):
  config = coco_files.make_config(root, 'layout', encode_crop=True)
  ids = coco_files.one(data.create(config, 'train'), 9)['condition_ids'][0]
  # A 4x4 grid over the FULL image. Person: (.25, .25) -> cell 5, (.5, .75) ->
  # x 1.5 to even = 2, y 2.25 -> 2: 10. Dog: (.625, 0) -> 1.875 -> 2, and 15.
  assert triples(ids[:9]) == {(0, 5, 10), (2, 2, 15), (15, 15, 15)}
  # Crop: (.25, 0) -> 1, (.75, 1) -> x 2.25 -> 2: 14.
  np.testing.assert_array_equal(ids[9:], [1, 14])
  assert ids.dtype == np.int32


def test_layout_tokens_mirrored(root):
  config = coco_files.make_config(root, 'layout', encode_crop=True, flip=True)
  reader = data.create(config, 'train')
  draw = next(
    d for d in range(50) if coco_files.one(reader, 9, d)['flipped'][0]
  )
  batch = coco_files.one(reader, 9, draw)
  picture = images.read(root / 'coco/2017/train2017/000000000009.jpg')
  np.testing.assert_array_equal(batch['image'][0], picture[:, 5:1:-1])
  ids = batch['condition_ids'][0]
  # Person .5..75 -> (2, 1) and (2, 2); dog 0...375 -> (0, 0), (1.125, 3).
  assert triples(ids[:9]) == {(0, 6, 10), (2, 0, 13), (15, 15, 15)}
  np.testing.assert_array_equal(ids[9:], [1, 14])
  person = batch['labels'][0].tolist().index(coco_files.PERSON)
  np.testing.assert_allclose(batch['boxes'][0, person], [0.5, 0.25, 1, 0.75])
  np.testing.assert_allclose(
    batch['boxes_full'][0, person], [0.25, 0.25, 0.5, 0.75]
  )
  # Validation does not mirror.
  val = data.create(config, 'val')
  assert not any(coco_files.one(val, 9, d)['flipped'][0] for d in range(20))


def test_layout_tokens_of_the_crop(root):
  config = coco_files.make_config(root, 'layout', encode_crop=False, shift=100)
  ids = coco_files.one(data.create(config, 'train'), 9)['condition_ids'][0]
  # In the crop: person (0, .25) -> 4, (.5, .75) -> 10; dog (.75, 0) -> 2, 15.
  assert triples(ids) == {(0, 104, 110), (2, 102, 115), (15, 15, 15)}


def test_label_tokens(root):
  ids = coco_files.one(
    data.create(coco_files.make_config(root, 'label'), 'train'), 9
  )
  assert sorted(ids['condition_ids'][0]) == [0, 2, 15]


def test_text_is_the_first_caption(root):
  reader = data.create(
    coco_files.make_config(root, 'text', max_length=8), 'val'
  )
  assert len(reader) == 2  # image 10 has no caption
  batch = coco_files.one(reader, 9)
  want = [2, 4, 5, 6, 4, 7, 1, 3]  # '.' is unknown to the vocabulary
  np.testing.assert_array_equal(batch['condition_ids'][0], want)
  np.testing.assert_array_equal(batch['caption_ids'][0], want)
  np.testing.assert_array_equal(batch['caption_mask'][0], [1] * 8)
  assert batch['caption'][0] == b'A man walks a dog.'
  both = reader.batch(np.arange(2), np.zeros(2, np.uint64))
  assert sorted(both['caption']) == [b'A man walks a dog.', b'a man']
  train = data.create(
    coco_files.make_config(root, 'text', max_length=8), 'train'
  )
  assert 'caption' not in coco_files.one(train, 9)


def test_captions_lose_full_stops_where_the_config_says_so(root):
  config = coco_files.make_config(root, 'text', max_length=8)
  with config.unlocked():
    config.condition.drop_full_stops = True
  batch = coco_files.one(data.create(config, 'val'), 9)
  want = [2, 4, 5, 6, 4, 7, 3, 0]
  np.testing.assert_array_equal(batch['condition_ids'][0], want)


def test_captions_that_are_cut_are_said_once(root, caplog):
  config = coco_files.make_config(root, 'text', max_length=4)
  reader = data.create(config, 'val')
  caplog.clear()
  with caplog.at_level('WARNING', 'absl'):
    for _ in range(2):
      reader.batch(np.arange(2), np.zeros(2, np.uint64))
  (warning,) = caplog.records
  assert warning.getMessage() == (
    "the text 'A man walks a dog.' has 8 tokens, start and end included, the"
    " model takes 4: 'walks a dog.' is cut off"
  )


def test_scene_graph_from_masks(root):
  config = coco_files.make_config(root, 'scene_graph', max_length=16)
  batch = coco_files.one(data.create(config, 'val'), 9)
  text = batch['caption'][0].decode()
  # In the crop the person's centre is left of the dog's; neither contains
  # the other. Each of both gave one relation.
  relations = text.split(' , ')
  allowed = {'person left of dog', 'dog right of person'}
  assert len(relations) == 2
  assert set(relations) <= allowed
  labels = batch['labels'][0]
  names = {coco_files.PERSON: 'person', coco_files.DOG: 'dog'}
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
  heavy_top = coco_files.thing(9, 1, [2, 0, 2, 4])
  heavy_top['segmentation'] = [[2, 0, 4, 0, 4, 1, 2.2, 1, 2.2, 4, 2, 4]]
  other = coco_files.thing(9, 2, [2, 1, 1.2, 1.8])  # centre (2.6, 1.9)
  for part in ('train2017', 'val2017'):
    path = files / f'instances_{part}.json'
    coco_files.write(
      path, [heavy_top, other], [coco_files.image(9)], coco_files.THINGS
    )
  config = coco_files.make_config(root, 'scene_graph', use_stuff=False)
  text = coco_files.one(data.create(config, 'val'), 9)['caption'][0].decode()
  # The centres of the boxes would say 'right of' and 'left of'.
  assert set(text.split(' , ')) <= {'person above dog', 'dog below person'}


def test_centroids_are_mirrored(root):
  files = root / 'coco' / '2017' / 'annotations'
  heavy_top = coco_files.thing(9, 1, [2, 0, 2, 4])
  heavy_top['segmentation'] = [[2, 0, 4, 0, 4, 1, 2.2, 1, 2.2, 4, 2, 4]]
  other = coco_files.thing(9, 2, [2, 0.6, 1.2, 1.8])
  path = files / 'instances_train2017.json'
  coco_files.write(
    path, [heavy_top, other], [coco_files.image(9)], coco_files.THINGS
  )
  config = coco_files.make_config(
    root, 'scene_graph', use_stuff=False, flip=True
  )
  reader = data.create(config, 'train')
  draw = next(
    d for d in range(50) if coco_files.one(reader, 9, d)['flipped'][0]
  )
  batch = coco_files.one(reader, 9, draw)
  # In the mirrored crop of 4 px the centres are (3.21, 0.96) and (3.4, 1.5);
  # a centroid that was not mirrored would lie at 2.79, left of the dog.
  for subject, predicate, _ in batch['triples'][0, :2]:
    name = scene_graph.PREDICATES[predicate]
    person = batch['labels'][0, subject] == coco_files.PERSON
    assert name == ('above' if person else 'below')


def test_compressed_masks_of_stuff(root):
  config = coco_files.make_config(root, 'scene_graph', crop='none')
  reader = data.create(config, 'train')
  text = reader._index.centroids[2:4]  # person and banner of image 25
  np.testing.assert_allclose(text, [[0.5, 0.5], [0.5, 0.5]])
  files = root / 'coco' / '2017' / 'annotations'
  moved = coco_files.thing(
    9, 92, [4, 0, 4, 4], coco_files.STUFF_MASK
  )  # columns 5..7 of 4..7
  coco_files.write(
    files / 'stuff_train2017.json', [moved], [], coco_files.STUFF
  )
  reader = data.create(config, 'train')
  banner = reader._index.labels.tolist().index(coco_files.BANNER)
  np.testing.assert_allclose(reader._index.centroids[banner], [0.625, 0.5])


CLASSES = (
  '/m/01s55n,Suitcase\n/m/0bt9lr,Dog\n/m/01g317,Person\n'
  '/m/015qff,Traffic light\n/m/0_wall,Wall brick\n'
)


def test_categories_of_open_images(root):
  (root / 'classes.csv').write_text(CLASSES)
  config = coco_files.make_config(root, category_file=str(root / 'classes.csv'))
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
  assert set(coco_files.one(reader, 9)['labels'][0]) == {0, 2, 4}


def test_edition_of_2014(root, tmp_path):
  base = tmp_path / 'other' / '2014'
  pictures = [coco_files.image(73, name='COCO_val2014_{:012d}.jpg')]
  path = base / 'annotations' / 'instances_val2014.json'
  coco_files.write(
    path, [coco_files.thing(73, 1, [0, 0, 8, 4])], pictures, coco_files.THINGS
  )
  coco_files.draw_jpeg(base / 'val2014' / 'COCO_val2014_000000000073.jpg')
  config = coco_files.make_config(root, year=2014, use_stuff=False)
  for place in (tmp_path / 'other', base):
    with config.unlocked():
      config.data.root = str(place)
    assert coco_files.one(data.create(config, 'val'), 73)['n_boxes'][0] == 1
  with pytest.raises(FileNotFoundError, match='instances_train2014'):
    data.create(config, 'train')


def test_finish_and_batches(root):
  reader = data.create(coco_files.make_config(root, 'layout'), 'train')
  run = batches.Batches(reader, 2, seed=1)
  finish = jax.jit(reader.finish)
  with prefetching.prefetch(run, 0, 5, jax.device_put, threads=2) as loader:
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


def test_cached_index_gives_the_same_examples(root, monkeypatch):
  config = coco_files.make_config(root, 'text')
  want = coco_files.one(data.create(config, 'val'), 9)
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 0)
  data.create(config, 'val')
  monkeypatch.setattr(coco, '_build', None)  # must not be called any more
  got = coco_files.one(data.create(config, 'val'), 9)
  for key, value in want.items():
    np.testing.assert_array_equal(got[key], value)
