"""The folders of steps."""

import threading
import time

import pytest

from pyramid_jax.files import stores
from pyramid_jax.runs import reading
from pyramid_jax.runs import saving
from pyramid_jax.runs import step_folders
from tests.helpers import fake_store


WORKDIR = 'gs://bucket/run'


@pytest.fixture(name='store')
def store_fixture():
  with fake_store.installed() as found:
    yield found


def write(step, is_whole=True):
  """Writes the objects of a step; Orbax's mark is the last one."""
  path = step_folders.of_step(WORKDIR, step)
  stores.put(path / 'meta' / 'metadata', b'{}')
  if is_whole:
    stores.put(path / 'commit_success.txt', b'')
  return path


def test_what_is_written_meanwhile_is_removed_too(tmp_path):
  """As threads of a store write, which make their folder where it is gone."""
  folder = tmp_path / '7.orbax-checkpoint-tmp' / 'state'
  begun = threading.Event()

  def write():
    for number in range(8):
      folder.mkdir(parents=True, exist_ok=True)
      (folder / str(number)).write_bytes(b'late')
      begun.set()
      time.sleep(0.03)

  thread = threading.Thread(target=write)
  thread.start()
  begun.wait()
  step_folders.remove_written(folder.parent)
  thread.join()
  assert list(tmp_path.iterdir()) == []


def test_what_is_not_there_is_no_matter(tmp_path):
  step_folders.remove_written(tmp_path / 'none')


def test_steps_of_a_store_are_those_that_are_whole(store):
  del store
  assert step_folders.steps(WORKDIR) == []
  write(3)
  write(10)
  write(11, is_whole=False)
  stores.put(step_folders.directory(WORKDIR) / '12', b'an object')
  stores.put(step_folders.directory(WORKDIR) / '013' / 'a', b'')
  assert step_folders.steps(WORKDIR) == [10, 3]
  assert [x.name for x in step_folders.leftovers(WORKDIR)] == ['11', '12']


def test_a_checkpoint_of_a_store_is_removed_from_the_first_moment_on(store):
  write(3)
  path = write(4)
  store.log.clear()
  step_folders.remove(path)
  assert [name for what, name in store.log if what == 'remove'] == [
    'bucket/run/checkpoints/4/commit_success.txt',
    'bucket/run/checkpoints/4/meta/metadata',
  ]
  assert step_folders.steps(WORKDIR) == [3]


def test_what_a_killed_process_left_in_a_store_is_removed(store):
  write(3)
  write(4, is_whole=False)
  step_folders.set_aside(write(5, is_whole=False), 'hash')
  saving.remove_leftovers(WORKDIR)
  assert sorted(store.objects) == [
    'bucket/run/checkpoints/3/commit_success.txt',
    'bucket/run/checkpoints/3/meta/metadata',
    'bucket/run/checkpoints/5.bad-hash',
    'bucket/run/checkpoints/5/meta/metadata',
  ]


def test_a_damaged_one_of_a_store_stays_until_its_step_is_saved(store):
  write(3)
  path = write(4)
  assert step_folders.set_aside(path, 'hash').name == '4.bad-hash'
  assert step_folders.set_aside(path, 'hash').name == '4.bad-hash2'
  assert step_folders.steps(WORKDIR) == [3]
  assert step_folders.bad(WORKDIR) == ['4.bad-hash', '4.bad-hash2']
  assert 'bucket/run/checkpoints/4/meta/metadata' in store.objects
  step_folders.clear(path)
  assert step_folders.bad(WORKDIR) == []
  assert not [name for name in store.objects if 'checkpoints/4' in name]
  write(4)
  assert step_folders.steps(WORKDIR) == [4, 3]


def test_a_store_that_fails_has_no_fewer_steps(store, monkeypatch):
  monkeypatch.setattr(step_folders.retries, 'WAITS_SECS', ())
  write(3)

  def fail(what, name):
    if name.endswith('commit_success.txt'):
      raise TimeoutError

  store.fault = staticmethod(fail)
  with pytest.raises(Exception, match='cannot read') as info:
    step_folders.steps(WORKDIR)
  assert info.value.code == reading.errors.RESTART
