"""Places365 of each official form: the same examples, the same categories."""

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import identity
from pyramid_jax.data.readers import places
from tests.helpers import archives as made
from tests.helpers import configs


# The names are those of JPEGs, the content is PNG, so that pixels are exact.
TRAIN = {
  'a/airfield/00000001.jpg': made.pixels(1),
  'a/apartment_building/outdoor/00000002.jpg': made.pixels(2),
  'z/zen_garden/00000001.jpg': made.pixels(3),
}
EASY = {
  'airfield/00000001.jpg': made.pixels(1),
  'apartment_building-outdoor/00000002.jpg': made.pixels(2),
  'zen_garden/00000001.jpg': made.pixels(3),
}
VAL = {f'Places365_val_{i:08d}.jpg': made.pixels(10 + i) for i in (1, 2, 3)}
# Three of the official 365 with the numbers of a list of their own.
CATEGORIES = (
  '/a/airfield 0\n/a/airplane_cabin 1\n/a/apartment_building/outdoor 2\n'
  '/z/zen_garden 3\n'
)
TRAIN_LIST = (
  '/z/zen_garden/00000001.jpg 3\n/a/airfield/00000001.jpg 0\n'
  '/a/apartment_building/outdoor/00000002.jpg 2\n'
)
VAL_LIST = ''.join(
  f'{name} {number}\n' for name, number in zip(VAL, (3, 0, 2), strict=True)
)
LISTS = {
  'categories_places365.txt': CATEGORIES.encode(),
  'places365_val.txt': VAL_LIST.encode(),
}


def config_of(root, task='class', **fields):
  return configs.of_reader('places', root, task, image_size=4, **fields)


def read(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


def files_of(images, folder=''):
  return {f'{folder}{k}': made.encoded(x) for k, x in images.items()}


FORMS = {
  'standard': {
    'train_large_places365standard.tar': made.tarred(
      files_of(TRAIN, 'data_large/')
    ),
    'val_large.tar': made.tarred(files_of(VAL, 'val_large/')),
  },
  'small': {
    'train_256_places365standard.tar': made.tarred(
      files_of(TRAIN, 'data_256/')
    ),
    'val_256.tar': made.tarred(files_of(VAL, 'val_256/')),
  },
  'challenge': {
    'train_256_places365challenge.tar': made.tarred(
      files_of(TRAIN, 'data_256/')
    ),
    'val_256.tar': made.tarred(files_of(VAL, 'val_256/')),
  },
  'unpacked': {
    **files_of(TRAIN, 'data_large/'),
    **files_of(VAL, 'val_large/'),
  },
  'renamed': {
    **files_of(TRAIN, 'data_256_challenge/'),
    **files_of(VAL, 'val_256/'),
  },
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_gives_the_same_examples(tmp_path, form):
  made.written(tmp_path, {**FORMS[form], **LISTS})
  reader = data.create(config_of(tmp_path), 'train')
  batch = read(reader)
  np.testing.assert_array_equal(batch['image'], list(TRAIN.values()))
  assert batch['class'].tolist() == [1, 3, 4]
  assert reader.label_names == (
    *('', 'airfield', 'airplane_cabin', 'apartment_building-outdoor'),
    'zen_garden',
  )
  for split in ('val', 'test'):
    batch = read(data.create(config_of(tmp_path), split))
    np.testing.assert_array_equal(batch['image'], list(VAL.values()))
    assert batch['class'].tolist() == [4, 1, 3]


@pytest.mark.parametrize('is_packed', [False, True])
def test_the_easyformat_names_categories_by_its_folders(tmp_path, is_packed):
  val = {'airfield/Places365_val_00000435.jpg': made.pixels(5)}
  files = {
    **files_of(EASY, 'places365_standard/train/'),
    **files_of(val, 'places365_standard/val/'),
  }
  if is_packed:
    files = {places.EASY: made.tarred(files)}
  made.written(tmp_path, files)
  reader = data.create(config_of(tmp_path), 'train')
  batch = read(reader)
  np.testing.assert_array_equal(batch['image'], list(EASY.values()))
  assert batch['class'].tolist() == [1, 2, 3]
  assert reader.label_names[2] == 'apartment_building-outdoor'
  batch = read(data.create(config_of(tmp_path), 'val'))
  np.testing.assert_array_equal(batch['image'], list(val.values()))
  # With the official file they have the official numbers.
  made.written(tmp_path, LISTS)
  assert read(data.create(config_of(tmp_path), 'train'))['class'].tolist() == [
    1,
    3,
    4,
  ]


@pytest.mark.parametrize('kind', ['standard', 'challenge'])
def test_the_list_of_training_says_which_images_are_read(tmp_path, kind):
  made.written(tmp_path, {**FORMS['small'], **FORMS['challenge']})
  lines = TRAIN_LIST.splitlines()[:2]
  (tmp_path / f'places365_train_{kind}.txt').write_text('\n'.join(lines))
  root = tmp_path / f'train_256_places365{kind}.tar'
  reader = data.create(config_of(root, 'inpaint'), 'train')
  np.testing.assert_array_equal(
    read(reader)['image'], [made.pixels(1), made.pixels(3)]
  )
  assert f'places365_train_{kind}.txt' in reader.identity()[identity.FILES]
  # The list is of the other set where the name of the archive says it.
  other = 'standard' if kind == 'challenge' else 'challenge'
  root = tmp_path / f'train_256_places365{other}.tar'
  assert len(data.create(config_of(root, 'inpaint'), 'train')) == 3
  assert len(data.create(config_of(root, 'inpaint'), 'val')) == 3


def test_images_without_a_category_are_left_out(tmp_path):
  made.written(tmp_path, {**FORMS['unpacked'], **LISTS})
  made.written(tmp_path, files_of({'b/bar/1.jpg': TRAIN_BAR}, 'data_large/'))
  reader = data.create(config_of(tmp_path), 'train')
  assert len(reader) == 3
  assert reader.report['without_category'] == 1
  assert len(data.create(config_of(tmp_path, 'none'), 'train')) == 4


TRAIN_BAR = made.pixels(9)


def test_what_is_missing_is_named(tmp_path):
  lines = data.missing_inputs(config_of(tmp_path), ('train', 'test'))
  assert len(lines) == 2
  assert 'train_large_places365standard.tar or train' in lines[0]
  assert 'val_large.tar or val' in lines[1]
  made.written(tmp_path, FORMS['standard'])
  lines = data.missing_inputs(config_of(tmp_path))
  assert [line.split(' ')[0].rpartition('/')[2] for line in lines] == [
    'places365_val.txt',
    'categories_places365.txt',
  ]
  assert not data.missing_inputs(config_of(tmp_path, 'inpaint'))


def test_damaged_lists_are_named_by_line(tmp_path):
  made.written(tmp_path, {**FORMS['standard'], **LISTS})
  path = tmp_path / 'categories_places365.txt'
  path.write_text('/a/airfield 0\n/a/alcove\n')
  with pytest.raises(errors.UserError, match='line 2 must be NAME NUMBER'):
    data.create(config_of(tmp_path), 'train')
  path.write_text('/a/airfield 0\n/a/alcove 2\n')
  with pytest.raises(errors.UserError, match='the numbers must be 0, 1, 2'):
    data.create(config_of(tmp_path), 'train')
  (tmp_path / 'places365_train_standard.txt').write_text('/b/bar/1.jpg 0\n')
  with pytest.raises(errors.UserError, match='lists no image of .*standard'):
    data.create(config_of(tmp_path, 'none'), 'train')
