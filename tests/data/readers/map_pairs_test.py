"""Images with maps in another folder: ADE20K, and landscapes of taming."""

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from tests.helpers import archives as made
from tests.helpers import configs


def class_map(value):
  """A map (4, 6) uint8 of which each row and column differs."""
  y, x = np.mgrid[:4, :6]
  return (10 * y + x + value).astype(np.uint8)


IMAGE = (6, 4)  # width and height
ADE = {
  'images/training/ADE_train_00000001.jpg': made.pixels(1, IMAGE),
  'images/training/ADE_train_00000002.jpg': made.pixels(2, IMAGE),
  'images/validation/ADE_val_00000001.jpg': made.pixels(3, IMAGE),
  'annotations/training/ADE_train_00000001.png': class_map(0),
  'annotations/training/ADE_train_00000002.png': class_map(100),
  'annotations/validation/ADE_val_00000001.png': class_map(7),
}
FLICKR = {
  'sflckr_images/canada/256743165_9f130ba95b_b.jpg': made.pixels(1, IMAGE),
  'sflckr_images/lakes/39933489595_f0e5d85b6d_b.jpg': made.pixels(2, IMAGE),
  'sflckr_segmentations/canada/256743165_9f130ba95b_b.png': class_map(0),
  'sflckr_segmentations/lakes/39933489595_f0e5d85b6d_b.png': class_map(100),
}


def encoded(files):
  return {name: made.encoded(array) for name, array in files.items()}


def config_of(name, root, task='map', **fields):
  fields = {'map_classes': 182, 'image_size': 4, 'crop': 'square', **fields}
  return configs.of_reader(name, root, task, **fields)


def read(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


@pytest.mark.parametrize('form', ['folder', 'official', 'zip', 'tar'])
def test_ade20k_of_every_form_gives_the_same_examples(tmp_path, form):
  root, base = tmp_path / 'ade', 'ADEChallengeData2016/'
  files = encoded(ADE)
  below = {f'{base}{name}': content for name, content in files.items()}
  if form == 'zip':
    root = tmp_path / 'ADEChallengeData2016.zip'
    root.write_bytes(made.zipped(below, 8))
  elif form == 'tar':
    root = tmp_path / 'ade.tar'
    root.write_bytes(made.tarred(below))
  else:
    made.written(root, below if form == 'official' else files)
  batch = read(data.create(config_of('ade20k', root), 'train'))
  # The middle square of 6 x 4 has the columns 1 to 4.
  want = [made.pixels(i, IMAGE)[:, 1:5] for i in (1, 2)]
  np.testing.assert_array_equal(batch['image'], want)
  want = [class_map(i)[:, 1:5] for i in (0, 100)]
  np.testing.assert_array_equal(batch['mask'], want)
  assert batch['mask'].dtype == np.uint8
  for split in ('val', 'test'):
    batch = read(data.create(config_of('ade20k', root), split))
    np.testing.assert_array_equal(batch['mask'], [class_map(7)[:, 1:5]])


def test_maps_are_mirrored_with_their_images(tmp_path):
  made.written(tmp_path, encoded(FLICKR))
  reader = data.create(config_of('landscapes', tmp_path, flip=True), 'train')
  seen = set()
  for draw in range(20):
    batch = reader.batch(np.array([0]), np.array([draw], np.uint64))
    step = -1 if batch['flipped'][0] else 1
    want = made.pixels(1, IMAGE)[:, 1:5][:, ::step]
    np.testing.assert_array_equal(batch['image'][0], want)
    want = class_map(0)[:, 1:5][:, ::step]
    np.testing.assert_array_equal(batch['mask'][0], want)
    seen.add(step)
  assert seen == {1, -1}


def test_lists_of_landscapes_have_paths(tmp_path):
  made.written(tmp_path, encoded(FLICKR))
  for name, folder in (('train', 'canada'), ('val', 'lakes')):
    lines = [
      x.removeprefix('sflckr_images/')
      for x in FLICKR
      if f'images/{folder}' in x
    ]
    (tmp_path / f'{name}.txt').write_text('\n'.join(lines))
  lists = {
    'ids_file': str(tmp_path / 'train.txt'),
    'eval_ids_file': str(tmp_path / 'val.txt'),
  }
  config = config_of('landscapes', tmp_path, **lists)
  for split, value in (('train', 0), ('val', 100)):
    batch = read(data.create(config, split))
    np.testing.assert_array_equal(batch['mask'], [class_map(value)[:, 1:5]])


def test_images_without_a_map_are_left_out_only_where_maps_are_needed(tmp_path):
  files = encoded(ADE)
  del files['annotations/training/ADE_train_00000001.png']
  made.written(tmp_path, files)
  reader = data.create(config_of('ade20k', tmp_path), 'train')
  batch = read(reader)
  np.testing.assert_array_equal(batch['mask'], [class_map(100)[:, 1:5]])
  assert reader.report['without_map'] == 1
  reader = data.create(config_of('ade20k', tmp_path, 'none'), 'train')
  assert 'mask' not in read(reader)
  assert len(reader) == 2
  reader = data.create(
    config_of('ade20k', tmp_path, 'none', maps=('mask',)), 'train'
  )
  assert len(reader) == 1


def test_maps_of_another_size_or_class_are_noticed(tmp_path):
  files = encoded(ADE)
  name = 'annotations/training/ADE_train_00000001.png'
  files[name] = made.encoded(class_map(0)[:3])
  made.written(tmp_path, files)
  reader = data.create(config_of('ade20k', tmp_path), 'train')
  assert read(reader)['id'].tolist() == [1, 1]
  assert reader.report['broken_images'] == 1
  config = config_of('ade20k', tmp_path, map_classes=135)
  # The largest class of the second map is 135, in its right column.
  with pytest.raises(
    errors.UserError, match='has the class 135, must be below'
  ):
    read(data.create(config, 'train'))


def test_folders_without_pairs_say_what_is_expected(tmp_path):
  Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
  with pytest.raises(errors.UserError, match='such as images/training/ and'):
    data.create(config_of('ade20k', tmp_path), 'train')
  made.written(tmp_path, {'images/a.jpg': made.encoded(made.pixels(1))})
  made.written(tmp_path, {'annotations/b.png': made.encoded(class_map(0))})
  with pytest.raises(errors.UserError, match='no semantic map of any of the 1'):
    data.create(config_of('ade20k', tmp_path), 'train')
