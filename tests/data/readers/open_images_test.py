"""What the reader of Open Images gives of small files in its formats."""

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import category_lists
from pyramid_jax.data.caches import index_cache
from pyramid_jax.data.objects import box_rows
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import open_images
from tests.helpers import coco_files
from tests.helpers import open_images_files as files


@pytest.fixture
def root(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  files.write_all(tmp_path)
  return tmp_path


def number(name):
  """The category number of a name among the 601, from 0."""
  rows = category_lists.read(category_lists.path_of('openimages'))
  return list(rows.values()).index(name)


def by_name(reader, position, draw=0):
  return reader.batch(np.array([position]), np.array([draw], np.uint64))


def triples(ids):
  return {tuple(row) for row in ids.reshape(-1, 3).tolist()}


def test_labels_are_the_601_with_the_suitcase_last(root):
  reader = data.create(files.make_config(root), 'train')
  assert len(reader.label_names) == 602
  assert reader.label_names[1] == 'Tortoise'
  assert reader.label_names[601] == 'Suitcase'
  assert data.published_labels(files.make_config(root)) == reader.label_names


def test_boxes_flags_and_merged_categories_by_hand(root):
  reader = data.create(files.make_config(root), 'train')
  assert len(reader) == 2
  batch = by_name(reader, 0)  # images are sorted by their names
  assert batch['id'][0] == 0x000002B66C9C498E
  picture = images.read(root / 'train' / f'{files.FIRST}.jpg')
  np.testing.assert_array_equal(batch['image'][0], picture[:, 2:6])
  # The crop is [.25, .75]; the ambulance is none of the 352 categories, the
  # box without an area is passed over.
  assert batch['n_boxes'][0] == 2
  labels = batch['labels'][0].tolist()
  person, car = (labels.index(1 + number(x)) for x in ('Person', 'Car'))
  np.testing.assert_allclose(
    batch['boxes'][0, [person, car, 2]],
    [[0, 0, 0.5, 1], [0.5, 0.5, 1, 1], [0, 0, 0, 0]],
  )
  # A man is a person, and flags of -1 count as set.
  every = box_rows.GROUP | box_rows.OCCLUDED
  every |= box_rows.DEPICTION | box_rows.INSIDE
  assert batch['box_flags'][0, [person, car]].tolist() == [every, 0]


def test_ids_above_the_sign_bit_stay_their_64_bits(root):
  batch = by_name(data.create(files.make_config(root), 'val'), 1)
  assert batch['id'].view(np.uint64)[0] == 0xFFFFF0B9C5D2E6F1
  flags = dict(zip(batch['labels'][0], batch['box_flags'][0], strict=True))
  dog = box_rows.DEPICTION | box_rows.INSIDE
  assert flags[1 + number('Dog')] == dog
  assert flags[1 + number('Person')] == box_rows.GROUP | box_rows.OCCLUDED


def test_group_bit_is_the_only_flag_of_tokens(root):
  reader = data.create(files.make_config(root), 'val')
  ids = by_name(reader, 1)['condition_ids'][0]
  # A grid of side 90 over the full image; (.25, .25): 22.25 -> 22; (.5, .75):
  # 44.5 -> 44, 66.75 -> 67; (.625, 0): 55.625 -> 56; crop (.25, 0), (.75, 1).
  person = (number('Person') + 601, 22 * 90 + 22, 67 * 90 + 44)
  dog = (number('Dog'), 56, 89 * 90 + 89)
  assert triples(ids[:9]) == {person, dog, (8191, 8191, 8191)}
  assert ids[9:].tolist() == [22, 89 * 90 + 67]
  config = files.make_config(root, 'label')
  ids = by_name(data.create(config, 'val'), 1)['condition_ids'][0]
  assert set(ids.tolist()) == {person[0], dog[0], 8191}


def test_recorded_tokens_of_the_official_code(root):
  # Boxes x, y, w, h: 5 (.1, .2, .3, .4), 17 (.5, .5, .5, .5) of a group, and
  # 2 (0, .9, .05, .1), which the crop (.125, 0, .75, 1) does not show.
  names = list(category_lists.read(category_lists.path_of('openimages')))
  rows = [
    files.row(files.FIRST, names[5], (0.1, 0.2, 0.4, 0.6)),
    files.row(files.FIRST, names[17], (0.5, 0.5, 1, 1), '0,0,1,0,0'),
    files.row(files.FIRST, names[2], (0, 0.9, 0.05, 1)),
  ]
  files.write_all(root, rows, 8, 6)
  config = files.make_config(root, category_subset='all', image_size=6)
  ids = by_name(data.create(config, 'val'), 0)['condition_ids'][0]
  want = {(5, 1629, 4806), (618, 4004, 8099), (8191, 8191, 8191)}
  assert triples(ids[:9]) == want
  assert ids[9:].tolist() == [11, 8088]


def test_all_categories_and_those_of_the_layout_models(root):
  config = files.make_config(root, category_subset='all')
  labels = by_name(data.create(config, 'train'), 0)['labels'][0].tolist()
  want = [number('Man'), number('Ambulance'), number('Car')]
  assert sorted(labels) == sorted(1 + n for n in want)
  rows = category_lists.read(category_lists.path_of('openimages'))
  labels, _ = open_images.wanted(files.make_config(root), rows)
  assert len({n for n in labels.values() if n}) == 340
  assert sum(n > 0 for n in labels.values()) == 352
  twelve = {'Woman': 'Person', 'Boy': 'Person', 'Bull': 'Cattle'}
  twelve |= {'Sofa bed': 'Couch', 'Wall clock': 'Clock', 'Football': 'Ball'}
  by_title = {name: labels[key] for key, name in rows.items()}
  assert {a: by_title[a] for a in twelve} == {
    a: 1 + number(b) for a, b in twelve.items()
  }


def test_filters_and_lists_of_ids(root):
  config = files.make_config(root, min_objects=2, min_area=0.3)
  with pytest.raises(errors.UserError, match='no image.*min_objects=2'):
    data.create(config, 'train')
  # Areas: .5 and .25 of the first image, .125 and .375 of the second.
  config = files.make_config(root, min_objects=1, min_area=0.4)
  assert len(data.create(config, 'train')) == 1
  (root / 'ids.txt').write_text(f'{files.SECOND}\n0000000000000001\n')
  config = files.make_config(root, eval_ids_file=str(root / 'ids.txt'))
  reader = data.create(config, 'val')
  assert len(reader) == 1
  assert by_name(reader, 0)['id'].view(np.uint64)[0] == int(files.SECOND, 16)
  (root / 'ids.txt').write_text('0000g\n')
  with pytest.raises(errors.UserError, match="must be an image id, got '0000g"):
    data.create(config, 'val')


def test_other_places_of_the_official_files(root):
  want = by_name(data.create(files.make_config(root), 'train'), 1)
  for digit, name in (('0', files.FIRST), ('f', files.SECOND)):
    folder = root / f'train_{digit}'
    folder.mkdir()
    (root / 'train' / f'{name}.jpg').rename(folder / f'{name}.jpg')
  (root / 'train').rmdir()
  got = by_name(data.create(files.make_config(root), 'train'), 1)
  np.testing.assert_array_equal(got['image'], want['image'])
  # The folders of FiftyOne.
  for old, new in (
    ('oidv6-train-annotations-bbox.csv', 'train/labels/detections.csv'),
    ('class-descriptions-boxable.csv', 'train/metadata/classes.csv'),
    (f'train_0/{files.FIRST}.jpg', f'train/data/{files.FIRST}.jpg'),
    (f'train_f/{files.SECOND}.jpg', f'train/data/{files.SECOND}.jpg'),
  ):
    (root / new).parent.mkdir(parents=True, exist_ok=True)
    (root / old).rename(root / new)
  got = by_name(data.create(files.make_config(root), 'train'), 1)
  np.testing.assert_array_equal(got['condition_ids'], want['condition_ids'])
  np.testing.assert_array_equal(got['image'], want['image'])


def test_descriptions_of_v7_have_a_header(root):
  path = root / 'class-descriptions-boxable.csv'
  path.rename(root / 'oidv7-class-descriptions-boxable.csv')
  path = root / 'oidv7-class-descriptions-boxable.csv'
  path.write_text('LabelName,DisplayName\n' + path.read_text())
  reader = data.create(files.make_config(root), 'train')
  assert reader.label_names[601] == 'Suitcase'
  path.write_text('LabelName,DisplayName\n')
  with pytest.raises(errors.UserError, match='has no row /m/ID,Name'):
    data.create(files.make_config(root), 'train')


def test_missing_files_are_named(root, tmp_path):
  (root / 'validation-annotations-bbox.csv').unlink()
  with pytest.raises(
    FileNotFoundError, match='/validation-annotations-bbox.csv .boxes of Open'
  ):
    data.create(files.make_config(root), 'test')
  config = files.make_config('')
  assert data.missing_inputs(config, ('train',)) == [
    'the folder of Open Images (config.data.root is empty)'
  ]


def test_folders_of_another_data_set_are_named(root, tmp_path):
  coco_files.write_all(tmp_path / 'other')
  config = files.make_config(tmp_path / 'other')
  with pytest.raises(
    FileNotFoundError,
    match='Open Images in .*other, which holds COCO .coco/2017/annotations/'
    'instances_train2017.json.: config.data.name = coco reads it',
  ):
    data.create(config, 'train')
  config = coco_files.make_config(root)
  with pytest.raises(
    FileNotFoundError, match='COCO in .*holds Open Images .*= openimages reads'
  ):
    data.create(config, 'train')


def test_the_index_is_kept_and_names_its_filters(root, monkeypatch):
  monkeypatch.setattr(index_cache, 'MIN_BYTES', 0)
  want = by_name(data.create(files.make_config(root), 'train'), 0)
  build = open_images._build
  monkeypatch.setattr(open_images, '_build', None)  # must not be called
  got = by_name(data.create(files.make_config(root), 'train'), 0)
  for key, value in want.items():
    np.testing.assert_array_equal(got[key], value)
  monkeypatch.setattr(open_images, '_build', build)
  config = files.make_config(root, category_subset='all')
  assert by_name(data.create(config, 'train'), 0)['n_boxes'][0] == 3


def read_rows(path, lines, labels=None):
  path.write_text('\n'.join(lines))
  return box_rows.read(path, labels or {files.DOG: 1}, 0.0)


def test_faulty_rows_are_left_out_and_the_first_is_named(tmp_path):
  good = files.row(files.FIRST, files.DOG, (0, 0, 1, 1))
  lines = [files.HEADER, *[good] * 7, 'a,b', '', good.replace(',1,', ',x,', 2)]
  lines.append(files.row('xyz', files.DOG, (0, 0, 1, 1)))
  lines.append(files.row(files.FIRST, files.DOG, (0.5, 0, 0.25, 1)))
  lines.append(files.row(files.FIRST, files.DOG, (0, 0, 'nan', 1)))
  found = read_rows(tmp_path / 'a.csv', lines)
  assert len(found.ids) == 7
  (fault,) = found.faults
  assert '5 of 12 rows are left out, the first: line 9 is no box' in fault


def test_files_of_other_columns_or_of_faults_are_refused(tmp_path):
  path = tmp_path / 'a.csv'
  with pytest.raises(
    errors.UserError, match="lacks the columns ImageID.*'a,b'"
  ):
    read_rows(path, ['a,b', '1,2'])
  with pytest.raises(errors.UserError, match='the file is empty'):
    read_rows(path, [''])
  with pytest.raises(errors.UserError, match='1999 of 1999 rows are left out'):
    read_rows(path, [files.HEADER, *['a'] * 2000])
  path.write_bytes(b'a' * (1 << 18))
  with pytest.raises(errors.UserError, match='a line has more than'):
    box_rows.read(path, {}, 0.0)


def test_blocks_do_not_change_what_is_read(tmp_path, monkeypatch):
  rows = [
    files.row(f'{i * 2654435761 % 2**64:016x}', files.DOG, (0, 0, i / 99, 1))
    for i in range(99)
  ]
  want = read_rows(tmp_path / 'a.csv', [files.HEADER, *rows])
  assert box_rows.image_names(want.ids)[1].decode() == f'{2654435761:016x}'
  monkeypatch.setattr(box_rows, '_BLOCK_BYTES', 300)
  got = read_rows(tmp_path / 'a.csv', [files.HEADER, *rows])
  for name in ('ids', 'boxes', 'area', 'labels', 'flags'):
    np.testing.assert_array_equal(getattr(got, name), getattr(want, name))


def test_low_resolution_versions_are_of_the_whole_set(root):
  config = files.make_config(
    root, 'superres', category_subset='all', crop='random-half', lr_factor=2
  )
  reader = data.create(config, 'train')
  batch = reader.batch(np.arange(2), np.zeros(2, np.uint64))
  assert batch['image'].shape == (2, 4, 4, 3)
  assert batch['lr_image'].shape == (2, 2, 2, 3)
