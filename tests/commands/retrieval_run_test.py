"""Retrieval from embeddings to samples: neighbours, training, texts."""

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.commands import find_neighbours
from pyramid_jax.data.caches import neighbour_index
from tests.helpers import archives as made
from tests.helpers import configs


NAMES = ('a.png', 'b/c.png', 'd.png')


@pytest.fixture
def root(tmp_path):
  random = np.random.RandomState(0)
  for split in ('train', 'val'):
    made.written(
      tmp_path / 'images' / split,
      {
        name: made.encoded(made.pixels(i, (8, 8)))
        for i, name in enumerate(NAMES)
      },
    )
  np.savez(tmp_path / 'index.npz', embedding=random.randn(9, 32))
  embeddings = random.randn(3, 32)
  # In an order of their own, with one image more.
  np.savez(
    tmp_path / 'images.npz',
    embedding=np.concatenate([embeddings, embeddings[:1]])[[2, 0, 3, 1]],
    name=np.array([NAMES[2], NAMES[0], 'other.png', NAMES[1]]),
  )
  np.save(tmp_path / 'in_order.npy', embeddings)
  return tmp_path


def config_of(root, **fields):
  values = {
    'data.name': 'image_folder',
    'data.root': root / 'images',
    'data.image_size': 8,
    'condition.neighbours': 2,
    'condition.neighbour_index': root / 'index.npz',
    'condition.neighbour_rows': root / 'train.npz',
    'condition.eval_neighbour_rows': root / 'val.npz',
  }
  return configs.load('ldm_retrieval.py:debug', **(values | fields))


def find(root, split='train', count=3):
  arguments = {
    '--config': f'{configs.FOLDER}/ldm_retrieval.py:debug',
    '--config.data.name': 'image_folder',
    '--config.data.root': root / 'images',
    '--config.data.image_size': 8,
    '--config.condition.neighbour_index': root / 'index.npz',
    '--embeddings': root / 'images.npz',
    '--output': root / f'{split}.npz',
    '--split': split,
    '--neighbours': count,
  }
  return find_neighbours.main([f'{k}={v}' for k, v in arguments.items()])


def test_batches_have_the_neighbours_of_their_images(root):
  assert find(root) == 0
  index = neighbour_index.NeighbourIndex(str(root / 'index.npz'), 32)
  rows = index.search(np.load(root / 'in_order.npy'), 2)
  reader = data.create(config_of(root), 'train')
  batch = reader.batch(np.array([2, 0]), np.zeros(2, np.uint64))
  np.testing.assert_array_equal(batch['id'], [2, 0])
  np.testing.assert_allclose(
    batch['neighbours'], index.vectors(rows[[2, 0]]), rtol=1e-6
  )
  parts = reader.identity()['neighbours']
  assert parts['index'] == index.digest
  assert 'train.npz' in parts


def test_an_image_that_is_broken_has_the_neighbours_of_its_substitute(root):
  assert find(root) == 0
  (root / 'images' / 'train' / 'a.png').write_bytes(b'no image')
  reader = data.create(config_of(root), 'train')
  batch = reader.batch(np.array([0, 1]), np.zeros(2, np.uint64))
  assert batch['id'][0] != 0
  other = reader.batch(batch['id'], np.zeros(2, np.uint64))
  np.testing.assert_array_equal(batch['neighbours'], other['neighbours'])


def test_neighbours_of_other_images_or_another_index_are_refused(root):
  assert find(root, count=1) == 0
  with pytest.raises(errors.UserError, match='1 neighbours of 3 images'):
    data.create(config_of(root), 'train')
  assert find(root) == 0
  (root / 'images' / 'train' / 'e.png').write_bytes(
    made.encoded(made.pixels(5, (8, 8)))
  )
  with pytest.raises(errors.UserError, match='of 3 images, needed are 2 of'):
    data.create(config_of(root), 'train')
  np.savez(root / 'index.npz', embedding=np.ones((9, 32)))
  with pytest.raises(errors.UserError, match='in another index than'):
    data.create(config_of(root), 'train')
  with pytest.raises(FileNotFoundError, match=r'val.npz .*eval_neighbour_rows'):
    data.create(config_of(root), 'val')
  with pytest.raises(ValueError, match="'shapes', must be one of image_folder"):
    data.create(config_of(root, **{'data.name': 'shapes'}), 'train')


def test_embeddings_that_lack_an_image_are_named(root):
  np.savez(
    root / 'images.npz',
    embedding=np.ones((3, 32)),
    name=np.array(['a.png', 'd.png', 'e.png']),
  )
  config = config_of(root)
  with pytest.raises(errors.UserError, match="lacks 1 of 3 images.*'b/c.png'"):
    find_neighbours.find(config, 'train', root / 'images.npz', 2)
  np.savez(root / 'images.npz', embedding=np.ones((4, 32)))
  with pytest.raises(errors.UserError, match='4 embeddings and 0 names'):
    find_neighbours.find(config, 'train', root / 'images.npz', 2)
