"""What the reader of Visual Genome gives of small files in its formats."""

import dataclasses
import json

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.objects import sg2im_graphs
from pyramid_jax.data.objects import visual_genome_files
from pyramid_jax.data.readers import visual_genome
from tests.helpers import coco_files
from tests.helpers import configs
from tests.helpers import visual_genome_files as files


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  rules = sg2im_graphs.Rules(min_instances=2, min_relations=2)
  monkeypatch.setattr(visual_genome, 'RULES', rules)
  files.write_all(tmp_path)
  return tmp_path


def one(reader, position, draw=0):
  return reader.batch(np.array([position]), np.array([draw], np.uint64))


def text_config(root, **fields):
  (root / 'vocab.txt').write_text('\n'.join(WORDS))
  return files.make_config(
    root, 'scene_graph', vocab_file=str(root / 'vocab.txt'), **fields
  )


WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'man', 'tree', 'on', 'near', ',']
WORDS += ['a', 'b']


def test_the_published_filters_are_the_defaults():
  assert sg2im_graphs.Rules() == visual_genome.RULES
  assert (
    sg2im_graphs.Rules(
      min_side_px=200,
      min_instances=2000,
      min_object_px=32,
      min_relations=500,
      objects=(3, 30),
      relations=(1, 30),
    )
    == visual_genome.RULES
  )


def test_names_and_splits(root, caplog):
  with caplog.at_level('INFO', 'absl'):
    reader = data.create(files.make_config(root), 'train')
  # In training: man 1 + 1 + 2 + 1 + 2 (aliases, and a second name), tree 2 +
  # 1 + 1 + 1 (the small one counts), all others once.
  assert reader.label_names == ('', '__image__', 'man', 'tree')
  assert [one(reader, i)['id'][0] for i in range(len(reader))] == [1, 2]
  assert len(data.create(files.make_config(root), 'val')) == 1
  with pytest.raises(errors.UserError, match='no image'):
    data.create(files.make_config(root), 'test')
  text = caplog.text
  assert '1 images are left out: a side below 200 px' in text
  assert '1 images are left out: fewer than 3 objects' in text
  assert '1 images are left out: fewer than 1 relations' in text
  assert (
    '2 images of train, 1 of val, 0 of test; 2 names of objects, 2 p' in text
  )


def test_boxes_by_hand(root):
  reader = data.create(files.make_config(root), 'train')
  batch = one(reader, 0)
  # The crop is 240 of 320 px: 1/8 to 7/8.
  np.testing.assert_allclose(batch['crop'][0], [0.125, 0, 0.875, 1])
  boxes = sorted(
    map(tuple, np.round(batch['boxes_full'][0].astype(float), 4).tolist())
  )
  assert boxes == [
    (0, 0, 0, 0),
    (0, 0, 1, 1),
    (0.1, 0.1, 0.3, 0.3),
    (0.5, 0.5, 1, 1),
  ]
  assert sorted(batch['labels'][0].tolist()) == [0, 2, 2, 3]
  assert not batch['box_flags'].any()


def test_tokens_are_shifted_but_for_categories(root):
  batch = one(data.create(files.make_config(root), 'train'), 0)
  rows = {tuple(x) for x in batch['condition_ids'][0, :12].reshape(4, 3)}
  # A grid of side 32. Man (.1, .1): 3.1 -> 3, (.3, .3): 9.3 -> 9; the other
  # (.5, .5): 15.5 -> 16, (1, 1): 1023; categories 1 and 2 are not shifted.
  assert rows == {
    (1, 179 + 3 * 32 + 3, 179 + 9 * 32 + 9),
    (1, 179 + 16 * 32 + 16, 179 + 1023),
    (2, 179, 179 + 1023),
    (1023, 1023, 1023),
  }
  # Crop (.125, 0): 3.875 -> 4; (.875, 1): 27.125 -> 27.
  assert batch['condition_ids'][0, 12:].tolist() == [183, 179 + 31 * 32 + 27]


def test_graph_texts_are_those_of_the_whole_image(root):
  reader = data.create(text_config(root), 'train')
  batch = one(reader, 0)
  # 'man A on tree , man B near man A', whatever the crop shows.
  want = [2, 4, 9, 6, 5, 8, 4, 10, 7, 4, 9, 3]
  assert batch['condition_ids'][0, : len(want)].tolist() == want
  assert 'caption' not in batch
  texts = list(reader.captions())  # of an image without a crop
  assert texts[0] == 'man A on tree , man B near man A'
  assert len(texts) == 2
  # Validation: 'on top of' is no predicate, for it is compared as it is.
  batch = one(data.create(text_config(root), 'val'), 0)
  assert batch['caption'][0] == b'tree A near tree B'


def test_triples_are_those_of_visible_objects(root):
  reader = data.create(text_config(root), 'train')
  for draw in range(6):
    batch = one(reader, 0, draw)
    labels = [reader.label_names[k] for k in batch['labels'][0]]
    near, boxes = [], batch['boxes_full'][0]
    for subject, predicate, target in batch['triples'][0].tolist():
      if subject >= 0:
        near.append((labels[subject], predicate, labels[target]))
        if predicate == 2:
          assert boxes[subject, 0] == 0.5
          assert boxes[target, 0] == pytest.approx(0.1)
    # 1 on, 2 near, in the order of their first appearance.
    assert near == [('man', 1, 'tree'), ('man', 2, 'man')]
    assert (batch['triples'][0, 2:] == -1).all()


def test_objects_that_the_crop_does_not_show_have_no_triples(root):
  scenes = {
    **files.SCENES,
    1: (
      [
        files.thing(11, 'man', (0, 0, 32, 240)),  # left of the crop
        files.thing(12, 'man', (160, 0, 32, 240)),
        files.thing(13, 'tree', (100, 0, 100, 200)),
      ],
      [
        *(files.relation(11, 'on', 13), files.relation(12, 'near', 13)),
        *(files.relation(12, 'on', 13), files.relation(12, 'near', 11)),
      ],
    ),
  }
  files.write_all(root, scenes)
  reader = data.create(text_config(root), 'train')
  batch = one(reader, 0)
  kept = batch['triples'][0]
  assert kept[:, 1].tolist() == [2, 1, -1, -1]
  assert set(kept[:2, [0, 2]].ravel().tolist()) == {0, 1}
  assert batch['n_boxes'][0] == 2


def test_published_labels_need_no_files():
  config = configs.of_reader('visual_genome', '', 'layout')
  names = data.published_labels(config)
  assert len(names) == 1 + 179
  # Numbers as strings: 0, 1, 10, 100, ...
  assert names[1:5] == ('__image__', 'window', 'light', 'bus')
  assert names[179] == 'trunk'  # 99
  assert len(set(names)) == 180


def test_images_may_lie_in_one_folder_or_as_unpacked(root):
  want = one(data.create(files.make_config(root), 'train'), 1)
  (root / 'images2').mkdir()
  (root / 'VG_100K_2').rename(root / 'images2' / 'VG_100K_2')
  got = one(data.create(files.make_config(root), 'train'), 1)
  np.testing.assert_array_equal(got['image'], want['image'])
  (root / 'images2' / 'VG_100K_2' / '2.jpg').rename(root / 'VG_100K' / '2.jpg')
  (root / 'images2' / 'VG_100K_2').rmdir()
  got = one(data.create(files.make_config(root), 'train'), 1)
  np.testing.assert_array_equal(got['image'], want['image'])


def test_splits_are_a_file_or_a_hash(root):
  (root / 'vg_splits.json').rename(root / 'mine.json')
  with pytest.raises(
    FileNotFoundError, match='vg_splits.json .the splits, google/sg2im'
  ):
    data.create(files.make_config(root), 'train')
  config = files.make_config(root, split_file=str(root / 'mine.json'))
  assert len(data.create(config, 'val')) == 1
  splits = visual_genome_files.own_splits(np.arange(100_000))
  np.testing.assert_allclose(
    np.bincount(splits) / len(splits), [0.8, 0.1, 0.1], atol=0.005
  )
  (root / 'mine.json').write_text('{"train": [1], "val": []}')
  with pytest.raises(errors.UserError, match='"test" must be a list of image'):
    data.create(config, 'val')
  hashed = files.make_config(root, split_file='hash')
  assert not data.missing_inputs(hashed, ('train', 'val'))


def test_the_files_are_read_once_for_all_splits(root, monkeypatch):
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 0)
  want = one(data.create(text_config(root), 'train'), 0)
  monkeypatch.setattr(visual_genome, '_build', None)  # must not be called
  got = one(data.create(text_config(root), 'train'), 0)
  for key, value in want.items():
    np.testing.assert_array_equal(got[key], value)
  assert len(data.create(text_config(root), 'val')) == 1


def test_entries_that_cannot_be_used_are_left_out(root, caplog):
  scenes = {key: ([*a], [*b]) for key, (a, b) in files.SCENES.items()}
  scenes[1][0].extend([{'object_id': 1}, files.thing('x', 'man')])
  scenes[1][1].append({'predicate': 'on', 'subject': {}, 'object': {}})
  files.write_all(root, scenes)
  with caplog.at_level('WARNING', 'absl'):
    assert len(data.create(files.make_config(root), 'train')) == 2
  assert 'objects.json: 2 of 18 objects are left out' in caplog.text
  assert 'objects[5] lacks "names"' in caplog.text
  assert 'relationships.json: 1 of 11 relationships are left' in caplog.text
  (root / 'objects.json').write_text(json.dumps([{'image_id': 1}] * 3))
  with pytest.raises(errors.UserError, match='3 of 3 images are left out'):
    data.create(files.make_config(root), 'train')


def test_folders_of_another_data_set_are_named(root, tmp_path):
  coco_files.write_all(tmp_path / 'other')
  config = files.make_config(tmp_path / 'other')
  with pytest.raises(
    FileNotFoundError, match='Visual Genome in .*other, which holds COCO'
  ):
    data.create(config, 'train')


def raw(named, image=None, relations=()):
  """Objects of three images with these names, each 32 px wide and high."""
  count = len(named)
  ends = np.array(relations, np.int64).reshape(-1, 4)
  return sg2im_graphs.Raw(
    image=np.array(image or [0] * count),
    object_ids=np.arange(count) + 100,
    xywh=np.tile([0.0, 0, 32, 32], (count, 1)),
    named=np.array(named, np.int32),
    names=['a', 'b', 'c', 'd'],
    relation_image=ends[:, 0],
    subjects=ends[:, 1],
    predicates=ends[:, 2].astype(np.int32),
    objects=ends[:, 3],
    predicate_names=['p', 'q', 'r'],
  )


def test_names_are_ordered_by_count_and_equal_ones_by_appearance():
  named = [[3, -1], [1, 1], [0, 2], [2, 1], [0, -1], [3, -1], [-1, -1]]
  # a 2, b 2 (twice of one object counts once), c 2, d 2: as they appear.
  rules = sg2im_graphs.Rules(min_instances=2, objects=(0, 9), relations=(0, 9))
  got = sg2im_graphs.select(raw(named), np.array([True]), rules)
  assert got.names == ['__image__', 'd', 'b', 'a', 'c']
  assert got.categories.tolist() == [1, 2, 3, 4, 3, 1]
  assert got.rows.tolist() == [0, 1, 2, 3, 4, 5]


def test_predicates_are_ordered_by_appearance_and_ends_by_image():
  named = [[0], [1], [0], [1]]
  relations = [
    (0, 100, 1, 101),  # q
    (0, 101, 0, 100),  # p
    (0, 100, 0, 102),  # an object of another image
    (1, 102, 1, 103),
    (1, 103, 2, 102),  # r once
  ]
  rules = sg2im_graphs.Rules(
    min_instances=1, min_relations=1, objects=(2, 2), relations=(1, 3)
  )
  given = raw(named, [0, 0, 1, 1], relations)
  got = sg2im_graphs.select(given, np.array([True, False]), rules)
  assert got.predicate_names == ['__in_image__', 'q', 'p']
  assert got.relations.tolist() == [[0, 1, 1], [1, 2, 0], [2, 1, 3]]
  assert got.images.tolist() == [True, True]
  dropped = sg2im_graphs.Rules(
    min_instances=1, min_relations=1, objects=(2, 2), relations=(2, 3)
  )
  got = sg2im_graphs.select(given, np.array([True, False]), dropped)
  assert got.images.tolist() == [True, False]
  assert got.dropped['fewer than 2 relations'] == 1
  assert got.relations.tolist() == [[0, 1, 1], [1, 2, 0]]


def test_of_objects_with_one_id_the_last_is_related():
  given = raw([[0], [1], [1]], relations=[(0, 100, 0, 101)])
  given = dataclasses.replace(given, object_ids=np.array([100, 101, 101]))
  rules = sg2im_graphs.Rules(
    min_instances=1, min_relations=1, objects=(0, 9), relations=(0, 9)
  )
  got = sg2im_graphs.select(given, np.array([True]), rules)
  assert got.relations.tolist() == [[0, 1, 2]]
