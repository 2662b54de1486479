"""Names of stores, and what is written to one that is in memory."""

import errno
import importlib.util
import pathlib

from etils import epath
import pytest

from pyramid_jax import errors
from pyramid_jax.files import stores
from tests.helpers import fake_store


@pytest.fixture
def store():
  with fake_store.installed() as found:
    yield found


class HttpError(Exception):
  """What gcsfs raises."""

  __module__ = 'gcsfs.retry'

  def __init__(self, code):
    super().__init__(f'no, {code}')
    self.code = code


def test_local_paths_are_those_of_pathlib(tmp_path, monkeypatch):
  assert stores.path('a/b') == pathlib.Path('a/b')
  assert type(stores.path(tmp_path)) is type(tmp_path)
  monkeypatch.chdir(tmp_path)
  assert stores.absolute('a') == tmp_path / 'a'


def test_remote_paths_keep_their_scheme(store):
  del store
  path = stores.path('gs://bucket/run/')
  assert isinstance(path, epath.Path)
  assert str(path / 'config.json') == 'gs://bucket/run/config.json'
  assert str(stores.absolute(path)) == 'gs://bucket/run'
  assert stores.path(path) == path
  assert stores.is_remote(path)
  assert not stores.is_remote('gs:/bucket/run')


@pytest.mark.parametrize(
  ('name', 'words'),
  [
    ('s3://bucket/run', 'gs://BUCKET/NAME alone is served'),
    ('https://host/run', 'gs://BUCKET/NAME alone is served'),
    ('gs://', 'must be gs://BUCKET'),
    ('gs:///run', 'must be gs://BUCKET'),
    ('gs://bucket//run', 'must be gs://BUCKET'),
    ('gs://bucket/../run', 'must be gs://BUCKET'),
  ],
)
def test_other_names_are_refused(store, name, words):
  del store
  with pytest.raises(errors.UserError, match=words) as info:
    stores.path(name)
  assert name in str(info.value)


def test_a_missing_package_is_one_line(monkeypatch):
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name: None if name == 'gcsfs' else find(name),
  )
  monkeypatch.setattr('fsspec.registry', {})
  with pytest.raises(errors.UserError, match=r'pyramid_jax\[gcs\]'):
    stores.path('gs://bucket/run')


def test_objects_are_written_listed_and_removed(store):
  folder = stores.path('gs://bucket/run')
  assert stores.names(folder) == []
  stores.put(folder / 'a', b'1')
  stores.put(folder / 'b' / 'c', b'2')
  assert stores.names(folder) == ['a', 'b']
  assert (folder / 'a').read_bytes() == b'1'
  assert (folder / 'b').is_dir()
  assert stores.create(folder / 'd', b'3')
  assert not stores.create(folder / 'd', b'4')
  assert (folder / 'd').read_bytes() == b'3'
  assert stores.modified(folder / 'd') == store.clock
  assert stores.modified(folder / 'e') is None
  stores.remove(folder / 'd')
  stores.remove(folder / 'd')
  stores.remove_folder(folder)
  stores.remove_folder(folder)
  assert store.objects == {}


def test_large_objects_are_not_read_into_memory(store, monkeypatch, tmp_path):
  monkeypatch.setattr(stores, '_IN_MEMORY', 2)
  monkeypatch.setattr(stores, 'put', None)
  (tmp_path / 'a').write_bytes(b'large')
  stores.put_file(stores.path('gs://bucket/a'), tmp_path / 'a')
  assert store.objects['bucket/a'][0] == b'large'


@pytest.mark.parametrize('kind', ['disk', 'store'])
def test_sizes_and_removal_are_the_same_on_disks(store, tmp_path, kind):
  del store
  folder = tmp_path / 'run'
  if kind == 'store':
    folder = stores.path('gs://bucket/run')
  assert stores.sizes(folder) == {}
  folder.mkdir(parents=True, exist_ok=True)
  (folder / 'a').write_bytes(b'123')
  (folder / 'b').mkdir(exist_ok=True)
  (folder / 'b' / 'c').write_bytes(b'1')
  assert stores.sizes(folder) == {'a': 3}
  assert stores.names(folder) == ['a', 'b']
  stores.remove_folder(folder)
  assert not folder.exists()


@pytest.mark.parametrize(
  ('code', 'number', 'exit_code'),
  [
    (403, errno.EACCES, errors.MISSING),
    (401, errno.EACCES, errors.MISSING),
    (503, errno.EIO, errors.RESTART),
    (429, errno.EAGAIN, errors.RESTART),
  ],
)
def test_answers_are_errors_of_the_system(store, code, number, exit_code):
  def fail(what, name):
    raise HttpError(code)

  store.fault = fail
  path = stores.path('gs://bucket/run')
  with pytest.raises(OSError, match=f'no, {code}') as info:
    stores.put(path, b'')
  assert info.value.errno == number
  with pytest.raises(errors.UserError, match=f'no, {code}') as info:
    stores.check(path)
  assert info.value.code == exit_code
  with (
    pytest.raises(errors.UserError, match=rf'cannot write .*no, {code}\.'),
    errors.writing(path),
  ):
    stores.put(path, b'')


def test_a_bug_stays_one(store):
  def fail(what, name):
    raise KeyError(what)

  store.fault = fail
  with pytest.raises(KeyError):
    stores.put(stores.path('gs://bucket/run'), b'')


def test_there_is_no_end_of_room_in_a_store():
  errors.check_room('a run', 1 << 60, 'gs://bucket/run')
  with pytest.raises(errors.UserError, match='are needed'):
    errors.check_room('a run', 1 << 60, '/tmp')
