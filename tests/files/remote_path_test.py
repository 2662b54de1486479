"""Objects of a store are read like files, or refused in one line."""

import concurrent.futures
import errno
import hashlib
import logging
import pathlib
import pickle

import pytest

from pyramid_jax import errors
from pyramid_jax.files import bounded
from pyramid_jax.files import copies
from pyramid_jax.files import digests
from pyramid_jax.files import json_text
from pyramid_jax.files import remote_path
from pyramid_jax.files import retries
from pyramid_jax.files import stores
from tests.helpers import object_server
from tests.helpers import remote_store


store = remote_store.store_fixture
ROOT = remote_store.ROOT


@pytest.fixture(name='tree')
def tree_fixture(store):
  """A folder of objects."""
  remote_store.put(store, f'{ROOT}/a.txt', b'first')
  remote_store.put(store, f'{ROOT}/one/b.txt', b'second')
  remote_store.put(store, f'{ROOT}/one/deep/c.json', b'{"x": 1}')
  store.objects['bucket/data/two/'] = (b'', 0, 0.0)  # stands for the folder
  return stores.path(ROOT)


def test_a_path_is_that_of_a_disk_or_of_a_store(store):
  del store
  assert not stores.is_remote('/gs/x')
  assert stores.path('~/x') == pathlib.Path('~/x')
  path = stores.path('gs://b/x') / 'y.npz'
  assert isinstance(path, remote_path.RemotePath)
  assert isinstance(path.parent, remote_path.RemotePath)
  assert str(path) == str(path.resolve()) == 'gs://b/x/y.npz'
  assert str(path.with_suffix('.json').expanduser()) == 'gs://b/x/y.json'
  assert pickle.loads(pickle.dumps(path)) == path == stores.path(path)


def test_what_is_there_is_known(tree):
  assert tree.is_dir()
  assert not tree.is_file()
  assert (tree / 'a.txt').is_file()
  assert not (tree / 'a.txt').is_dir()
  assert not (tree / 'a').exists()
  assert (tree / 'a.txt').stat().st_size == 5
  assert sorted(x.name for x in tree.iterdir()) == ['a.txt', 'one', 'two']
  assert [str(x) for x in tree.glob('*/*.txt')] == [f'{ROOT}/one/b.txt']
  assert list((tree / 'none').glob('*')) == []


def test_a_tree_is_all_objects(tree):
  found = remote_path.tree(tree)
  assert {k: v.length for k, v in found.items()} == {
    'a.txt': 5,
    'one/b.txt': 6,
    'one/deep/c.json': 8,
  }


def test_content_is_read(tree):
  assert bounded.read(tree / 'a.txt', 5) == b'first'
  assert bounded.text(f'{ROOT}/one/b.txt', 100) == 'second'
  assert json_text.read(f'{ROOT}/one/deep/c.json') == {'x': 1}
  with bounded.opened(tree / 'a.txt', 5) as file:
    file.seek(2)
    assert file.read() == b'rst'


def test_an_empty_object_is_read(store):
  remote_store.put(store, f'{ROOT}/empty', b'')
  assert bounded.read(f'{ROOT}/empty', 10) == b''


def test_a_small_object_takes_one_request(store):
  remote_store.put(store, f'{ROOT}/x', b'abc')
  bounded.read(f'{ROOT}/x', 1 << 28)
  assert store.log == [('read', 'bucket/data/x')]


def test_a_large_object_is_read_whole(store):
  data = bytes(range(256)) * (20 << 10)
  remote_store.put(store, f'{ROOT}/x', data)
  assert bounded.read(f'{ROOT}/x', len(data)) == data
  assert remote_store.count(store, 'read') == 2


@pytest.mark.parametrize('size', [11, (1 << 20) + 11])
def test_an_object_that_is_too_large_is_refused(store, size):
  remote_store.put(store, f'{ROOT}/x', bytes(size))
  words = f'{size} bytes, at most {size - 1} are read'
  with pytest.raises(ValueError, match=words):
    bounded.read(f'{ROOT}/x', size - 1)
  with pytest.raises(ValueError, match=words):
    bounded.opened(f'{ROOT}/x', size - 1)


def test_a_folder_is_no_file(tree):
  for read in (bounded.read, bounded.opened):
    with pytest.raises(ValueError, match='a folder, must be a file'):
      read(tree / 'one', 10)
  with pytest.raises(ValueError, match='a folder, must be a file'):
    copies.local(tree / 'one')


def test_what_is_not_there_is_said(tree):
  for read in (lambda x: bounded.read(x, 9), copies.local):
    with pytest.raises(FileNotFoundError) as error:
      read(tree / 'none')
    assert errors.reason(error.value) == (
      f'{ROOT}/none: No such file or directory'
    )


def test_what_may_not_be_read_is_said(store, tree):
  remote_store.fail(store, 'a.txt', remote_store.forbidden())
  for read in (lambda x: bounded.read(x, 9), copies.local, pathlib_like):
    with pytest.raises(OSError, match='Forbidden') as error:
      read(tree / 'a.txt')
    reason = errors.reason(error.value)
    assert reason.startswith(f'{ROOT}/a.txt: Forbidden: ')
    assert '\n' not in reason
    assert error.value.errno == errno.EACCES


def pathlib_like(path):
  """What the base class takes for an object that is not there."""
  return path.is_file()


def test_storage_that_fails_for_a_moment_is_asked_again(store, tree):
  for ask in (lambda x: x.is_file(), lambda x: bounded.read(x, 9)):
    remote_store.fail(store, 'a.txt', *[remote_store.unavailable()] * 3, None)
    assert ask(tree / 'a.txt')


def test_storage_that_fails_for_long_is_an_error(store, tree):
  remote_store.fail(store, 'a.txt', remote_store.unavailable())
  with pytest.raises(OSError, match='503') as error:
    bounded.read(tree / 'a.txt', 9)
  assert error.value.errno == errno.EIO
  assert error.value.filename == f'{ROOT}/a.txt'
  assert remote_store.count(store, 'read') == 1 + len(retries.WAITS_SECS)


def test_a_local_file_is_its_own_copy(tmp_path):
  assert copies.local(tmp_path / 'x') == tmp_path / 'x'


def test_an_object_is_copied_once(store, monkeypatch):
  monkeypatch.setattr(copies, '_PART', 1000)
  data = bytes(range(250)) * 20 + b'end'
  remote_store.put(store, f'{ROOT}/x.npz', data)
  copy = copies.local(f'{ROOT}/x.npz')
  assert copy.name == 'x.npz'
  assert copy.read_bytes() == data
  assert remote_store.count(store, 'read') == 6
  assert copies.local(f'{ROOT}/x.npz') == copy
  assert remote_store.count(store, 'read') == 6
  assert [x.name for x in copy.parent.iterdir()] == ['x.npz']


def test_a_newer_object_is_copied_anew(store):
  remote_store.put(store, f'{ROOT}/x', b'old')
  old = copies.local(f'{ROOT}/x')
  remote_store.put(store, f'{ROOT}/x', b'new')
  assert copies.local(f'{ROOT}/x').read_bytes() == b'new'
  assert old.read_bytes() == b'old'


def test_copies_of_several_at_once_are_whole(store):
  remote_store.put(store, f'{ROOT}/x', b'data' * 1000)
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    found = list(pool.map(copies.local, [f'{ROOT}/x'] * 8))
  assert {x.read_bytes() for x in found} == {b'data' * 1000}
  assert remote_store.count(store, 'read') == 1


def test_an_object_that_changes_while_it_is_copied_is_refused(store):
  remote_store.put(store, f'{ROOT}/x', b'old')

  def change(what, name):
    if what == 'read':
      store.fault = staticmethod(lambda what, name: None)
      remote_store.put(store, name, b'new')

  store.fault = staticmethod(change)
  with pytest.raises(ValueError, match='changed while it was read'):
    copies.local(f'{ROOT}/x')
  assert not list(copies.folder().glob('*/*'))


def test_what_a_killed_process_left_is_removed(store):
  remote_store.put(store, f'{ROOT}/x', b'data')
  place = copies.local(f'{ROOT}/x')
  place.unlink()
  (place.parent / '.tmp').write_bytes(b'half')
  assert copies.local(f'{ROOT}/x').read_bytes() == b'data'
  assert [x.name for x in place.parent.iterdir()] == ['x']


def test_a_copy_that_cannot_be_written_is_one_line(
  store, monkeypatch, tmp_path
):
  remote_store.put(store, f'{ROOT}/x', b'data')
  (tmp_path / 'file').touch()
  monkeypatch.setenv('PYRAMID_JAX_CACHE', str(tmp_path / 'file'))
  with pytest.raises(errors.UserError, match='cannot write') as error:
    copies.local(f'{ROOT}/x')
  assert error.value.code == errors.OUTPUT


def test_parts_are_fetched_as_they_are_read(store):
  data = bytes(range(256)) * (4 << 10)
  remote_store.put(store, f'{ROOT}/x', data)
  with stores.path(f'{ROOT}/x').open('rb') as file:
    assert file.read(3) == data[:3]
    assert remote_store.count(store, 'read') == 1
    file.seek(-5, 2)
    assert file.read() == data[-5:]
    file.seek(0)
    file.seek(7, 1)
    assert file.read(9) == data[7:16]
    file.seek(2 * len(data))
    assert file.read() == b''
  assert file.closed


def test_the_sha256_of_an_object_is_that_of_its_content(
  store, tmp_path, monkeypatch
):
  monkeypatch.setattr(digests, '_PART', 10)
  for data in (b'', b'x' * 10, b'x' * 25):
    (tmp_path / 'x').write_bytes(data)
    remote_store.put(store, f'{ROOT}/x', data)
    want = hashlib.sha256(data).hexdigest()
    assert digests.sha256(f'{ROOT}/x') == digests.sha256(tmp_path / 'x') == want


def test_the_client_of_a_real_store(monkeypatch, tmp_path, caplog):
  """What gcsfs answers is what the store in memory answers."""
  reason = "needs gcsfs: pip install '.[gcs]'"
  gcsfs = pytest.importorskip('gcsfs', reason=reason)
  gcsfs.GCSFileSystem.clear_instance_cache()
  monkeypatch.setenv('PYRAMID_JAX_CACHE', str(tmp_path))
  with object_server.serving() as (objects, env):
    for name, value in env.items():
      monkeypatch.setenv(name, value)
    large = bytes(3 << 20)
    odd = 'odd #1?%20ü*.png'
    for name, data in {
      'd/a': b'first',
      'd/empty': b'',
      f'd/{odd}': b'odd',
      'd/one/deep/b': large,
      'd/two/': b'',
    }.items():
      objects.put(name, data, None)
    folder = stores.path(f'gs://{object_server.BUCKET}/d')
    found = remote_path.tree(folder)
    assert {k: v.length for k, v in found.items()} == {
      'a': 5,
      'empty': 0,
      odd: 3,
      'one/deep/b': len(large),
    }
    assert [folder.is_dir(), folder.is_file()] == [True, False]
    assert (folder / 'a').is_file()
    assert not (folder / 'on').exists()
    for name, stat in found.items():
      assert (folder / name).stat() == stat
      assert len(bounded.read(folder / name, 4 << 20)) == stat.length
    assert bounded.read(folder / odd, 9) == b'odd'
    assert copies.local(folder / 'one/deep/b').read_bytes() == large
    with pytest.raises(ValueError, match='bytes, at most 9 are read'):
      bounded.read(folder / 'one/deep/b', 9)
    with pytest.raises(FileNotFoundError):
      bounded.read(folder / 'none', 9)

    def denied(method, path):
      del method, path
      raise object_server.Failure(403, 'no access')

    objects.fault = denied
    for ask in (folder.exists, lambda: bounded.read(folder / 'a', 9)):
      with pytest.raises(OSError, match='Forbidden') as error:
        ask()
      assert error.value.errno == errno.EACCES
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not objects.refused
  gcsfs.GCSFileSystem.clear_instance_cache()
