"""Categories are numbered by the data, or as a list says."""

import pytest

from pyramid_jax import config as config_lib
from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import category_lists
from tests.helpers import configs


def test_without_a_list_ids_are_ranked_as_strings():
  names = {1: 'person', 2: 'dog', 10: 'kite', 9: 'boat'}
  labels, by_label = category_lists.number(names)
  assert labels == {1: 1, 10: 2, 2: 3, 9: 4}
  assert by_label == ('', 'person', 'kite', 'dog', 'boat')
  mids = ['/m/01s55n', '/m/0a', '/m/9']
  assert category_lists.ranks(mids) == {'/m/0a': 1, '/m/9': 2, '/m/01s55n': 3}


LISTED = {'/m/a': 'Traffic light', '/m/b': 'Wall brick', '/m/c': 'Dog'}
NAMES = {10: 'traffic light', 9: 'wall-brick', 100: 'Dog', 7: 'x', 70: 'y'}


def test_names_match_with_spaces_and_dashes():
  labels, by_label = category_lists.number(NAMES, LISTED)
  assert labels == {10: 1, 9: 2, 100: 3, 7: 4, 70: 5}
  assert by_label == ('', 'Traffic light', 'Wall brick', 'Dog', 'x', 'y')
  labels, by_label = category_lists.number(NAMES, LISTED, 'drop')
  assert labels == {10: 1, 9: 2, 100: 3, 7: 0, 70: 0}
  assert by_label == ('', 'Traffic light', 'Wall brick', 'Dog')


def test_ids_match_too():
  folders = {name: name for name in ('/m/c', 'wall brick')}
  assert category_lists.number(folders, LISTED)[0] == {
    '/m/c': 3,
    'wall brick': 2,
  }


def test_a_list_of_other_data_is_refused():
  with pytest.raises(
    errors.UserError, match="in the data, which have 'x', 'y'"
  ):
    category_lists.number({1: 'x', 2: 'y'}, LISTED, 'drop')
  assert category_lists.number({1: 'x'}, LISTED)[0] == {1: 4}


@pytest.mark.parametrize(
  ('name', 'count', 'rows'),
  [
    ('coco', 172, {'1': 'person', '90': 'toothbrush', '183': 'other'}),
    (
      'imagenet',
      1000,
      {'n01440764': 'tench', 'n02099601': 'golden retriever'},
    ),
    ('openimages', 601, {'/m/01g317': 'Person', '/m/01s55n': 'Suitcase'}),
  ],
)
def test_lists_of_the_package(name, count, rows):
  found = category_lists.read(category_lists.path_of(name))
  assert len(found) == count
  assert rows.items() <= found.items()
  folded = {text.casefold() for text in found.values()}
  assert len(folded) == count  # names may be written without capitals
  assert not any('.' in text or ',' in text for text in found.values())


def published(name, **fields):
  return data.published_labels(configs.load(name, **fields))


def test_labels_of_frido_layouts_are_those_of_open_images_and_more():
  names = published('frido_coco.py:layout')
  # 601 of Open Images, 89 of the 171 of COCO that it lacks.
  assert len(names) == 1 + 601 + 89
  assert names[0] == ''
  assert names[1] == 'Tortoise'
  assert names[69] == 'Person'
  assert names[601] == 'Suitcase'
  # '100', '101', ... '99' as strings.
  assert names[602:605] == ('cardboard', 'carpet', 'ceiling-other')
  assert {'cow', 'cup', 'sky-other'} < set(names[602:])
  assert 'other' not in names


def test_labels_of_the_other_releases():
  for name in ('frido_openimages.py', 'ldm_layout.py:openimages'):
    names = published(name)
    assert len(names) == 602
    assert (names[69], names[601]) == ('Person', 'Suitcase')
  names = published('frido_coco.py:label')
  assert len(names) == 172
  # Ids as strings: 1, 10, 100, ...
  assert names[1:4] == ('person', 'traffic light', 'cardboard')
  assert published('frido_coco.py:scene_graph') == names
  assert len(published('frido_coco.py:text')) == 81  # 2014 has no stuff
  folder = {'data__name': 'image_folder'}
  assert published('ldm_imagenet.py:v2', **folder) == ()
  names = published('ldm_imagenet.py:v2')
  folder['data__category_file'] = 'imagenet'
  assert published('ldm_imagenet.py:v2', **folder) == names
  assert len(names) == 1001
  assert names[1 + 207] == 'golden retriever'  # 0 is no class
  assert published('ldm_text.py:small') == ()


def test_the_list_of_a_config_is_one_of_the_package_or_a_file(tmp_path):
  config = config_lib.base('ldm')
  config.data.category_file = str(tmp_path / 'mine.csv')
  (tmp_path / 'mine.csv').write_text('b,Dog\na,Cat\n')
  labels, names = category_lists.numbered(config, {5: 'dog', 6: 'cow'})
  assert labels == {5: 2, 6: 3}
  assert names == ('', 'Cat', 'Dog', 'cow')
  config.data.unlisted_categories = 'drop'
  assert category_lists.numbered(config, {5: 'dog', 6: 'cow'})[0][6] == 0
