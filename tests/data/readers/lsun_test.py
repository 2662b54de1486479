"""LSUN: the published LMDB and extracted images."""

from concurrent import futures
import os
import pickle
import random
import struct

import numpy as np
import pytest

from pyramid_jax import data
from pyramid_jax import errors
from pyramid_jax.data import identity
from pyramid_jax.data.pixels import images
from pyramid_jax.data.storage import lmdb_store
from tests.helpers import archives as made
from tests.helpers import configs


lmdb = pytest.importorskip('lmdb', reason="needs lmdb: pip install '.[test]'")

# Keys are SHA-1 in hexadecimal; values are of WebP in the published files.
KEYS = [f'{i:040x}' for i in (0xB, 0xA, 0xC, 0xD)]
IMAGES = {key: made.pixels(i) for i, key in enumerate(KEYS)}


def put(folder, values):
  with (
    lmdb.open(str(folder), map_size=1 << 24) as environment,
    environment.begin(write=True) as transaction,
  ):
    for key, value in values.items():
      transaction.put(key.encode(), value)


def write_lmdb(folder, images_of):
  put(folder, {key: made.encoded(x) for key, x in images_of.items()})
  (folder / 'lock.mdb').unlink()


def config_of(root, **fields):
  return configs.of_reader('lsun', root, image_size=4, **fields)


def read(reader):
  count = len(reader)
  return reader.batch(np.arange(count), np.zeros(count, np.uint64))


def test_published_files_of_train_and_val_are_read_in_the_order_of_keys(
  tmp_path,
):
  write_lmdb(
    tmp_path / 'church_outdoor_train_lmdb', {k: IMAGES[k] for k in KEYS[:3]}
  )
  write_lmdb(tmp_path / 'church_outdoor_val_lmdb', {KEYS[3]: IMAGES[KEYS[3]]})
  config = config_of(tmp_path / 'church_outdoor')
  batch = read(data.create(config, 'train'))
  # 0xA, 0xB, 0xC
  want = [made.pixels(i) for i in (1, 0, 2)]
  np.testing.assert_array_equal(batch['image'], want)
  for split in ('val', 'test'):
    batch = read(data.create(config, split))
    np.testing.assert_array_equal(batch['image'], [made.pixels(3)])
  names = os.listdir(tmp_path / 'church_outdoor_train_lmdb')
  assert names == ['data.mdb']  # no lock was made


def test_an_lmdb_and_the_extracted_files_give_the_same_examples(tmp_path):
  write_lmdb(tmp_path / 'lmdb', IMAGES)
  made.written(
    tmp_path / 'churches',
    {
      f'{"/".join(key[:6])}/{key}.webp': made.encoded(image)
      for key, image in IMAGES.items()
    },
  )
  path = tmp_path / 'church_outdoor_train.txt'
  path.write_text(''.join(f'{key}.jpg\n' for key in KEYS[:3]))
  batches = [
    read(data.create(config_of(tmp_path / x, ids_file=str(path)), 'train'))
    for x in ('lmdb', 'churches')
  ]
  want = [made.pixels(i) for i in (1, 0, 2)]
  for batch in batches:
    np.testing.assert_array_equal(batch['image'], want)
  for x in ('lmdb', 'churches'):
    assert len(data.create(config_of(tmp_path / x), 'train')) == 4


def test_sides_are_cut_as_latent_diffusion_does(tmp_path):
  wide = made.pixels(0, (9, 4))
  write_lmdb(tmp_path / 'x', {'a': wide})
  config = config_of(tmp_path / 'x', crop='square')
  batch = read(data.create(config, 'train'))
  # (9 - 4) // 2 = 2 columns at the left, 3 at the right.
  np.testing.assert_array_equal(batch['image'][0], wide[:, 2:6])


def _load(store):
  return [store.load(row) for row in range(len(store.names))]


def test_threads_forks_and_spawned_readers_see_the_same(tmp_path):
  write_lmdb(tmp_path / 'x', IMAGES)
  store = lmdb_store.Lmdb(tmp_path / 'x')
  want = [made.encoded(IMAGES[key]) for key in sorted(KEYS)]
  assert _load(store) == want
  assert _load(pickle.loads(pickle.dumps(store))) == want
  with futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(_load, [store] * 8)) == [want] * 8
  assert made.forked(lambda: _load(store) == want)


def test_a_tree_of_three_levels_is_that_of_the_library(tmp_path):
  rng, want = random.Random(0), {}
  with lmdb.open(str(tmp_path / 'x'), map_size=1 << 26) as environment:
    for _ in range(3):
      with environment.begin(write=True) as transaction:
        for _ in range(2500):
          key = f'{rng.getrandbits(160):040x}'[: rng.randint(20, 40)].encode()
          want[key] = rng.randbytes(rng.choice((0, 9, 300, 2000, 5000)))
          transaction.put(key, want[key])
        for key in rng.sample(sorted(want), 200):
          transaction.delete(key)
          del want[key]
    assert environment.stat()['depth'] == 3
  store = lmdb_store.Lmdb(tmp_path / 'x', tmp_path / 'cache')
  assert store.names == tuple(sorted(key.decode() for key in want))
  for row, name in enumerate(store.names):
    assert store.load(row) == want[name.encode()]


def test_pages_of_large_files_have_numbers_of_48_bits():
  node = struct.pack('<HHHH', 0x1111, 0x2222, 0x3333, 5)
  assert lmdb_store._child(b'..' + node, 2) == 0x333322221111


def test_other_kinds_of_databases_are_refused(tmp_path):
  with lmdb.open(str(tmp_path / 'x'), max_dbs=1) as environment:
    inner = environment.open_db(b'inner')
    with environment.begin(write=True) as transaction:
      transaction.put(b'a', b'b', db=inner)
  with pytest.raises(errors.UserError, match="'inner', or of another kind"):
    data.create(config_of(tmp_path / 'x'), 'train')


def test_identity_has_the_keys_and_the_size_of_the_file(tmp_path):
  write_lmdb(tmp_path / 'x', IMAGES)
  parts = data.create(config_of(tmp_path / 'x'), 'train').identity()
  size = (tmp_path / 'x' / 'data.mdb').stat().st_size
  sizes = {key: len(made.encoded(IMAGES[key])) for key in sorted(KEYS)}
  want = {'data.mdb': size, **sizes}
  assert parts[identity.IMAGES] == want


def test_damaged_and_missing_files_are_one_line(tmp_path):
  with pytest.raises(FileNotFoundError, match='_train_lmdb or .*LSUN'):
    data.create(config_of(tmp_path / 'bedroom'), 'train')
  write_lmdb(tmp_path / 'x', IMAGES)
  path = tmp_path / 'x' / 'data.mdb'
  os.truncate(path, 2 * 4096)
  with pytest.raises(
    errors.UserError, match=r'data\.mdb: is cut off: 8192 of 12288'
  ):
    data.create(config_of(tmp_path / 'x'), 'train')
  (tmp_path / 'y').mkdir()
  (tmp_path / 'y' / 'data.mdb').write_bytes(b'no database' * 1000)
  with pytest.raises(errors.UserError, match='no LMDB of version 1'):
    data.create(config_of(tmp_path / 'y'), 'train')


def test_values_that_are_no_images_are_replaced(tmp_path):
  write_lmdb(tmp_path / 'x', IMAGES)
  put(tmp_path / 'x', {KEYS[0]: b'broken'})
  reader = data.create(config_of(tmp_path / 'x'), 'train')
  batch = read(reader)
  assert batch['id'].tolist() == [0, 2, 2, 3]
  assert reader.report['broken_images'] == 1
  with pytest.raises(images.BrokenImage, match=KEYS[0]):
    reader.decoded(1)
