"""Shards in a store are those of the same files on a disk."""

import numpy as np
import pytest

from pyramid_jax import data
from tests.helpers import configs
from tests.helpers import remote_store
from tests.helpers import tar_files


store = remote_store.store_fixture
ROOT = remote_store.ROOT
COUNT = 5


def tar_shards(folder):
  for number in range(2):
    members = {}
    for i in range(number, COUNT, 2):
      members[f'{i}.png'] = tar_files.encoded(40 * i)
      members[f'{i}.txt'] = f'a {i}'.encode()
    tar_files.write(folder / f'{number:05d}.tar', members)


def parquet(folder):
  pa = pytest.importorskip('pyarrow')
  pq = pytest.importorskip('pyarrow.parquet')
  folder.mkdir(parents=True)
  table = pa.table(
    {
      'image': [tar_files.encoded(40 * i) for i in range(COUNT)],
      'text': [f'a {i}' for i in range(COUNT)],
    }
  )
  pq.write_table(table, folder / 'train-0.parquet', row_group_size=2)


def read(name, root, folder):
  config = configs.of_reader(
    name,
    root,
    'text',
    image_size=4,
    max_length=6,
    vocab_file=str(folder.parent / 'vocab.txt'),
  )
  reader = data.create(config, 'train')
  order = np.array([3, 0, 4, 1, 2])
  return reader, reader.batch(order, np.arange(COUNT, dtype=np.uint64))


@pytest.mark.parametrize('make', [tar_shards, parquet])
def test_shards(store, tmp_path, monkeypatch, make):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  folder = tmp_path / 'data'
  make(folder)
  (tmp_path / 'vocab.txt').write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\na\n')
  remote_store.put_tree(store, folder)
  far, remote = read(make.__name__, ROOT, folder)
  near, local = read(make.__name__, folder, folder)
  assert remote.keys() == local.keys()
  for name, array in local.items():
    np.testing.assert_array_equal(remote[name], array, name)
  assert far.identity() == near.identity()
