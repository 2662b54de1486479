"""A run that is stopped in an epoch goes on as if it had not been.

With 1, 2 and 4 processes, also another number than before, and with another
number of threads; a broken image has the same replacement in all of them.
"""

import numpy as np
from PIL import Image
import pytest

from pyramid_jax import data
from pyramid_jax.commands import prepare
from tests.helpers import configs
from tests.helpers import data_order


COUNT = 11  # images: an epoch ends within a batch


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  base = tmp_path_factory.mktemp('images')
  rng = np.random.default_rng(0)
  for i in range(COUNT):
    size = (12, 18) if i % 2 else (18, 12)
    pixels = rng.integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(base / f'{i:02d}.png')
  (base / '04.png').write_bytes(b'\x89PNG')
  return base


def of_folder(root, **fields):
  fields = {'image_size': 8, 'crop': 'random-2d', 'flip': True, **fields}
  return configs.of_reader('image_folder', root, **fields)


def test_files(root):
  config = of_folder(root)
  data_order.check(lambda: data.create(config, 'train'))
  seen = [x['id'] for x in data_order.of_run(
    lambda: data.create(config, 'train'), 0, COUNT
  )]  # fmt: skip
  epochs = np.sort(np.concatenate(seen).reshape(data_order.SIZE, COUNT))
  want = [x if x != 4 else 5 for x in range(COUNT)]
  np.testing.assert_array_equal(epochs, [want] * data_order.SIZE)


def test_buckets(root):
  config = of_folder(root, crop='center', buckets=4)
  with config.unlocked():
    config.train.batch_size = data_order.SIZE
  data_order.check(lambda: data.create(config, 'train'))


def test_scenes():
  config = configs.of_task('layout')
  data_order.check(lambda: data.create(config, 'train'), 4, (3,))


def test_records(root, tmp_path):
  config = of_folder(root, crop='center')
  prepare.run(config, tmp_path / 'out', splits=('train',), shard_size=4)
  records = config.copy_and_resolve_references()
  records.data.name, records.data.root = 'records', str(tmp_path / 'out')
  data_order.check(lambda: data.create(records, 'train'))
