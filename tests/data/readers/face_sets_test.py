"""CelebA-HQ and FFHQ in their official forms, and the published divisions."""

import io
import json

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.pixels import images
from pyramid_jax.data.readers import celebahq
from pyramid_jax.data.storage import image_lists
from tests.helpers import archives as made
from tests.helpers import configs


def config_of(name, root, task='none', **fields):
  return configs.of_reader(name, root, task, image_size=4, **fields)


def read(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


def array(value, shape=(1, 3, 4, 4), kind=np.uint8):
  """The bytes of an .npy file with `made.pixels`, by channel."""
  pixels = made.pixels(value).transpose(2, 0, 1).astype(kind)
  stream = io.BytesIO()
  np.save(stream, pixels.reshape(shape))
  return stream.getvalue()


# Of these, taming-transformers' list of validation has 7, 8 and 12.
NUMBERS = (6, 7, 8, 9, 12)


@pytest.mark.parametrize('form', ['npy', 'png', 'folders', 'tar', 'zip'])
def test_celebahq_of_every_form_has_the_published_division(tmp_path, form):
  if form == 'npy':
    files = {f'imgHQ{i:05d}.npy': array(i) for i in NUMBERS}
  else:
    folder = '00/' if form == 'folders' else ''
    files = {
      f'{folder}imgHQ{i:05d}.png': made.encoded(made.pixels(i)) for i in NUMBERS
    }
  root = tmp_path / 'faces'
  made.written(root, files)
  for kind, write in (('tar', made.tarred), ('zip', made.zipped)):
    if form == kind:
      root = tmp_path / f'faces.{kind}'
      root.write_bytes(write(files))
  config = config_of('celebahq', root)
  assert len(data.create(config, 'val')) == 5
  lists = {'ids_file': 'celebahqtrain', 'eval_ids_file': 'celebahqvalidation'}
  config = config_of('celebahq', root, **lists)
  for split, numbers in (('train', (6, 9)), ('val', (7, 8, 12))):
    batch = read(data.create(config, split))
    np.testing.assert_array_equal(
      batch['image'], list(map(made.pixels, numbers))
    )
    assert not batch['class'].any()


def test_lists_of_ones_own_name_files_of_other_suffixes(tmp_path):
  made.written(
    tmp_path / 'faces', {f'imgHQ{i:05d}.npy': array(i) for i in NUMBERS}
  )
  path = tmp_path / 'celebahqtrain.txt'
  path.write_text('imgHQ00012.npy\n./imgHQ00006.png\nimgHQ77777.npy\n')
  config = config_of('celebahq', tmp_path / 'faces', ids_file=str(path))
  batch = read(data.create(config, 'train'))
  np.testing.assert_array_equal(
    batch['image'], [made.pixels(6), made.pixels(12)]
  )
  path.write_text('other.npy\n')
  with pytest.raises(errors.UserError, match='lists none of the 5 images'):
    data.create(config, 'train')
  path.unlink()
  lines = data.missing_inputs(config, ('train',))
  assert lines == [f'{path} (config.data.ids_file)']


def test_published_divisions_are_of_no_other_images(tmp_path):
  for name, of in (('000030000', '30000'), ('mine', '30000')):
    made.written(tmp_path / name, {f'{name}.png': made.encoded(made.pixels(1))})
    config = config_of('celebahq', tmp_path / name, ids_file='celebahqtrain')
    with pytest.raises(errors.UserError, match=f'numbers below {of}; got'):
      data.create(config, 'train')
    assert len(data.create(config, 'val')) == 1  # without a list


def test_the_published_lists_have_the_published_counts():
  numbers = {}
  for name, of in image_lists.LISTS.items():
    lines = (image_lists.category_lists.FOLDER / of.file).read_text().split()
    numbers[name] = {int(line) for line in lines}
    assert len(lines) == len(numbers[name])
    assert of.is_validation == name.endswith('validation')
  assert len(numbers['celebahqvalidation']) == 5_000
  assert max(numbers['celebahqvalidation']) < 30_000
  assert len(numbers['ffhqvalidation']) == 10_000
  assert max(numbers['ffhqvalidation']) < 70_000


@pytest.mark.parametrize(
  ('content', 'reason'),
  [
    (array(1, kind=np.float32), 'of float32, must be uint8'),
    (array(1, (1, 4, 4, 3)), r'\(1, 4, 4, 3\) of uint8, must be uint8 of'),
    (array(1, (48,)), r'\(48,\) of uint8, must be'),
    (array(1)[:-1], '47 of 48 bytes'),
    (array(1) + b'x', '49 of 48 bytes'),
    (b'\x93NUMPY\x03\x00', 'version'),
    (b'PK', 'no array of NumPy'),
  ],
)
def test_arrays_that_are_no_faces_are_broken_images(content, reason):
  with pytest.raises(images.BrokenImage, match=reason):
    celebahq.decode_array(content, 'x.npy')


def test_arrays_of_objects_are_not_unpickled():
  stream = io.BytesIO()
  np.save(stream, np.array([{}], object), allow_pickle=True)
  with pytest.raises(images.BrokenImage, match='holds Python objects'):
    celebahq.decode_array(stream.getvalue(), 'x.npy')


@pytest.mark.parametrize('form', ['folders', 'flat', 'nested'])
def test_ffhq_of_folders_has_the_published_division(tmp_path, form):
  numbers = (1, 7, 14, 1000)  # 7 and 14 are of validation.
  folder = {'nested': 'images1024x1024/'}.get(form, '')
  made.written(
    tmp_path,
    {
      f'{folder}{"" if form == "flat" else f"{i // 1000 * 1000:05d}/"}'
      f'{i:05d}.png': made.encoded(made.pixels(i))
      for i in numbers
    },
  )
  lists = {'ids_file': 'ffhqtrain', 'eval_ids_file': 'ffhqvalidation'}
  config = config_of('ffhq', tmp_path, **lists)
  batch = read(data.create(config, 'train'))
  np.testing.assert_array_equal(
    batch['image'], [made.pixels(1), made.pixels(1000)]
  )
  batch = read(data.create(config, 'val'))
  np.testing.assert_array_equal(
    batch['image'], [made.pixels(7), made.pixels(14)]
  )
  assert len(data.create(config_of('ffhq', tmp_path), 'train')) == 4


EDM = {f'00000/img{i:08d}.png': made.encoded(made.pixels(i)) for i in range(3)}
LABELS = [[name, label] for name, label in zip(EDM, (6, 9, 1), strict=True)]


@pytest.mark.parametrize('form', ['zip', 'folder'])
def test_classes_of_dataset_json_are_those_of_edm(tmp_path, form):
  content = json.dumps({'labels': LABELS}).encode()
  files = {**EDM, 'dataset.json': content}
  root = tmp_path / 'set'
  if form == 'zip':
    root = tmp_path / 'set.zip'
    root.write_bytes(made.zipped(files))
  else:
    made.written(root, files)
  reader = data.create(config_of('ffhq', root, 'class'), 'train')
  batch = read(reader)
  np.testing.assert_array_equal(
    batch['image'], list(map(made.pixels, range(3)))
  )
  assert batch['class'].tolist() == [7, 10, 2]
  assert reader.label_names == ('', *map(str, range(10)))


def test_dataset_json_without_labels_has_no_classes(tmp_path):
  path = tmp_path / 'ffhq-64x64.zip'
  path.write_bytes(made.zipped({**EDM, 'dataset.json': b'{"labels": null}'}))
  reader = data.create(config_of('ffhq', path), 'train')
  assert reader.label_names == ('',)
  assert read(reader)['class'].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
  ('labels', 'reason'),
  [
    (LABELS[:2], "lacks 1 of 3 images, such as '00000/img00000002.png'"),
    ([['a', -1]], 'classes whole numbers from 0 on'),
    ([['a', [0.5, 0.5]]], 'must be null or a list of'),
    ({'a': 1}, 'must be null or a list of'),
  ],
)
def test_dataset_json_of_something_else_is_refused(tmp_path, labels, reason):
  path = tmp_path / 'x.zip'
  content = json.dumps({'labels': labels}).encode()
  path.write_bytes(made.zipped({**EDM, 'dataset.json': content}))
  with pytest.raises(errors.UserError, match=reason):
    data.create(config_of('ffhq', path), 'train')


def test_folders_without_images_and_missing_ones_are_named(tmp_path):
  for name in ('celebahq', 'ffhq'):
    (tmp_path / name).mkdir()
    (tmp_path / name / 'notes.txt').write_text('x')
    with pytest.raises(errors.UserError, match='holds no images'):
      data.create(config_of(name, tmp_path / name), 'train')
    with pytest.raises(FileNotFoundError, match='missing: .*none'):
      data.create(config_of(name, tmp_path / 'none'), 'train')


@pytest.mark.parametrize('name', ['celebahq', 'ffhq', 'lsun'])
def test_splits_in_folders_are_kept_apart(tmp_path, name):
  for split, value in (('train', 1), ('val', 2)):
    made.written(tmp_path / split, {'x.png': made.encoded(made.pixels(value))})
  for split, value in (('train', 1), ('val', 2), ('test', 2)):
    batch = read(data.create(config_of(name, tmp_path), split))
    np.testing.assert_array_equal(batch['image'], [made.pixels(value)])
